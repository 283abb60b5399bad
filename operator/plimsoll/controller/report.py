"""Telling people: writes statuses, events and PlacementPlans, and only what differs from what the API server has."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

from pydantic import ValidationError

from plimsoll.api import GPUNodePool, InferenceSLO, ModelProfile, PlacementPolicy, Resource
from plimsoll.api.common import Status, to_wire
from plimsoll.api.gpunodepool import GPUNodePoolStatus
from plimsoll.api.inferenceslo import InferenceSLOStatus
from plimsoll.api.llmdeployment import LLMDeploymentStatus
from plimsoll.api.modelprofile import ModelProfileStatus
from plimsoll.api.placementplan import PlacementPlanStatus
from plimsoll.api.placementpolicy import PlacementPolicyStatus
from plimsoll.controller import records
from plimsoll.controller.client import ApiError
from plimsoll.controller.conditions import Aspect, build, changed
from plimsoll.controller.drift import Drift
from plimsoll.controller.events import Recorder
from plimsoll.controller.kinds import RESOURCES, Kind
from plimsoll.controller.metrics import Metrics
from plimsoll.controller.planner_process import PlanFailure
from plimsoll.controller.status import (
    Progress,
    deployment_status,
    policy_status,
    pool_status,
    profile_status,
    refused_aspects,
    slo_status,
)
from plimsoll.controller.store import Store
from plimsoll.planning.plan import Finding, FleetPlan
from plimsoll.planning.snapshot import InvalidObject, ObjectRef, Snapshot

MANAGER = "plimsoll-status"
Manifest = Mapping[str, Any]
S = TypeVar("S", bound=Status)
_log = logging.getLogger(__name__)
_PLAN = RESOURCES["PlacementPlan"]


class StatusWriter(Protocol):
    """What reporting needs of the client."""

    async def apply(self, manifest: Manifest, manager: str, *, force: bool = True) -> dict[str, Any]: ...

    async def apply_status(self, manifest: Manifest, manager: str) -> dict[str, Any]: ...

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Round:
    """What one turn of the loop came to."""

    fleet: FleetPlan
    snapshot: Snapshot
    progress: Mapping[ObjectRef, Progress]
    applied: bool
    """False when the policy only wants recommendations."""
    fresh: bool
    """False when this is what is left of an older plan, since there is no new one."""
    findings: tuple[Finding, ...]
    """On the policy, beside those of the plan."""
    outcome: str
    """Why something changed, or nothing; one sentence."""


class Reporter:
    """Writes what a round came to."""

    def __init__(self, writer: StatusWriter, store: Store, recorder: Recorder, metrics: Metrics) -> None:
        self._writer, self._store, self._recorder, self._metrics = writer, store, recorder, metrics

    # --- A round with a plan -----------------------------------------------------------------------------------------

    async def report(self, turn: Round, now: datetime | None = None) -> bool:
        """Report a round. Returns False when something could not be written and should be tried again."""
        now = now or datetime.now(UTC)
        if not turn.fresh:
            existing = records.records(self._store.live(_PLAN))
            writes = self._deployments(turn, existing[-1].name if existing else "", now)
            return all(await asyncio.gather(*(self._write(*write) for write in writes)))
        recorded, plan_name = await self._record(turn, now)
        writes = [
            *self._deployments(turn, plan_name, now),
            *self._pools(turn, now),
            *self._slos(turn, now),
            *self._profiles(turn, now),
            *self._policy(turn, plan_name, now),
            *self._invalid(turn, now),
        ]
        written = await asyncio.gather(*(self._write(*write) for write in writes))
        return recorded and all(written)

    def _deployments(self, turn: Round, plan_name: str, now: datetime) -> list["Write"]:
        live = self._store.live_by_name(RESOURCES["LLMDeployment"])
        writes: list[Write] = []
        for plan in turn.fleet.deployments:
            target = live.get((plan.ref.namespace, plan.ref.name))
            if target is None or target["metadata"]["uid"] != plan.resource.metadata.uid:
                continue
            before = _status_of(target, LLMDeploymentStatus)
            progress = turn.progress[plan.ref]
            generation = plan.resource.metadata.generation or 0
            observed = {
                name: item
                for (namespace, name), item in self._store.observed.items()
                if namespace == plan.ref.namespace
            }
            after = deployment_status(
                progress, before, generation, plan_name, now, applied=turn.applied, observed=observed
            )
            writes.append((target, before, after))
        return writes

    def _pools(self, turn: Round, now: datetime) -> list["Write"]:
        plans = {plan.name: plan for plan in turn.fleet.pools}
        writes: list[Write] = []
        for pool, target in self._targets(turn.snapshot.pools, "GPUNodePool"):
            before = _status_of(target, GPUNodePoolStatus)
            generation = pool.metadata.generation or 0
            if pool.name in plans:
                after = pool_status(plans[pool.name], before, generation, now)
            else:
                aspects = refused_aspects(_about(turn.fleet, pool))
                after = GPUNodePoolStatus(
                    observed_generation=generation, conditions=build(aspects, before.conditions, generation, now)
                )
            writes.append((target, before, after))
        return writes

    def _slos(self, turn: Round, now: datetime) -> list["Write"]:
        writes: list[Write] = []
        for slo, target in self._targets(turn.snapshot.slos, "InferenceSLO"):
            before = _status_of(target, InferenceSLOStatus)
            found = _about(turn.fleet, slo)
            after = slo_status(slo, turn.fleet, before, found, now)
            writes.append((target, before, after))
        return writes

    def _profiles(self, turn: Round, now: datetime) -> list["Write"]:
        writes: list[Write] = []
        for profile, target in self._targets(turn.snapshot.profiles, "ModelProfile"):
            before = _status_of(target, ModelProfileStatus)
            found = _about(turn.fleet, profile)
            after = profile_status(profile, turn.fleet, before, found, now)
            writes.append((target, before, after))
        return writes

    def _policy(self, turn: Round, plan_name: str, now: datetime) -> list["Write"]:
        policy = turn.snapshot.policy
        writes: list[Write] = []
        for resource, target in self._targets((policy,) if policy is not None else (), "PlacementPolicy"):
            before = _status_of(target, PlacementPolicyStatus)
            found = [*_about(turn.fleet, resource), *turn.findings]
            after = policy_status(resource, turn.fleet, before, plan_name, found, now, message=turn.outcome)
            writes.append((target, before, after))
        return writes

    def _invalid(self, turn: Round, now: datetime) -> list["Write"]:
        by_ref: dict[ObjectRef, list[Finding]] = {}
        for finding in turn.fleet.findings:
            by_ref.setdefault(finding.object, []).append(finding)
        live = (
            {name: self._store.live_by_name(kind) for name, kind in RESOURCES.items()} if turn.snapshot.invalid else {}
        )
        writes: list[Write] = []
        for item in turn.snapshot.invalid:
            target = live[item.ref.kind].get((item.ref.namespace, item.ref.name))
            if target is not None:
                writes.append(_refusal(target, item, by_ref.get(item.ref, []), now))
        return writes

    def _targets(self, resources: Sequence["R"], kind: str) -> list[tuple["R", Manifest]]:
        live = self._store.live_by_name(RESOURCES[kind])
        found = []
        for resource in resources:
            target = live.get((resource.metadata.namespace or "", resource.metadata.name))
            if target is not None:
                found.append((resource, target))
        return found

    async def report_drift(self, found: Sequence[Drift]) -> None:
        """An event on each LLMDeployment whose objects others had changed."""
        live = self._store.live_by_name(RESOURCES["LLMDeployment"]) if found else {}
        for item in found:
            target = live.get((item.deployment.namespace, item.deployment.name))
            if target is not None:
                await self._recorder.note(target, "Corrected", "DriftCorrected", item.message, good=False)

    # --- A round without a plan --------------------------------------------------------------------------------------

    async def report_failure(self, failure: PlanFailure, snapshot: Snapshot, now: datetime | None = None) -> bool:
        """Say on LLMDeployments that wait for their first plan, or for one of their new spec, that there is none."""
        now = now or datetime.now(UTC)
        live = self._store.live_by_name(RESOURCES["LLMDeployment"])
        message = failure.message.partition("\n")[0]
        writes: list[Write] = []
        for resource in snapshot.deployments:
            target = live.get((resource.namespace, resource.name))
            if target is None:
                continue
            before = _status_of(target, LLMDeploymentStatus)
            generation = resource.metadata.generation or 0
            if before.observed_generation == generation:
                continue
            kept = [
                Aspect(item.type, item.status, item.reason, item.message)
                for item in before.conditions
                if item.type not in ("Planned", "Reconciling")
            ]
            if not any(aspect.type == "Ready" for aspect in kept):
                kept.insert(0, Aspect("Ready", "Unknown", failure.reason, message))
            aspects = [
                *kept,
                Aspect("Planned", "False", failure.reason, message),
                Aspect("Reconciling", "True", "WaitingForPlan", "the present spec has not been planned yet"),
            ]
            # observedGeneration stays behind on purpose: this spec was seen but not acted upon.
            conditions = build(aspects, before.conditions, before.observed_generation, now)
            writes.append((target, before, before.model_copy(update={"conditions": conditions})))
        return all(await asyncio.gather(*(self._write(*write) for write in writes)))

    # --- PlacementPlans ----------------------------------------------------------------------------------------------

    async def _record(self, turn: Round, now: datetime) -> tuple[bool, str]:
        """Keep the record of this decision. Returns whether that worked, and the record's name."""
        existing = records.records(self._store.live(_PLAN))
        decision = records.decision_digest(turn.fleet)
        if not decision:
            return True, existing[-1].name if existing else ""
        try:
            if not existing or existing[-1].decision != decision:
                manifest = records.manifest(records.next_name(existing), turn.fleet, turn.snapshot.workloads)
                created = await self._writer.apply(manifest, MANAGER)
                self._store.put(_PLAN, created)
                existing = records.records(self._store.live(_PLAN))
                summary, cost = manifest["spec"]["summary"], manifest["spec"]["costPerHour"]
                _log.info(
                    "%s: %d of %d LLMDeployments change, %d GPUs, %s per hour",
                    manifest["metadata"]["name"],
                    summary["changedDeployments"],
                    summary["deployments"],
                    summary["gpus"],
                    cost,
                )
        except ApiError as error:
            _log.warning("PlacementPlan: %s", error)
            return False, existing[-1].name if existing else ""
        newest = existing[-1]
        fine = await self._mark(newest, self._state(turn), now)
        for record in existing[-2:-1]:
            fine = await self._mark(record, "Superseded", now) and fine
        for record in records.surplus(existing):
            fine = await self._drop(record) and fine
        return fine, newest.name

    def _state(self, turn: Round) -> str:
        if not turn.applied:
            return "Recommended"
        busy = any(item.step.waiting_for or item.step.prune or item.findings for item in turn.progress.values())
        return "Applying" if busy else "Applied"

    async def _mark(self, record: records.Record, state: str, now: datetime) -> bool:
        before = _status_of(record.manifest, PlacementPlanStatus)
        if before.state == state or (state == "Superseded" and before.state is None):
            return True
        # Ready pods may come and go later; a plan that was in place once stays Applied.
        if (before.state, state) == ("Applied", "Applying"):
            return True
        applied_time = now if state == "Applied" else before.applied_time
        after = before.model_copy(update={"state": state, "applied_time": applied_time})
        return await self._write(record.manifest, before, after)

    async def _drop(self, record: records.Record) -> bool:
        uid = str(record.manifest["metadata"]["uid"])
        try:
            await self._writer.delete(_PLAN, "", record.name, uid)
        except ApiError as error:
            _log.warning("PlacementPlan %s: %s", record.name, error)
            return False
        self._store.drop(_PLAN, uid)
        return True

    # --- Writing -----------------------------------------------------------------------------------------------------

    async def _write(self, target: Manifest, before: Status, after: Status) -> bool:
        if to_wire(before) == to_wire(after):
            return True
        metadata = target["metadata"]
        identity = {key: metadata[key] for key in ("name", "namespace", "uid") if metadata.get(key)}
        manifest = {
            "apiVersion": target["apiVersion"],
            "kind": target["kind"],
            "metadata": identity,
            "status": to_wire(after),
        }
        try:
            answer = await self._writer.apply_status(manifest, MANAGER)
        except ApiError as error:
            gone = error.status in (404, 409)  # deleted, or another object of that name by now
            self._metrics.actions.labels("status", "gone" if gone else "error").inc()
            if not gone:
                _log.warning("status of %s %s: %s", target["kind"], metadata["name"], error)
            return gone
        self._metrics.actions.labels("status", "ok").inc()
        self._store.put(RESOURCES[target["kind"]], answer)
        for condition in changed(before.conditions, after.conditions):
            await self._recorder.tell(target, condition)
        return True


