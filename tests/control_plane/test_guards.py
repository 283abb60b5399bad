"""Mistakes of others, seen on the real API server: edits, deletions, autoscalers, mass loss of nodes; and pausing."""

from __future__ import annotations

import re
import time

import pytest

from devcluster.installation import NAMESPACE as OPERATOR_NAMESPACE
from devcluster.nodes import demo_nodes
from tests.control_plane.bench import (
    ANNOTATIONS,
    Bench,
    Manifest,
    conditions,
    deleting,
    llm_deployment,
    placement_of,
    placements,
    pool,
    ready,
    settled,
)

NAMESPACE = "chat"
NAME = "assistant"
TARGET = ("llmdeployment", NAME, NAMESPACE)
REPLICAS = 6
QUIET_SECONDS = 3.0
"""Longer than a turn of the loop takes."""


@pytest.fixture(scope="module", autouse=True)
def fleet(bench: Bench) -> None:
    """One LLMDeployment with six replicas of one GPU, on the cheapest pool; another pool could take it as well.

    Its pods load for seconds, as engines do: a rollout takes no old pod before a new one is Ready.
    """
    bench.apply(pool("l40s", "L40S", "0.50"), pool("h100", "H100-SXM-80GB", "2.50"))
    engine = {"podTemplate": {"annotations": {f"{ANNOTATIONS}/ready-delay": "5s"}}}
    bench.apply(llm_deployment(NAME, NAMESPACE, placement={"replicas": {"min": REPLICAS}}, engine=engine))
    bench.wait("planned", lambda: len(bench.settle()) == 1)


def test_an_edited_deployment_is_put_back_and_its_pods_stay(bench: Bench) -> None:
    before, name = bench.pod_uids(), _placement(bench)
    counted = _drift(bench, "Deployment")
    generation = bench.get("deployment", name, NAMESPACE)["metadata"]["generation"]
    engine = "/spec/template/spec/containers/0"
    bench.patch(
        *("deployment", name, NAMESPACE),
        {"op": "replace", "path": f"{engine}/image", "value": "example.com/miner:1"},
        {"op": "add", "path": f"{engine}/args/-", "value": "--trust-remote-code"},
    )
    container = bench.wait("put back", lambda: _engine_without(bench, name, "example.com/miner:1"))
    assert "--trust-remote-code" not in container["args"]
    bench.wait("the surge pod gone", lambda: bench.pod_uids() == before)
    # The edit and its correction, and no more.
    assert bench.get("deployment", name, NAMESPACE)["metadata"]["generation"] == generation + 2
    assert _drift(bench, "Deployment") == counted + 1
    (event,) = [item for item in bench.events("LLMDeployment", NAME, NAMESPACE) if item["reason"] == "DriftCorrected"]
    assert f"Deployment {NAMESPACE}/{name} was changed by field manager kubectl-patch" in event["note"]


def test_what_somebody_deletes_comes_back_and_is_counted(bench: Bench) -> None:
    name = _placement(bench)
    for kind, each in (("Service", name), ("ConfigMap", f"{NAME}-routing"), ("Deployment", name)):
        counted, uid = _drift(bench, kind), bench.get(kind, each, NAMESPACE)["metadata"]["uid"]
        bench.cluster.kubectl("delete", kind, each, f"--namespace={NAMESPACE}", "--wait=false")

        def back(kind: str = kind, each: str = each, uid: str = uid) -> bool:
            found = [item["metadata"] for item in bench.own(kind) if item["metadata"]["name"] == each]
            return bool(found) and found[0]["uid"] != uid

        bench.wait(f"{kind} again", back, 20)
        assert _drift(bench, kind) == counted + 1
    bench.wait("all Ready again", lambda: sum(map(ready, bench.own("pods"))) == REPLICAS)
    bench.settle()


