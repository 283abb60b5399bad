"""Whether so much goes at once that a person should look first: nodes, LLMDeployments, or replicas that serve.

What counts as lost is the difference to the most that was there within the last ten minutes, so a loss in many small
steps counts as one. What a plan removes is counted when the plan is new, per LLMDeployment and net: a replica that
another one of the plan replaces is not lost. Time comes in as a number, and all memory is one frozen value.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import floor

from plimsoll.planning.snapshot import ObjectRef

SHARE = 0.2
LEAST = 3
"""A loss counts above this share, if it is at least so many nodes, LLMDeployments or replicas."""
WINDOW_SECONDS = 600.0
_WHEN = "within ten minutes or while no operator ran"
_SLOT_SECONDS = 30.0
"""Sightings this close together are kept as one, so that a flapping node cannot fill the memory."""


@dataclass(frozen=True, slots=True)
class Census:
    """What is there at one moment."""

    gpus: float
    """On Ready nodes."""
    nodes: int
    """Ready nodes with GPUs."""
    largest: float
    """GPUs of the largest of them."""
    deployments: int
    """LLMDeployments, those included that do not parse."""

    def peak(self, other: "Census") -> "Census":
        """The larger of each figure."""
        return Census(
            max(self.gpus, other.gpus),
            max(self.nodes, other.nodes),
            max(self.largest, other.largest),
            max(self.deployments, other.deployments),
        )


@dataclass(frozen=True, slots=True)
class Served:
    """One LLMDeployment's replicas that serve, before and after the plan."""

    ref: ObjectRef
    serving: int
    """Ready replicas of the placements that routers are told of."""
    planned: int
    """As many as serve where the plan takes nothing away (it is held or short)."""


@dataclass(frozen=True, slots=True)
class Intent:
    """What a plan is about to do."""

    digest: str
    """Of the decision; empty when nothing was decided."""
    served: tuple[Served, ...]
    shrinks: bool
    """Something runs that the plan does not want any more, replaced or not."""


@dataclass(frozen=True, slots=True)
class Hold:
    """A loss that nobody has accepted yet."""

    since: float
    peak: Census
    """What was there before."""


@dataclass(frozen=True, slots=True)
class Memory:
    """All that the guard knows of earlier turns."""

    sightings: tuple[tuple[float, Census], ...] = ()
    """Within the window, oldest first."""
    hold: Hold | None = None
    passed: str = ""
    """Digest of the last decision that took little enough away, or that a person released."""
    wanted: Mapping[ObjectRef, int] = field(default_factory=dict)
    """Replicas that this decision plans: more than that do not serve for long, they are about to be replaced."""

    @property
    def baseline(self) -> Census | None:
        """The most that was there within the window, or before the loss that is held."""
        found = self.hold.peak if self.hold is not None else None
        for _, census in self.sightings:
            found = census if found is None else found.peak(census)
        return found


def judge(
    memory: Memory, census: Census, intent: Intent, now: float, *, released: bool
) -> tuple[Memory, tuple[str, ...]]:
    """Whether the plan may take anything away now: no sentence, it may; otherwise the sentences say why not.

    A loss is held until it is no loss any more, until a person releases the plan, or, when for a whole window there
    was nothing to hold back, until it is an old story. A plan that removes too much is held until there is another
    plan or a person releases it.

    Args:
        now: seconds of a clock that never goes back.
        released: a person has named this very plan.
    """
    seen = (*_recent(memory.sightings, now), (now, census))
    hold, peak = memory.hold, _peak(seen)
    if hold is not None:
        stale = not intent.shrinks and now - hold.since >= WINDOW_SECONDS
        hold = None if stale or not _losses(hold.peak.peak(peak), census) else replace(hold, peak=hold.peak.peak(peak))
        if stale:
            seen, peak = ((now, census),), census
    if hold is None and _losses(peak, census):
        hold = Hold(now, peak)
    reasons = _losses(hold.peak, census) if hold is not None else []
    passed, wanted = memory.passed, memory.wanted
    if intent.digest and intent.digest != passed:
        excess = _excess(intent.served, wanted)
        if excess:
            reasons.append(excess)
        else:
            passed, wanted = intent.digest, _wanted(intent)
    if reasons and released:
        return Memory(((now, census),), None, intent.digest, _wanted(intent)), ()
    return Memory(_merged(seen), hold, passed, wanted), tuple(reasons)


def _recent(sightings: Iterable[tuple[float, Census]], now: float) -> list[tuple[float, Census]]:
    return [(at, census) for at, census in sightings if now - at <= WINDOW_SECONDS]


def _merged(sightings: Iterable[tuple[float, Census]]) -> tuple[tuple[float, Census], ...]:
    """One sighting per slot: the peak, at the time of the last, so that nothing is forgotten early."""
    slots: dict[int, tuple[float, Census]] = {}
    for at, census in sightings:
        slot = floor(at / _SLOT_SECONDS)
        slots[slot] = (at, slots[slot][1].peak(census) if slot in slots else census)
    return tuple(slots.values())


def _peak(sightings: Iterable[tuple[float, Census]]) -> Census:
    (_, found), *others = sightings
    for _, census in others:
        found = found.peak(census)
    return found


def _losses(peak: Census, census: Census) -> list[str]:
    """What is missing of what was there, as sentences; nothing where it is little."""
    found = []
    gpus, nodes = peak.gpus - census.gpus, peak.nodes - census.nodes
    if gpus > SHARE * peak.gpus and (nodes >= LEAST or gpus >= LEAST * peak.largest):
        found.append(
            f"{gpus:g} of {peak.gpus:g} Ready GPUs vanished {_WHEN} ({census.nodes} of {peak.nodes} nodes with GPUs "
            "are Ready)"
        )
    deployments = peak.deployments - census.deployments
    if deployments > SHARE * peak.deployments and deployments >= LEAST:
        found.append(f"{deployments} of {peak.deployments} LLMDeployments vanished {_WHEN}")
    return found


def _excess(served: Iterable[Served], wanted: Mapping[ObjectRef, int]) -> str:
    """A sentence when the plan removes too many of the replicas that serve; otherwise nothing."""
    total = removed = 0
    for item in served:
        # In the middle of a transition both the old and the new replicas serve.
        serving = min(item.serving, wanted.get(item.ref, item.serving))
        total += serving
        removed += max(0, serving - item.planned)
    if removed > SHARE * total and removed >= LEAST:
        return f"the plan removes {removed} of {total} replicas that serve"
    return ""


def _wanted(intent: Intent) -> dict[ObjectRef, int]:
    return {item.ref: item.planned for item in intent.served}
