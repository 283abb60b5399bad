"""Starting and stopping: what runs in the operator process, in which order, and how it ends.

Crash-only: nothing here keeps state that a restart cannot rebuild, and whatever cannot go on ends the process.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import NoReturn

from plimsoll.controller import logs
from plimsoll.controller.apply import Applier
from plimsoll.controller.client import ApiError, Client, load_configuration
from plimsoll.controller.corrections import Corrections
from plimsoll.controller.demand import Demand
from plimsoll.controller.discovery import Outdated, StartError, until_served
from plimsoll.controller.distances import Distances
from plimsoll.controller.duties import Operator, work
from plimsoll.controller.election_thread import ElectionThread
from plimsoll.controller.events import Recorder
from plimsoll.controller.feed import Feed
from plimsoll.controller.guarding import Guarding
from plimsoll.controller.health import HealthServer, Vitals
from plimsoll.controller.kinds import HTTP_ROUTE, LEADER_WORKER_SET, Kind
from plimsoll.controller.leader import Election
from plimsoll.controller.loop import Loop
from plimsoll.controller.metrics import Metrics
from plimsoll.controller.objectives import Objectives
from plimsoll.controller.planner_process import PlannerProcess
from plimsoll.controller.report import Reporter
from plimsoll.controller.settings import Settings
from plimsoll.controller.store import Store

_log = logging.getLogger(__name__)
_BEAT_SECONDS = 1.0
_LAST_WRITES_SECONDS = 5.0
"""What writes under way may take when the process is asked to end."""


def main(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT. Returns the exit code: 1 when the operator could not go on.

    It is 0 after a signal, and when a restart is due because the cluster serves other APIs by now.
    """
    logs.configure(settings.log_level, settings.log_format)
    _log.info("settings: %s", settings)
    return asyncio.run(run(settings))


async def run(settings: Settings, stop: asyncio.Event | None = None) -> int:
    """Run until `stop` is set or a signal comes. Returns the exit code."""
    stop = stop or asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        # kopf puts its own handlers in their place once it runs. Outside the main thread there are none.
        with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):
            loop.add_signal_handler(number, stop.set)
    metrics, vitals = Metrics(), Vitals()
    health = HealthServer(settings.health_host, settings.health_port, vitals, metrics.registry)
    health.start()
    try:
        _log.info("health and metrics on port %d", health.port)
        async with contextlib.AsyncExitStack() as clients:
            identity = settings.identity or f"{socket.gethostname().lower()}-{secrets.token_hex(4)}"
            election = None
            if settings.lease_name:
                election = ElectionThread(lambda stack: _election(settings, identity, metrics, vitals, stack))
                await clients.enter_async_context(election)
            client = Client(
                await load_configuration(),
                metrics,
                rate=settings.rate_per_second,
                burst=settings.rate_burst,
                in_flight=settings.in_flight,
                identity=identity,
                guard=election.check if election is not None else None,
            )
            client.namespaces = settings.watch_namespaces
            await clients.enter_async_context(client)
            watcher = Client(await load_configuration(), metrics, identity=identity)
            await clients.enter_async_context(watcher)
            return await _operate(settings, stop, client, watcher, election, metrics, vitals)
    except (StartError, ApiError) as error:
        _log.error("%s", error)
        return 1
    finally:
        vitals.ready = False
        health.close()


async def _election(
    settings: Settings, identity: str, metrics: Metrics, vitals: Vitals, stack: contextlib.AsyncExitStack
) -> Election:
    # A client of its own: renewing the Lease must not wait behind a thousand other requests.
    keeper = Client(await load_configuration(), metrics, attempts=1, identity=identity)
    await stack.enter_async_context(keeper)
    place = settings.namespace, settings.lease_name
    return Election(keeper, *place, identity, metrics, end=lambda reason: _end_at_once(reason, vitals))


def _end_at_once(reason: str, vitals: Vitals) -> NoReturn:
    """Without any tidying: whatever this process still did, it would do beside the next leader."""
    vitals.ready = False
    _log.critical("ending at once: %s", reason)
    logging.shutdown()
    os._exit(1)


