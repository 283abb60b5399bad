"""Who rests and what arrives now, as the cluster says: when a last move was done stands in the LLMDeployment's status.

Nothing is remembered here, so a restart rests as long as the process before would have.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from plimsoll.api.placementpolicy import PlacementPolicySpec
from plimsoll.controller.foreign import Place
from plimsoll.planning.pace import LastMove, rest
from plimsoll.planning.plan import DeploymentPlan
from plimsoll.planning.shares import split_again
from plimsoll.planning.snapshot import ObjectRef, Snapshot, Workload
from plimsoll.planning.transition import ObservedRouting

Manifest = Mapping[str, Any]


def paced(
    snapshot: Snapshot, deployments: Iterable[Manifest], policy: PlacementPolicySpec, now: datetime
) -> tuple[Snapshot, float | None]:
    """The snapshot with those that rest, and in how many seconds the first of them is done.

    Where people approve plans they set the pace.
    """
    if policy.approval != "Automatic" or not snapshot.demand:
        return snapshot, None
    followed = {ObjectRef("LLMDeployment", item.namespace, item.deployment) for item in snapshot.demand}
    stale = {ObjectRef("LLMDeployment", item.namespace, item.deployment) for item in snapshot.demand if not item.fresh}
    found = rest(
        (last_move(item, now) for item in deployments), followed, stale, float(policy.rebalance.cool_down_seconds)
    )
    return replace(snapshot, resting=found.resting), found.over_in_seconds


def last_move(deployment: Manifest, now: datetime) -> LastMove:
    """When an LLMDeployment's last move was done, by its condition `Rebalancing`."""
    metadata, status = deployment["metadata"], deployment.get("status") or {}
    ref = ObjectRef("LLMDeployment", str(metadata.get("namespace", "")), str(metadata["name"]))
    for condition in status.get("conditions") or ():
        if condition.get("type") == "Rebalancing":
            settled = condition.get("status") == "False" and condition.get("reason") == "Settled"
            since = datetime.fromisoformat(str(condition["lastTransitionTime"])).astimezone(UTC)
            seconds = max(0.0, (now - since).total_seconds()) if settled else None
            return LastMove(ref, seconds, answered=condition.get("observedGeneration") == metadata.get("generation"))
    return LastMove(ref, None, answered=False)


def arriving_rates(snapshot: Snapshot) -> dict[Place, dict[str, float]]:
    """Requests per minute that arrive now, by class, of LLMDeployments of which that is known."""
    found: dict[Place, dict[str, float]] = {}
    for item in snapshot.demand:
        found.setdefault((item.namespace, item.deployment), {})[item.traffic] = item.current_per_minute
    return found


def suited(
    plan: DeploymentPlan, own: Sequence[Workload], observed: ObservedRouting | None, arriving: Mapping[str, float]
) -> DeploymentPlan:
    """The plan with the shares that suit what arrives now, in requests per minute by class."""
    if not arriving:
        return plan
    ready = {item.name: item.ready_replicas for item in own}
    return split_again(plan, ready, arriving, None if observed is None else observed.table)