def test_an_autoscaler_is_left_alone_until_the_field_is_given_back(bench: Bench) -> None:
    name = _placement(bench)
    scale = ("patch", "deployment", name, f"--namespace={NAMESPACE}", "--subresource=scale", "--type=merge")
    bench.cluster.kubectl(*scale, '--patch={"spec":{"replicas":4}}', "--field-manager=keda-operator")
    condition = bench.wait_condition(*TARGET, "Stalled", "True", "ForeignManager")
    assert f"Deployment {NAMESPACE}/{name}" in condition["message"]
    assert "keda-operator" in condition["message"]
    bench.wait_condition(*TARGET, "Rebalancing", "False", "ForeignManager")
    mark = bench.cluster.mark()
    bench.set(NAME, NAMESPACE, "/spec/traffic/0/requestsPerMinute", 61)
    bench.wait_condition(*TARGET, "Planned", "True", "Planned")
    time.sleep(QUIET_SECONDS)
    assert bench.get("deployment", name, NAMESPACE)["spec"]["replicas"] == 4
    assert [event for event in bench.writes(mark) if event["objectRef"]["resource"] == "deployments"] == []

    # As the condition says: another number by kubectl scale gives the field back.
    counted = _drift(bench, "Deployment")
    bench.cluster.kubectl("scale", "deployment", name, f"--namespace={NAMESPACE}", "--replicas=5")
    bench.wait("Plimsoll's number", lambda: bench.get("deployment", name, NAMESPACE)["spec"]["replicas"] == REPLICAS)
    assert _drift(bench, "Deployment") == counted + 1, "a person's kubectl scale is put back and counted"
    bench.settle()
    assert "Stalled" not in conditions(bench.get(*TARGET))


def test_a_paused_llmdeployment_gets_no_write_but_its_status(bench: Bench) -> None:
    name, before = _placement(bench), bench.pod_uids()
    _annotate(bench, "plimsoll.dev/paused=true")
    bench.wait_condition(*TARGET, "Rebalancing", "False", "Paused")
    mark = bench.cluster.mark()
    bench.set(NAME, NAMESPACE, "/spec/placement", {"replicas": {"min": REPLICAS + 1}})
    bench.cluster.kubectl("delete", "service", name, f"--namespace={NAMESPACE}")
    bench.wait_condition(*TARGET, "Planned", "False", "Paused")
    time.sleep(QUIET_SECONDS)
    resources = {(item["objectRef"]["resource"], item["objectRef"].get("subresource")) for item in bench.writes(mark)}
    assert resources <= {
        ("llmdeployments", "status"),
        ("gpunodepools", "status"),
        ("placementpolicies", "status"),
        ("events", None),
    }
    assert bench.pod_uids() == before
    assert conditions(bench.get(*TARGET))["Ready"]["status"] == "True", "what runs still serves"
    assert "Stalled" not in conditions(bench.get(*TARGET))

    _annotate(bench, "plimsoll.dev/paused=yes")
    condition = bench.wait_condition(*TARGET, "Stalled", "True", "PausedInvalid")
    assert '"yes": must be "true" or "false"' in condition["message"]

    bench.set(NAME, NAMESPACE, "/spec/placement", {"replicas": {"min": REPLICAS}})
    _annotate(bench, "plimsoll.dev/paused-")
    bench.wait("the Service again", lambda: [s for s in bench.own("services") if s["metadata"]["name"] == name])
    bench.settle()
    assert bench.pod_uids() == before


def test_a_paused_policy_stops_everything(bench: Bench) -> None:
    bench.cluster.kubectl("annotate", "placementpolicy", "default", "plimsoll.dev/paused=true")
    bench.wait_condition(*TARGET, "Rebalancing", "False", "Paused")
    bench.apply(llm_deployment("newcomer", NAMESPACE))
    bench.wait_condition("llmdeployment", "newcomer", NAMESPACE, "Planned", "False", "Paused")
    time.sleep(QUIET_SECONDS)
    assert not [item for item in bench.own("deployments") if item["metadata"]["name"].startswith("newcomer")]
    bench.cluster.kubectl("delete", "llmdeployment", "newcomer", f"--namespace={NAMESPACE}")
    bench.cluster.kubectl("annotate", "placementpolicy", "default", "plimsoll.dev/paused-")
    bench.settle()


