"""What the operator believes about the cluster: one frozen value per object, fed by watch events and by its own writes.

Level-triggered: nobody asks which event changed what, only whether anything that matters has changed.
"""

import asyncio
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from plimsoll.api import GPUNodePool, InferenceSLO, LLMDeployment, ModelProfile, PlacementPolicy
from plimsoll.api.llmdeployment_status import ObservedLatency, SLOWindow
from plimsoll.api.placementpolicy import POLICY_NAME
from plimsoll.controller.conditions import ConditionStatus
from plimsoll.controller.extract import Absent, Facts, Manifest, OwnedFacts, PlanRecord, facts_of, live_part
from plimsoll.controller.kinds import ALL, Kind
from plimsoll.controller.sharing import Shared
from plimsoll.planning.namespaces import LimitRangeFacts, NamespaceFacts, QuotaFacts, within
from plimsoll.planning.snapshot import (
    InvalidObject,
    MeasuredTrip,
    NodeFacts,
    PodFacts,
    Snapshot,
    SpeedCorrection,
    TrafficDemand,
    Workload,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sight:
    """What the condition MetricsFresh of an LLMDeployment says."""

    status: ConditionStatus
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Fare:
    """What the status of a traffic class says of how it fares."""

    windows: tuple[SLOWindow, ...]
    observed_milliseconds: Mapping[str, int]
    """By `ttft`, `tpot` and `endToEnd`."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One object: what matters of it, and the raw parts that comparing and reporting need."""

    facts: Facts
    live: Manifest | None
    resource_version: str
    namespace: str = ""


class Store:
    """Objects by kind and uid. Belongs to the event loop's thread."""

    def __init__(self) -> None:
        self._entries: dict[Kind, dict[str, Entry]] = {kind: {} for kind in ALL}
        self._shared = Shared()
        self._sorted: dict[Kind, dict[type, tuple[Any, ...]]] = {kind: {} for kind in ALL}
        """Facts of each kind by type, in order; empty when the kind has changed."""
        self._dirty = asyncio.Event()
        self._round_trips: tuple[MeasuredTrip, ...] = ()
        self._corrections: tuple[SpeedCorrection, ...] = ()
        self._demand: tuple[TrafficDemand, ...] = ()
        self.sights: Mapping[tuple[str, str], Sight] = {}
        """What to report of the metrics of LLMDeployments, by namespace and name."""
        self.observed: Mapping[tuple[str, str], ObservedLatency] = {}
        """What to report of placements, by namespace and name."""
        self.fares: Mapping[tuple[str, str, str], Fare] = {}
        """What to report of traffic classes, by namespace, LLMDeployment and class."""
        self.changes = 0
        """Grows with every change that matters."""

    # --- Feeding -----------------------------------------------------------------------------------------------------

    def put(self, kind: Kind, manifest: Manifest) -> bool:
        """Take an object as it is now. Returns whether anything that matters has changed.

        A version older than the known one is ignored: an answer to Plimsoll's own write may overtake the watch.
        """
        metadata = manifest.get("metadata") or {}
        uid, version = str(metadata.get("uid", "")), str(metadata.get("resourceVersion", ""))
        entries = self._entries[kind]
        known = entries.get(uid)
        if known is not None and _older(version, known.resource_version):
            return False
        facts = facts_of(kind, manifest)
        if known is not None and known.facts == facts:
            facts = known.facts  # the very same, so that snapshots are quick to compare
        live = None if isinstance(facts, Absent) else live_part(kind, manifest)
        if live is not None:
            live = self._shared.of(live)
        entries[uid] = Entry(facts, live, version, str(metadata.get("namespace") or ""))
        return self._compare(kind, known.facts if known is not None else Absent(), facts)

    def pass_over(self, kind: Kind, uid: str, version: str, namespace: str) -> None:
        """Take note of a version that cannot be read: what was known of the object stays, and nothing waits for it."""
        known = self._entries[kind].get(uid) or Entry(Absent(), None, version, namespace)
        if not _older(version, known.resource_version):
            self._entries[kind][uid] = replace(known, resource_version=version)

    def drop(self, kind: Kind, uid: str) -> bool:
        """Forget an object. Returns whether anything that matters has changed."""
        gone = self._entries[kind].pop(uid, None)
        return gone is not None and self._compare(kind, gone.facts, Absent())

    def _compare(self, kind: Kind, before: Facts, after: Facts) -> bool:
        if before != after:
            self._sorted[kind].clear()
        if before == after or _said(before) == _said(after) is not None:
            return False
        self.changes += 1
        self._dirty.set()
        return True

    def learn(
        self, corrections: tuple[SpeedCorrection, ...], observed: Mapping[tuple[str, str], ObservedLatency]
    ) -> None:
        """Take what running replicas have shown: factors in force, and latencies to report."""
        if (corrections, observed) != (self._corrections, self.observed):
            self._corrections, self.observed = corrections, dict(observed)
            self.changes += 1
            self._dirty.set()

    def expect(self, demand: tuple[TrafficDemand, ...], sights: Mapping[tuple[str, str], Sight]) -> None:
        """Take what to plan for in place of what is declared, and what to say of the metrics behind it."""
        if (demand, sights) != (self._demand, self.sights):
            known = {item: item for item in self._demand}  # the very same where equal: see controller/difference.py
            self._demand, self.sights = tuple(known.get(item, item) for item in demand), dict(sights)
            self.changes += 1
            self._dirty.set()

    def judge(self, fares: Mapping[tuple[str, str, str], Fare]) -> None:
        """Take what to report of traffic classes. It changes no plan."""
        if fares != self.fares:
            self.fares = dict(fares)
            self.changes += 1
            self._dirty.set()

    def learn_distances(self, trips: tuple[MeasuredTrip, ...]) -> None:
        """Take the measured round trips that are in force."""
        if trips != self._round_trips:
            self._round_trips = trips
            self.changes += 1
            self._dirty.set()

    def touch(self) -> None:
        """Ask for another turn although nothing has changed."""
        self._dirty.set()

    # --- Waking ------------------------------------------------------------------------------------------------------

    async def wait_dirty(self) -> None:
        """Return when something that matters has changed since `clear_dirty`."""
        await self._dirty.wait()

    def clear_dirty(self) -> None:
        self._dirty.clear()

    @property
    def dirty(self) -> bool:
        return self._dirty.is_set()

    # --- Reading -----------------------------------------------------------------------------------------------------

    def uids(self, kind: Kind, namespace: str = "") -> frozenset[str]:
        """Of one namespace, or of all."""
        return frozenset(uid for uid, entry in self._entries[kind].items() if namespace in ("", entry.namespace))

    def knows(self, kind: Kind, uid: str, version: str) -> bool:
        """Whether that very version of an object is known."""
        entry = self._entries[kind].get(uid)
        return entry is not None and entry.resource_version == version

    def stale(self, kind: Kind, versions: Mapping[str, str]) -> frozenset[str]:
        """Uids of known objects of which a newer version exists; `versions` are by uid."""
        entries = self._entries[kind]
        return frozenset(
            uid
            for uid, version in versions.items()
            if (entry := entries.get(uid)) is not None and _older(entry.resource_version, version)
        )

    def counts(self) -> Mapping[str, int]:
        return {kind.name: len(entries) for kind, entries in self._entries.items()}

    def live(self, kind: Kind) -> list[Manifest]:
        """The raw objects of a kind, sorted by namespace and name."""
        found = [entry.live for entry in self._entries[kind].values() if entry.live is not None]
        return sorted(found, key=lambda m: (m["metadata"].get("namespace", ""), m["metadata"]["name"]))

    def live_by_name(self, kind: Kind) -> dict[tuple[str, str], Manifest]:
        """The raw objects of a kind by (namespace, name)."""
        return {(m["metadata"].get("namespace", ""), m["metadata"]["name"]): m for m in self.live(kind)}

    def snapshot(self, *, gateway_api: bool = False, several_nodes: bool = False) -> Snapshot:
        """Everything that a plan depends on; equal facts give equal snapshots, whatever the order they came in."""
        policies = [policy for policy in self._all(PlacementPolicy, _reference) if policy.name == POLICY_NAME]
        deployments = self._all(LLMDeployment, _reference)
        in_use = {deployment.namespace for deployment in deployments}
        return Snapshot(
            deployments=deployments,
            pools=self._all(GPUNodePool, _reference),
            slos=self._all(InferenceSLO, _reference),
            profiles=self._all(ModelProfile, _reference),
            policy=policies[0] if policies else None,
            nodes=self._all(NodeFacts, lambda node: node.name),
            pods=self._all(PodFacts, lambda pod: (pod.namespace, pod.name, pod.uid)),
            workloads=self._workloads(),
            invalid=self._all(InvalidObject, lambda invalid: invalid.ref),
            corrections=self._corrections,
            gateway_api=gateway_api,
            namespaces=tuple(item for item in self._all(NamespaceFacts, lambda item: item.name) if item.name in in_use),
            quotas=within(self._all(QuotaFacts, lambda item: (item.namespace, item.name)), in_use),
            limit_ranges=within(self._all(LimitRangeFacts, lambda item: (item.namespace, item.name)), in_use),
            several_nodes=several_nodes,
            demand=self._demand,
            round_trips=self._round_trips,
        )

    def _all(self, type_: type[T], order: Callable[[T], Any]) -> tuple[T, ...]:
        """Facts of one type. Those of a kind that has not changed since are the very same."""
        parts = [part for kind in ALL if (part := self._of_kind(kind, type_, order))]
        return parts[0] if len(parts) == 1 else tuple(sorted(itertools.chain(*parts), key=order))

    def _of_kind(self, kind: Kind, type_: type[T], order: Callable[[T], Any]) -> tuple[T, ...]:
        sorted_ = self._sorted[kind]
        if type_ not in sorted_:
            found = [entry.facts for entry in self._entries[kind].values() if isinstance(entry.facts, type_)]
            sorted_[type_] = tuple(sorted(found, key=order))
        part: tuple[T, ...] = sorted_[type_]
        return part

    def _workloads(self) -> tuple[Workload, ...]:
        owned = self._all(OwnedFacts, lambda facts: facts.ref)
        found = (facts.workload for facts in owned if facts.workload is not None)
        return tuple(sorted(found, key=lambda workload: (workload.namespace, workload.name, workload.uid)))


def _said(facts: Facts) -> str | None:
    """What a person said to a plan; empty for other plans and for what does not exist; None for everything else."""
    if isinstance(facts, PlanRecord):
        return facts.approval
    return "" if isinstance(facts, Absent) else None


def _reference(resource: LLMDeployment | GPUNodePool | InferenceSLO | ModelProfile | PlacementPolicy) -> str:
    return resource.reference


def _older(version: str, known: str) -> bool:
    """Whether a resource version is older. Versions are opaque in principle; where both are numbers, they grow."""
    return version.isdecimal() and known.isdecimal() and int(version) < int(known)
