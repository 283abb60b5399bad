"""Facts about namespaces: labels, by which tenants are selected, and the limits that Kubernetes sets on their pods."""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

NAME_LABEL = "kubernetes.io/metadata.name"
"""The API server gives every namespace this label."""


@dataclass(frozen=True, slots=True)
class NamespaceFacts:
    """A namespace."""

    name: str
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ScopeRequirement:
    """Which pods a quota counts."""

    scope: str
    """`BestEffort`, `NotBestEffort`, `Terminating`, `NotTerminating`, `PriorityClass`, `CrossNamespacePodAffinity`."""
    operator: str = "Exists"
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class QuotaFacts:
    """A ResourceQuota. What pods use of it is not kept: that follows from the pods, and it would wake the planner."""

    namespace: str
    name: str
    hard: Mapping[str, float]
    """Limits by the quota's own names: `requests.nvidia.com/gpu`, `limits.memory`, `pods`; bytes and cores."""
    scopes: tuple[ScopeRequirement, ...] = ()
    full: tuple[str, ...] = ()
    """Entries for numbers of objects (Deployments, Services) that are used up."""


@dataclass(frozen=True, slots=True)
class LimitRangeItem:
    """What one entry of a LimitRange says of containers or pods, by resource."""

    type: str
    """`Container` or `Pod`."""
    max: Mapping[str, float]
    min: Mapping[str, float]
    default: Mapping[str, float]
    """Limits that containers without any get."""
    ratio: Mapping[str, float]
    """Limit by request at most."""


@dataclass(frozen=True, slots=True)
class LimitRangeFacts:
    """A LimitRange, without what it says of claims."""

    namespace: str
    name: str
    items: tuple[LimitRangeItem, ...]


F = TypeVar("F", QuotaFacts, LimitRangeFacts)


def within(items: Iterable[F], namespaces: Container[str]) -> tuple[F, ...]:
    """Those of these namespaces, sorted."""
    found = (item for item in items if item.namespace in namespaces)
    return tuple(sorted(found, key=lambda item: (item.namespace, item.name)))


def labels_of(namespace: str, known: Mapping[str, NamespaceFacts]) -> Mapping[str, str]:
    """Labels of a namespace; of one that nobody described, its name alone."""
    found = known.get(namespace)
    return {**(found.labels if found is not None else {}), NAME_LABEL: namespace}
