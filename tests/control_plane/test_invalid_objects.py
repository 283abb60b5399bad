"""Input that the API server takes and that is wrong all the same: who is told what, and that nothing that runs goes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from devcluster.nodes import gpu_node
from tests.control_plane.bench import (
    Bench,
    Manifest,
    conditions,
    document,
    holds,
    llm_deployment,
    policy,
    pool,
    routed,
    slo,
)

NAMESPACE = "chat"
NAME = "victim"
DEPLOYMENT = ("llmdeployment", NAME, NAMESPACE)
LLAMA = "meta-llama/Llama-3.1-8B-Instruct"


def fleet() -> list[Manifest]:
    """What runs before and after every case."""
    traffic = {
        "name": "default",
        "sloRef": {"name": "chatty"},
        "requestsPerMinute": 60,
        "tokens": {"input": 1000, "output": 250},
    }
    return [
        policy(),
        pool("l40s", "L40S", "1.10"),
        pool("l4", "L4", "0.60", nodeSelector={"matchLabels": {"nvidia.com/gpu.product": "NVIDIA-L4"}}),
        slo("chatty", NAMESPACE, ttft={"percentile": 95, "milliseconds": 2000}),
        llm_deployment(NAME, NAMESPACE, traffic=[traffic]),
        llm_deployment("bystander", "documents", "Qwen/Qwen2.5-7B-Instruct"),
    ]


@pytest.fixture(scope="module", autouse=True)
def running(bench: Bench) -> Iterator[None]:
    """Two LLMDeployments that serve, and a node that no pool claims."""
    bench.apply(gpu_node("spare-0", "NVIDIA-A100-SXM4-80GB", 8, 81920), *fleet())
    bench.wait("both planned", lambda: len(bench.settle()) == 2)
    yield
    bench.cluster.kubectl("delete", "node", "spare-0")


@dataclass(frozen=True)
class Case:
    """A mistake, and who is told what."""

    name: str
    make: Callable[[Bench], None]
    target: tuple[str, str, str]
    """Kind, name and namespace of the object that is told."""
    reason: str
    says: tuple[str, ...]
    """Field, value, and what would work instead."""
    added: tuple[str, ...] = ()
    """What `make` created: kubectl's kind/name."""
    admits_more: bool = False
    """Routers let more requests in, to the same placements."""
    planned: bool = False
    """The LLMDeployment is still planned: the mistake concerns somebody else."""


def applied(*manifests: Manifest) -> Callable[[Bench], None]:
    return lambda bench: bench.apply(*manifests)


def edited(path: str, value: object) -> Callable[[Bench], None]:
    return lambda bench: bench.set(NAME, NAMESPACE, path, value)


def deleted(kind: str, name: str, namespace: str = "default") -> Callable[[Bench], None]:
    return lambda bench: str(bench.cluster.kubectl("delete", kind, name, f"--namespace={namespace}")) and None


def both(*steps: Callable[[Bench], None]) -> Callable[[Bench], None]:
    def make(bench: Bench) -> None:
        for step in reversed(steps):
            step(bench)

    return make


def of_pool(name: str) -> tuple[str, str, str]:
    return ("gpunodepool", name, "default")


L40S_LABEL = {"matchLabels": {"nvidia.com/gpu.product": "NVIDIA-L40S"}}
SPARE_LABEL = {"matchLabels": {"kubernetes.io/hostname": "spare-0"}}
IMPOSSIBLE = {"percentile": 95, "milliseconds": 1}

