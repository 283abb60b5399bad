"""From what engines and gateways count to a window of each traffic class, and how far it may be believed. Pure.

What arrives at an engine is what leaves it and what piles up in it, so the rate stays right when the fleet is
saturated. A gateway knows the classes and what never reaches an engine, so where there is one its figures come first.
Requests in the engines must be arrival rate times the time that each stays (Little): a second signal, and the one that
shows that series lie.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from plimsoll.planning.following import Window
from plimsoll.planning.plan import DeploymentPlan, FleetPlan
from plimsoll.planning.running_chains import answers
from plimsoll.planning.snapshot import ObjectRef, Snapshot

_MOST_ENDED = 2.0
"""Times what can have been in the engines."""
_MOST_INSIDE = 4.0
"""Times what arrivals and stays make; requests come in bursts."""
_SLACK_REQUESTS = 4.0
_MOST_UNSEEN = 0.1
"""Of the Ready replicas."""
_MOST_WAITING = 0.5
"""Of those that run."""
_FULL_CACHE = 0.95
_GATEWAY_MISSES = 1.5
"""A gateway that counts so many times less than the engines misses some."""


@dataclass(frozen=True, slots=True)
class PodLoad:
    """What the engines of one pod counted in a window. Rates per second; what is missing is None."""

    namespace: str
    pod: str
    age_seconds: float
    """Since the last sample."""
    running: float
    waiting: float
    before: float | None = None
    """Running and waiting when the window began; None: it was not there."""
    ended: float | None = None
    """Requests that ended, however."""
    stays: float | None = None
    """Seconds in the engine, summed over those that ended, and how many these are: both per second."""
    stayed: float | None = None
    cache_usage: float | None = None
    """Part of the KV cache, 0 to 1."""
    preemptions: float | None = None

    @property
    def inside(self) -> float:
        """Requests in the engine, over the window."""
        now = self.running + self.waiting
        return now if self.before is None else (now + self.before) / 2

    def arrivals(self, window_seconds: float) -> float | None:
        """Per second. An engine that began anew has lost what was in it, and nothing came out."""
        if self.ended is None:
            return None
        return max(0.0, self.ended + (self.running + self.waiting - (self.before or 0.0)) / window_seconds)


@dataclass(frozen=True, slots=True)
class Load:
    """What all pods, and the gateway, counted in a window."""

    seconds: float
    """When it ended, by any clock that only grows."""
    window_seconds: float
    pods: tuple[PodLoad, ...]
    routed: Mapping[tuple[str, str, str], float] = field(default_factory=dict)
    """Requests per second that reached a gateway, by namespace, LLMDeployment and traffic class."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one LLMDeployment's metrics say."""

    deployment: ObjectRef
    windows: Mapping[str, Window]
    """By traffic class; empty where nothing can be said."""
    trouble: str = ""
    """Why they are not to be trusted wholly, in CamelCase: `NoSeries`, `ReplicasMissing`, `Implausible`; empty: fine.
    `NoReadyReplicas` is no fault of theirs."""
    message: str = ""


def readings(fleet: FleetPlan, snapshot: Snapshot, load: Load) -> tuple[Reading, ...]:
    """One for each LLMDeployment of the plan.

    Args:
        fleet: the plan that is followed, made from `snapshot`: it says which classes a placement serves.
        load: of any pods; those of no placement do not count, nor do samples that are older than the window.
    """
    fresh = {(item.namespace, item.pod): item for item in load.pods if item.age_seconds <= load.window_seconds}
    answering = [item for item in snapshot.workloads if answers(item)]
    owners = {(item.namespace, item.name): item.deployment for item in answering}
    groups: dict[tuple[str, str], list[tuple[str, PodLoad]]] = {}
    seen: dict[tuple[str, str], int] = {}
    for pod in snapshot.pods:
        found, owner = fresh.get((pod.namespace, pod.name)), owners.get((pod.namespace, pod.placement))
        if found is None or owner is None:
            continue
        groups.setdefault((pod.namespace, owner), []).append((pod.placement, found))
        if pod.ready and not pod.deleting:
            seen[pod.namespace, owner] = seen.get((pod.namespace, owner), 0) + 1
    ready: dict[tuple[str, str], int] = {}
    for item in answering:
        place = (item.namespace, item.deployment)
        ready[place] = ready.get(place, 0) + item.ready_replicas
    return tuple(
        _reading(plan, groups.get(place, ()), ready.get(place, 0), seen.get(place, 0), load)
        for plan in fleet.deployments
        for place in [(plan.ref.namespace, plan.ref.name)]
    )


