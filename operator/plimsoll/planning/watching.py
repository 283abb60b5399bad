"""The demand of the whole fleet from one look at its metrics to the next. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from operator import itemgetter

from plimsoll.api.placementpolicy import PlacementPolicy
from plimsoll.performance import TokenLengths
from plimsoll.planning.arrivals import Reading
from plimsoll.planning.following import FOLLOWING, Followed, beginning, followed, unseen
from plimsoll.planning.plan import DeploymentPlan, FleetPlan
from plimsoll.planning.snapshot import ObjectRef, Snapshot, TrafficDemand

ClassKey = tuple[str, str, str]
"""Namespace, LLMDeployment and traffic class."""
NOTHING_HELD: Mapping[ClassKey, TokenLengths] = {}
UNREACHABLE = "PrometheusUnreachable"
SILENT = "Silent"
_SILENT = (
    "nothing arrives any more at a class that was busy; for an hour its replicas are kept, since more often something "
    "on the way to them is broken"
)
PATIENCE_INTERVALS = 8
"""So many looks in a row must fail before metrics count as lost; new replicas are not scraped at once."""
_START_SECONDS = 60.0
"""Of an LLMDeployment that has no placement yet."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is wrong with the metrics of an LLMDeployment."""

    reason: str
    message: str
    since: float


@dataclass(frozen=True, slots=True)
class Watched:
    """What is known of the fleet's demand."""

    classes: Mapping[ClassKey, Followed] = field(default_factory=dict)
    """Those that were measured once."""
    troubles: Mapping[ObjectRef, Trouble] = field(default_factory=dict)

    def demand(self, lengths: Mapping[ClassKey, TokenLengths] = NOTHING_HELD) -> tuple[TrafficDemand, ...]:
        """For the snapshot. `lengths` are those that are not as declared."""
        return tuple(
            TrafficDemand(
                *key,
                state.planned_per_minute,
                float(round(state.current_per_minute)),
                state.fresh,
                lengths.get(key),
            )
            for key, state in sorted(self.classes.items(), key=itemgetter(0))
        )


def watched(
    before: Watched,
    fleet: FleetPlan,
    snapshot: Snapshot,
    found: Iterable[Reading],
    seconds: float,
    interval_seconds: float,
) -> Watched:
    """After another look.

    Args:
        fleet: the plan that is followed.
        found: of its LLMDeployments; those that are missing could not be asked about.
        seconds: now, by any clock that only grows.
        interval_seconds: between two looks.
    """
    policy = (snapshot.policy or PlacementPolicy.implied()).spec
    rule = replace(
        FOLLOWING,
        cool_down_seconds=float(policy.rebalance.cool_down_seconds),
        longest_gap_seconds=PATIENCE_INTERVALS * interval_seconds,
    )
    by_ref, plans = {item.deployment: item for item in found}, {plan.ref: plan for plan in fleet.deployments}
    classes: dict[ClassKey, Followed] = {}
    troubles: dict[ObjectRef, Trouble] = {}
    for deployment in snapshot.deployments:
        ref = ObjectRef("LLMDeployment", deployment.namespace, deployment.name)
        reading = by_ref.get(ref) or Reading(ref, {}, UNREACHABLE, "Prometheus does not answer")
        horizon = _horizon_seconds(plans.get(ref), policy.routing.propagation_seconds, interval_seconds)
        silent = False
        for traffic in deployment.spec.traffic:
            key, declared = (ref.namespace, ref.name, traffic.name), float(traffic.requests_per_minute)
            state, window = before.classes.get(key), reading.windows.get(traffic.name)
            if window is not None and (state is not None or window.plausible):
                now = followed(state or beginning(declared, seconds), window, horizon, rule)
                classes[key] = now if window.plausible else unseen(now, seconds, declared, rule)
                silent = silent or now.silent_since is not None
            elif state is not None:
                classes[key] = unseen(state, seconds, declared, rule)
        reason, message = (SILENT, _SILENT) if silent and not reading.trouble else (reading.trouble, reading.message)
        if reason:
            known = before.troubles.get(ref)
            since = known.since if known is not None and known.reason == reason else seconds
            troubles[ref] = Trouble(reason, message, since)
    return Watched(classes, troubles)


def _horizon_seconds(plan: DeploymentPlan | None, propagation_seconds: float, interval_seconds: float) -> float:
    """Until a replica that is decided about now serves: another look, its load, and that routers see it."""
    loads = [item.option.load_seconds for item in plan.placements] if plan is not None else []
    return interval_seconds + max(loads, default=_START_SECONDS) + propagation_seconds
