"""Three hundred LLMDeployments: one mistake stops nobody, and neither a restart nor an edit touches the others."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from devcluster.nodes import gpu_node
from tests.control_plane.bench import (
    Bench,
    Manifest,
    conditions,
    deleting,
    holds,
    llm_deployment,
    placements,
    policy,
    pool,
    settled,
)

COUNT = 300
NODES = 60
NAMESPACE = "many"
ODD = "odd-one"
EDITED = "small-007"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"


@pytest.fixture(scope="module")
def many(installed: Bench) -> Iterator[Bench]:
    """Everything is there before the operator starts."""
    bench = installed
    bench.operator.install()
    bench.cluster.kubectl("create", "namespace", NAMESPACE)
    nodes = [gpu_node(f"many-{number:02}", "NVIDIA-L4", 8, 23034) for number in range(NODES)]
    small = [llm_deployment(f"small-{number:03}", NAMESPACE, "Qwen/Qwen2.5-3B-Instruct", 6) for number in range(COUNT)]
    bench.apply(policy(), pool("l4", "L4", "0.60"), *nodes)
    with ThreadPoolExecutor(3) as several:
        list(several.map(lambda part: bench.apply(*part), (small[number::3] for number in range(3))))
    bench.apply(llm_deployment(ODD, NAMESPACE, "nobody/knows-this-1B"))
    bench.start()
    yield bench
    bench.operator.stop()
    bench.clear()
    bench.cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false")
    bench.cluster.kubectl("delete", "node", *(node["metadata"]["name"] for node in nodes))


def deployments(bench: Bench) -> dict[str, Manifest]:
    """The LLMDeployments, by name."""
    return {item["metadata"]["name"]: item for item in bench.read("/apis/plimsoll.dev/v1alpha1/llmdeployments")}


def workloads(bench: Bench) -> dict[str, Manifest]:
    """The Deployments, by name."""
    return {item["metadata"]["name"]: item for item in bench.read(f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments")}


def hashes(bench: Bench) -> dict[str, str]:
    """Pod template hash by ReplicaSet."""
    sets = bench.read(f"/apis/apps/v1/namespaces/{NAMESPACE}/replicasets")
    return {item["metadata"]["name"]: item["metadata"]["labels"]["pod-template-hash"] for item in sets}


@pytest.mark.timeout(180)
def test_all_are_planned_and_run_but_the_impossible_one_which_says_why(many: Bench) -> None:
    def probe() -> dict[str, Manifest] | None:
        found = deployments(many)
        return found if sum(map(settled, found.values())) == COUNT else None

    found = many.wait("all that can be Ready are", probe, 150)
    odd = found.pop(ODD)
    assert len(found) == COUNT
    assert all(holds(item, "Planned") and item["status"]["gpus"] >= 1 for item in found.values())
    told = conditions(odd)
    assert (told["Planned"]["status"], told["Planned"]["reason"]) == ("False", "UnknownModel")
    assert "nobody/knows-this-1B" in told["Planned"]["message"]
    assert holds(odd, "Stalled")
    assert odd["status"]["observedGeneration"] == odd["metadata"]["generation"]
    pods = [*many.read(PODS)]
    assert len(pods) == sum(item["status"]["gpus"] for item in found.values())
    per_node: dict[str, int] = {}
    for pod in pods:
        per_node[pod["spec"]["nodeName"]] = per_node.get(pod["spec"]["nodeName"], 0) + 1
    assert max(per_node.values()) <= 8


def test_a_restarted_operator_writes_nothing(many: Bench) -> None:
    uids = many.pod_uids()
    many.operator.stop()
    mark = many.cluster.mark()
    many.start()
    many.wait("a whole round", lambda: _rounds(many) >= 1)
    time.sleep(3)
    assert many.wrote(mark) == []
    assert many.pod_uids() == uids


def _rounds(bench: Bench) -> float:
    """How many turns of its loop the operator has ended well."""
    lines = bench.operator.get("/metrics")[1].splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith('plimsoll_rounds_total{result="ok"}'))


def test_an_edit_touches_no_other_deployment(many: Bench) -> None:
    before, templates = workloads(many), hashes(many)
    mark = many.cluster.mark()
    (old,) = placements(deployments(many)[EDITED])
    many.set(EDITED, NAMESPACE, "/spec/engine/extraArgs", ["--enable-prefix-caching"])

    def done() -> bool:
        item = many.get("llmdeployment", EDITED, NAMESPACE)
        return settled(item) and old not in placements(item)

    many.wait("the edited one moved", done)
    many.wait("its old pods gone", lambda: not any(map(deleting, many.read(PODS))))
    (new,) = placements(deployments(many)[EDITED])
    after = workloads(many)
    assert after.keys() == before.keys() - {old} | {new}
    kept = before.keys() - {old}
    assert {name: after[name]["metadata"]["resourceVersion"] for name in kept} == {
        name: before[name]["metadata"]["resourceVersion"] for name in kept
    }
    kept_sets = {name: value for name, value in templates.items() if not name.startswith(old)}
    assert kept_sets.items() <= hashes(many).items()
    names = {item["objectRef"].get("name", "") for item in many.writes(mark)}
    assert {name for name in names if name.startswith("small-") and not name.startswith(EDITED)} == set()
