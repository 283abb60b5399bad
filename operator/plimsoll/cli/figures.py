"""Simulations as plain data, for `-o json`, `-o yaml` and the report.

Money as strings, rates per minute, latencies in milliseconds, parts of a whole as 0..1; what has no value is null.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from plimsoll.cli.text import money
from plimsoll.cli.traffic import Traffic
from plimsoll.performance import LatencyTarget, LatencyTargets
from plimsoll.planning.plan import DeploymentPlan
from plimsoll.planning.replay import Replay, ReplayRound, StaticFleet
from plimsoll.planning.scenario import (
    LatencyPercentiles,
    PlannedClass,
    PlannedFleet,
    class_key,
    placement_key,
)
from plimsoll.simulation import (
    ClassReport,
    Interval,
    IntervalLatency,
    LatencySummary,
    PlacementReport,
    SimulationReport,
    TargetResult,
)

METRICS = (("ttft", "ttft"), ("tpot", "tpot"), ("endToEnd", "end_to_end"))
"""Names here, and of attributes."""
_PERCENTILES = (50, 95, 99)


def run_document(fleet: PlannedFleet, traffic: Traffic, found: SimulationReport) -> dict[str, Any]:
    """One simulated plan: deployments with their classes and placements, and what it cost."""
    hours = found.simulated_seconds / 3600.0
    cost = fleet.plan.cost_per_hour * hours
    return {
        "durationSeconds": round(traffic.duration_seconds, 3),
        "simulatedSeconds": round(found.simulated_seconds, 3),
        "costPerHour": money(fleet.plan.cost_per_hour),
        "cost": money(cost),
        **tokens_document(cost, found.classes.values()),
        "deployments": [_deployment(deployment, fleet, traffic, found) for deployment in fleet.plan.deployments],
    }


def replay_document(
    declared: PlannedFleet, traffic: Traffic, found: Replay, static: Mapping[str, StaticFleet]
) -> dict[str, Any]:
    """A replay: what was planned when, what users saw, and static fleets beside it."""
    report = found.report
    hours = report.simulated_seconds / 3600.0
    return {
        "durationSeconds": round(traffic.duration_seconds, 3),
        "simulatedSeconds": round(report.simulated_seconds, 3),
        "costPerHour": money(found.cost / hours),
        "cost": money(found.cost),
        **_fleet_document(report),
        **tokens_document(found.cost, report.classes.values()),
        "static": {name: _static(item, found.cost) for name, item in static.items()},
        "deployments": [_replayed(plan, declared, traffic, found) for plan in declared.plan.deployments],
        "rounds": [_round(item) for item in found.rounds],
        "series": series_document(report, found.targets, found.gpus_per_replica),
    }


def _fleet_document(report: SimulationReport) -> dict[str, Any]:
    arrived = sum(item.arrived for item in report.classes.values())
    lost = sum(item.refused + item.too_long + item.unroutable + item.lost for item in report.classes.values())
    attained = [item.attainment for item in report.classes.values() if item.measured]
    return {
        "gpuHours": rounded(sum(item.gpu_hours for item in report.placements.values())),
        "unserved": rounded(lost / arrived) if arrived else 0.0,
        "worstAttainment": rounded(min(attained)) if attained else None,
    }


def _static(item: StaticFleet, cost: float) -> dict[str, Any]:
    plan = item.fleet.plan
    return {
        "costPerHour": money(plan.cost_per_hour),
        "cost": money(item.cost),
        "gpus": sum(deployment.gpus for deployment in plan.deployments),
        "short": sorted(str(deployment.ref) for deployment in plan.deployments if deployment.state.value == "Short"),
        **_fleet_document(item.report),
        "saved": rounded(1.0 - cost / item.cost) if item.cost else None,
        "attainment": {key: rounded(report.attainment) for key, report in sorted(item.report.classes.items())},
    }


def _replayed(plan: DeploymentPlan, declared: PlannedFleet, traffic: Traffic, found: Replay) -> dict[str, Any]:
    hours = found.report.simulated_seconds / 3600.0
    own = [item for key, item in found.report.placements.items() if found.owners.get(key) == plan.ref]
    cost = sum(item.cost for item in own) + found.storage_cost.get(plan.ref, 0.0)
    classes = [
        (declared.classes[key], found.report.classes.get(key))
        for key in (class_key(plan.ref, item.name) for item in plan.classes)
    ]
    return {
        "namespace": plan.ref.namespace,
        "name": plan.ref.name,
        "state": plan.state.value,
        "gpus": rounded(sum(item.gpu_hours for item in own) / hours),
        "costPerHour": money(cost / hours),
        **tokens_document(cost, [report for _, report in classes if report is not None]),
        "traffic": [_observed(item, report, traffic) for item, report in classes],
    }


def _round(item: ReplayRound) -> dict[str, Any]:
    return {
        "seconds": round(item.seconds, 3),
        "costPerHour": money(item.plan.cost_per_hour),
        "gpus": sum(plan.gpus for plan in item.plan.deployments),
        "short": sorted(str(plan.ref) for plan in item.plan.deployments if plan.state.value == "Short"),
        "demandPerMinute": {key: rounded(demand.requests_per_minute) for key, demand in sorted(item.demand.items())},
        "moves": list(item.moves),
    }


def _deployment(
    deployment: DeploymentPlan, fleet: PlannedFleet, traffic: Traffic, found: SimulationReport
) -> dict[str, Any]:
    hours = found.simulated_seconds / 3600.0
    classes = [
        (fleet.classes[key], found.classes.get(key))
        for key in (class_key(deployment.ref, item.name) for item in deployment.classes)
    ]
    cost = deployment.cost_per_hour * hours
    return {
        "namespace": deployment.ref.namespace,
        "name": deployment.ref.name,
        "state": deployment.state.value,
        "gpus": deployment.gpus,
        "costPerHour": money(deployment.cost_per_hour),
        **tokens_document(cost, [report for _, report in classes if report is not None]),
        "traffic": [class_document(item, report, traffic) for item, report in classes],
        "placements": [
            {
                "name": placement.name,
                "model": placement.option.model,
                "precision": placement.option.precision,
                "pool": placement.option.pool,
                "replicas": placement.replicas,
                "maxNumSeqs": placement.option.max_num_seqs,
                "costPerHour": money(placement.price_per_hour),
                "plannedUtilization": rounded(placement.utilization),
                **_placement(
                    found.placements[placement_key(deployment.ref.namespace, placement.name)], placement.replicas
                ),
            }
            for placement in deployment.placements
        ],
    }


def tokens_document(cost: float, classes: Iterable[ClassReport]) -> dict[str, Any]:
    """Tokens of completed requests and what a million of them cost: prompt and answer together, and answers alone."""
    reports = list(classes)
    prompts, answers = sum(report.input_tokens for report in reports), sum(report.output_tokens for report in reports)
    return {
        "inputTokens": prompts,
        "outputTokens": answers,
        "costPerMillionTokens": money(cost / (prompts + answers) * 1e6) if prompts + answers else None,
        "costPerMillionOutputTokens": money(cost / answers * 1e6) if answers else None,
    }


def class_document(item: PlannedClass, report: ClassReport | None, traffic: Traffic) -> dict[str, Any]:
    """A class: what was planned for it and what it got."""
    return {
        **_observed(item, report, traffic),
        "plannedRequestsPerMinute": item.plan.requests_per_minute,
        "plannedUnserved": rounded(item.plan.unserved),
    }


def _observed(item: PlannedClass, report: ClassReport | None, traffic: Traffic) -> dict[str, Any]:
    """A class: what it got, beside what was predicted if anything was."""
    head: dict[str, Any] = {"name": item.plan.name, "arrivals": traffic.source_of(item.key)}
    if report is None:
        return {**head, "requestsPerMinute": 0.0, "requests": {"arrived": 0}}
    return {
        **head,
        "requestsPerMinute": rounded(report.arrived / traffic.duration_seconds * 60.0),
        **requests_document(report),
        "latency": {
            name: latency_document(
                getattr(report, attribute),
                getattr(item.predicted, attribute) if item.predicted is not None else None,
                next((result for result in report.targets if result.name == attribute), None),
            )
            for name, attribute in METRICS
        },
    }


def requests_document(report: ClassReport) -> dict[str, Any]:
    """What happened to a class's requests."""
    not_served = report.refused + report.too_long + report.unroutable + report.lost
    return {
        "requests": {
            "arrived": report.arrived,
            "completed": report.completed,
            "refused": report.refused,
            "tooLong": report.too_long,
            "unroutable": report.unroutable,
            "lost": report.lost,
            "inFlight": report.in_flight,
        },
        "unserved": rounded(not_served / report.arrived) if report.arrived else 0.0,
        "preemptions": report.preemptions,
        "attainment": rounded(report.attainment),
    }


