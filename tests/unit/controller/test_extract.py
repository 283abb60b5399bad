"""What of the raw objects counts, and what does not."""

import copy

import pytest

from plimsoll.api import LLMDeployment
from plimsoll.controller.extract import (
    Absent,
    content_digest,
    facts_of,
    live_part,
    owner_uid,
    resource_facts,
)
from plimsoll.controller.kinds import DEPLOYMENT, NODE, POD, RESOURCES
from plimsoll.planning.snapshot import InvalidObject, ObjectRef
from plimsoll.rendering.observe import node_facts, pod_facts, pod_requests, workload_facts

LLM = RESOURCES["LLMDeployment"]

NODE_OBJECT = {
    "metadata": {"name": "gpu-1", "uid": "n1", "resourceVersion": "7", "labels": {"zone": "a", "product": "L40S"}},
    "spec": {"taints": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}]},
    "status": {
        "allocatable": {
            "cpu": "31500m",
            "memory": "128Gi",
            "nvidia.com/gpu": "4",
            "pods": "110",
            "ephemeral-storage": "1Ti",
        },
        "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}],
        "images": [{"names": ["a"]}],
    },
}

LLM_OBJECT = {
    "apiVersion": "plimsoll.dev/v1alpha1",
    "kind": "LLMDeployment",
    "metadata": {"name": "assistant", "namespace": "chat", "uid": "u1", "generation": 2, "resourceVersion": "9"},
    "spec": {
        "models": [{"name": "meta-llama/Llama-3.1-8B-Instruct"}],
        "traffic": [{"name": "default", "requestsPerMinute": 120, "tokens": {"input": 1000, "output": 250}}],
    },
}


def pod(**spec):
    return {
        "metadata": {"name": "p", "namespace": "chat", "uid": "p1", "labels": {}},
        "spec": {"containers": [], **spec},
        "status": {"phase": "Running"},
    }


def asks(**requests):
    return {"resources": {"requests": {key.replace("gpu", "nvidia.com/gpu"): value for key, value in requests.items()}}}


def test_node_keeps_what_placement_needs():
    facts = node_facts(NODE_OBJECT)
    assert facts.allocatable == {"cpu": 31.5, "memory": 128 * 2**30, "nvidia.com/gpu": 4.0}
    assert facts.labels == {"product": "L40S", "zone": "a"}
    assert facts.taints[0].key == "nvidia.com/gpu"
    assert facts.unschedulable_reason == ""


def test_a_heartbeat_changes_no_facts():
    later = copy.deepcopy(NODE_OBJECT)
    later["metadata"]["resourceVersion"] = "8"
    later["status"]["conditions"][0]["lastHeartbeatTime"] = "2026-01-01T00:01:00Z"
    later["status"]["images"].append({"names": ["b"]})
    assert node_facts(later) == node_facts(NODE_OBJECT)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"spec": {"unschedulable": True}}, "cordoned"),
        ({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}, "not ready"),
        ({"status": {}}, "not ready"),
        ({"metadata": {"name": "gpu-1", "deletionTimestamp": "2026-01-01T00:00:00Z"}}, "deleting"),
    ],
)
def test_a_node_that_takes_nothing_new_says_why(change, reason):
    assert node_facts({**NODE_OBJECT, **change}).unschedulable_reason == reason


def test_containers_add_up_and_a_larger_init_step_wins():
    spec = {
        "containers": [asks(cpu="2", gpu="1"), asks(cpu="500m", memory="1Gi")],
        "initContainers": [asks(cpu="4")],
    }
    assert pod_requests(spec) == {"cpu": 4.0, "memory": 2**30, "nvidia.com/gpu": 1.0}


def test_a_sidecar_runs_beside_the_containers():
    sidecar = {**asks(cpu="1"), "restartPolicy": "Always"}
    assert pod_requests({"containers": [asks(cpu="2")], "initContainers": [sidecar]}) == {"cpu": 3.0}


