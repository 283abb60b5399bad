"""The control loop: wait for a change, plan the whole fleet, take the step that is safe now, report.

Level-triggered: a turn looks at the cluster as it is and never at what woke it. A lost wake-up costs minutes, since a
turn also comes with the planning interval.
"""

import asyncio
import logging
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from plimsoll.api import PlacementPolicy
from plimsoll.api.placementpolicy import PlacementPolicySpec
from plimsoll.controller.apply import Applier, Outcome, Work
from plimsoll.controller.approval import Standing
from plimsoll.controller.debounce import debounce
from plimsoll.controller.extract import owner_uid
from plimsoll.controller.foreign import Place, scalers_of
from plimsoll.controller.guarding import Guarding, Verdict, takes_away
from plimsoll.controller.kinds import CONFIG_MAP, RESOURCES, WORKLOADS
from plimsoll.controller.metrics import Metrics
from plimsoll.controller.pacing import arriving_rates, paced, suited
from plimsoll.controller.planner_process import PlanFailure, PlannerProcess
from plimsoll.controller.renderings import Renderings, pool_parts
from plimsoll.controller.report import Reporter, Round
from plimsoll.controller.restraint import restrain
from plimsoll.controller.routing_age import RoutingAges
from plimsoll.controller.settings import Settings
from plimsoll.controller.starts import Starts, failures_in_force
from plimsoll.controller.status import Progress
from plimsoll.controller.store import Store
from plimsoll.planning import step_for
from plimsoll.planning.lost import lost_pods, with_replacements
from plimsoll.planning.plan import DeploymentPlan, DeploymentState, Finding, FleetPlan, Severity
from plimsoll.planning.snapshot import ObjectRef, Snapshot, Workload
from plimsoll.planning.stages import stage_for
from plimsoll.planning.transition import STEADY_SECONDS, ObservedRouting, Step
from plimsoll.rendering import (
    Manifest,
    RenderError,
    RenderMismatch,
    routed_at_from_config_map,
    routing_name,
    routing_table_from_config_map,
)

_log = logging.getLogger(__name__)
_HTTP_ROUTE_PROPAGATION_SECONDS = 15.0
_RETRY_SECONDS = 10.0
"""After a round without a plan, or with a report that could not be written."""
_MARGIN_SECONDS = 0.5