def test_a_mass_loss_of_nodes_takes_nothing_away_until_a_person_agrees(bench: Bench) -> None:
    old = _placement(bench)
    lost = [f"l40s-{number}" for number in range(1, 6)]
    doomed = [pod for pod in bench.own("pods") if pod["spec"]["nodeName"] in lost]
    assert doomed
    bench.cluster.kubectl("delete", "node", *lost)
    # The pod garbage collector would do this after its quarantine of 40 s.
    options = ("--force", "--grace-period=0", f"--namespace={NAMESPACE}", "--wait=false")
    bench.cluster.kubectl("delete", "pod", *(pod["metadata"]["name"] for pod in doomed), *options)
    condition = bench.wait_condition(*TARGET, "Stalled", "True", "BlastRadiusHeld")
    assert "20 of 64 Ready GPUs vanished" in condition["message"]

    # Growth goes on: what the nodes held runs elsewhere, and is routed.
    bench.wait("replicas elsewhere", lambda: _ready_elsewhere(bench, old) >= REPLICAS - 4)
    _quiet(bench, old)
    assert "plimsoll_blast_radius_held 1.0" in _metrics(bench)
    bench.wait_condition("placementpolicy", "default", "default", "Stalled", "True", "BlastRadiusHeld")

    # A restart does not forget.
    bench.operator.stop()
    bench.start()
    bench.wait("held again", lambda: "plimsoll_blast_radius_held 1.0" in _metrics(bench))
    _quiet(bench, old)

    said = conditions(bench.get("placementpolicy", "default"))["Stalled"]["message"]
    found = re.search(r"kubectl (annotate placementpolicy default plimsoll.dev/release=[0-9a-f]{12} --overwrite)", said)
    assert found, said
    bench.cluster.kubectl(*found[1].split())
    bench.wait("the rest removed", lambda: bench.get("deployment", old, NAMESPACE)["spec"]["replicas"] < REPLICAS)
    bench.settle()
    assert "plimsoll_blast_radius_held 0.0" in _metrics(bench)
    assert "Stalled" not in conditions(bench.get("placementpolicy", "default"))
    assert bench.get("configmap", "plimsoll-guard", OPERATOR_NAMESPACE)["data"]
    bench.cluster.restart_kubelets()
    bench.apply(*(node for node in demo_nodes() if node["metadata"]["name"] in lost))


# --- Looking ---------------------------------------------------------------------------------------------------------


def _placement(bench: Bench) -> str:
    (name,) = placements(bench.get(*TARGET))
    return name


def _engine_without(bench: Bench, name: str, image: str) -> Manifest | None:
    container: Manifest = bench.get("deployment", name, NAMESPACE)["spec"]["template"]["spec"]["containers"][0]
    return container if container["image"] != image else None


def _metrics(bench: Bench) -> str:
    return bench.operator.get("/metrics")[1]


def _drift(bench: Bench, kind: str) -> float:
    """How often an object of the kind was put back."""
    found = re.search(rf'^plimsoll_drift_corrected_total{{kind="{kind}"}} (\S+)$', _metrics(bench), re.MULTILINE)
    return float(found[1]) if found else 0.0


def _annotate(bench: Bench, text: str) -> None:
    bench.cluster.kubectl("annotate", "--overwrite", "llmdeployment", NAME, f"--namespace={NAMESPACE}", text)


def _ready_elsewhere(bench: Bench, placement: str) -> int:
    return sum(ready(pod) for pod in bench.own("pods") if placement_of(pod) != placement)


def _quiet(bench: Bench, placement: str) -> None:
    """For a whole transition nothing shrinks and nothing goes."""
    pods = bench.pod_uids()
    deadline = time.monotonic() + QUIET_SECONDS + 3
    while time.monotonic() < deadline:
        found = bench.get("deployment", placement, NAMESPACE)
        assert found["spec"]["replicas"] == REPLICAS
        assert not deleting(found)
        assert bench.pod_uids() >= pods
        assert not settled(bench.get(*TARGET)) or conditions(bench.get(*TARGET))["Stalled"]
        time.sleep(1)
