"""All objects of one LLMDeployment at one moment of a transition."""

from collections.abc import Mapping
from typing import Any

from plimsoll.planning.plan import DeploymentPlan, DeploymentState, FleetPlan
from plimsoll.planning.transition import Step
from plimsoll.rendering.chain import render_chain, render_server
from plimsoll.rendering.disruption import render_disruption_budget
from plimsoll.rendering.group import render_group
from plimsoll.rendering.httproute import render_http_route
from plimsoll.rendering.manifest import Manifest, RenderError
from plimsoll.rendering.network_policy import render_network_policy
from plimsoll.rendering.record import as_made, made_elsewhere, recorded
from plimsoll.rendering.routing import render_routing
from plimsoll.rendering.service import render_service
from plimsoll.rendering.workload import render_workload

WORKLOADS_MANAGER = "plimsoll-workloads"
ROUTING_MANAGER = "plimsoll-routing"
"""Field managers for server-side apply, one per concern."""

_MANAGERS = {
    "Deployment": WORKLOADS_MANAGER,
    "LeaderWorkerSet": WORKLOADS_MANAGER,
    "StatefulSet": WORKLOADS_MANAGER,
    "NetworkPolicy": WORKLOADS_MANAGER,
    "Service": WORKLOADS_MANAGER,
    "PodDisruptionBudget": WORKLOADS_MANAGER,
    "ConfigMap": ROUTING_MANAGER,
    "HTTPRoute": ROUTING_MANAGER,
}


def render_deployment(
    fleet: FleetPlan,
    deployment: DeploymentPlan,
    step: Step,
    routed_at: str,
    *,
    gateway_api: bool,
    running: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[Manifest, ...]:
    """Everything that should exist now, ready for server-side apply; nothing for a deployment that is held.

    Objects of placements that the plan no longer wants are not here; the step's `prune` names them. `routed_at`
    (RFC 3339) is when `step.routing` last changed; empty when nobody will read it. `gateway_api` says whether the
    cluster has HTTPRoute. `running` has the live workloads by name: those that another release made stay as they are.

    Raises:
        RenderError: the plan cannot be written down; names object, field and value.
    """
    if deployment.state is DeploymentState.HELD:
        return ()
    owner = deployment.resource
    pools = {pool.name: pool for pool in fleet.pools}
    unknown = sorted(set(step.replicas) - {placement.name for placement in deployment.placements})
    if unknown:
        raise RenderError(f"LLMDeployment {owner.reference}: the step asks for {', '.join(unknown)}, the plan does not")
    rendered: list[Manifest] = []
    for placement in deployment.placements:
        replicas = step.replicas.get(placement.name)
        if replicas is None:
            continue
        pool = pools.get(placement.option.pool)
        if pool is None:
            known = ", ".join(sorted(pools)) or "none"
            message = f"the plan has no GPUNodePool {placement.option.pool}; it has: {known}"
            raise RenderError(f"placement {owner.namespace}/{placement.name}: {message}")
        group, stage = placement.option.nodes > 1, placement.option.stage
        if stage is not None:
            workload = render_server(owner, placement, stage, pool, replicas)
        else:
            workload = (render_group if group else render_workload)(owner, placement, pool, replicas)
        live = (running or {}).get(placement.name)
        kept = placement.made_by or made_elsewhere(live)
        rendered.append(as_made(workload, live) if kept else recorded(workload, placement))
        if group:
            rendered.append(render_network_policy(owner, placement))
        if stage is not None and stage.number == 0:
            rendered.extend(render_chain(owner, placement, stage))
        if stage is None or stage.number == 0:
            rendered.append(render_service(owner, placement))
        budget = render_disruption_budget(owner, placement, replicas)
        if budget is not None:
            rendered.append(budget)
    if step.routing is not None:
        rendered.append(render_routing(owner, step.routing, routed_at))
        output = owner.spec.routing.http_route
        if output is not None and gateway_api:
            rendered.append(render_http_route(owner, output, step.routing))
    return tuple(rendered)


def field_manager_for(manifest: Mapping[str, Any]) -> str:
    """The field manager under which a rendered object is applied.

    Raises:
        RenderError: for a kind that Plimsoll does not render.
    """
    kind = manifest["kind"]
    if kind not in _MANAGERS:
        raise RenderError(f"kind {kind}: Plimsoll renders only {', '.join(_MANAGERS)}")
    return _MANAGERS[kind]
