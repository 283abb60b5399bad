"""Many endpoints on one event loop: start-up, drain, crash and restart of each."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from enum import StrEnum

from aiohttp import web

from plimsoll.catalog import Catalog, load_catalog
from plimsoll.emulator.config import (
    EndpointConfig,
    answer_lengths,
    engine_spec,
    expanded,
    loading_seconds,
    shape_of,
)
from plimsoll.emulator.engine import RealtimeEngine
from plimsoll.emulator.metrics import EngineInfo, EngineMetrics
from plimsoll.emulator.server import EndpointServer, Running

_FLUSH_SECONDS = 2.0
"""How long the last bytes of answers may take to leave at the end."""


def _nothing(endpoint: "Endpoint") -> None:
    del endpoint


class EndpointState(StrEnum):
    """Where an endpoint is in its life."""

    LOADING = "Loading"
    READY = "Ready"
    DRAINING = "Draining"
    ENDED = "Ended"
    """Drained or crashed; nothing listens on its port."""


class Endpoint:
    """One emulated `vllm serve`.

    Raises:
        EmulatorError: vLLM would not start with this configuration.
    """

    def __init__(
        self,
        config: EndpointConfig,
        *,
        speed: float = 1.0,
        catalog: Catalog | None = None,
        on_change: Callable[["Endpoint"], None] = _nothing,
    ) -> None:
        self.config = config
        self.shape = shape_of(config, catalog or load_catalog())
        self.spec = engine_spec(config, self.shape)
        self.served_names = config.served_model_names or (config.model,)
        self.state = EndpointState.LOADING
        self.port = config.port or 0
        """0 until a free port was found."""
        self.load_seconds = loading_seconds(config, self.shape)
        self._lengths = answer_lengths(config, self.shape)
        self._speed = speed
        self._on_change = on_change
        self._runner: web.AppRunner | None = None
        self._site: web.TCPSite | None = None
        self._running: Running | None = None
        self._crashing: asyncio.Task[None] | None = None
        self.over = asyncio.Event()
        """Set when it has ended for good."""

    @property
    def url(self) -> str:
        """Where clients reach it."""
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        return f"http://{host}:{self.port}"

    async def start(self) -> None:
        """Load the model, then serve.

        Raises:
            OSError: the port cannot be opened.
        """
        config = self.config
        self._become(EndpointState.LOADING)
        server = EndpointServer(
            config.model,
            self.served_names,
            answer_lengths=self._lengths,
            seed=config.seed,
            stream_interval=config.stream_interval,
            faults=self if config.allow_faults else None,
        )
        # Without cancellation a client that went away would keep its place in the engine.
        self._runner = web.AppRunner(
            server.application(), access_log=None, handler_cancellation=True, shutdown_timeout=_FLUSH_SECONDS
        )
        await self._runner.setup()
        if config.while_loading == "unavailable":
            await self._listen(self._runner)
        await asyncio.sleep(self.load_seconds / self._speed)
        metrics = EngineMetrics(
            EngineInfo.of(self.served_names[0], self.spec, config.gpu_memory_utilization), time.time()
        )
        self._running = server.running = Running(RealtimeEngine(self.spec, metrics, self._speed), metrics)
        if config.while_loading == "refuse":
            await self._listen(self._runner)
        self._become(EndpointState.READY)

    async def drain(self) -> None:
        """Take no new connections and requests, let the others finish for as long as configured, then end."""
        if self._crashing is not None:
            self._crashing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._crashing
        if self.state is not EndpointState.ENDED:
            await self._drain()
        self.over.set()

    async def _drain(self) -> None:
        self._become(EndpointState.DRAINING)
        if self._site is not None:
            await self._site.stop()
        if self._running is not None:
            engine = self._running.engine
            engine.drain()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.config.shutdown_timeout_seconds / self._speed):
                    await engine.idle.wait()
        await self._end()

    def crash(self, restart_after_seconds: float | None) -> None:
        """Lose everything at once; with a time, start again after it, as a container does."""
        if self.state is EndpointState.READY:
            self._crashing = asyncio.get_running_loop().create_task(self._crash(restart_after_seconds))

    async def _crash(self, restart_after_seconds: float | None) -> None:
        if self._site is not None:
            await self._site.stop()
        await self._end()
        restarted = False
        try:
            if restart_after_seconds is not None:
                await asyncio.sleep(restart_after_seconds / self._speed)
                await self.start()
                restarted = True
        finally:
            if not restarted:
                self.over.set()

    async def _end(self) -> None:
        if self._running is not None:
            self._running.engine.fail()
            self._running = None
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = self._site = None
        self._become(EndpointState.ENDED)

    async def _listen(self, runner: web.AppRunner) -> None:
        self._site = web.TCPSite(runner, self.config.host, self.port, backlog=1024)
        await self._site.start()
        self.port = runner.addresses[0][1]

    def _become(self, state: EndpointState) -> None:
        if state is not self.state or state is EndpointState.LOADING:
            self.state = state
            self._on_change(self)


class Emulator:
    """A fleet of endpoints.

    Raises:
        EmulatorError: vLLM would not start with one of the configurations.
    """

    def __init__(
        self,
        configs: Sequence[EndpointConfig],
        *,
        speed: float = 1.0,
        on_change: Callable[[Endpoint], None] = _nothing,
    ) -> None:
        catalog = load_catalog()
        self.endpoints = tuple(
            Endpoint(config, speed=speed, catalog=catalog, on_change=on_change) for config in expanded(tuple(configs))
        )

    async def start(self) -> None:
        """Start all endpoints; returns when each is ready.

        Raises:
            OSError: a port cannot be opened. What was started is stopped.
        """
        try:
            async with asyncio.TaskGroup() as group:
                for endpoint in self.endpoints:
                    group.create_task(endpoint.start())
        except ExceptionGroup as failures:
            await self.drain()
            raise failures.exceptions[0] from None

    async def wait(self) -> None:
        """Until every endpoint has ended for good."""
        await asyncio.gather(*(endpoint.over.wait() for endpoint in self.endpoints))

    async def drain(self) -> None:
        """End all endpoints gracefully."""
        await asyncio.gather(*(endpoint.drain() for endpoint in self.endpoints))
