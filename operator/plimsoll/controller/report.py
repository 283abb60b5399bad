"""Telling people: writes statuses and events, and only what differs from what the API server has."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

from pydantic import ValidationError

from plimsoll.api import KINDS, GPUNodePool, InferenceSLO, ModelProfile, PlacementPolicy, Resource
from plimsoll.api.common import Status, to_wire
from plimsoll.api.gpunodepool import GPUNodePoolStatus
from plimsoll.api.inferenceslo import InferenceSLOStatus
from plimsoll.api.llmdeployment_status import LLMDeploymentStatus, ObservedLatency
from plimsoll.api.modelprofile import ModelProfileStatus
from plimsoll.api.placementpolicy import PlacementPolicyStatus
from plimsoll.controller.approval import Standing
from plimsoll.controller.client import ApiError
from plimsoll.controller.conditions import Aspect, build, changed
from plimsoll.controller.drift import Drift
from plimsoll.controller.events import Recorder
from plimsoll.controller.fleet_statuses import policy_status, pool_status, profile_status, refused_aspects, slo_status
from plimsoll.controller.kinds import RESOURCES
from plimsoll.controller.metrics import Metrics
from plimsoll.controller.planner_process import PlanFailure
from plimsoll.controller.plans import MANAGER, Plans, PlanWriter
from plimsoll.controller.settings import Settings
from plimsoll.controller.status import Progress, Waiting, deployment_status
from plimsoll.controller.store import Fare, Store
from plimsoll.performance import TokenLengths
from plimsoll.planning.plan import Finding, FleetPlan
from plimsoll.planning.snapshot import InvalidObject, ObjectRef, Snapshot

Manifest = Mapping[str, Any]
S = TypeVar("S", bound=Status)
_log = logging.getLogger(__name__)
_NAMESPACE = Settings().namespace


class StatusWriter(PlanWriter, Protocol):
    """What reporting needs of the client."""

    async def apply_status(self, manifest: Manifest, manager: str) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Round:
    """What one turn of the loop came to."""

    fleet: FleetPlan
    snapshot: Snapshot
    progress: Mapping[ObjectRef, Progress]
    standing: Standing
    """Which of it is in force."""
    fresh: bool
    """False when this is what is left of an older plan, since there is no new one."""
    findings: tuple[Finding, ...]
    """On the policy, beside those of the plan."""
    outcome: str
    """Why something changed, or nothing; one sentence."""


class Reporter:
    """Writes what a round came to."""

    def __init__(
        self,
        writer: StatusWriter,
        store: Store,
        recorder: Recorder,
        metrics: Metrics,
        namespace: str = _NAMESPACE,
    ) -> None:
        self._writer, self._store, self._recorder, self._metrics = writer, store, recorder, metrics
        self._settled: dict[ObjectRef, tuple[Manifest, tuple[object, ...]]] = {}
        """LLMDeployments whose status says all, as it was then, and what it was made of."""
        self.plans = Plans(writer, store, self._write, namespace)

    # --- A round with a plan -----------------------------------------------------------------------------------------

    async def report(self, turn: Round, now: datetime | None = None) -> bool:
        """Report a round. Returns False when something could not be written and should be tried again."""
        now = now or datetime.now(UTC)
        if not turn.fresh:
            writes = await self._deployments(turn, *self.plans.names(), now)
            return all(await asyncio.gather(*(self._write(*write) for write in writes)))
        recorded, followed_name, plan_name = await self.plans.keep(
            turn.standing, turn.snapshot, busy=_busy(turn), progress=turn.progress
        )
        writes = [
            *await self._deployments(turn, followed_name, plan_name, now),
            *self._pools(turn, now),
            *self._slos(turn, now),
            *self._profiles(turn, now),
            *self._policy(turn, plan_name, now),
            *self._invalid(turn, now),
        ]
        written = await asyncio.gather(*(self._write(*write) for write in writes))
        return recorded and all(written)

    async def _deployments(self, turn: Round, followed_name: str, plan_name: str, now: datetime) -> list["Write"]:
        live = self._store.live_by_name(RESOURCES["LLMDeployment"])
        measured: dict[tuple[str, str], dict[str, TokenLengths]] = {}
        for item in turn.snapshot.demand:
            if item.lengths is not None:
                measured.setdefault((item.namespace, item.deployment), {})[item.traffic] = item.lengths
        fares: dict[tuple[str, str], dict[str, Fare]] = {}
        for (namespace, name, traffic), fare in self._store.fares.items():
            fares.setdefault((namespace, name), {})[traffic] = fare
        writes: list[Write] = []
        seen: dict[str, dict[str, ObservedLatency]] = {}
        for (namespace, placement), latency in self._store.observed.items():
            seen.setdefault(namespace, {})[placement] = latency
        settled: dict[ObjectRef, tuple[Manifest, tuple[object, ...]]] = {}
        for plan in turn.fleet.deployments:
            await asyncio.sleep(0)  # as the loop's steps do
            target = live.get((plan.ref.namespace, plan.ref.name))
            if target is None or target["metadata"]["uid"] != plan.resource.metadata.uid:
                continue
            progress = turn.progress[plan.ref]
            proposed = turn.standing.waiting.get(plan.ref)
            generation = (proposed or plan).resource.metadata.generation or 0
            near = seen.get(plan.ref.namespace, {})
            observed = {item.name: near[item.name] for item in plan.placements if item.name in near}
            waiting = None if proposed is None else Waiting(plan_name, proposed, turn.standing.mode)
            applied = plan.ref not in turn.standing.unapplied
            name = followed_name if applied and followed_name else plan_name
            place = (plan.ref.namespace, plan.ref.name)
            told = (fares.get(place), measured.get(place), self._store.sights.get(place))
            # A status that says all names the plan that made it so, whichever plan is in force now.
            made_of = (progress, generation, bool(name), applied, observed, waiting, told)
            known = self._settled.get(plan.ref)
            if known is None or known[0] is not target or known[1] != made_of:
                before = _status_of(target, LLMDeploymentStatus)
                after = deployment_status(
                    progress,
                    before,
                    generation,
                    name,
                    now,
                    applied=applied,
                    observed=observed,
                    fares=told[0],
                    lengths=told[1],
                    sight=told[2],
                    waiting=waiting,
                )
                if to_wire(before) != to_wire(after):
                    writes.append((target, before, after))
                    continue
            settled[plan.ref] = (target, made_of)
        self._settled = settled
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
            after = slo_status(slo, turn.standing.present, before, found, now)
            writes.append((target, before, after))
        return writes

    def _profiles(self, turn: Round, now: datetime) -> list["Write"]:
        writes: list[Write] = []
        for profile, target in self._targets(turn.snapshot.profiles, "ModelProfile"):
            before = _status_of(target, ModelProfileStatus)
            found = _about(turn.fleet, profile)
            after = profile_status(profile, turn.standing.present, before, found, now)
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
                if item.type not in ("Planned", "Reconciling") and item.status != "Unknown"
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


def _busy(turn: Round) -> bool:
    """Whether the plan that is followed is not in place yet."""
    return any(
        item.step.waiting_for or item.step.prune or item.findings
        for ref, item in turn.progress.items()
        if ref not in turn.standing.unapplied
    )


def _status_of(target: Manifest, model: type[S]) -> S:
    """The status that the API server has; an empty one when it cannot be read."""
    try:
        return model.model_validate(target.get("status") or {})
    except ValidationError:
        return model()


def _about(fleet: FleetPlan, resource: Resource) -> list[Finding]:
    ref = ObjectRef(resource.kind, resource.namespace, resource.name)
    return [finding for finding in fleet.findings if finding.object == ref]


_STATUS = {kind.__name__: kind.status_model() for kind in KINDS}


def _refusal(target: Manifest, item: InvalidObject, found: Sequence[Finding], now: datetime) -> Write:
    """Status of an object that does not parse: figures stay, since what runs stays."""
    before = _status_of(target, _STATUS[item.ref.kind])
    aspects = refused_aspects(found or [Finding(item.ref, "Invalid", str(problem)) for problem in item.problems])
    if item.ref.kind == "LLMDeployment":
        aspects.append(Aspect("Planned", "False", aspects[0].reason, aspects[0].message))
    conditions = build(aspects, before.conditions, item.generation, now)
    return target, before, before.model_copy(update={"observed_generation": item.generation, "conditions": conditions})
