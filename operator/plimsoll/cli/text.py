"""A plan as plain data, for `-o yaml` and `-o json`. Names are those of the resources' status."""

from typing import Any

from plimsoll.planning.plan import (
    ClassPlan,
    DeploymentPlan,
    Finding,
    FleetPlan,
    LatencyFigure,
    Placement,
    PoolPlan,
    Stage,
)


def plan_document(fleet: FleetPlan) -> dict[str, Any]:
    """The whole plan; money as strings, rates per minute, latencies in milliseconds."""
    return {
        "apiVersion": "plimsoll.dev/plan/v1",
        "digest": f"sha256:{fleet.digest}",
        "costPerHour": money(fleet.cost_per_hour),
        "objectivePerHour": money(fleet.objective_per_hour),
        **_proven(fleet),
        "bindingLimits": [{"kind": item.kind.value, "name": item.name} for item in fleet.limits],
        "deployments": [_deployment(plan) for plan in fleet.deployments],
        "pools": [_pool(pool) for pool in fleet.pools],
        "findings": [_finding(finding) for finding in fleet.all_findings()],
    }


def money(value: float) -> str:
    """An amount with two digits."""
    return f"{value:.2f}"


def share(value: float) -> str:
    """A part of something, in percent with one digit."""
    return f"{value:.1%}"


def _proven(fleet: FleetPlan) -> dict[str, str]:
    if fleet.lower_bound_per_hour is None or fleet.gap is None:
        return {}
    return {"lowerBoundPerHour": money(fleet.lower_bound_per_hour), "gap": f"{fleet.gap:.3f}"}


def counted(number: int, noun: str) -> str:
    """A number with its noun: `1 GPU`, `2 GPUs`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _deployment(plan: DeploymentPlan) -> dict[str, Any]:
    return {
        "namespace": plan.ref.namespace,
        "name": plan.ref.name,
        "state": plan.state.value,
        "costPerHour": money(plan.cost_per_hour),
        **({"storageCostPerHour": money(plan.storage_cost_per_hour)} if plan.storage_cost_per_hour else {}),
        "gpus": plan.gpus,
        "placements": [_placement(placement) for placement in plan.placements],
        "traffic": [_traffic(item) for item in plan.classes],
    }


def _placement(placement: Placement) -> dict[str, Any]:
    option = placement.option
    return {
        "name": placement.name,
        "model": option.model,
        "precision": option.precision,
        "pool": option.pool,
        "parallelism": {"tensor": option.parallelism.tensor, "pipeline": option.parallelism.pipeline},
        **({"podsPerReplica": option.nodes} if option.nodes > 1 else {}),
        **_chain(option.stage),
        "replicas": placement.replicas,
        "maxNumSeqs": option.max_num_seqs,
        "maxModelLength": option.max_model_length,
        "shares": [{"traffic": share.traffic, "value": f"{share.value:.3f}"} for share in placement.shares],
        "costPerHour": money(placement.price_per_hour),
        "utilization": f"{placement.utilization:.2f}",
        "reason": placement.reason,
        "speed": placement.speed,
    }


def _chain(stage: Stage | None) -> dict[str, Any]:
    if stage is None:
        return {}
    part = {
        "name": stage.chain,
        "server": stage.number,
        "servers": len(stage.partition),
        "node": stage.node,
        "region": stage.region,
        "firstLayer": stage.first_layer,
        "layers": stage.layers,
    }
    return {"chain": part}


def _traffic(item: ClassPlan) -> dict[str, Any]:
    return {
        "name": item.name,
        "requestsPerMinute": item.requests_per_minute,
        "unserved": f"{item.unserved:.3f}",
        "latency": {figure.metric: _latency(figure) for figure in item.latency},
        "rejected": [{"option": rejected.option, "reason": rejected.reason} for rejected in item.rejected],
    }


def _latency(figure: LatencyFigure) -> dict[str, Any]:
    document: dict[str, Any] = {"statistic": "Mean" if figure.percentile is None else f"P{figure.percentile}"}
    if figure.target_milliseconds is not None:
        document["targetMilliseconds"] = round(figure.target_milliseconds)
    document["predictedMilliseconds"] = figure.predicted_milliseconds
    return document


def _pool(pool: PoolPlan) -> dict[str, Any]:
    return {
        "name": pool.name,
        "accelerator": pool.accelerator,
        "pricePerGPUHour": str(pool.price_per_gpu_hour),
        "nodes": pool.nodes,
        "gpus": {
            "total": pool.gpus,
            "allocatable": pool.gpus_allocatable,
            "usedByOthers": pool.gpus_used_by_others,
            "planned": pool.gpus_planned,
        },
        "unlimited": pool.unlimited,
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "object": str(finding.object),
        "severity": finding.severity.value,
        "reason": finding.reason,
        "field": finding.field,
        "message": finding.message,
    }