def _reading(plan: DeploymentPlan, pods: Sequence[tuple[str, PodLoad]], ready: int, seen: int, load: Load) -> Reading:
    engines = _Engines.of(plan, pods, load.window_seconds)
    routed = {
        item.name: rate
        for item in plan.classes
        if (rate := load.routed.get((plan.ref.namespace, plan.ref.name, item.name))) is not None
    }
    known = len(routed) == len(plan.classes) > 0
    if known and engines.arrivals > _GATEWAY_MISSES * sum(routed.values()) + _SLACK_REQUESTS / load.window_seconds:
        known = False
    if not known and not pods:
        if ready == 0:
            return Reading(plan.ref, {}, "NoReadyReplicas", "no replica is Ready, so there is nothing to measure")
        return Reading(plan.ref, {}, "NoSeries", _NO_SERIES)
    unseen = ready - seen > _MOST_UNSEEN * ready
    plausible = known or not engines.empty_for_their_rate
    windows = {}
    for item in plan.classes:
        rate = routed[item.name] if known else engines.by_class.get(item.name, 0.0)
        # What is not served may never reach an engine; of a new one nothing is known from before it was looked at.
        whole = known or not (unseen or item.unserved > 0 or engines.some_new)
        calm = engines.calm and not unseen
        windows[item.name] = Window(load.seconds, 60 * rate, plausible, calm, whole, load.window_seconds)
    if not plausible:
        return Reading(plan.ref, windows, "Implausible", _IMPLAUSIBLE)
    if unseen:
        return Reading(plan.ref, windows, "ReplicasMissing", _MISSING)
    return Reading(plan.ref, windows)


_NO_SERIES = "Prometheus has vLLM's metrics of none of the Ready replicas, by the pods' namespace and name"
_MISSING = "Prometheus lacks vLLM's metrics of some Ready replicas; nothing shrinks until it has them"
_IMPLAUSIBLE = "far more requests ended, and took longer, than can have been in the engines; these figures are not used"


@dataclass(frozen=True, slots=True)
class _Engines:
    """What the engines of one LLMDeployment show together. Rates per second."""

    by_class: Mapping[str, float]
    inside: float
    most_inside: float
    """When the window began or when it ended."""
    stays: float
    """Seconds in the engine of those that ended, per second: by Little's law, how many of them were inside."""
    stay_seconds: float
    crowded: bool
    some_new: bool
    """One was not there when the window began."""

    @classmethod
    def of(cls, plan: DeploymentPlan, pods: Sequence[tuple[str, PodLoad]], window_seconds: float) -> "_Engines":
        weights = _Weights(plan)
        by_class: dict[str, float] = {}
        for placement, pod in pods:
            rate = pod.arrivals(window_seconds) or 0.0
            for name, part in weights.of(placement).items():
                by_class[name] = by_class.get(name, 0.0) + part * rate
        loads = [pod for _, pod in pods]
        stays, stayed = sum(pod.stays or 0.0 for pod in loads), sum(pod.stayed or 0.0 for pod in loads)
        running, waiting = sum(pod.running for pod in loads), sum(pod.waiting for pod in loads)
        thrashing = any((pod.cache_usage or 0.0) >= _FULL_CACHE and (pod.preemptions or 0.0) > 0 for pod in loads)
        return cls(
            by_class,
            sum(pod.inside for pod in loads),
            max(running + waiting, sum(pod.before or 0.0 for pod in loads)),
            stays,
            stays / stayed if stayed > 0 else 0.0,
            crowded=waiting > _MOST_WAITING * running + _SLACK_REQUESTS or thrashing,
            some_new=any(pod.before is None for pod in loads),
        )

    @property
    def arrivals(self) -> float:
        return sum(self.by_class.values())

    @property
    def empty_for_their_rate(self) -> bool:
        """More ended than can have been inside: a counter runs away, or a gauge is stuck at zero."""
        return self.stays > _MOST_ENDED * self.most_inside + _SLACK_REQUESTS

    @property
    def calm(self) -> bool:
        """Nothing says that more is asked for than arrives."""
        expected = self.arrivals * self.stay_seconds
        return not self.crowded and self.inside <= _MOST_INSIDE * expected + _SLACK_REQUESTS


class _Weights:
    """Which part of what a placement gets belongs to which class, as routed: engines do not tell classes apart."""

    def __init__(self, plan: DeploymentPlan) -> None:
        rates = {item.name: max(item.requests_per_minute, 1e-9) for item in plan.classes}
        self._all = _parts(rates)
        self._by_placement = {
            item.name: _parts({share.traffic: share.value * rates.get(share.traffic, 0.0) for share in item.shares})
            for item in plan.placements
        }

    def of(self, placement: str) -> Mapping[str, float]:
        """A placement that the plan lacks may have served any class."""
        return self._by_placement.get(placement) or self._all


def _parts(values: Mapping[str, float]) -> dict[str, float]:
    whole = sum(values.values())
    return {name: value / whole for name, value in values.items()} if whole > 0 else {}
