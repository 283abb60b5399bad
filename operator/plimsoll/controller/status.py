"""What the status of an LLMDeployment should say after a round. Pure: plan, what runs, status so far in, status out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from plimsoll.api.common import PlanReference
from plimsoll.api.llmdeployment_status import (
    ChainServer,
    FailedStart,
    LatencyReport,
    LLMDeploymentStatus,
    ObservedLatency,
    Parallelism,
    PlacementStatus,
    ReplicaCounts,
    SpeedFactors,
    TrafficShare,
    TrafficStatus,
)
from plimsoll.api.traffic import TokenLengths as DeclaredLengths
from plimsoll.api.units import rounded
from plimsoll.controller.conditions import Aspect, build, errors, joined
from plimsoll.controller.figures import money, ratio, rounded_milliseconds
from plimsoll.controller.store import Fare, Sight
from plimsoll.performance import TokenLengths
from plimsoll.performance.correction import UNCORRECTED
from plimsoll.planning.pause import REASON as PAUSED
from plimsoll.planning.plan import (
    ClassPlan,
    DeploymentPlan,
    DeploymentState,
    Finding,
    Option,
    Placement,
)
from plimsoll.planning.recalled import METRICS_FRESH
from plimsoll.planning.snapshot import Workload
from plimsoll.planning.transition import Step, backends_of

_MOVE = 0.2
_STOPS = frozenset({"BlastRadiusHeld", "ForeignManager", PAUSED})
"""Reasons for which nothing moves although the plan would."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What the round did for one LLMDeployment."""

    plan: DeploymentPlan
    step: Step
    workloads: tuple[Workload, ...]
    findings: tuple[Finding, ...]
    """What went wrong after planning: rendering, verifying, applying."""
    failed_starts: tuple[FailedStart, ...] = ()
    """What was rolled back, since it did not start in its time."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """What is proposed for an LLMDeployment and not in force."""

    plan_name: str
    plan: DeploymentPlan
    mode: Literal["Automatic", "Manual", "Recommend"]

    @property
    def text(self) -> str:
        if self.mode == "Recommend":
            return "the policy's approval is Recommend: plans are not applied"
        return f"{self.plan_name} needs a person's approval: kubectl plimsoll approve {self.plan_name}"


def deployment_status(
    progress: Progress,
    before: LLMDeploymentStatus,
    generation: int,
    plan_name: str,
    now: datetime,
    *,
    applied: bool,
    observed: Mapping[str, ObservedLatency],
    fares: Mapping[str, Fare] | None = None,
    lengths: Mapping[str, TokenLengths] | None = None,
    sight: Sight | None = None,
    waiting: Waiting | None = None,
) -> LLMDeploymentStatus:
    """Status of an LLMDeployment that parses.

    `observed` is by placement, `fares` by traffic class; where they lack one, the last figures stay. `lengths` are
    measured ones, by traffic class. `sight` is what is said of the metrics; None where there is no Prometheus.

    What is in force is reported, and what is proposed only where nothing is in force.
    """
    plan = progress.plan
    running = {workload.name: workload for workload in progress.workloads}
    aspects = _aspects(progress, running, waiting, applied=applied)
    if sight is not None:
        aspects.append(Aspect(METRICS_FRESH, sight.status, sight.reason, sight.message))
    conditions = build(aspects, before.conditions, generation, now)
    if plan.state is DeploymentState.HELD:
        # Nothing was decided: what runs still runs, so the last figures stay, with the present readiness.
        kept = tuple(_with_ready(item, running) for item in before.placements)
        return before.model_copy(
            update={
                "observed_generation": generation,
                "conditions": conditions,
                "placements": kept,
                "replicas": _replicas_text(kept) if kept else None,
            }
        )
    shown = {item.name: item.observed for item in before.placements}
    placements = tuple(
        _placement(item, running, renewed(shown.get(item.name), observed.get(item.name))) for item in plan.placements
    )
    same = _decision(placements) == _decision(before.placements) and before.plan_ref is not None
    earlier = {item.name: item for item in before.traffic}
    unserved = any(item.unserved > 0 for item in plan.classes)
    return LLMDeploymentStatus(
        observed_generation=generation,
        conditions=conditions,
        models_in_use=_models_text(plan.placements),
        gpus=plan.gpus,
        replicas=_replicas_text(placements),
        cost_per_hour=money(plan.cost_per_hour),
        slo="Overloaded" if unserved else "Predicted" if not _missed(plan.classes) else "Missed",
        placements=placements,
        traffic=tuple(
            _traffic(item, (fares or {}).get(item.name), earlier.get(item.name), (lengths or {}).get(item.name))
            for item in plan.classes
        ),
        plan_ref=before.plan_ref if same else PlanReference(name=plan_name) if plan_name else None,
        plan_time=before.plan_time if same else now if plan_name else None,
        failed_starts=progress.failed_starts,
    )


def _aspects(
    progress: Progress, running: Mapping[str, Workload], waiting: Waiting | None, *, applied: bool
) -> list[Aspect]:
    plan, step = progress.plan, progress.step
    newest = plan if waiting is None else waiting.plan
    planned_errors, later_errors = errors(newest.findings), errors(progress.findings)
    serving, why = _serving(progress, running)
    ready = _ready(progress, serving, why)
    if not applied and waiting is not None and waiting.mode == "Manual" and ready.reason == "WaitingForPods":
        ready = Aspect("Ready", "False", "AwaitingApproval", waiting.text)
    aspects = [ready, _planned(newest, planned_errors, waiting)]
    stopped = [item for item in (*newest.findings, *later_errors) if item.reason in _STOPS]
    if plan.state is not DeploymentState.HELD:
        aspects.append(_slo_met(plan) if waiting is None or not applied else _slo_unknown(waiting))
        moving = bool(step.waiting_for or step.prune)
        waits = "; ".join(step.waiting_for) or "obsolete placements are being removed"
        if not stopped:
            aspects.append(
                Aspect("Rebalancing", "True", "InTransition", waits)
                if moving and applied
                else Aspect("Rebalancing", "False", "Settled", "the plan in force is in place")
                if applied or waiting is None
                else Aspect("Rebalancing", "False", "NotApplied", waiting.text)
            )
    if stopped:
        aspects.append(Aspect("Rebalancing", "False", stopped[0].reason, joined(stopped)))
    if step.unready:
        names = ", ".join(step.unready)
        text = f"no pod of {names} is Ready; the last routing document stays"
        aspects.append(Aspect("RoutingHeld", "True", "BackendsNotReady", text))
    stalled = (planned_errors if newest.state is not DeploymentState.PLANNED else []) + [
        f for f in later_errors if f.reason != "ApplyFailed"
    ]
    if stalled:
        aspects.append(Aspect("Stalled", "True", stalled[0].reason, joined(stalled)))
    return aspects


def _paused(plan: DeploymentPlan) -> bool:
    """Whether a person's pause is all that keeps it from being planned: what runs is as good as before."""
    return not errors(plan.findings) and any(item.reason == PAUSED for item in plan.findings)