class Loop:
    """Turns, one after the other, for ever. Assumes that the store is synced."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        planner: PlannerProcess,
        applier: Applier,
        reporter: Reporter,
        guarding: Guarding,
        metrics: Metrics,
        *,
        gateway_api: bool,
        several_nodes: bool = False,
    ) -> None:
        self._settings, self._store, self._planner = settings, store, planner
        self._applier, self._reporter, self._guarding, self._metrics = applier, reporter, guarding, metrics
        self._gateway_api = gateway_api
        self._ages = RoutingAges()
        self._unready_since: dict[ObjectRef, float] = {}
        """Since when routing names backends that are not Ready."""
        self._epochs: dict[str, int] = {}
        """Last seen of a routing document, by the LLMDeployment's uid: somebody may delete it."""
        self._several_nodes = several_nodes
        self._renderings = Renderings(gateway_api=gateway_api)
        self._planned: tuple[Snapshot, FleetPlan] | None = None
        self._full_plan_due = 0.0

    @property
    def plan(self) -> FleetPlan | None:
        """The newest plan; None before the first."""
        return self._planned[1] if self._planned is not None else None

    async def run(self) -> None:
        """Turn until cancelled. What goes wrong in a turn is logged and tried again."""
        wait = 0.0
        while True:
            await self._wake(wait)
            try:
                wait = await self.turn()
                self._metrics.rounds.labels("ok").inc()
            except Exception:  # noqa: BLE001
                # The one place that catches everything: a bug that one object triggers must not stop the fleet.
                _log.exception("a turn of the control loop failed")
                self._metrics.rounds.labels("error").inc()
                wait = _RETRY_SECONDS

    async def _wake(self, wait: float) -> None:
        """Return when something has changed and the burst is over, or after `wait` seconds."""
        try:
            async with asyncio.timeout(wait):
                await self._store.wait_dirty()
        except TimeoutError:
            pass
        else:
            await debounce(
                lambda: self._store.changes, self._settings.debounce_idle_seconds, self._settings.debounce_cap_seconds
            )
        self._store.clear_dirty()

    async def turn(self) -> float:
        """One turn. Returns after how many seconds the next is due although nothing changes."""
        snapshot = self._store.snapshot(gateway_api=self._gateway_api, several_nodes=self._several_nodes)
        policy = snapshot.policy or PlacementPolicy.implied()
        deployments, now = self._store.live(RESOURCES["LLMDeployment"]), datetime.now(UTC)
        snapshot = replace(snapshot, failures=failures_in_force(deployments, now))
        snapshot, rested = paced(snapshot, deployments, policy.spec, now)
        fleet, fresh = await self._plan(snapshot, policy)
        if fleet is None:
            return _RETRY_SECONDS
        standing = await self._reporter.plans.standing(policy.spec.approval, fleet, snapshot, fresh=fresh)
        running, observed = self._running(standing.fleet, snapshot, datetime.now(UTC))
        scalers, verdict, acted = (
            scalers_of(item for kind in WORKLOADS for item in self._store.live(kind)),
            Verdict(),
            standing.acted_on,
        )
        if acted:
            verdict = await self._guarding.judge(
                snapshot, acted, running, observed, scalers.keys(), approved=standing.agreed
            )
        self._metrics.blast_radius_held.set(1 if verdict.held else 0)
        progress, works, wait = await self._steps(standing, running, observed, scalers, verdict, policy.spec, snapshot)
        outcome = Outcome()
        if acted:
            with self._metrics.apply_seconds.time():
                outcome = await self._applier.run(works)
            progress = _with_findings(progress, outcome.findings)
        told = await self._reporter.report(
            Round(standing.fleet, snapshot, progress, standing, fresh, verdict.findings, _sentence(outcome, standing))
        )
        await self._reporter.report_drift(outcome.drift)
        self._metrics.awaiting_approval.set(len(standing.waiting) if standing.mode == "Manual" else 0)
        self._measure(standing.fleet)
        full_plan = self._full_plan_due - time.monotonic()
        again = None if told and standing.complete else _RETRY_SECONDS
        due = [full_plan, wait, rested, outcome.retry_after_seconds, again]
        return max(0.1, min(seconds for seconds in due if seconds is not None))

    # --- Planning ----------------------------------------------------------------------------------------------------

    async def _plan(self, snapshot: Snapshot, policy: PlacementPolicy) -> tuple[FleetPlan | None, bool]:
        """The plan to follow, and whether it is for this very snapshot; otherwise it is the rest of an older one."""
        now = time.monotonic()
        if self._planned is not None and self._planned[0] == snapshot and now < self._full_plan_due:
            return self._planned[1], True
        with self._metrics.planning.track_inprogress(), self._metrics.plan_seconds.time():
            answer = await self._planner.plan(snapshot)
        if isinstance(answer, PlanFailure):
            self._metrics.plan_results.labels(answer.reason.value).inc()
            _log.error("no plan: %s", answer.message)
            await self._reporter.report_failure(answer, snapshot)
            # The previous plan stays, but not for what has changed or gone since: that would undo what people did.
            self._full_plan_due = now + _RETRY_SECONDS
            return (_still_valid(self._planned[1], snapshot) if self._planned is not None else None), False
        self._metrics.plan_results.labels("ok").inc()
        self._planned = (snapshot, answer)
        self._full_plan_due = now + policy.spec.planning.interval_seconds * random.uniform(0.9, 1.1)  # noqa: S311
        return answer, True

    # --- Steps -------------------------------------------------------------------------------------------------------

    def _running(
        self, fleet: FleetPlan, snapshot: Snapshot, now: datetime
    ) -> tuple[dict[Place, list[Workload]], dict[Place, ObservedRouting | None]]:
        """What runs and what is routed, by LLMDeployment."""
        monotonic = time.monotonic()
        running: dict[Place, list[Workload]] = {}
        for workload in snapshot.workloads:
            running.setdefault((workload.namespace, workload.deployment), []).append(workload)
        documents = self._store.live_by_name(CONFIG_MAP)
        observed = {
            (plan.ref.namespace, plan.ref.name): observed_routing(
                documents.get((plan.ref.namespace, routing_name(plan.ref.name))), plan, self._ages, now, monotonic
            )
            for plan in fleet.deployments
        }
        return running, observed

    async def _steps(
        self,
        standing: Standing,
        running: Mapping[Place, list[Workload]],
        routing: Mapping[Place, ObservedRouting | None],
        scalers: Mapping[Place, str],
        verdict: Verdict,
        policy: PlacementPolicySpec,
        snapshot: Snapshot,
    ) -> tuple[dict[ObjectRef, Progress], list[Work], float | None]:
        """What is safe now for each LLMDeployment, the objects that it means, and when time alone allows more."""
        documents = self._store.live_by_name(CONFIG_MAP)
        workloads = {place: item for kind in WORKLOADS for place, item in self._store.live_by_name(kind).items()}
        now = datetime.now(UTC)
        progress: dict[ObjectRef, Progress] = {}
        works: list[Work] = []
        waits: list[float] = []
        pools: dict[int, Mapping[str, object]] = {}
        lost, arriving = lost_pods(snapshot), arriving_rates(snapshot)
        starts = Starts(snapshot, self._store.live_by_name(RESOURCES["LLMDeployment"]), policy.rebalance)
        for planned in map(self._with_warnings, standing.fleet.deployments):
            await asyncio.sleep(0)  # a thousand of them take seconds, in which the feed and the probes go on
            place = (planned.ref.namespace, planned.ref.name)
            own, observed = tuple(running.get(place, ())), routing[place]
            plan = suited(planned, own, observed, arriving.get(place, {}))
            if observed is not None:
                self._epochs[plan.resource.metadata.uid or ""] = observed.table.epoch
            document = documents.get((plan.ref.namespace, routing_name(plan.ref.name)))
            propagation = self._propagation(plan, policy.routing.propagation_seconds)
            restraint = restrain(plan, own, verdict, scalers)
            feasible, findings = restraint.feasible(plan, own), restraint.findings
            unready_seconds = time.monotonic() - self._unready_since.get(plan.ref, time.monotonic())
            failed, due = starts.of(feasible, own, now)
            waits.extend([due] if due is not None else [])
            stage = stage_for(feasible, own, policy.rebalance.surge, guarded=verdict.held)
            step = step_for(
                stage.plan,
                own,
                observed,
                propagation,
                guarded=verdict.held,
                unready_seconds=unready_seconds,
                first_epoch=self._epochs.get(plan.resource.metadata.uid or "", 0) + 1,
                max_shift=float(policy.rebalance.max_share_shift),
                failed={item.placement for item in failed if item.retry_time is not None and item.retry_time > now},
            )
            replicas = with_replacements(step.replicas, stage.plan, lost)
            step = replace(step, replicas=replicas, waiting_for=(*step.waiting_for, *stage.remaining))
            if plan.state is DeploymentState.HELD and observed is not None:
                step = replace(step, routing=observed.table)
            waits.extend(self._watch_unready(plan.ref, step, unready_seconds))
            young = observed is not None and observed.age_seconds < propagation
            if observed is not None and young and (step.waiting_for or takes_away(plan, own, scalers.keys())):
                waits.append(propagation - observed.age_seconds + _MARGIN_SECONDS)
            try:
                live = {item.name: workloads[key] for item in own if (key := (item.namespace, item.name)) in workloads}
                fleet = standing.origin(plan.ref)
                if id(fleet) not in pools:
                    pools[id(fleet)] = pool_parts(fleet)
                manifests = self._render(fleet, pools[id(fleet)], stage.plan, step, observed, document, live, now)
            except (RenderError, RenderMismatch) as error:
                findings = (*findings, Finding(plan.ref, _render_reason(error), str(error)))
                _log.error("%s: %s", plan.ref, error)
            else:
                if plan.state is not DeploymentState.HELD and plan.ref not in standing.unapplied:
                    uid, prune = plan.resource.metadata.uid or "", restraint.prunable(step.prune)
                    works.append(Work(plan.ref, uid, restraint.writable(manifests), prune))
            progress[plan.ref] = Progress(plan, step, own, findings, failed)
        self._unready_since = {ref: since for ref, since in self._unready_since.items() if ref in progress}
        self._renderings.forget_all_but(progress.keys())
        uids = {item.plan.resource.metadata.uid for item in progress.values()}
        self._epochs = {uid: epoch for uid, epoch in self._epochs.items() if uid in uids}
        return progress, works, min(waits, default=None)

    def _watch_unready(self, ref: ObjectRef, step: Step, unready_seconds: float) -> list[float]:
        """Note since when routing names what is not Ready. Returns after how many seconds that ends by itself."""
        if not step.unready:
            self._unready_since.pop(ref, None)
            return []
        self._unready_since.setdefault(ref, time.monotonic())
        left = STEADY_SECONDS - unready_seconds
        return [left + _MARGIN_SECONDS] if left > 0 else []

    def _render(
        self,
        fleet: FleetPlan,
        pools: Mapping[str, object],
        plan: DeploymentPlan,
        step: Step,
        observed: ObservedRouting | None,
        document: Mapping[str, Any] | None,
        live: Mapping[str, Mapping[str, Any]],
        now: datetime,
    ) -> tuple[Manifest, ...]:
        # The text holds whole seconds: rounded up, since old pods must not go before routers had their time.
        routed_at = now + timedelta(seconds=1)
        if observed is not None and step.routing == observed.table and document is not None:
            routed_at = routed_at_from_config_map(document) or routed_at
        text = routed_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return self._renderings.of(fleet, pools, plan, step, text, live)

    def _with_warnings(self, plan: DeploymentPlan) -> DeploymentPlan:
        """The plan with what this cluster cannot do of what was asked for."""
        if self._gateway_api or plan.resource.spec.routing.http_route is None:
            return plan
        field = "spec.routing.httpRoute"
        message = f"{field}: the cluster had no Gateway API (HTTPRoute) when the operator started; no route is written"
        warning = Finding(plan.ref, "GatewayAPIMissing", message, Severity.WARNING, field)
        return replace(plan, findings=(*plan.findings, warning))

    def _propagation(self, plan: DeploymentPlan, given: int) -> float:
        """How long its routers may take. A gateway watches; a mounted ConfigMap comes with the kubelet."""
        routing = plan.resource.spec.routing
        if self._gateway_api and routing.http_route is not None and not routing.vllm_router:
            return min(_HTTP_ROUTE_PROPAGATION_SECONDS, given)
        return given

    def _measure(self, fleet: FleetPlan) -> None:
        states = [plan.state for plan in fleet.deployments]
        for state in DeploymentState:
            self._metrics.deployments.labels(state.value).set(states.count(state))
        self._metrics.cost_per_hour.set(fleet.cost_per_hour)
        self._metrics.pool_gpus.clear()
        for pool in fleet.pools:
            uses = {
                "total": pool.gpus,
                "allocatable": pool.gpus_allocatable,
                "plimsoll": pool.gpus_running,
                "others": pool.gpus_used_by_others,
                "planned": pool.gpus_planned,
            }
            for use, gpus in uses.items():
                self._metrics.pool_gpus.labels(pool.name, use).set(gpus)


