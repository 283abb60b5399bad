"""Starting and stopping: what runs in the operator process, in which order, and how it ends.

Crash-only: nothing here keeps state that a restart cannot rebuild, and whatever cannot go on ends the process.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Sequence
from typing import Any, cast

import kopf

from plimsoll.controller import logs
from plimsoll.controller.apply import Applier
from plimsoll.controller.audit import audit, until_synced
from plimsoll.controller.client import ApiError, Client, load_configuration
from plimsoll.controller.corrections import Corrections
from plimsoll.controller.events import Recorder
from plimsoll.controller.feed import operator_settings, register
from plimsoll.controller.guarding import Guarding
from plimsoll.controller.health import HealthServer, Vitals
from plimsoll.controller.kinds import ALL, HTTP_ROUTE, Kind
from plimsoll.controller.loop import Loop
from plimsoll.controller.metrics import Metrics
from plimsoll.controller.planner_process import PlannerProcess
from plimsoll.controller.report import Reporter
from plimsoll.controller.settings import Settings
from plimsoll.controller.store import Store

_log = logging.getLogger(__name__)
_BEAT_SECONDS = 1.0


class StartError(Exception):
    """The operator cannot run in this cluster; the message says what is missing."""


def main(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT. Returns the exit code: 0 after a signal, 1 when the operator could not go on."""
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
        configuration = await load_configuration()
        async with Client(
            configuration,
            metrics,
            rate=settings.rate_per_second,
            burst=settings.rate_burst,
            in_flight=settings.in_flight,
        ) as client:
            return await _operate(settings, stop, client, metrics, vitals)
    except (StartError, ApiError) as error:
        _log.error("%s", error)
        return 1
    finally:
        vitals.ready = False
        health.close()


async def _operate(settings: Settings, stop: asyncio.Event, client: Client, metrics: Metrics, vitals: Vitals) -> int:
    kinds = await _discover(client, stop, vitals)
    if stop.is_set():
        return 0
    store = Store()
    planner = PlannerProcess(settings.plan_deadline_seconds)
    recorder = Recorder(client, metrics)
    loop = Loop(
        settings,
        store,
        planner,
        Applier(client, store, metrics),
        Reporter(client, store, recorder, metrics),
        Guarding(client, settings.namespace, metrics),
        metrics,
        gateway_api=HTTP_ROUTE in kinds,
    )
    corrections = (
        Corrections(settings, client, store, recorder, metrics, lambda: loop.plan) if settings.prometheus_url else None
    )
    # Before kopf starts: at its end it cancels every task that is younger than itself.
    tasks = [
        asyncio.create_task(_beat(vitals, store, metrics), name="heartbeat"),
        asyncio.create_task(
            _plan_and_audit(settings, client, store, planner, loop, kinds, corrections, metrics, vitals),
            name="control loop",
        ),
    ]
    for task in tasks:
        task.add_done_callback(lambda _: stop.set())

    async def wind_down() -> None:
        vitals.ready, vitals.detail = False, "stopping"
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    registry, kopf_settings = kopf.OperatorRegistry(), operator_settings()
    register(registry, kopf_settings, kinds, store, metrics, on_cleanup=wind_down)
    code = 0
    try:
        await kopf.operator(
            registry=registry,
            settings=kopf_settings,
            standalone=True,
            clusterwide=True,
            stop_flag=stop,
            # Not from getpass: images without a passwd entry for the user have no answer there.
            identity=cast("Any", "plimsoll"),
        )
    except Exception:  # noqa: BLE001
        _log.exception("the feed cannot go on")
        code = 1
    finally:
        await wind_down()
        await planner.close()
    failed = [task for task in tasks if not task.cancelled() and task.exception() is not None]
    for task in failed:
        _log.error("%s ended", task.get_name(), exc_info=task.exception())
    _log.info("stopped")
    return 1 if failed else code


async def _discover(client: Client, stop: asyncio.Event, vitals: Vitals) -> Sequence[Kind]:
    """The kinds that the cluster has.

    Raises:
        StartError: a kind is missing that Plimsoll cannot do without.
    """
    while not stop.is_set():
        try:
            served = [kind for kind in ALL if await client.serves(kind)]
        except ApiError as error:
            if error.status in (401, 403):
                raise StartError(f"the API server refuses to say what it serves: {error}") from error
            vitals.detail = f"the API server cannot be reached: {error}"
            _log.warning(vitals.detail)
            vitals.beat()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2):
                    await stop.wait()
            continue
        missing = [kind.name for kind in ALL if kind not in served and not kind.optional]
        if missing:
            what = ", ".join(missing)
            raise StartError(
                f"the cluster does not serve {what}; install Plimsoll's custom resource definitions (crds/)"
            )
        return served
    return ()


async def _plan_and_audit(
    settings: Settings,
    client: Client,
    store: Store,
    planner: PlannerProcess,
    loop: Loop,
    kinds: Sequence[Kind],
    corrections: Corrections | None,
    metrics: Metrics,
    vitals: Vitals,
) -> None:
    vitals.detail = "waiting until every kind is known"
    failure, _ = await asyncio.gather(planner.start(), until_synced(client, store, kinds))
    if failure is not None:
        _log.error("%s", failure.message)
    if corrections is not None:
        # Before the first plan, which would otherwise undo what observation has taught.
        await corrections.load()
    metrics.synced.set(1)
    vitals.ready = True
    _log.info("synced: %s", ", ".join(f"{count} {name}" for name, count in store.counts().items() if count))
    tasks = [loop.run(), _audit_for_ever(settings, client, store, kinds, metrics)]
    if corrections is not None:
        tasks.append(corrections.run())
    await asyncio.gather(*tasks)


async def _audit_for_ever(
    settings: Settings, client: Client, store: Store, kinds: Sequence[Kind], metrics: Metrics
) -> None:
    while True:
        await asyncio.sleep(settings.audit_interval_seconds)
        try:
            await audit(client, store, kinds, metrics)
        except ApiError as error:
            _log.warning("audit: %s", error)


async def _beat(vitals: Vitals, store: Store, metrics: Metrics) -> None:
    clock = asyncio.get_running_loop().time
    while True:
        vitals.beat()
        for name, count in store.counts().items():
            metrics.store_objects.labels(name).set(count)
        due = clock() + _BEAT_SECONDS
        await asyncio.sleep(_BEAT_SECONDS)
        metrics.loop_lag_seconds.set(max(0.0, clock() - due))