CASES = (
    Case(
        "unknown model",
        edited("/spec/models", [{"name": "meta-llama/Llama-3.1-8B-Instrukt"}]),
        DEPLOYMENT,
        "UnknownModel",
        ("spec.models[0].name", "meta-llama/Llama-3.1-8B-Instrukt", LLAMA),
    ),
    Case(
        "model that fits nowhere",
        edited("/spec/models", [{"name": "meta-llama/Llama-3.1-405B-Instruct"}]),
        DEPLOYMENT,
        "FitsNowhere",
        ("spec.traffic[0]", "default", "Llama-3.1-405B-Instruct"),
    ),
    Case(
        "impossible SLO",
        applied(slo("chatty", NAMESPACE, ttft=IMPOSSIBLE)),
        DEPLOYMENT,
        "SLOUnattainable",
        ("spec.traffic[0]", "InferenceSLO chatty", "nearest: "),
    ),
    Case(
        "deleted SLO that is still referred to",
        deleted("inferenceslo", "chatty", NAMESPACE),
        DEPLOYMENT,
        "SLONotFound",
        ("spec.traffic[0].sloRef.name", "chatty", "there is none"),
    ),
    Case(
        "pool that does not exist",
        edited("/spec/placement", {"pools": ["l40"]}),
        DEPLOYMENT,
        "PoolNotFound",
        ("spec.placement.pools[0]", "l40", "l40s"),
    ),
    Case(
        "sequences beyond what the model takes",
        edited("/spec/engine/maxModelLength", 1_000_000),
        DEPLOYMENT,
        "MaxModelLengthTooLong",
        ("spec.engine.maxModelLength", "1000000", "131072"),
    ),
    Case(
        "more traffic than the budget allows, told to the LLMDeployment",
        both(edited("/spec/traffic/0/requestsPerMinute", 30_000), applied(policy(budget={"perHour": "3"}))),
        DEPLOYMENT,
        "BudgetExceeded",
        ("spec.traffic[0]", "spec.budget.perHour 3 "),
        admits_more=True,
    ),
    Case(
        "more traffic than the budget allows, told to the policy",
        both(edited("/spec/traffic/0/requestsPerMinute", 30_000), applied(policy(budget={"perHour": "3"}))),
        ("placementpolicy", "default", "default"),
        "BudgetExceeded",
        ("spec.budget.perHour: 3 ", "1 LLMDeployment"),
        admits_more=True,
    ),
    Case(
        "a budget below the rent of what runs",
        applied(policy(budget={"perHour": "0.01"})),
        ("placementpolicy", "default", "default"),
        "BudgetExceeded",
        ("spec.budget.perHour", "0.01", "2.20"),
    ),
    Case(
        "unknown accelerator",
        applied(pool("typo", "L40X")),
        of_pool("typo"),
        "UnknownAccelerator",
        ("spec.accelerator", "L40X", "L40"),
        added=("gpunodepool/typo",),
        planned=True,
    ),
    Case(
        "pool without nodes",
        applied(pool("empty", "B200")),
        of_pool("empty"),
        "NoNodes",
        ("spec.nodeSelector", "nvidia.com/gpu.product"),
        added=("gpunodepool/empty",),
        planned=True,
    ),
    Case(
        "nodes with another product than the pool says",
        applied(pool("wrong", "L40S", nodeSelector=SPARE_LABEL)),
        of_pool("wrong"),
        "ProductMismatch",
        ("spec.accelerator", "L40S", "spare-0", "NVIDIA-A100-SXM4-80GB"),
        added=("gpunodepool/wrong",),
        planned=True,
    ),
    Case(
        "two pools that claim the same nodes, told to the newcomer",
        applied(pool("rival", "L40S", nodeSelector=L40S_LABEL)),
        of_pool("rival"),
        "NodesContested",
        ("spec.nodeSelector", "l40s-0", "GPUNodePool l40s"),
        added=("gpunodepool/rival",),
    ),
    Case(
        "two pools that claim the same nodes, told to the other",
        applied(pool("rival", "L40S", nodeSelector=L40S_LABEL)),
        of_pool("l40s"),
        "NodesContested",
        ("spec.nodeSelector", "l40s-0", "GPUNodePool rival"),
        added=("gpunodepool/rival",),
    ),
    Case(
        "pool whose accelerator becomes unknown while pods run there",
        applied(pool("l40s", "L40X", "1.10")),
        DEPLOYMENT,
        "PoolMissing",
        ("GPUNodePool l40s", "its accelerator is unknown"),
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_mistake_is_told_and_takes_nothing_away(bench: Bench, case: Case) -> None:
    before = bench.pod_uids()
    routing = bench.get("configmap", f"{NAME}-routing", NAMESPACE)
    try:
        case.make(bench)
        condition = bench.wait_condition(*case.target, "Ready", "False", case.reason)
        assert all(text in condition["message"] for text in case.says), condition["message"]

        kind, name, namespace = case.target
        title = {"llmdeployment": "LLMDeployment", "gpunodepool": "GPUNodePool", "placementpolicy": "PlacementPolicy"}
        (event,) = bench.wait(
            "an event with the condition's words",
            lambda: [e for e in bench.events(title[kind], name, namespace) if e["note"] == condition["message"]],
        )
        assert (event["type"], event["reason"]) == ("Warning", case.reason)

        target = bench.get(*case.target)
        victim = bench.get(*DEPLOYMENT)
        assert target["status"]["observedGeneration"] == target["metadata"]["generation"]
        assert not holds(victim, "Reconciling")
        if case.target == DEPLOYMENT:
            planned = conditions(target)["Planned"]
            assert (planned["status"], planned["reason"]) == ("False", case.reason)
            assert holds(target, "Stalled"), "a person must act"
        elif case.planned:
            assert holds(victim, "Ready")
        assert bench.pod_uids() == before
        now = bench.get("configmap", f"{NAME}-routing", NAMESPACE)
        assert routed(now) == routed(routing)
        assert case.admits_more or document(now) == document(routing)
    finally:
        if case.added:
            bench.cluster.kubectl("delete", *case.added)
        bench.cluster.kubectl("replace", "--filename=-", input=json.dumps(_list(fleet())), check=False)
        bench.apply(*fleet())
        bench.settle()
    assert bench.pod_uids() == before
    victim = bench.get(*DEPLOYMENT)
    assert not holds(victim, "Stalled")


def _list(items: list[Manifest]) -> Manifest:
    return {"apiVersion": "v1", "kind": "List", "items": items}
