"""ResourceQuotas and LimitRanges: what the API server would refuse, a plan does not ask for. Pure.

What others use of a quota follows from the pods, as the stock of nodes does, so that both are of one moment: the
quota's own status runs ahead of the pods while they are created.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from plimsoll.planning.namespaces import LimitRangeFacts, QuotaFacts, ScopeRequirement

_COMPUTE = ("cpu", "memory")


@dataclass(frozen=True, slots=True)
class ReplicaRequests:
    """What one replica asks of its namespace."""

    pods: int
    requests: Mapping[str, float]
    """Of one pod: `cpu`, `memory` and the GPU resource."""
    priority_class: str | None


def counts(quota: QuotaFacts, priority_class: str | None) -> bool:
    """Whether a quota counts Plimsoll's serving pods: they ask for resources, have no deadline, and their wish to share
    nodes concerns other namespaces."""
    return all(_in_scope(requirement, priority_class) for requirement in quota.scopes)


def _in_scope(requirement: ScopeRequirement, priority_class: str | None) -> bool:
    match requirement.scope:
        case "NotBestEffort" | "NotTerminating" | "CrossNamespacePodAffinity":
            return True
        case "PriorityClass":
            match requirement.operator:
                case "In":
                    return priority_class in requirement.values
                case "NotIn":
                    return priority_class not in requirement.values
                case "DoesNotExist":
                    return priority_class is None
                case _:
                    return priority_class is not None
        case _:
            return False


def amount(resource: str, replica: ReplicaRequests, limits: Mapping[str, float]) -> float | None:
    """What a replica takes of one entry of a quota; None where the entry counts something else.

    Args:
        limits: of each container, as LimitRanges give them to containers that have none.
    """
    if resource in ("pods", "count/pods"):
        return float(replica.pods)
    name = resource.removeprefix("requests.")
    if resource.startswith("limits."):
        found = limits.get(resource.removeprefix("limits."))
        return None if found is None else found * replica.pods
    if name in replica.requests and (resource.startswith("requests.") or name in _COMPUTE):
        return replica.requests[name] * replica.pods
    return None


def demands_limits(resource: str, limits: Mapping[str, float]) -> bool:
    """Whether an entry of a quota makes the API server refuse pods without a limit, as Plimsoll's are without a default
    of a LimitRange."""
    return resource in ("limits.cpu", "limits.memory") and resource.removeprefix("limits.") not in limits


def default_limits(ranges: Sequence[LimitRangeFacts]) -> dict[str, float]:
    """Limits that containers without any get."""
    found: dict[str, float] = {}
    for item in (item for given in ranges for item in given.items if item.type == "Container"):
        for name, value in item.default.items():
            found.setdefault(name, value)
    return found


def refusals(ranges: Sequence[LimitRangeFacts], requests: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    """Why a pod of one container would be refused, as (LimitRange, text)."""
    defaults = default_limits(ranges)
    # An extended resource is its own limit.
    limits = {**defaults, **{name: value for name, value in requests.items() if name not in _COMPUTE}}
    for name in _COMPUTE:
        if name in defaults and name in requests and requests[name] > defaults[name]:
            owner = next(given.name for given in ranges for item in given.items if name in item.default)
            yield owner, f"its default limit of {name} is {defaults[name]:g}, and a replica asks for {requests[name]:g}"
    for given in ranges:
        for item in given.items:
            for name, most in item.max.items():
                if name not in requests:
                    continue
                if name not in limits:
                    yield given.name, f"it limits {name} of a {item.type}, and replicas have no limit of {name}"
                elif max(limits[name], requests[name]) > most:
                    asked = max(limits[name], requests[name])
                    yield given.name, f"a {item.type} may have {most:g} of {name}, and a replica has {asked:g}"
            for name, least in item.min.items():
                if name in requests and requests[name] < least:
                    yield given.name, f"a {item.type} must ask for {least:g} of {name}, and a replica asks for less"
            for name, ratio in item.ratio.items():
                if name in requests and (name not in limits or limits[name] > ratio * requests[name]):
                    yield given.name, f"the limit of {name} may be {ratio:g} times the request at most"