def _slo_unknown(waiting: Waiting) -> Aspect:
    text = f"what runs was planned for other demand or stock than there is now; see {waiting.plan_name}"
    return Aspect("SLOMet", "Unknown", "AwaitingApproval", text)


def _ready(progress: Progress, serving: bool, why: str) -> Aspect:
    plan = progress.plan
    if plan.state is not DeploymentState.PLANNED and not _paused(plan):
        found = errors(plan.findings) or list(plan.findings)
        reason = found[0].reason if found else "NotPlanned"
        return Aspect("Ready", "False", reason, joined(found) or "not planned")
    if serving:
        what = "all servers of routed chains are Ready" if plan.chains else "all routed placements have Ready pods"
        return Aspect("Ready", "True", "Serving", what)
    trouble = [item for item in errors(progress.findings) if item.reason != "BlastRadiusHeld"]
    if trouble:
        return Aspect("Ready", "False", trouble[0].reason, joined(trouble))
    return Aspect("Ready", "False", "WaitingForPods", why)


def _serving(progress: Progress, running: Mapping[str, Workload]) -> tuple[bool, str]:
    """Whether every traffic class is routed to Ready pods only; otherwise why not."""
    table = progress.step.routing
    if table is None:
        return False, "; ".join(progress.step.waiting_for) or "nothing is routed yet"
    missing = {traffic.name for traffic in progress.plan.resource.spec.traffic} - {item.name for item in table.classes}
    if missing:
        return False, f"no Ready placement serves {', '.join(sorted(missing))}"
    routed = backends_of(table)
    down = sorted(name for name in routed if name not in running or running[name].ready_replicas < 1)
    return not down, f"no pod of {', '.join(down)} is Ready" if down else ""


