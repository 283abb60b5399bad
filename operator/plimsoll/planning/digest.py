"""Canonical digests of frozen values: equal values give equal digests, in every process and on every machine."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from decimal import Decimal
from functools import cache
from typing import Any

from plimsoll.allocation.remembered import Remembered
from plimsoll.api.common import Resource, to_wire
from plimsoll.planning.pause import paused_objects
from plimsoll.planning.renewal import wants_renewal
from plimsoll.planning.snapshot import NodeFacts, PodFacts, Snapshot

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


class Texts:
    """Canonical forms as JSON, of which those of facts are remembered for as long as they are asked for."""

    def __init__(self) -> None:
        self._facts: Remembered[int, tuple[object, str]] = Remembered()
        """By identity; the fact is kept, so that no other takes its place."""

    def turn(self) -> None:
        """Begin another round: what the last one did not ask for is forgotten after this one."""
        self._facts.turn()

    def of(self, value: object) -> str:
        """The text of a value, made of those of its parts where it is a tuple."""
        if type(value) is tuple:
            return f"[{','.join(map(self.of, value))}]"
        if not isinstance(value, Resource | NodeFacts | PodFacts):
            return _text(value)
        key = id(value)
        if key not in self._facts:
            self._facts[key] = (value, _pod_text(value) if isinstance(value, PodFacts) else _text(value))
        return self._facts[key][1]


def _text(value: object) -> str:
    return json.dumps(canonical(value), sort_keys=True, separators=(",", ":"))


def _pod_text(pod: PodFacts) -> str:
    what = (pod.namespace, pod.node, pod.requests, pod.placement, pod.deleting)
    return json.dumps(canonical(what), sort_keys=True)


def digest(value: object, texts: Texts | None = None) -> str:
    """SHA-256 of the canonical form, hexadecimal."""
    text = _text(value) if texts is None else texts.of(value)
    return hashlib.sha256(text.encode()).hexdigest()


def declared_digest(snapshot: Snapshot, texts: Texts | None = None) -> str:
    """Digest of what people declared, whatever the cluster is like."""
    declared = (snapshot.deployments, snapshot.pools, snapshot.slos, snapshot.profiles, snapshot.policy)
    return digest(declared, texts)


def inputs_digest(snapshot: Snapshot, declared: str | None = None, texts: Texts | None = None) -> str:
    """Digest of all that the decision depends on, given that of what is declared, if it is known.

    Readiness and the names of pods do not count: a plan is the same while its pods start, and the same from files as
    from the API server.
    """
    texts = texts or Texts()
    pods = sorted(texts.of(pod) for pod in snapshot.pods if pod.node or pod.unschedulable)
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
    resting = [str(ref) for ref in snapshot.resting]
    failures = [
        (item.namespace, item.deployment, item.placement, item.ready, item.counts) for item in snapshot.failures
    ]
    known = (snapshot.corrections, paused_objects(snapshot), limits if any(limits) else (), several)
    optional = (*known, demand, resting, failures, snapshot.round_trips)
    return digest((*facts, *(value for value in optional if value)), texts)