def observed_routing(
    document: Mapping[str, Any] | None,
    plan: DeploymentPlan,
    ages: RoutingAges,
    now: datetime,
    monotonic_seconds: float,
) -> ObservedRouting | None:
    """The routing that the cluster has for a deployment; None when there is none that can be read."""
    if document is None or owner_uid(document) != plan.resource.metadata.uid:
        return None
    table = routing_table_from_config_map(document)
    if table is None:
        return None
    key, routed_at = (plan.ref.namespace, plan.ref.name), routed_at_from_config_map(document)
    return ObservedRouting(table, ages.age_seconds(key, table.epoch, routed_at, now, monotonic_seconds))


def _still_valid(fleet: FleetPlan, snapshot: Snapshot) -> FleetPlan:
    """The part of an older plan that nobody has overruled since: same objects, same generations."""
    present = {(item.metadata.uid, item.metadata.generation) for item in snapshot.deployments}
    kept = (
        plan for plan in fleet.deployments if (plan.resource.metadata.uid, plan.resource.metadata.generation) in present
    )
    return replace(fleet, deployments=tuple(kept))


def _with_findings(progress: Mapping[ObjectRef, Progress], findings: Sequence[Finding]) -> dict[ObjectRef, Progress]:
    by_ref: dict[ObjectRef, list[Finding]] = {}
    for finding in findings:
        by_ref.setdefault(finding.object, []).append(finding)
    return {ref: replace(item, findings=(*item.findings, *by_ref.get(ref, ()))) for ref, item in progress.items()}


def _render_reason(error: Exception) -> str:
    return "RenderMismatch" if isinstance(error, RenderMismatch) else "RenderFailed"


def _sentence(outcome: Outcome, standing: Standing) -> str:
    if outcome.findings:
        return "some objects could not be written; see the LLMDeployments' conditions"
    if standing.mode == "Recommend":
        return "approval is Recommend: the plan is reported and not applied"
    if standing.waiting:
        return f"approval is Manual: changes of {len(standing.waiting)} LLMDeployments wait for a person's approval"
    return "the cluster follows the plan"
