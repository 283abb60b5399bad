"""A proxy before the API server that fails on purpose: errors, cut watches, lists held back."""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
import threading
from collections import Counter
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp
from aiohttp import web

T = TypeVar("T")
_HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "host", "content-encoding"})


@dataclass
class Faults:
    """What goes wrong at present. Belongs to the proxy's thread."""

    error_share: float = 0.0
    """Part of the requests that are answered with an error; watches that run are not touched."""
    error_statuses: Sequence[int] = (500,)
    held: frozenset[str] = frozenset()
    """Plurals whose lists and watches get no answer."""
    read_only: bool = False
    """Writes are refused as by an etcd whose disk quota is used up."""
    dice: random.Random = field(default_factory=lambda: random.Random(0))


class FaultyProxy:
    """Plain HTTP on a loopback port, forwarded to the API server with the caller's own token."""

    def __init__(self, server: str, ca_file: str) -> None:
        self._server, self._ca_file = server, ca_file
        self._faults = Faults()
        self._watches: set[asyncio.Task[Any]] = set()
        self._released = asyncio.Event()
        self.injected: Counter[str] = Counter()
        """Faults that were really injected, by what they were: an experiment without any proves nothing."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="faulty-proxy", daemon=True)
        self._runner: web.AppRunner | None = None
        self._session: aiohttp.ClientSession | None = None
        self.url = ""

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    # --- faults -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def errors(self, share: float, *statuses: int) -> Iterator[None]:
        """Answers this part of all requests with one of the statuses. The same seed each time."""
        self._set(error_share=share, error_statuses=statuses, dice=random.Random(1))
        try:
            yield
        finally:
            self._set(error_share=0.0)

    @contextlib.contextmanager
    def holding(self, plural: str) -> Iterator[None]:
        """Leaves lists and watches of a kind without an answer."""
        self._set(held=frozenset({plural}))
        try:
            yield
        finally:
            self._set(held=frozenset())
            self._loop.call_soon_threadsafe(self._release)

    @contextlib.contextmanager
    def read_only(self) -> Iterator[None]:
        """Refuses every write, as an API server does whose etcd has used up its disk quota."""
        self._set(read_only=True)
        try:
            yield
        finally:
            self._set(read_only=False)

    def cut_watches(self) -> int:
        """Breaks every watch connection in the middle; returns how many."""

        async def cut() -> int:
            watches = list(self._watches)
            for task in watches:
                task.cancel()
            return len(watches)

        count = self._call(cut())
        self.injected["watch cut"] += count
        return count

    # --- inside -----------------------------------------------------------------------------------------------------

    def _set(self, **changes: object) -> None:
        def change() -> None:
            for name, value in changes.items():
                setattr(self._faults, name, value)

        self._loop.call_soon_threadsafe(change)

    def _release(self) -> None:
        self._released.set()
        self._released = asyncio.Event()

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _start(self) -> None:
        context = ssl.create_default_context(cafile=self._ca_file)
        connector = aiohttp.TCPConnector(ssl=context, limit=0)
        self._session = aiohttp.ClientSession(
            connector=connector, auto_decompress=False, timeout=aiohttp.ClientTimeout(total=None)
        )
        application = web.Application(client_max_size=64 * 2**20)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"

    async def _stop(self) -> None:
        for task in list(self._watches):
            task.cancel()
        if self._runner is not None:
            await self._runner.cleanup()
        if self._session is not None:
            await self._session.close()
            await asyncio.sleep(0.25)  # aiohttp closes TLS connections a moment later

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        watching = request.query.get("watch") in ("true", "1")
        plural = request.path.rstrip("/").rsplit("/", 1)[-1]
        while request.method == "GET" and plural in self._faults.held:
            self.injected[f"held {plural}"] += 1
            await self._released.wait()
        faults = self._faults
        if faults.read_only and request.method != "GET":
            return self._refuse(500, "etcdserver: mvcc: database space exceeded")
        if faults.dice.random() < faults.error_share:
            return self._refuse(faults.dice.choice(list(faults.error_statuses)))
        if watching:
            return await self._watch(request)
        return await self._forward(request)

    def _refuse(self, status: int, message: str = "injected") -> web.Response:
        self.injected[str(status)] += 1
        reason = {429: "TooManyRequests", 503: "ServiceUnavailable"}.get(status, "InternalError")
        body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": status}
        headers = {"Retry-After": "1"} if status == 429 else {}
        return web.json_response({**body, "message": message}, status=status, headers=headers)

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        task = asyncio.current_task()
        assert task is not None
        self._watches.add(task)
        try:
            return await self._forward(request)
        finally:
            self._watches.discard(task)

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        session = self._session
        assert session is not None
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
        body = await request.read()
        try:
            upstream = await session.request(
                request.method, f"{self._server}{request.raw_path}", headers=headers, data=body or None
            )
        except aiohttp.ClientError:
            return self._refuse(502)
        async with upstream:
            kept = {name: value for name, value in upstream.headers.items() if name.lower() not in _HOP_BY_HOP}
            if "Content-Encoding" in upstream.headers:
                kept["Content-Encoding"] = upstream.headers["Content-Encoding"]
            answer = web.StreamResponse(status=upstream.status, headers=kept)
            await answer.prepare(request)
            await _copy(upstream, answer)
            return answer


async def _copy(upstream: aiohttp.ClientResponse, answer: web.StreamResponse) -> None:
    """Chunk by chunk. When the API server breaks off, so does the proxy."""
    try:
        async for chunk in upstream.content.iter_any():
            await answer.write(chunk)
        await answer.write_eof()
    except (aiohttp.ClientError, ConnectionError):
        if answer._req is not None and answer._req.transport is not None:  # noqa: SLF001
            answer._req.transport.abort()  # noqa: SLF001