def _planned(plan: DeploymentPlan, found: Sequence[Finding], waiting: Waiting | None) -> Aspect:
    if plan.state is DeploymentState.PLANNED:
        warnings = joined(plan.findings)
        figures = f"{_counted(plan)}, {plan.gpus} GPUs, {money(plan.cost_per_hour)} per hour"
        if waiting is not None and waiting.mode == "Manual":
            figures = f"{figures}, once approved; {waiting.text}"
        message = f"{figures}; {warnings}" if warnings else figures
        return Aspect("Planned", "True", "Planned" if waiting is None else "AwaitingApproval", message)
    told = found or [item for item in plan.findings if item.reason == PAUSED]
    reason = told[0].reason if told else str(plan.state)
    return Aspect("Planned", "False", reason, joined(told) or "not planned")


def _counted(plan: DeploymentPlan) -> str:
    """How many placements, or chains of how many servers."""
    count = len(plan.placements)
    if not plan.chains:
        return f"{count} placement{'' if count == 1 else 's'}"
    chains = len(plan.chains)
    broken = f" ({', '.join(plan.broken)} cannot serve: a server lacks its node)" if plan.broken else ""
    return f"{chains} chain{'' if chains == 1 else 's'} of {count} servers{broken}"


def _slo_met(plan: DeploymentPlan) -> Aspect:
    over = [item for item in plan.classes if item.unserved > 0]
    if over:
        parts = [f"{item.name}: {item.unserved:.1%} of the traffic is not served" for item in over]
        return Aspect("SLOMet", "False", "Overloaded", "; ".join(parts))
    missed = _missed(plan.classes)
    if missed:
        return Aspect("SLOMet", "False", "TargetMissed", "; ".join(missed))
    return Aspect("SLOMet", "True", "Predicted", "every target is met as predicted")


def _missed(classes: Sequence[ClassPlan]) -> list[str]:
    return [
        f"{item.name}: {figure.metric} is predicted at {rounded_milliseconds(figure.predicted_milliseconds)} ms, "
        f"target {figure.target_milliseconds:g} ms"
        for item in classes
        for figure in item.latency
        if figure.target_milliseconds is not None and figure.predicted_milliseconds > figure.target_milliseconds
    ]


def _placement(item: Placement, running: Mapping[str, Workload], observed: ObservedLatency | None) -> PlacementStatus:
    option = item.option
    return PlacementStatus(
        name=item.name,
        model=option.model,
        precision=option.precision,
        pool=option.pool,
        parallelism=Parallelism(tensor=option.parallelism.tensor, pipeline=option.parallelism.pipeline),
        pods_per_replica=option.nodes if option.nodes > 1 else None,
        replicas=ReplicaCounts(desired=item.replicas, ready=_ready_replicas(item.name, running)),
        shares=tuple(TrafficShare(traffic=share.traffic, value=ratio(share.value)) for share in item.shares),
        chain=_chain(option),
        image=option.image or None,
        speed=item.speed or None,
        correction=None
        if item.correction == UNCORRECTED
        else SpeedFactors(prefill=rounded(item.correction.prefill, 2), decode=rounded(item.correction.decode, 2)),
        observed=observed,
    )


