"""Changes that go in stages: rolled back when nothing starts, in place where no GPU is free, killed at every step."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from devcluster.installation import Installation
from devcluster.witness import Witness
from plimsoll.rendering import labels
from tests.control_plane.bench import (
    ANNOTATIONS,
    OWN,
    PROPAGATION_SECONDS,
    Bench,
    Manifest,
    conditions,
    document,
    llm_deployment,
    placement_of,
    policy,
    pool,
    ready,
    routed,
    settled,
    slo,
)

NAMESPACE = "chat"
ROLLED_BACK, EXCHANGED = "rolledback", "exchanged"
NEVER_READY = f"{ANNOTATIONS}/never-ready"
FAULTY = "devcluster.faulty_operator"
START_TIMEOUT_SECONDS = 10
REPLICAS = 3
MOST_LIVES = 30
LATE_SIGHT_SECONDS = 0.5
"""A watch tells of a change so much later than it happened, at most."""


@pytest.fixture(scope="module")
def fleet(installed: Bench, nodes: None) -> Iterator[Bench]:
    """One LLMDeployment with room beside it, and one that fills its pool."""
    installed.operator.install()
    installed.apply(
        policy(rebalance={"startTimeoutSeconds": START_TIMEOUT_SECONDS}),
        pool("l40s", "L40S", "1.10", nodes={"max": 2}),
        pool("l4", "L4", "0.60", nodes={"max": REPLICAS}),
        slo("lenient", NAMESPACE, tpot={"percentile": 95, "milliseconds": 200}, unserved={"max": "0.5"}),
    )
    single = {"tensor": [1], "pipeline": [1]}
    installed.apply(
        llm_deployment(ROLLED_BACK, NAMESPACE, placement={"pools": ["l40s"], "parallelism": single}),
        exchanged_deployment({}),
    )
    installed.start()
    installed.settle()
    yield installed
    installed.operator.stop()
    installed.clear()


@pytest.fixture
def witness(fleet: Bench) -> Iterator[Witness]:
    with Witness(fleet.cluster) as found:
        yield found


def exchanged_deployment(annotations: dict[str, str]) -> Manifest:
    """It wants as many replicas as its pool has GPUs."""
    made = llm_deployment(
        EXCHANGED,
        NAMESPACE,
        placement={
            "pools": ["l4"],
            "parallelism": {"tensor": [1], "pipeline": [1]},
            "replicas": {"min": REPLICAS, "max": REPLICAS},
        },
        engine={"maxModelLength": 8192, "podTemplate": {"annotations": annotations}},
    )
    made["spec"]["traffic"][0]["sloRef"] = {"name": "lenient"}
    return made


def pods(bench: Bench, name: str) -> list[Manifest]:
    """Pods of an LLMDeployment, those that are on their way out included."""
    return bench.all("pods", selector=f"{OWN},{labels.LLM_DEPLOYMENT}={name}")


def holds_false(bench: Bench) -> bool:
    """Whether the rolled back LLMDeployment is reported as such."""
    found = conditions(bench.get("llmdeployment", ROLLED_BACK, NAMESPACE)).get("Planned", {})
    return found.get("reason") == "StartFailed"


def test_a_change_whose_pods_never_start_is_rolled_back(fleet: Bench, witness: Witness) -> None:
    before = {pod["metadata"]["uid"] for pod in pods(fleet, ROLLED_BACK)}
    (old,) = {placement_of(pod) for pod in pods(fleet, ROLLED_BACK)}
    fleet.set(ROLLED_BACK, NAMESPACE, "/spec/engine", {"podTemplate": {"annotations": {NEVER_READY: "true"}}})
    fleet.wait("a new placement", lambda: {placement_of(pod) for pod in pods(fleet, ROLLED_BACK)} - {old})

    def told_of_pods() -> bool:
        known = [item["status"].get("progress", {}).get("current", "") for item in fleet.all("placementplans")]
        return any(ROLLED_BACK in text and "are Ready" in text for text in known)

    fleet.wait("the step that is waited for", told_of_pods)

    def failed() -> list[Manifest]:
        found: list[Manifest] = fleet.get("llmdeployment", ROLLED_BACK, NAMESPACE)["status"].get("failedStarts", [])
        return found

    (failure,) = fleet.wait("given up", failed)
    assert failure["timeoutSeconds"] == START_TIMEOUT_SECONDS
    fleet.wait("rolled back", lambda: {pod["metadata"]["uid"] for pod in pods(fleet, ROLLED_BACK)} == before)
    told = fleet.wait_condition("llmdeployment", ROLLED_BACK, NAMESPACE, "Planned", "False", "StartFailed")
    assert failure["placement"] in told["message"]
    assert routed(fleet.get("configmap", f"{ROLLED_BACK}-routing", NAMESPACE)) == {old}
    plan = fleet.all("placementplans")[-1]
    assert {"reason": "StartFailed", "name": ROLLED_BACK}.items() <= plan["spec"]["refused"][0].items()
    # A new operator knows it, too, and does not try again.
    fleet.operator.stop()
    fleet.start()
    fleet.wait("the same condition", lambda: holds_false(fleet))
    assert {pod["metadata"]["uid"] for pod in pods(fleet, ROLLED_BACK)} == before
    # Without what was wrong it is as it was.
    fleet.set(ROLLED_BACK, NAMESPACE, "/spec/engine", {})
    fleet.settle()
    assert {pod["metadata"]["uid"] for pod in pods(fleet, ROLLED_BACK)} == before
    assert witness.pods_taken_away() == []


def test_replicas_are_exchanged_in_place_although_the_operator_dies_at_every_step(
    fleet: Bench, witness: Witness
) -> None:
    before = {pod["metadata"]["uid"] for pod in pods(fleet, EXCHANGED)}
    (old,) = {placement_of(pod) for pod in pods(fleet, EXCHANGED)}
    assert len(before) == REPLICAS
    usual = fleet.operator
    usual.stop()
    fleet.apply(exchanged_deployment({"example.com/change": "1"}))
    deaths = 0
    for _ in range(MOST_LIVES):
        if old not in {placement_of(pod) for pod in pods(fleet, EXCHANGED)}:
            break
        # Right after each write of an object: a Deployment with fewer or more replicas, a routing document.
        operator = Installation(fleet.cluster, {"KILL_POINT": "apply:Applier._apply:0"}, module=FAULTY)
        operator.start()
        try:
            deaths += operator.ends(within_seconds=30)
        finally:
            operator.stop()
        assert any(map(ready, pods(fleet, EXCHANGED))), "nothing serves"
    usual.start()
    fleet.wait("the old placement gone", lambda: old not in {placement_of(pod) for pod in pods(fleet, EXCHANGED)})
    fleet.settle()
    after = pods(fleet, EXCHANGED)
    assert len(after) == REPLICAS
    assert before.isdisjoint(pod["metadata"]["uid"] for pod in after)
    assert deaths >= 3
    assert witness.misrouted() == []
    assert witness.stray_routes() == []
    assert witness.pruned_early(PROPAGATION_SECONDS - LATE_SIGHT_SECONDS) == []
    target = fleet.get("llmdeployment", EXCHANGED, NAMESPACE)
    assert settled(target), conditions(target)
    plan = next(item for item in fleet.all("placementplans") if item["status"].get("state") == "Applied")
    progress = plan["status"]["progress"]
    assert progress["stepsDone"] == progress["stepsTotal"]
    assert "current" not in progress
    weights = [
        item["weight"]
        for item in document(fleet.get("configmap", f"{EXCHANGED}-routing", NAMESPACE))["classes"][0]["backends"]
    ]
    assert weights == [1000]
