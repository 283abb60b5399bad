"""Liveness, readiness and metrics over HTTP, on a thread of its own: a blocked event loop cannot answer for itself."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

HEARTBEAT_LIMIT_SECONDS = 20.0


@dataclass(slots=True)
class Vitals:
    """What the event loop says of itself. Written by the loop, read by the health thread."""

    clock: Callable[[], float] = time.monotonic
    last_beat: float = field(init=False)
    ready: bool = False
    detail: str = "starting"

    def __post_init__(self) -> None:
        self.last_beat = self.clock()

    def beat(self) -> None:
        """The loop runs."""
        self.last_beat = self.clock()

    @property
    def alive(self) -> bool:
        return self.clock() - self.last_beat < HEARTBEAT_LIMIT_SECONDS


class HealthServer:
    """Serves /healthz, /readyz and /metrics until closed."""

    def __init__(self, host: str, port: int, vitals: Vitals, registry: CollectorRegistry) -> None:
        class Handler(_Handler):
            pass

        Handler.vitals, Handler.metrics = vitals, registry
        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        self._thread = Thread(target=self._server.serve_forever, args=(0.2,), name="health", daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop serving and free the port."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join(2)
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    vitals: Vitals
    metrics: CollectorRegistry
    timeout = 10
    server_version = "plimsoll"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/healthz":
            alive = self.vitals.alive
            self._answer(200 if alive else 503, "alive" if alive else "the event loop is stuck")
        elif path == "/readyz":
            self._answer(200 if self.vitals.ready else 503, "ready" if self.vitals.ready else self.vitals.detail)
        elif path == "/metrics":
            self._answer_bytes(200, generate_latest(self.metrics), CONTENT_TYPE_LATEST)
        else:
            self._answer(404, "try /healthz, /readyz or /metrics")

    def _answer(self, status: int, text: str) -> None:
        self._answer_bytes(status, f"{text}\n".encode(), "text/plain; charset=utf-8")

    def _answer_bytes(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class names it)
        """Probes are not worth a log line."""
