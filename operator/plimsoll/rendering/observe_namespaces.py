"""Reading namespaces, ResourceQuotas and LimitRanges as facts for planning. Pure."""

from collections.abc import Mapping
from typing import Any

from plimsoll.api.units import parse_quantity
from plimsoll.planning.namespaces import (
    LimitRangeFacts,
    LimitRangeItem,
    NamespaceFacts,
    QuotaFacts,
    ScopeRequirement,
)
from plimsoll.rendering.observe import mapping_of, metadata_of

Manifest = Mapping[str, Any]

_OBJECTS = ("count/deployments.apps", "count/replicasets.apps", "count/services", "services")
"""What each placement needs one of."""


def namespace_facts(manifest: Manifest) -> NamespaceFacts:
    """A namespace by its labels."""
    metadata = metadata_of(manifest)
    return NamespaceFacts(str(metadata.get("name", "")), dict(sorted(mapping_of(metadata, "labels").items())))


def quota_facts(manifest: Manifest) -> QuotaFacts:
    """The limits of a ResourceQuota and which pods they count."""
    metadata, spec = metadata_of(manifest), mapping_of(manifest, "spec")
    hard, used = _quantities(spec, "hard"), _quantities(mapping_of(manifest, "status"), "used")
    expressions = mapping_of(spec, "scopeSelector").get("matchExpressions") or ()
    scopes = [ScopeRequirement(str(scope)) for scope in spec.get("scopes") or ()]
    scopes += [
        ScopeRequirement(
            str(item.get("scopeName", "")),
            str(item.get("operator", "Exists")),
            tuple(sorted(str(value) for value in item.get("values") or ())),
        )
        for item in expressions
    ]
    return QuotaFacts(
        namespace=str(metadata.get("namespace") or "default"),
        name=str(metadata.get("name", "")),
        hard=hard,
        full=tuple(name for name in _OBJECTS if name in hard and used.get(name, 0.0) >= hard[name]),
        scopes=tuple(sorted(scopes, key=lambda item: (item.scope, item.operator, item.values))),
    )


def limit_range_facts(manifest: Manifest) -> LimitRangeFacts:
    """What a LimitRange says of containers and pods."""
    metadata = metadata_of(manifest)
    items = [
        LimitRangeItem(
            type=str(item["type"]),
            max=_quantities(item, "max"),
            min=_quantities(item, "min"),
            default=_default_limits(item),
            ratio=_quantities(item, "maxLimitRequestRatio"),
        )
        for item in mapping_of(manifest, "spec").get("limits") or ()
        if item.get("type") in ("Container", "Pod")
    ]
    return LimitRangeFacts(str(metadata.get("namespace") or "default"), str(metadata.get("name", "")), tuple(items))


def _default_limits(item: Manifest) -> dict[str, float]:
    """The largest limit is the default where none is written: the API server fills that in, a file may lack it."""
    largest = _quantities(item, "max") if item["type"] == "Container" else {}
    return {**largest, **_quantities(item, "default")}


def _quantities(parent: Manifest, key: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, text in sorted(mapping_of(parent, key).items()):
        try:
            found[name] = float(parse_quantity(str(text)))
        except ValueError:
            continue  # the API server lets none through; a fact that cannot be read is no fact
    return found
