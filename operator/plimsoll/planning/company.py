"""Traffic classes that share replicas: what each meets there, and whether they get in each other's way."""

from collections.abc import Mapping, Sequence

from plimsoll.performance import Stream
from plimsoll.planning.objectives import ResolvedClass
from plimsoll.planning.plan import ClassPlan, Finding, LatencyFigure, Placement, Severity
from plimsoll.planning.snapshot import ObjectRef


def companions(name: str, rates: Mapping[str, float], classes: Mapping[str, ResolvedClass]) -> tuple[Stream, ...]:
    """The other classes at a replica, from the requests per second of all by name.

    Rounded to two digits, so that predictions are remembered while traffic drifts.
    """
    own = rates[name]
    return tuple(
        Stream(classes[other].lengths, float(f"{rate / own:.2g}"), classes[other].arrivals)
        for other, rate in sorted(rates.items())
        if other != name and own > 0 and rate > 0
    )


def crowded(ref: ObjectRef, classes: Sequence[ClassPlan], placements: Sequence[Placement]) -> list[Finding]:
    """Classes that miss a target because of others at their replicas: options are rated for each class alone."""
    served = [{share.traffic for share in placement.shares} for placement in placements]
    findings = []
    for item in classes:
        others = set[str]().union(*(names for names in served if item.name in names)) - {item.name}
        missed = [_missed(figure) for figure in item.latency if _misses(figure)]
        if missed and others:
            message = (
                f"spec.traffic: class {item.name} shares replicas with {', '.join(sorted(others))}: "
                f"{'; '.join(missed)}. Classes with such different lengths are better served by an LLMDeployment each"
            )
            findings.append(Finding(ref, "ClassesInEachOthersWay", message, Severity.WARNING, "spec.traffic"))
    return findings


def _misses(figure: LatencyFigure) -> bool:
    return figure.target_milliseconds is not None and figure.predicted_milliseconds > figure.target_milliseconds


def _missed(figure: LatencyFigure) -> str:
    predicted = float(f"{figure.predicted_milliseconds:.2g}")
    return f"{figure.metric} is predicted at {predicted:g} ms, the target is {figure.target_milliseconds:g} ms"