def _chain(option: Option) -> ChainServer | None:
    stage = option.stage
    if stage is None:
        return None
    return ChainServer(
        name=stage.chain,
        server=stage.number,
        servers=len(stage.partition),
        node=stage.node,
        first_layer=stage.first_layer,
        layers=stage.layers,
    )


def renewed(shown: ObservedLatency | None, found: ObservedLatency | None) -> ObservedLatency | None:
    """What to show: status is no metrics stream, so only moves of more than a fifth count."""
    if shown is None or found is None:
        return shown if found is None else found
    pairs = (
        (shown.ttft_milliseconds, found.ttft_milliseconds),
        (shown.tpot_milliseconds, found.tpot_milliseconds),
    )
    moved = any(
        (old is None) != (new is None) or (old is not None and new is not None and abs(new - old) > _MOVE * old)
        for old, new in pairs
    )
    return found if moved else shown


def _with_ready(item: PlacementStatus, running: Mapping[str, Workload]) -> PlacementStatus:
    counts = item.replicas.model_copy(update={"ready": _ready_replicas(item.name, running)})
    return item.model_copy(update={"replicas": counts})


def _ready_replicas(name: str, running: Mapping[str, Workload]) -> int:
    return running[name].ready_replicas if name in running else 0


def _decision(placements: Sequence[PlacementStatus]) -> list[tuple[object, ...]]:
    return sorted((item.name, item.replicas.desired, item.shares) for item in placements)


def _models_text(placements: Sequence[Placement]) -> str | None:
    precisions: dict[str, dict[str, None]] = {}
    for item in placements:
        precisions.setdefault(item.option.model.rsplit("/", 1)[-1], {})[item.option.precision] = None
    return ", ".join(f"{model} ({', '.join(names)})" for model, names in precisions.items())[:256] or None


def _replicas_text(placements: Sequence[PlacementStatus]) -> str:
    return f"{sum(item.replicas.ready for item in placements)}/{sum(item.replicas.desired for item in placements)}"


def _traffic(
    item: ClassPlan, fare: Fare | None, before: TrafficStatus | None, lengths: TokenLengths | None
) -> TrafficStatus:
    before = before or TrafficStatus(name=item.name)
    shown = {"ttft": before.ttft, "tpot": before.tpot, "endToEnd": before.end_to_end}
    observed = (
        {metric: report.observed_milliseconds for metric, report in shown.items() if report is not None}
        if fare is None
        else fare.observed_milliseconds
    )
    windows = before.windows if fare is None else fare.windows
    reports = {
        figure.metric: LatencyReport(
            predicted_milliseconds=rounded_milliseconds(figure.predicted_milliseconds),
            observed_milliseconds=observed.get(figure.metric),
        )
        for figure in item.latency
    }
    return TrafficStatus(
        name=item.name,
        requests_per_minute=round(item.requests_per_minute),
        tokens=None if lengths is None else _tokens(lengths),
        ttft=reports.get("ttft"),
        tpot=reports.get("tpot"),
        end_to_end=reports.get("endToEnd"),
        attainment=next((one.attainment for one in windows if one.window == "1h"), None),
        windows=windows,
        unserved=ratio(item.unserved),
    )


def _tokens(lengths: TokenLengths) -> DeclaredLengths:
    return DeclaredLengths(
        input=round(lengths.input_mean),
        output=round(lengths.output_mean),
        input_p95=round(lengths.input_p95),
        output_p95=round(lengths.output_p95),
    )