def test_overhead_and_limits_without_requests_count():
    spec = {"containers": [{"resources": {"limits": {"nvidia.com/gpu": "2"}}}], "overhead": {"cpu": "250m"}}
    assert pod_requests(spec) == {"cpu": 0.25, "nvidia.com/gpu": 2.0}


def test_only_our_own_pods_name_a_placement():
    theirs = pod()
    theirs["metadata"]["labels"] = {"plimsoll.dev/placement": "x"}
    ours = pod()
    ours["metadata"]["labels"] = {"plimsoll.dev/placement": "x", "app.kubernetes.io/managed-by": "plimsoll"}
    assert pod_facts(theirs).placement == ""
    assert pod_facts(ours).placement == "x"


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_finished_pod_counts_for_nothing(phase):
    finished = pod() | {"status": {"phase": phase}}
    assert facts_of(POD, finished) == Absent()


def test_a_deleting_deployment_counts_for_nothing():
    deleting = copy.deepcopy(LLM_OBJECT)
    deleting["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert facts_of(LLM, deleting) == Absent()


def test_status_and_resource_version_do_not_change_a_resource():
    later = copy.deepcopy(LLM_OBJECT)
    later["metadata"]["resourceVersion"] = "10"
    later["metadata"]["managedFields"] = [{"manager": "kubectl"}]
    later["status"] = {"costPerHour": "1.10"}
    facts = resource_facts(LLM_OBJECT)
    assert isinstance(facts, LLMDeployment)
    assert facts.metadata.uid == "u1"
    assert resource_facts(later) == facts


def test_what_does_not_parse_is_kept_as_invalid():
    broken = copy.deepcopy(LLM_OBJECT)
    broken["spec"]["traffic"][0]["tokens"]["input"] = -1
    facts = resource_facts(broken)
    assert isinstance(facts, InvalidObject)
    assert facts.ref == ObjectRef("LLMDeployment", "chat", "assistant")
    assert facts.generation == 2
    assert "spec.traffic[0].tokens.input" in str(facts.problems[0])


DEPLOYMENT_OBJECT = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {
        "name": "w",
        "namespace": "chat",
        "uid": "d1",
        "labels": {"app.kubernetes.io/managed-by": "plimsoll"},
        "annotations": {"plimsoll.dev/pool": "l40s", "plimsoll.dev/tensor": "2", "other": "x"},
        "ownerReferences": [
            {"kind": "LLMDeployment", "apiVersion": "plimsoll.dev/v1alpha1", "name": "assistant", "uid": "u1"}
        ],
        "managedFields": [
            {"manager": "plimsoll-workloads", "operation": "Apply", "fieldsV1": {"f:spec": {}}},
            {"manager": "kube-controller-manager", "operation": "Update", "subresource": "status"},
        ],
    },
    "spec": {"replicas": 3},
    "status": {"readyReplicas": 2},
}


def test_a_workload_says_what_it_runs_and_how_much_is_ready():
    facts = workload_facts(DEPLOYMENT_OBJECT)
    assert (facts.deployment, facts.replicas, facts.ready_replicas) == ("assistant", 3, 2)
    assert facts.option == {"pool": "l40s", "tensor": "2"}
    assert owner_uid(DEPLOYMENT_OBJECT) == "u1"


def test_an_edit_changes_the_content_and_a_status_does_not():
    edited, moved = copy.deepcopy(DEPLOYMENT_OBJECT), copy.deepcopy(DEPLOYMENT_OBJECT)
    edited["spec"]["replicas"] = 4
    moved["status"]["readyReplicas"] = 3
    assert content_digest(edited) != content_digest(DEPLOYMENT_OBJECT)
    assert content_digest(moved) == content_digest(DEPLOYMENT_OBJECT)


def test_of_managed_fields_only_our_own_stay():
    kept = live_part(DEPLOYMENT, DEPLOYMENT_OBJECT)
    assert [entry["manager"] for entry in kept["metadata"]["managedFields"]] == ["plimsoll-workloads"]
    assert live_part(NODE, NODE_OBJECT) is None
