"""Many requests to an API server at once, as `kubectl` cannot: one thread per connection, kept open."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import local
from typing import Any
from urllib.parse import urlsplit

from benchmarks.progress import say

CONNECTIONS = 8
TELL_EVERY = 5000
_MERGE = "application/merge-patch+json"


@dataclass(frozen=True, slots=True)
class Request:
    """One request."""

    method: str
    path: str
    body: dict[str, Any] | None = None


class Bulk:
    """Sends requests as the cluster's admin."""

    def __init__(self, kubeconfig: Path) -> None:
        document = json.loads(kubeconfig.read_text())
        cluster, user = document["clusters"][0]["cluster"], document["users"][0]["user"]
        self._server = urlsplit(cluster["server"])
        self._context = ssl.create_default_context(cafile=cluster["certificate-authority"])
        self._context.load_cert_chain(user["client-certificate"], user["client-key"])
        self._local = local()

    def send(self, requests: Sequence[Request], what: str) -> None:
        """All of them, with a line of progress now and then.

        Raises:
            RuntimeError: the API server refused one; the message has its answer.
        """
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            for number, _ in enumerate(pool.map(self._send, requests), 1):
                if number % TELL_EVERY == 0:
                    say(f"{number} of {len(requests)} {what}")

    def _send(self, request: Request) -> None:
        connection: http.client.HTTPSConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = http.client.HTTPSConnection(
                self._server.hostname or "", self._server.port, timeout=60, context=self._context
            )
        kind = _MERGE if request.method == "PATCH" else "application/json"
        body = None if request.body is None else json.dumps(request.body)
        connection.request(request.method, request.path, body, {"Content-Type": kind})
        answer = connection.getresponse()
        text = answer.read()
        if answer.status >= http.client.BAD_REQUEST:
            raise RuntimeError(f"{request.method} {request.path}: {answer.status} {text[:500].decode()}")
