"""Canonical digests of frozen values: equal values give equal digests, in every process and on every machine."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from decimal import Decimal
from functools import cache
from typing import Any

from plimsoll.api.common import Resource, to_wire
from plimsoll.planning.pause import paused_objects
from plimsoll.planning.renewal import wants_renewal
from plimsoll.planning.snapshot import Snapshot

_PLAIN = frozenset({str, int, float, bool, type(None)})


def canonical(value: object) -> Any:  # noqa: ANN401  (JSON has no narrower type)
    """`value` as JSON data. Of custom resources only name and spec count: status and server-written metadata do not.

    Raises:
        TypeError: for a value that is none of the kinds that snapshots consist of.
    """
    if type(value) in _PLAIN:
        return value
    if isinstance(value, Resource):
        return {"kind": value.kind, "name": value.reference, "spec": to_wire(value.spec)}
    if is_dataclass(value) and not isinstance(value, type):
        return {name: canonical(getattr(value, name)) for name in _fields(type(value))}
    if isinstance(value, Mapping):
        return {str(key): canonical(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [canonical(item) for item in value]
    if isinstance(value, Decimal):
        return str(value)
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"no canonical form for {type(value).__name__}")


@cache
def _fields(kind: type[Any]) -> tuple[str, ...]:
    return tuple(item.name for item in fields(kind))


def digest(value: object) -> str:
    """SHA-256 of the canonical form, hexadecimal."""
    text = json.dumps(canonical(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def declared_digest(snapshot: Snapshot) -> str:
    """Digest of what people declared, whatever the cluster is like."""
    return digest((snapshot.deployments, snapshot.pools, snapshot.slos, snapshot.profiles, snapshot.policy))


def inputs_digest(snapshot: Snapshot, declared: str | None = None) -> str:
    """Digest of all that the decision depends on, given that of what is declared, if it is known.

    Readiness and the names of pods do not count: a plan is the same while its pods start, and the same from files as
    from the API server.
    """
    pods = sorted(
        json.dumps(canonical((pod.namespace, pod.node, pod.requests, pod.placement, pod.deleting)), sort_keys=True)
        for pod in snapshot.pods
        if pod.node or pod.unschedulable
    )
    workloads = sorted(
        (item.namespace, item.name, item.deployment, item.replicas, sorted(item.option.items()))
        for item in snapshot.workloads
    )
    made = {f"{item.namespace}/{item.name}": item.made for item in snapshot.workloads if item.made is not None}
    renewed = [item.reference for item in snapshot.deployments if wants_renewal(item)]
    # As sentences: a value at fault may be anything that YAML can hold.
    invalid = sorted((str(item.ref), [str(problem) for problem in item.problems]) for item in snapshot.invalid)
    facts = (declared or declared_digest(snapshot), snapshot.nodes, pods, workloads, made, renewed, invalid)
    policy = snapshot.policy
    limits = (
        snapshot.namespaces if policy is not None and policy.spec.tenants else (),
        snapshot.quotas,
        snapshot.limit_ranges,
    )
    several = "several nodes" if snapshot.several_nodes else ""
    # What is planned for; the rest tells when that may change.
    demand = [
        (item.namespace, item.deployment, item.traffic, item.requests_per_minute, item.lengths)
        for item in snapshot.demand
    ]
    optional = (snapshot.corrections, paused_objects(snapshot), limits if any(limits) else (), several, demand)
    return digest((*facts, *(value for value in optional if value)))