Write = tuple[Manifest, Status, Status]
R = TypeVar("R", GPUNodePool, InferenceSLO, ModelProfile, PlacementPolicy)


def _status_of(target: Manifest, model: type[S]) -> S:
    """The status that the API server has; an empty one when it cannot be read."""
    try:
        return model.model_validate(target.get("status") or {})
    except ValidationError:
        return model()


def _about(fleet: FleetPlan, resource: Resource) -> list[Finding]:
    ref = ObjectRef(resource.kind, resource.namespace, resource.name)
    return [finding for finding in fleet.findings if finding.object == ref]


_STATUS: Mapping[str, type[Status]] = {
    "LLMDeployment": LLMDeploymentStatus,
    "GPUNodePool": GPUNodePoolStatus,
    "InferenceSLO": InferenceSLOStatus,
    "ModelProfile": ModelProfileStatus,
    "PlacementPolicy": PlacementPolicyStatus,
    "PlacementPlan": PlacementPlanStatus,
}


def _refusal(target: Manifest, item: InvalidObject, found: Sequence[Finding], now: datetime) -> Write:
    """Status of an object that does not parse: figures stay, since what runs stays."""
    before = _status_of(target, _STATUS[item.ref.kind])
    aspects = refused_aspects(found or [Finding(item.ref, "Invalid", str(problem)) for problem in item.problems])
    if item.ref.kind == "LLMDeployment":
        aspects.append(Aspect("Planned", "False", aspects[0].reason, aspects[0].message))
    conditions = build(aspects, before.conditions, item.generation, now)
    return target, before, before.model_copy(update={"observed_generation": item.generation, "conditions": conditions})
