"""What is remembered of placements that did not start: it stands in the statuses of LLMDeployments, and only there.

A failure counts from the turn after it was written down. So an operator that is killed in between finds the late pods
again, and one that is killed afterwards reads what was found.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import ValidationError

from plimsoll.api.llmdeployment_status import FailedStart
from plimsoll.api.placementpolicy import Rebalance
from plimsoll.planning.plan import DeploymentPlan
from plimsoll.planning.snapshot import NodeFacts, PodFacts, Snapshot, StartFailure, Workload
from plimsoll.planning.starts import Late, Starting, starting, wait_seconds
from plimsoll.rendering.engine.vllm import startup_seconds
from plimsoll.rendering.workload import SCHEDULING_SECONDS

_KEPT = 16
_FORGOTTEN = timedelta(days=1)
Manifest = Mapping[str, Any]


def failures_in_force(live: Iterable[Manifest], now: datetime) -> tuple[StartFailure, ...]:
    """What is not to be tried at this moment, by the statuses of LLMDeployments."""
    found: list[StartFailure] = []
    for manifest in live:
        metadata = manifest["metadata"]
        found.extend(
            StartFailure(
                str(metadata.get("namespace", "")),
                str(metadata["name"]),
                item.placement,
                item.ready,
                _text(item),
                item.generation == metadata.get("generation"),
            )
            for item in failed_starts(manifest)
            if item.retry_time is not None and item.retry_time > now
        )
    return tuple(sorted(found, key=lambda item: (item.namespace, item.deployment, item.placement)))


def failed_starts(manifest: Manifest) -> tuple[FailedStart, ...]:
    """What the status of an LLMDeployment says; nothing where that cannot be read."""
    try:
        given = (manifest.get("status") or {}).get("failedStarts") or ()
        return tuple(FailedStart.model_validate(item) for item in given)
    except ValidationError:
        return ()


def remembered(
    before: Sequence[FailedStart], late: Iterable[Late], own: Iterable[Workload], generation: int, now: datetime
) -> tuple[FailedStart, ...]:
    """What the status should say now. What works after all, and what is long past, is forgotten."""
    ready = {item.name: item.ready_replicas for item in own}
    kept = {
        item.placement: item
        for item in before
        if ready.get(item.placement, 0) <= item.ready
        and item.retry_time is not None
        and item.retry_time + _FORGOTTEN > now
    }
    moment = now.replace(microsecond=0)
    for item in late:
        known = kept.get(item.placement)
        if known is not None and known.retry_time is not None and known.retry_time > now:
            continue
        attempts = 1 if known is None else known.attempts + 1
        kept[item.placement] = FailedStart(
            placement=item.placement,
            ready=item.ready,
            attempts=attempts,
            generation=generation,
            time=moment,
            retry_time=moment + timedelta(seconds=round(wait_seconds(item.timeout_seconds, attempts))),
            timeout_seconds=max(1, round(item.timeout_seconds)),
        )
    newest = sorted(kept.values(), key=lambda item: item.time or moment, reverse=True)[:_KEPT]
    return tuple(sorted(newest, key=lambda item: item.placement))


def next_try_seconds(failed: Iterable[FailedStart], now: datetime) -> float | None:
    """When something may be tried again; None when nothing waits for that."""
    left = [(item.retry_time - now).total_seconds() for item in failed if item.retry_time is not None]
    return min((seconds for seconds in left if seconds > 0), default=None)


class Starts:
    """What starts in one turn."""

    def __init__(self, snapshot: Snapshot, live: Mapping[tuple[str, str], Manifest], rebalance: Rebalance) -> None:
        self._live, self._rebalance = live, rebalance
        self._nodes: Mapping[str, NodeFacts] = {item.name: item for item in snapshot.nodes or ()}
        self._pods: dict[tuple[str, str], list[PodFacts]] = {}
        for pod in snapshot.pods:
            if pod.starting_since:
                self._pods.setdefault((pod.namespace, pod.deployment), []).append(pod)

    def of(
        self, plan: DeploymentPlan, own: Sequence[Workload], now: datetime
    ) -> tuple[tuple[FailedStart, ...], float | None]:
        """What the LLMDeployment's status should say, and after how many seconds that may change by itself."""
        place = (plan.ref.namespace, plan.ref.name)
        before = failed_starts(self._live.get(place, {}))
        pods = self._pods.get(place, ())
        found = self._starting(plan, own, pods) if pods else Starting((), None)
        after = remembered(before, found.late, own, plan.resource.metadata.generation or 0, now)
        new = any(item not in before for item in after)
        due = [0.1 if new else None, found.next_seconds, next_try_seconds(after, now)]
        return after, min((seconds for seconds in due if seconds is not None), default=None)

    def _starting(self, plan: DeploymentPlan, own: Sequence[Workload], pods: Sequence[PodFacts]) -> Starting:
        given = self._rebalance.start_timeout_seconds
        timeouts = {
            item.name: float(given or startup_seconds(item.option.load_seconds) + SCHEDULING_SECONDS)
            for item in plan.placements
            if item.option.stage is None  # a chain has no other form that could be gone back to
        }
        return starting(plan, own, pods, self._nodes, timeouts, time.time())


def _text(item: FailedStart) -> str:
    again = "" if item.retry_time is None else f"; it is tried again after {item.retry_time.astimezone(UTC):%H:%M} UTC"
    times = "" if item.attempts < 2 else f" for the {item.attempts}. time"
    kept = f"; its {item.ready} Ready replicas stay" if item.ready else " and was rolled back"
    return (
        f"new replicas of placement {item.placement} were not Ready after {item.timeout_seconds} s{times}{kept}"
        f"{again}; "
        "Events and logs of its pods say why, and a change of the LLMDeployment's engine is tried at once"
    )