def latency_document(
    found: LatencySummary, predicted: LatencyPercentiles | None, target: TargetResult | None
) -> dict[str, Any]:
    """A latency with its target, simulated percentiles, and what was predicted."""
    document: dict[str, Any] = {}
    if target is not None:
        document |= {
            "statistic": _statistic(target.target),
            "targetMilliseconds": round(target.target.seconds * 1000),
            "observedMilliseconds": milliseconds(target.observed_seconds),
            "attainment": rounded(target.attainment),
            "met": target.met,
        }
    document["meanMilliseconds"] = milliseconds(found.mean_seconds)
    document["simulatedMilliseconds"] = {
        f"p{percentile}": milliseconds(found.percentile_seconds(percentile)) for percentile in _PERCENTILES
    }
    if found.batches > 1:
        document["confidence95Milliseconds"] = {
            f"p{percentile}": [milliseconds(end) for end in found.percentile_interval(percentile)]
            for percentile in _PERCENTILES
        }
    if predicted is not None:
        document["predictedMilliseconds"] = {
            "p50": milliseconds(predicted.p50),
            "p95": milliseconds(predicted.p95),
            "p99": milliseconds(predicted.p99),
        }
    return document


def _statistic(target: LatencyTarget) -> str:
    return "Mean" if target.percentile is None else f"P{target.percentile}"


