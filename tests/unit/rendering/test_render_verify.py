"""The check that what is rendered is what was planned catches every tampering."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from plimsoll.planning.plan import DeploymentState
from plimsoll.rendering import RenderMismatch, render_deployment, verify
from tests.unit.rendering.plans import LARGE, ROUTED_AT, SMALL, deployment_plan, fleet_plan, routing_table, step

Tamper = Callable[[dict[str, Any]], None]


def rendered() -> list[dict[str, Any]]:
    deployment = deployment_plan()
    return list(
        render_deployment(fleet_plan(deployment), deployment, step(routing_table()), ROUTED_AT, gateway_api=True)
    )


def workload(manifests: list[dict[str, Any]], name: str = LARGE) -> dict[str, Any]:
    return next(item for item in manifests if item["kind"] == "Deployment" and item["metadata"]["name"] == name)


def container(manifest: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = manifest["spec"]["template"]["spec"]["containers"][0]
    return found


def argument(flag: str, value: str) -> Tamper:
    def tamper(manifest: dict[str, Any]) -> None:
        args = container(manifest)["args"]
        args[args.index(flag) + 1] = value

    return tamper


def appended(*arguments: str) -> Tamper:
    return lambda manifest: container(manifest)["args"].extend(arguments)


def without(flag: str) -> Tamper:
    def tamper(manifest: dict[str, Any]) -> None:
        args = container(manifest)["args"]
        del args[args.index(flag) : args.index(flag) + 2]

    return tamper


def checkpoint(manifest: dict[str, Any]) -> None:
    container(manifest)["args"][0] = "meta-llama/Llama-3.1-8B-Instruct"


def limits(**changed: str) -> Tamper:
    return lambda manifest: container(manifest)["resources"].update(limits=changed)


def own_name(manifest: dict[str, Any]) -> None:
    container(manifest)["args"].remove("meta-llama/Llama-3.3-70B-Instruct")


def replicas(value: object) -> Tamper:
    return lambda manifest: manifest["spec"].update(replicas=value)


def test_what_is_rendered_passes() -> None:
    verify(deployment_plan(), step(), rendered())


@pytest.mark.parametrize(
    ("tamper", "field"),
    [
        (argument("--tensor-parallel-size", "8"), "--tensor-parallel-size"),
        (argument("--pipeline-parallel-size", "1"), "--pipeline-parallel-size"),
        (argument("--max-num-seqs", "256"), "--max-num-seqs"),
        (argument("--max-model-len", "32768"), "--max-model-len"),
        (without("--tensor-parallel-size"), "--tensor-parallel-size"),
        (appended("--tensor-parallel-size", "4"), "--tensor-parallel-size"),
        (appended("--tensor_parallel_size=8"), "--tensor-parallel-size"),
        (appended("-tp", "8"), "--tensor-parallel-size"),
        (appended("-pp=1"), "--pipeline-parallel-size"),
        (appended("--max-num-s", "1"), "--max-num-seqs"),
        (limits(**{"nvidia.com/gpu": "4"}), "limits[nvidia.com/gpu]"),
        (limits(**{"nvidia.com/mig-1g.10gb": "8"}), "limits[nvidia.com/gpu]"),
        (limits(), "limits[nvidia.com/gpu]"),
        (replicas(2), "spec.replicas"),
        (replicas("1"), "spec.replicas"),
        (replicas(None), "spec.replicas"),
        (checkpoint, "args[0]"),
        (own_name, "--served-model-name"),
        (lambda manifest: container(manifest).update(image="vllm/vllm-openai:latest"), "image"),
        (lambda manifest: container(manifest).update(args=None), "args[0]"),
        (lambda manifest: manifest["metadata"].update(namespace="other"), "metadata.namespace"),
        (lambda manifest: manifest["spec"]["template"]["spec"].update(containers=[]), "number of containers"),
        (lambda manifest: manifest["spec"].pop("template"), "number of containers"),
    ],
)
def test_a_tampered_workload_is_caught(tamper: Tamper, field: str) -> None:
    manifests = copy.deepcopy(rendered())
    tamper(workload(manifests))
    with pytest.raises(RenderMismatch) as caught:
        verify(deployment_plan(), step(), manifests)
    assert caught.value.object_name == f"Deployment chat/{LARGE}"
    assert field in caught.value.field
    assert f"Deployment chat/{LARGE}" in str(caught.value)


def test_a_missing_workload_is_caught() -> None:
    manifests = rendered()
    manifests.remove(workload(manifests))
    with pytest.raises(RenderMismatch, match="LLMDeployment chat/assistant: Deployments"):
        verify(deployment_plan(), step(), manifests)


def test_a_workload_too_many_is_caught() -> None:
    with pytest.raises(RenderMismatch, match="LLMDeployment chat/assistant: Deployments"):
        verify(deployment_plan(), step(replicas={SMALL: 3}), rendered())


def test_a_workload_twice_is_caught() -> None:
    manifests = rendered()
    with pytest.raises(RenderMismatch, match="number of manifests"):
        verify(deployment_plan(), step(), [*manifests, workload(manifests)])


def test_a_placement_that_the_plan_lacks_is_caught() -> None:
    deployment = replace(deployment_plan(), placements=deployment_plan().placements[:1])
    with pytest.raises(RenderMismatch, match="placement"):
        verify(deployment, step(), rendered())


def test_a_held_deployment_has_no_workloads() -> None:
    held = replace(deployment_plan(), state=DeploymentState.HELD)
    verify(held, step(), [])
    with pytest.raises(RenderMismatch):
        verify(held, step(), rendered())
