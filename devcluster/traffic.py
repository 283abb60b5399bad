"""Requests at emulated engines as routers would send them: by the routing document, at random moments."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import aiohttp

from devcluster.cluster import Cluster
from devcluster.endpoints import Endpoints

_READ_SECONDS = 1.0
"""Between two looks at the routing document, as a router that watches it."""


class Traffic:
    """Random arrivals of equal requests, at a rate that changes, from a thread of its own. Use as a context manager."""

    def __init__(
        self, cluster: Cluster, endpoints: Endpoints, routing: tuple[str, str], body: dict[str, Any], seed: int = 0
    ) -> None:
        """`routing` is namespace and name of the routing ConfigMap; `body` is what is asked for."""
        self._cluster, self._endpoints, self._routing, self._body = cluster, endpoints, routing, body
        self._draw = random.Random(seed)
        self._over = threading.Event()
        self._weights: dict[str, int] = {}
        self._threads = [
            threading.Thread(target=work) for work in (self._read_for_ever, lambda: asyncio.run(self._send()))
        ]
        self.per_minute: Callable[[], float] = lambda: 0.0
        """Asked before each request."""
        self.sent = self.failed = 0

    def __enter__(self) -> Self:
        self._read()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _read_for_ever(self) -> None:
        while not self._over.wait(_READ_SECONDS):
            self._read()

    def _read(self) -> None:
        namespace, name = self._routing
        answer = self._cluster.kubectl("get", "configmap", name, f"--namespace={namespace}", "--output=json")
        (traffic,) = json.loads(json.loads(answer)["data"]["routing.json"])["classes"]
        self._weights = {item["placement"]: item["weight"] for item in traffic["backends"]}

    async def _send(self) -> None:
        tasks: set[asyncio.Task[None]] = set()
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            due = time.monotonic()
            while not self._over.is_set():
                rate = self.per_minute() / 60
                due += self._draw.expovariate(rate) if rate > 0 else _READ_SECONDS
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                address = self._backend() if rate > 0 else None
                if address is not None:
                    task = asyncio.create_task(self._request(session, address))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
            await asyncio.gather(*tasks)

    async def _request(self, session: aiohttp.ClientSession, address: str) -> None:
        self.sent += 1
        try:
            async with session.post(f"http://{address}/v1/completions", json=self._body) as answer:
                await answer.read()
                self.failed += answer.status != 200
        except aiohttp.ClientError:
            self.failed += 1

    def _backend(self) -> str | None:
        """A placement by its weight, and one of its pods, as its Service would choose."""
        pods = {placement: self._pods(placement) for placement in self._weights}
        able = [placement for placement, found in pods.items() if found and self._weights[placement]]
        if not able:
            return None
        (chosen,) = self._draw.choices(able, [self._weights[placement] for placement in able])
        return self._draw.choice(pods[chosen])

    def _pods(self, placement: str) -> list[str]:
        return [address for (_, pod), address in self._endpoints.pods.items() if pod.startswith(f"{placement}-")]