def _placement(report: PlacementReport, replicas: int) -> dict[str, Any]:
    return {
        "requests": report.requests,
        "utilization": rounded(report.utilisation),
        "kvUsage": rounded(report.kv_usage),
        "runningPerReplica": rounded(report.running / replicas) if replicas else None,
        "waitingPerReplica": rounded(report.waiting / replicas) if replicas else None,
        "preemptions": report.preemptions,
    }


def series_document(
    found: SimulationReport, targets: Mapping[str, LatencyTargets], gpus_per_replica: Mapping[str, int]
) -> dict[str, Any]:
    """The time series: one value for each interval."""
    intervals = found.intervals
    return {
        "beginSeconds": [round(interval.begin_seconds, 3) for interval in intervals],
        "endSeconds": [round(interval.end_seconds, 3) for interval in intervals],
        "classes": {key: _class_series(key, intervals, targets.get(key)) for key in sorted(found.classes)},
        "placements": {
            key: _placement_series(key, intervals, gpus_per_replica[key]) for key in sorted(found.placements)
        },
    }


def _class_series(key: str, intervals: tuple[Interval, ...], targets: LatencyTargets | None) -> dict[str, Any]:
    parts = [(interval.end_seconds - interval.begin_seconds, interval.classes.get(key)) for interval in intervals]
    document: dict[str, Any] = {
        "requestsPerMinute": [0.0 if part is None else rounded(part.arrived / length * 60.0) for length, part in parts],
        "notServedPerMinute": [
            0.0 if part is None else rounded(part.not_served / length * 60.0) for length, part in parts
        ],
        "attainment": [
            rounded(part.within_targets / part.completed) if part is not None and part.completed else None
            for _, part in parts
        ],
    }
    for name, attribute in METRICS:
        latencies: list[IntervalLatency | None] = [
            None if part is None else getattr(part, attribute) for _, part in parts
        ]
        target: LatencyTarget | None = getattr(targets, attribute) if targets is not None else None
        document[name] = {
            "targetMilliseconds": None if target is None else round(target.seconds * 1000),
            "statistic": None if target is None else _statistic(target),
            **{
                percentile: [
                    None if item is None else milliseconds(getattr(item, f"{percentile}_seconds")) for item in latencies
                ]
                for percentile in ("p50", "p95", "p99")
            },
        }
    return document


def _placement_series(key: str, intervals: tuple[Interval, ...], gpus_per_replica: int) -> dict[str, Any]:
    parts = [(interval.end_seconds - interval.begin_seconds, interval.placements.get(key)) for interval in intervals]
    return {
        "replicas": [0.0 if part is None else rounded(part.replicas) for _, part in parts],
        "gpus": [0.0 if part is None else rounded(part.replicas * gpus_per_replica) for _, part in parts],
        "readyReplicas": [0.0 if part is None else rounded(part.ready_replicas) for _, part in parts],
        "utilization": [None if part is None or part.replicas <= 0 else rounded(part.utilisation) for _, part in parts],
        "kvUsage": [None if part is None or part.replicas <= 0 else rounded(part.kv_usage) for _, part in parts],
        "costPerHour": [0.0 if part is None else rounded(part.cost / length * 3600.0) for length, part in parts],
    }


def milliseconds(seconds: float) -> float | None:
    """With one digit; null where there is none."""
    return round(seconds * 1000.0, 1) if math.isfinite(seconds) else None


def rounded(value: float) -> float | None:
    """With four digits; null where there is none."""
    return round(value, 4) if math.isfinite(value) else None
