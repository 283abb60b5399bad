"""PlacementPlans as values: one object per decision, the newest twenty kept. Pure.

A decision is which placements there are, with how many replicas: what pods there are. Shares follow by themselves. A
decision that has not changed makes no new object, also not after a restart: the newest carries its decision's digest.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from plimsoll.api.common import to_wire
from plimsoll.api.placementplan import (
    Approval,
    BindingLimit,
    DeploymentChange,
    DetailsReference,
    PlacementChange,
    PlacementPlanSpec,
    PlacementPlanStatus,
    PlanSummary,
    Refusal,
)
from plimsoll.controller.conditions import shortened
from plimsoll.controller.figures import money, ratio
from plimsoll.controller.kinds import RESOURCES
from plimsoll.planning.changing import REFUSED as IN_PLACE_REFUSED
from plimsoll.planning.dominance import key_of_workload, option_key
from plimsoll.planning.plan import DeploymentPlan, DeploymentState, FleetPlan, Severity
from plimsoll.planning.snapshot import Workload
from plimsoll.planning.starts import REASON as START_FAILED

KEPT = 20
IN_FORCE = ("Applying", "Applied")
_CHANGES, _PLACEMENTS, _LIMITS = 200, 32, 64
_REFUSED, _REFUSED_BYTES = 64, 20_000
_REFUSALS = frozenset({IN_PLACE_REFUSED, START_FAILED})
"""Reasons of warnings that say what was not done."""
_CHANGES_BYTES = 80_000
"""Of `changes` as JSON. With managed fields, which name every item, the object stays below 256 KiB."""
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
    def uid(self) -> str:
        return str(self.manifest["metadata"]["uid"])

    @property
    def decision(self) -> str:
        """Digest of the decision, hexadecimal; empty for a plan of an older release."""
        return _hexadecimal(self._spec.get("decisionDigest"))

    @property
    def details_digest(self) -> str:
        """Digest of the whole decision, hexadecimal; empty where it is not kept."""
        return _hexadecimal(self._spec.get("detailsDigest"))

    @property
    def details(self) -> tuple[tuple[str, str], ...]:
        """Namespace and name of the ConfigMaps with the whole decision, in order."""
        return tuple((str(item["namespace"]), str(item["name"])) for item in self._spec.get("detailsRefs") or ())

    @property
    def approval(self) -> Approval | None:
        """What a person said."""
        given = self._spec.get("approval")
        return Approval.model_validate(given) if given else None

    @property
    def approved(self) -> bool:
        return self.approval is not None and self.approval.decision == "Approved"

    @property
    def before(self) -> dict[tuple[str, str], dict[str, int]]:
        """Replicas by placement when the plan was made, of the LLMDeployments that it changes."""
        return {
            (str(item["namespace"]), str(item["name"])): {
                str(part["placement"]): int(part.get("replicasBefore", 0)) for part in item.get("placements") or ()
            }
            for item in self._spec.get("changes") or ()
        }

    @property
    def status(self) -> PlacementPlanStatus:
        """The status that the API server has; an empty one when it cannot be read."""
        try:
            return PlacementPlanStatus.model_validate(self.manifest.get("status") or {})
        except ValidationError:
            return PlacementPlanStatus()

    @property
    def _spec(self) -> Manifest:
        spec: Manifest = self.manifest.get("spec") or {}
        return spec


def _hexadecimal(digest: object) -> str:
    return str(digest or "").removeprefix("sha256:")


def records(live: Iterable[Manifest]) -> list[Record]:
    """The records that exist, oldest first. Objects with names of another form are not ours to touch."""
    found = []
    for manifest in live:
        match = _NAME.fullmatch(str(manifest["metadata"]["name"]))
        if match:
            found.append(Record(int(match[1]), manifest))
    return sorted(found, key=lambda record: record.number)


def surplus(existing: Sequence[Record]) -> list[Record]:
    """Records that are too old to keep. What is in force is kept however old it is."""
    standing = in_force(existing)
    return [record for record in existing[:-KEPT] if record is not standing]


def in_force(existing: Sequence[Record]) -> Record | None:
    """The record of the plan that the cluster follows; None when none was ever applied."""
    return next((record for record in reversed(existing) if record.status.state in IN_FORCE), None)


def current(existing: Sequence[Record], decision: str) -> Record | None:
    """The record of this decision; None when it has to be written down.

    What was refused is offered anew. What a person has rejected stays rejected until another plan was in force.
    """
    if existing and existing[-1].decision == decision and existing[-1].status.state != "Refused":
        return existing[-1]
    for record in reversed(existing):
        if record.status.state in IN_FORCE:
            return record if record.decision == decision else None
        said = record.approval is not None and record.approval.decision == "Rejected"
        if record.decision == decision and (said or record.status.state == "Rejected"):
            return record
    return None


def next_name(existing: Sequence[Record]) -> str:
    return f"plan-{(existing[-1].number if existing else 0) + 1:06d}"


def pods_of(plan: DeploymentPlan) -> tuple[tuple[str, int], ...]:
    """What a person approves of a deployment: its placements, whose names stand for all of a pod, and replicas."""
    return tuple(sorted((item.name, item.replicas) for item in plan.placements))


def decision_digest(fleet: FleetPlan) -> str:
    """Digest of what was decided, whatever the reasons, hexadecimal. Empty when nothing was decided."""
    decided = [[[plan.resource.namespace, plan.resource.name], pods_of(plan)] for plan in _decided(fleet)]
    if not decided:
        return ""
    return hashlib.sha256(json.dumps(decided, separators=(",", ":")).encode()).hexdigest()


def manifest(
    name: str,
    fleet: FleetPlan,
    running: Sequence[Workload],
    details: Sequence[DetailsReference] = (),
    details_digest: str = "",
) -> dict[str, Any]:
    """The PlacementPlan of a decision. `details` will hold the whole of it."""
    kind = RESOURCES["PlacementPlan"]
    changes = _changes(fleet, running)
    placements = [item for plan in _decided(fleet) for item in plan.placements]
    before = fleet.cost_per_hour - sum(float(item.cost_per_hour_after - item.cost_per_hour_before) for item in changes)
    spec = PlacementPlanSpec(
        inputs_digest=f"sha256:{fleet.digest}",
        decision_digest=f"sha256:{decision_digest(fleet)}",
        details_digest=f"sha256:{details_digest}" if details else None,
        cost_per_hour=money(fleet.cost_per_hour),
        cost_per_hour_before=money(max(0.0, before)),
        refused=_refused(fleet),
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
        changes=_bounded(changes),
        details_refs=tuple(details),
    )
    return {"apiVersion": kind.api_version, "kind": kind.name, "metadata": {"name": name}, "spec": to_wire(spec)}


def _bounded(changes: Sequence[DeploymentChange]) -> tuple[DeploymentChange, ...]:
    kept: list[DeploymentChange] = []
    size = 0
    for change in changes[:_CHANGES]:
        size += len(json.dumps(to_wire(change)))
        if size > _CHANGES_BYTES:
            break
        kept.append(change)
    return tuple(kept)


def _decided(fleet: FleetPlan) -> list[DeploymentPlan]:
    return [plan for plan in fleet.deployments if plan.state is not DeploymentState.HELD]


def _changes(fleet: FleetPlan, running: Sequence[Workload]) -> list[DeploymentChange]:
    prices = {pool.name: float(pool.price_per_gpu_hour) for pool in fleet.pools}
    by_owner: dict[tuple[str, str], dict[str, Workload]] = {}
    for item in running:
        by_owner.setdefault((item.namespace, item.deployment), {})[item.name] = item
    changes = []
    for plan in _decided(fleet):
        owner = (plan.resource.namespace, plan.resource.name)
        own = by_owner.get(owner, {})
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
                reason=_reason(plan, list(own.values()), prices),
                in_place=True if plan.in_place is not None else None,
            )
        )
    return changes


Reason = Literal["New", "StartFailed", "Respecified", "ScaledToZero", "Short", "Growth", "Shrink", "Saving", "Moved"]


def _reason(plan: DeploymentPlan, own: Sequence[Workload], prices: Mapping[str, float]) -> Reason:
    """Why the plan changes what runs."""
    before = {item.name: item.replicas for item in own}
    after = {item.name: item.replicas for item in plan.placements}
    if any(finding.reason == START_FAILED for finding in plan.findings):
        return "StartFailed"
    if not any(before.values()):
        return "New"
    if plan.state is DeploymentState.SHORT:
        return "Short"
    if not after:
        return "ScaledToZero"
    given_up = {key_of_workload(item) for item in own if item.name not in after}
    if given_up & {option_key(item.option) for item in plan.placements if item.name not in before}:
        return "Respecified"
    grows = any(count > before.get(name, 0) for name, count in after.items())
    shrinks = any(count > after.get(name, 0) for name, count in before.items())
    if grows != shrinks:
        return "Growth" if grows else "Shrink"
    return "Saving" if plan.cost_per_hour < sum(_cost(item, prices) for item in own) else "Moved"


def _refused(fleet: FleetPlan) -> tuple[Refusal, ...]:
    """What is not served, not started or not changed."""
    found: dict[tuple[str, str, str], Refusal] = {}
    size = 0
    for plan in fleet.deployments:
        for finding in plan.findings:
            key = (plan.ref.namespace, plan.ref.name, finding.reason)
            if key in found or not (finding.severity is Severity.ERROR or finding.reason in _REFUSALS):
                continue
            item = Refusal(namespace=key[0], name=key[1], reason=key[2], message=shortened(finding.message))
            size += len(json.dumps(to_wire(item)))
            if len(found) == _REFUSED or size > _REFUSED_BYTES:
                return tuple(found.values())
            found[key] = item
    return tuple(found.values())


def _cost(workload: Workload, prices: Mapping[str, float]) -> float:
    """Rent of a running placement, by its annotations and the present prices."""
    option = workload.option
    try:
        gpus = int(option["tensor"]) * int(option["pipeline"])
    except (KeyError, ValueError):
        return 0.0
    return workload.replicas * gpus * prices.get(option.get("pool", ""), 0.0)
