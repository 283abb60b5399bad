"""What a running operator does: know the cluster, audit that knowledge for ever and, as the leader, plan for it."""

import asyncio
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass

from plimsoll.controller.audit import Drift, audit, refuse_repetition, until_current, until_synced
from plimsoll.controller.client import ApiError, Client
from plimsoll.controller.corrections import Corrections
from plimsoll.controller.demand import Demand
from plimsoll.controller.discovery import confirm
from plimsoll.controller.distances import Distances
from plimsoll.controller.election_thread import ElectionThread
from plimsoll.controller.events import Recorder
from plimsoll.controller.feed import Feed
from plimsoll.controller.health import Vitals
from plimsoll.controller.kinds import Kind
from plimsoll.controller.loop import Loop
from plimsoll.controller.metrics import Metrics
from plimsoll.controller.objectives import Objectives
from plimsoll.controller.planner_process import PlannerProcess
from plimsoll.controller.settings import Settings
from plimsoll.controller.store import Store

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Operator:
    """The parts of a running operator."""

    settings: Settings
    client: Client
    feed: Feed
    store: Store
    planner: PlannerProcess
    recorder: Recorder
    loop: Loop
    corrections: Corrections | None
    demand: Demand | None
    objectives: Objectives | None
    distances: Distances
    election: ElectionThread | None
    """None when it runs alone."""
    kinds: Sequence[Kind]
    metrics: Metrics
    vitals: Vitals


async def work(operator: Operator) -> None:
    """Do it all until cancelled.

    Raises:
        BaseExceptionGroup: of what ended it.
    """
    operator.vitals.detail = "waiting until every kind is known"
    failure, *_ = await asyncio.gather(
        operator.planner.start(),
        operator.feed.listed(),
        until_synced(operator.client, operator.store, operator.feed.by_kopf),
    )
    if failure is not None:
        _log.error("%s", failure.message)
    operator.metrics.synced.set(1)
    counts = operator.store.counts().items()
    _log.info("synced: %s", ", ".join(f"{count} {name}" for name, count in counts if count))
    async with asyncio.TaskGroup() as group:
        group.create_task(_audit_for_ever(operator))
        group.create_task(_lead(operator))
        if operator.election is not None:
            group.create_task(operator.election.run())
            operator.vitals.detail = "waiting until the Lease can be read"
            await operator.election.known.wait()
        operator.vitals.ready = True


async def _lead(operator: Operator) -> None:
    if operator.election is not None:
        await operator.election.won.wait()
        # What the leader before wrote last must be known before anything is decided.
        await until_current(operator.client, operator.store, operator.kinds)
        await _tell(operator.recorder, operator.election)
    if operator.corrections is not None:
        # Before the first plan, which would otherwise undo what observation has taught.
        await operator.corrections.load()
    if operator.demand is not None:
        operator.demand.load()
    await operator.distances.turn()
    async with asyncio.TaskGroup() as group:
        group.create_task(operator.loop.run())
        group.create_task(operator.distances.run())
        if operator.corrections is not None:
            group.create_task(operator.corrections.run())
        if operator.demand is not None:
            group.create_task(operator.demand.run())
        if operator.objectives is not None:
            group.create_task(operator.objectives.run())


async def _tell(recorder: Recorder, election: ElectionThread) -> None:
    if election.lease is not None:
        message = f"{election.identity} leads now, term {election.term}"
        await recorder.note(election.lease, "LeaderElection", "LeaderElected", message)


async def _audit_for_ever(operator: Operator) -> None:
    """Compare the store and the APIs with the cluster, again and again.

    Raises:
        Outdated: a restart is due.
        Drifted: the feed does not work.
    """
    earlier: Sequence[Drift] = ()
    while True:
        # Jittered, so that of two operators that must restart one goes on.
        await asyncio.sleep(operator.settings.audit_interval_seconds * random.uniform(0.9, 1.1))  # noqa: S311
        try:
            await confirm(operator.client, operator.kinds)
            later = await audit(operator.client, operator.store, operator.kinds, operator.metrics)
        except ApiError as error:
            _log.warning("audit: %s", error)
            continue
        refuse_repetition(earlier, later)
        earlier = later
