"""PlacementPlans: one object per decision, the newest twenty kept.

A decision that has not changed makes no new object, also not after a restart: the newest carries its decision's digest.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plimsoll.api.common import to_wire
from plimsoll.api.placementplan import (
    BindingLimit,
    DeploymentChange,
    PlacementChange,
    PlacementPlanSpec,
    PlanSummary,
)
from plimsoll.controller.kinds import RESOURCES
from plimsoll.controller.status import money, ratio
from plimsoll.planning.plan import DeploymentPlan, DeploymentState, FleetPlan
from plimsoll.planning.snapshot import Workload

DECISION = "plimsoll.dev/decision"
"""Annotation of a PlacementPlan: digest of placements, replicas and shares."""
KEPT = 20
_CHANGES, _PLACEMENTS, _LIMITS = 200, 32, 64
_NAME = re.compile(r"plan-(\d{6,})")
Manifest = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Record:
    """A PlacementPlan that exists."""

    number: int
    manifest: Manifest

    @property
    def name(self) -> str:
        return str(self.manifest["metadata"]["name"])

    @property
    def decision(self) -> str:
        return str((self.manifest["metadata"].get("annotations") or {}).get(DECISION, ""))


def records(live: Iterable[Manifest]) -> list[Record]:
    """The records that exist, oldest first. Objects with names of another form are not ours to touch."""
    found = []
    for manifest in live:
        match = _NAME.fullmatch(str(manifest["metadata"]["name"]))
        if match:
            found.append(Record(int(match[1]), manifest))
    return sorted(found, key=lambda record: record.number)


def surplus(existing: Sequence[Record]) -> list[Record]:
    """Records that are too old to keep."""
    return list(existing[:-KEPT])


def next_name(existing: Sequence[Record]) -> str:
    return f"plan-{(existing[-1].number if existing else 0) + 1:06d}"


def decision_digest(fleet: FleetPlan) -> str:
    """Digest of what was decided, whatever the reasons. Empty when nothing was decided."""
    decided = [
        [
            [plan.resource.namespace, plan.resource.name],
            [
                [item.name, item.replicas, [[share.traffic, round(share.value, 3)] for share in item.shares]]
                for item in sorted(plan.placements, key=lambda item: item.name)
            ],
        ]
        for plan in _decided(fleet)
    ]
    if not decided:
        return ""
    return hashlib.sha256(json.dumps(decided, separators=(",", ":")).encode()).hexdigest()


def manifest(name: str, fleet: FleetPlan, running: Sequence[Workload]) -> dict[str, Any]:
    """The PlacementPlan of a decision."""
    kind = RESOURCES["PlacementPlan"]
    changes = _changes(fleet, running)
    placements = [item for plan in _decided(fleet) for item in plan.placements]
    spec = PlacementPlanSpec(
        inputs_digest=f"sha256:{fleet.digest}",
        cost_per_hour=money(fleet.cost_per_hour),
        objective_per_hour=money(fleet.objective_per_hour),
        lower_bound_per_hour=None if fleet.lower_bound_per_hour is None else money(fleet.lower_bound_per_hour),
        gap=None if fleet.gap is None else ratio(fleet.gap),
        binding_limits=tuple(BindingLimit(kind=item.kind.value, name=item.name) for item in fleet.limits[:_LIMITS]),
        summary=PlanSummary(
            deployments=len(_decided(fleet)),
            placements=len(placements),
            replicas=sum(item.replicas for item in placements),
            gpus=sum(plan.gpus for plan in _decided(fleet)),
            changed_deployments=len(changes),
        ),
        changes=tuple(changes[:_CHANGES]),
    )
    metadata = {"name": name, "annotations": {DECISION: decision_digest(fleet)}}
    return {"apiVersion": kind.api_version, "kind": kind.name, "metadata": metadata, "spec": to_wire(spec)}


def _decided(fleet: FleetPlan) -> list[DeploymentPlan]:
    return [plan for plan in fleet.deployments if plan.state is not DeploymentState.HELD]


def _changes(fleet: FleetPlan, running: Sequence[Workload]) -> list[DeploymentChange]:
    prices = {pool.name: float(pool.price_per_gpu_hour) for pool in fleet.pools}
    changes = []
    for plan in _decided(fleet):
        owner = (plan.resource.namespace, plan.resource.name)
        own = {item.name: item for item in running if (item.namespace, item.deployment) == owner}
        before = {name: item.replicas for name, item in own.items()}
        after = {item.name: item.replicas for item in plan.placements}
        if before == after:
            continue
        moved = sorted(name for name in {*before, *after} if before.get(name, 0) != after.get(name, 0))
        changes.append(
            DeploymentChange(
                namespace=owner[0],
                name=owner[1],
                cost_per_hour_before=money(sum(_cost(item, prices) for item in own.values())),
                cost_per_hour_after=money(plan.cost_per_hour),
                placements=tuple(
                    PlacementChange(
                        placement=name, replicas_before=before.get(name, 0), replicas_after=after.get(name, 0)
                    )
                    for name in moved[:_PLACEMENTS]
                ),
            )
        )
    return changes


def _cost(workload: Workload, prices: Mapping[str, float]) -> float:
    """Rent of a running placement, by its annotations and the present prices."""
    option = workload.option
    try:
        gpus = int(option["tensor"]) * int(option["pipeline"])
    except (KeyError, ValueError):
        return 0.0
    return workload.replicas * gpus * prices.get(option.get("pool", ""), 0.0)