async def _operate(
    settings: Settings,
    stop: asyncio.Event,
    client: Client,
    watcher: Client,
    election: ElectionThread | None,
    metrics: Metrics,
    vitals: Vitals,
) -> int:
    store = Store()
    # Before kopf starts: at its end it cancels every task that is younger than itself.
    heartbeat = asyncio.create_task(_beat(vitals, store, metrics), name="heartbeat")
    tasks = [heartbeat]

    async def wind_down() -> None:
        vitals.ready, vitals.detail = False, "stopping"
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await client.settle(_LAST_WRITES_SECONDS)
        if election is not None:
            await election.release()

    try:
        kinds = await until_served(client, stop, vitals)
        if not kinds:
            return 0
        feed = Feed(watcher, kinds, settings.watch_namespaces, store, metrics)
        operator = _assemble(settings, client, feed, election, store, kinds, metrics, vitals)
        tasks.append(asyncio.create_task(work(operator), name="control loop"))
        for task in tasks:
            task.add_done_callback(lambda _: stop.set())
        try:
            code = await _feed(operator, stop, wind_down)
        finally:
            await wind_down()
            await operator.planner.close()
    finally:
        heartbeat.cancel()
    verdicts = [_verdict(task) for task in tasks if not task.cancelled()]
    _log.info("stopped")
    return max(code, *verdicts, 0)


def _assemble(
    settings: Settings,
    client: Client,
    feed: Feed,
    election: ElectionThread | None,
    store: Store,
    kinds: Sequence[Kind],
    metrics: Metrics,
    vitals: Vitals,
) -> Operator:
    planner = PlannerProcess(settings.plan_deadline_seconds, memory_megabytes=settings.planner_memory_megabytes)
    recorder = Recorder(client, metrics, instance=election.identity if election is not None else "")
    loop = Loop(
        settings,
        store,
        planner,
        Applier(client, store, metrics),
        Reporter(client, store, recorder, metrics, settings.namespace),
        Guarding(client, settings.namespace),
        metrics,
        gateway_api=HTTP_ROUTE in kinds,
        several_nodes=LEADER_WORKER_SET in kinds,
    )
    corrections = (
        Corrections(settings, client, store, recorder, metrics, lambda: loop.plan) if settings.prometheus_url else None
    )
    demand = Demand(settings, store, metrics, lambda: loop.plan) if settings.prometheus_url else None
    objectives = Objectives(settings, store, metrics, lambda: loop.plan) if settings.prometheus_url else None
    observers = (corrections, demand, objectives)
    return Operator(
        settings,
        client,
        feed,
        store,
        planner,
        recorder,
        loop,
        *observers,
        Distances(client, store, settings.namespace),
        election,
        kinds,
        metrics,
        vitals,
    )


async def _feed(operator: Operator, stop: asyncio.Event, wind_down: Callable[[], Awaitable[None]]) -> int:
    """Run the feed until `stop` is set. Returns the exit code."""
    try:
        await operator.feed.run(stop, on_cleanup=wind_down)
    except Exception:  # noqa: BLE001
        _log.exception("the feed cannot go on")
        return 1
    return 0


def _verdict(task: asyncio.Task[None]) -> int:
    """What a task's end means for the exit code; the log says why."""
    error = task.exception()
    if error is None:
        return 0
    outdated = error
    while isinstance(outdated, BaseExceptionGroup) and len(outdated.exceptions) == 1:
        (outdated,) = outdated.exceptions
    if isinstance(outdated, Outdated):
        _log.warning("%s: ending, to start again with the present APIs", outdated)
        return 0
    _log.error("%s ended: %s", task.get_name(), outdated, exc_info=error)
    return 1


async def _beat(vitals: Vitals, store: Store, metrics: Metrics) -> None:
    clock = asyncio.get_running_loop().time
    while True:
        vitals.beat()
        for name, count in store.counts().items():
            metrics.store_objects.labels(name).set(count)
        due = clock() + _BEAT_SECONDS
        await asyncio.sleep(_BEAT_SECONDS)
        metrics.loop_lag_seconds.set(max(0.0, clock() - due))
