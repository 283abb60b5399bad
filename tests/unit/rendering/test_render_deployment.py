"""All objects of one LLMDeployment at one moment."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from plimsoll.planning.plan import DeploymentPlan, DeploymentState
from plimsoll.planning.transition import RoutingTable
from plimsoll.rendering import RenderError, field_manager_for, labels, render_deployment, template_hash, verify
from tests.unit.rendering.plans import (
    LARGE,
    ROUTED_AT,
    SMALL,
    deployment_plan,
    fleet_plan,
    large_option,
    llm_deployment,
    routing_table,
    step,
)

HTTP_ROUTE = {"httpRoute": {"parentRefs": [{"name": "public"}]}}


def render(
    deployment: DeploymentPlan | None = None,
    routing: RoutingTable | None = None,
    replicas: Mapping[str, int] | None = None,
    *,
    gateway_api: bool = True,
) -> dict[tuple[str, str], dict[str, Any]]:
    chosen = deployment or deployment_plan()
    now = step(routing, replicas)
    manifests = render_deployment(fleet_plan(chosen), chosen, now, ROUTED_AT, gateway_api=gateway_api)
    verify(chosen, now, manifests)
    found = {(manifest["kind"], manifest["metadata"]["name"]): manifest for manifest in manifests}
    assert len(found) == len(manifests)
    return found


def test_which_objects_there_are() -> None:
    assert set(render(routing=routing_table())) == {
        ("Deployment", SMALL),
        ("Service", SMALL),
        ("PodDisruptionBudget", SMALL),
        ("Deployment", LARGE),
        ("Service", LARGE),
        ("ConfigMap", "assistant-routing"),
    }


def test_nothing_is_routed_before_the_first_routing() -> None:
    assert not any(kind in ("ConfigMap", "HTTPRoute") for kind, _ in render())


@pytest.mark.parametrize(
    ("wanted", "gateway_api", "there"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_an_http_route_needs_a_wish_and_the_gateway_api(wanted: bool, gateway_api: bool, there: bool) -> None:
    deployment = deployment_plan(llm_deployment(routing=HTTP_ROUTE if wanted else {}))
    found = render(deployment, routing_table(), gateway_api=gateway_api)
    assert (("HTTPRoute", "assistant-routing") in found) is there


def test_replicas_are_those_of_the_step_not_of_the_plan() -> None:
    found = render(replicas={SMALL: 2, LARGE: 0})
    assert found["Deployment", SMALL]["spec"]["replicas"] == 2
    assert found["Deployment", LARGE]["spec"]["replicas"] == 0


def test_only_placements_of_the_step_are_rendered() -> None:
    assert {name for _, name in render(replicas={SMALL: 1})} == {SMALL}


@pytest.mark.parametrize(("replicas", "there"), [(0, False), (1, False), (2, True)])
def test_a_disruption_budget_needs_two_replicas(replicas: int, there: bool) -> None:
    assert (("PodDisruptionBudget", SMALL) in render(replicas={SMALL: replicas})) is there


def test_a_held_deployment_renders_nothing() -> None:
    held = replace(deployment_plan(), state=DeploymentState.HELD)
    assert render(held, routing_table()) == {}


def test_every_object_belongs_to_the_deployment() -> None:
    deployment = deployment_plan(llm_deployment(routing=HTTP_ROUTE))
    for manifest in render(deployment, routing_table()).values():
        about = manifest["metadata"]
        assert about["namespace"] == "chat"
        assert about["labels"]["app.kubernetes.io/managed-by"] == "plimsoll"
        assert about["labels"]["plimsoll.dev/llmdeployment"] == "assistant"
        assert about["ownerReferences"] == [
            {
                "apiVersion": "plimsoll.dev/v1alpha1",
                "kind": "LLMDeployment",
                "name": "assistant",
                "uid": "5e1f9c1e-9a55-4d7c-8a2e-0c6f1d7c5a11",
                "controller": True,
                "blockOwnerDeletion": False,
            }
        ]
        assert "status" not in manifest


def test_services_and_budgets_select_the_pods() -> None:
    found = render()
    pods = found["Deployment", SMALL]["spec"]["template"]["metadata"]["labels"]
    service = found["Service", SMALL]["spec"]
    assert pods.items() >= service["selector"].items()
    assert pods.items() >= found["PodDisruptionBudget", SMALL]["spec"]["selector"]["matchLabels"].items()
    assert service["ports"] == [{"name": "http", "port": 8000, "protocol": "TCP", "targetPort": "http"}]


def test_templates_hold_nothing_of_the_plan_or_the_routing() -> None:
    """Other shares, another digest, epoch or cost: the same pods."""
    first = deployment_plan()
    second = replace(
        first,
        placements=tuple(
            replace(item, shares=(), utilization=0.1, reason="other", replicas=7) for item in first.placements
        ),
        classes=(),
    )
    before = render(first, routing_table())
    after = render(second, replace(routing_table(), epoch=413), {SMALL: 7, LARGE: 7})
    for name in (SMALL, LARGE):
        assert template_hash(before["Deployment", name]) == template_hash(after["Deployment", name])
        assert "dddd" not in str(before["Deployment", name])


def test_rendering_is_deterministic() -> None:
    assert str(render(routing=routing_table())) == str(render(routing=routing_table()))


def test_field_managers() -> None:
    found = render(deployment_plan(llm_deployment(routing=HTTP_ROUTE)), routing_table())
    managers = {kind: field_manager_for(manifest) for (kind, _), manifest in found.items()}
    assert managers == {
        "Deployment": "plimsoll-workloads",
        "Service": "plimsoll-workloads",
        "PodDisruptionBudget": "plimsoll-workloads",
        "ConfigMap": "plimsoll-routing",
        "HTTPRoute": "plimsoll-routing",
    }
    with pytest.raises(RenderError, match="kind Pod"):
        field_manager_for({"kind": "Pod"})


def test_a_pool_that_the_plan_lacks_is_named() -> None:
    deployment = deployment_plan()
    fleet = replace(fleet_plan(deployment), pools=fleet_plan(deployment).pools[:1])
    with pytest.raises(RenderError, match="no GPUNodePool l40s; it has: h100"):
        render_deployment(fleet, deployment, step(), ROUTED_AT, gateway_api=True)


def test_a_placement_that_the_plan_lacks_is_named() -> None:
    with pytest.raises(RenderError, match="the step asks for other"):
        render(replicas={"other": 1})


def test_what_a_workload_runs_can_be_read_back() -> None:
    found = render()["Deployment", LARGE]["metadata"]["annotations"]
    assert found.items() >= labels.option_annotations(large_option()).items()
    assert labels.option_from_annotations({**found, "example.com/x": "y"}) == {
        "model": "meta-llama/Llama-3.3-70B-Instruct",
        "precision": "fp8",
        "pool": "h100",
        "tensor": "4",
        "pipeline": "2",
        "max-num-seqs": "128",
    }
    assert labels.option_from_annotations({}) == {}
