"""Replicas over several nodes as Kubernetes objects: who serves, who joins whom, who may talk to whom, how probed."""

import copy
import os
import socket
import subprocess
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import yaml

from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.performance import Parallelism
from plimsoll.planning.plan import DeploymentPlan
from plimsoll.rendering import RenderMismatch, labels, render_deployment, template_hash, verify
from plimsoll.rendering.group import render_group
from plimsoll.rendering.observe import workload_facts
from tests.unit.rendering.plans import (
    GIB,
    ROUTED_AT,
    deployment_plan,
    fleet_plan,
    large_option,
    llm_deployment,
    placement,
    pool,
    step,
)
from tests.unit.rendering.test_render_workload import GOLDEN

NAME = "assistant-llama-3-1-405b-bf16-h100-t8p2-0d1e2f"
OPTION = replace(
    large_option(), parallelism=Parallelism(8, 2), nodes=2, host=replace(large_option().host, memory_bytes=80 * GIB)
)
Manifest = dict[str, Any]


def planned(replicas: int = 1, owner: LLMDeployment | None = None, asked: str = "") -> DeploymentPlan:
    return replace(deployment_plan(owner), placements=(replace(placement(NAME, OPTION, replicas), asked=asked),))


def render(replicas: int = 1, owner: LLMDeployment | None = None, asked: str = "") -> dict[str, Manifest]:
    """By kind."""
    plan = planned(replicas, owner, asked)
    manifests = render_deployment(fleet_plan(plan), plan, step(None, {NAME: replicas}), ROUTED_AT, gateway_api=True)
    assert {item["metadata"]["name"] for item in manifests} == {NAME}
    return {item["kind"]: item for item in manifests}


def template(group: Manifest) -> Manifest:
    found: Manifest = group["spec"]["leaderWorkerTemplate"]
    return found


def container(group: Manifest, part: str) -> Manifest:
    (only,) = template(group)[f"{part}Template"]["spec"]["containers"]
    found: Manifest = only
    return found


def after(args: list[str], flag: str) -> str:
    assert args.count(flag) == 1, flag
    return args[args.index(flag) + 1]


def test_golden_group() -> None:
    """A change here restarts running engines, unless names change too: planning/identity.py must take it into account.

    To accept it: PLIMSOLL_UPDATE_GOLDEN=1 pytest tests/unit/rendering
    """
    group = render_group(llm_deployment(), placement(NAME, OPTION, 1), pool("h100", "NVIDIA-H100-80GB-HBM3"), 1)
    text = yaml.safe_dump(group, sort_keys=False, width=120)
    path = GOLDEN / "group.yaml"
    if os.environ.get("PLIMSOLL_UPDATE_GOLDEN") == "1":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_a_placement_over_several_nodes_is_a_group_with_a_service_and_a_network_policy() -> None:
    assert set(render()) == {"LeaderWorkerSet", "Service", "NetworkPolicy"}
    group = render(replicas=3)["LeaderWorkerSet"]
    assert group["spec"]["replicas"] == 3
    assert template(group)["size"] == 2


def test_the_templates_of_a_group_do_not_know_the_number_of_replicas() -> None:
    one, two = (template_hash(render(replicas)["LeaderWorkerSet"]) for replicas in (1, 2))
    assert one == two
    changed = copy.deepcopy(render()["LeaderWorkerSet"])
    container(changed, "worker")["args"].append("--enforce-eager")
    assert template_hash(changed) != one


def test_each_pod_asks_for_its_own_part_of_the_gpus() -> None:
    group = render()["LeaderWorkerSet"]
    for part in ("leader", "worker"):
        resources = container(group, part)["resources"]
        assert resources["limits"] == {"nvidia.com/gpu": "8"}
        assert resources["requests"]["memory"] == "80Gi"


def test_all_ranks_run_the_same_engine_and_only_the_leader_serves() -> None:
    group = render()["LeaderWorkerSet"]
    leader, worker = (container(group, part)["args"] for part in ("leader", "worker"))
    assert after(leader, "--nnodes") == "2"
    assert after(leader, "--node-rank") == "0"
    assert after(worker, "--node-rank") == "$(LWS_WORKER_INDEX)"
    assert after(leader, "--master-addr") == after(worker, "--master-addr") == "$(LWS_LEADER_ADDRESS)"
    assert after(leader, "--distributed-executor-backend") == "mp"
    assert "--headless" in worker
    assert "--headless" not in leader
    rank = leader.index("--node-rank") + 1
    common = [*leader[:rank], *leader[rank + 1 :]]
    rank = worker.index("--node-rank") + 1
    assert common == [item for item in [*worker[:rank], *worker[rank + 1 :]] if item != "--headless"]


def test_every_rank_tells_the_others_its_pods_address_and_people_say_over_which_interface() -> None:
    def variables(engine: Manifest | None = None) -> dict[str, Manifest]:
        env = container(render(owner=llm_deployment(engine))["LeaderWorkerSet"], "worker")["env"]
        return {item["name"]: item for item in env}

    assert variables()["VLLM_HOST_IP"]["valueFrom"]["fieldRef"]["fieldPath"] == "status.podIP"
    own = {"env": [{"name": "NCCL_SOCKET_IFNAME", "value": "eth1"}]}
    assert variables(own)["NCCL_SOCKET_IFNAME"]["value"] == "eth1"


def test_a_group_starts_together_and_starts_anew_together() -> None:
    spec = render()["LeaderWorkerSet"]["spec"]
    assert spec["startupPolicy"] == "LeaderCreated", "the leader is ready only when its workers have joined"
    assert spec["leaderWorkerTemplate"]["restartPolicy"] == "RecreateGroupOnPodRestart"


def test_the_headless_services_of_groups_do_not_take_the_name_of_the_placements_service() -> None:
    assert render()["LeaderWorkerSet"]["spec"]["networkConfig"] == {"subdomainPolicy": "UniquePerReplica"}


def test_requests_go_to_leaders_only() -> None:
    selector = render()["Service"]["spec"]["selector"]
    assert selector == {labels.PLACEMENT: NAME, "leaderworkerset.sigs.k8s.io/worker-index": "0"}


def test_drains_are_counted_by_leaders_and_one_replica_can_be_drained() -> None:
    assert "PodDisruptionBudget" not in render(replicas=1)
    selector = render(replicas=2)["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]
    assert selector["leaderworkerset.sigs.k8s.io/worker-index"] == "0"


def test_the_ranks_ports_are_open_to_members_only() -> None:
    spec = render()["NetworkPolicy"]["spec"]
    members = {"matchLabels": {labels.PLACEMENT: NAME}}
    assert spec["podSelector"] == members
    assert spec["policyTypes"] == ["Ingress"]
    among, everyone = spec["ingress"]
    assert among == {"from": [{"podSelector": members}]}, "all ports: the collectives choose theirs"
    assert everyone == {"ports": [{"port": 8000, "protocol": "TCP"}]}


@pytest.mark.parametrize("part", ["leader", "worker"])
def test_pods_of_a_group_pass_the_restricted_profile(part: str) -> None:
    group = render()["LeaderWorkerSet"]
    spec = template(group)[f"{part}Template"]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(group, part)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert spec["automountServiceAccountToken"] is False


@pytest.mark.parametrize("part", ["leader", "worker"])
def test_ranks_have_shared_memory_and_a_mount_of_the_weights(part: str) -> None:
    spec = template(render()["LeaderWorkerSet"])[f"{part}Template"]["spec"]
    assert {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}} in spec["volumes"]
    mounts = {item["name"]: item["mountPath"] for item in spec["containers"][0]["volumeMounts"]}
    assert mounts["shared-memory"] == "/dev/shm"
    assert mounts["model-cache"] == "/cache"


def test_workers_have_no_probe_over_http_and_the_start_budget_of_their_leader() -> None:
    group = render()["LeaderWorkerSet"]
    leader, worker = container(group, "leader"), container(group, "worker")
    assert "httpGet" not in yaml.safe_dump(worker)
    assert "ports" not in worker
    assert worker["startupProbe"]["failureThreshold"] == leader["startupProbe"]["failureThreshold"]
    assert "livenessProbe" in worker


@pytest.mark.parametrize(("listens", "status"), [(True, 0), (False, 1)])
def test_a_workers_probe_says_whether_its_leader_can_be_reached(listens: bool, status: int) -> None:
    probe = container(render()["LeaderWorkerSet"], "worker")["livenessProbe"]["exec"]["command"]
    with socket.socket() as leader:
        leader.bind(("127.0.0.1", 0))
        if listens:
            leader.listen()
        command = [*probe[:-1], str(leader.getsockname()[1])]
        ran = subprocess.run(command, env={"LWS_LEADER_ADDRESS": "127.0.0.1", "PATH": "/usr/bin:/bin"}, check=False)
    assert ran.returncode == status


def test_a_restarted_operator_reads_back_what_a_group_runs() -> None:
    live = copy.deepcopy(render(replicas=2, asked="0123456789abcdef")["LeaderWorkerSet"])
    live["metadata"]["uid"] = "u1"
    live["status"] = {"replicas": 2, "readyReplicas": 1}
    facts = workload_facts(live)
    assert facts is not None
    assert (facts.deployment, facts.replicas, facts.ready_replicas) == ("assistant", 2, 1)
    assert facts.option == {
        "model": OPTION.model,
        "precision": "fp8",
        "pool": "h100",
        "tensor": "8",
        "pipeline": "2",
        "max-num-seqs": "128",
        "nodes": "2",
    }
    assert facts.made is not None
    assert (facts.made.asked, facts.made.image) == ("0123456789abcdef", OPTION.image)
    assert facts.made.memory_bytes == 80 * GIB


def _argument(part: str, flag: str, value: str) -> Callable[[Manifest], None]:
    def tamper(group: Manifest) -> None:
        args = container(group, part)["args"]
        args[args.index(flag) + 1] = value

    return tamper


@pytest.mark.parametrize(
    ("tamper", "field"),
    [
        (lambda group: template(group).update(size=3), "size"),
        (lambda group: group["spec"].update(replicas=2), "spec.replicas"),
        (lambda group: container(group, "worker")["resources"]["limits"].update({"nvidia.com/gpu": "4"}), "worker"),
        (lambda group: container(group, "leader")["resources"]["limits"].update({"nvidia.com/gpu": "16"}), "leader"),
        (lambda group: container(group, "worker")["args"].remove("--headless"), "--headless"),
        (lambda group: container(group, "leader")["args"].append("--headless"), "--headless"),
        (_argument("worker", "--tensor-parallel-size", "4"), "workerTemplate"),
        (_argument("leader", "--pipeline-parallel-size", "1"), "--pipeline-parallel-size"),
        (_argument("leader", "--nnodes", "1"), "--nnodes"),
        (_argument("worker", "--node-rank", "0"), "--node-rank"),
        (_argument("worker", "--master-addr", "elsewhere"), "--master-addr"),
        (lambda group: group.update(kind="Deployment"), "kind"),
    ],
)
def test_a_group_that_differs_from_the_plan_is_refused(tamper: Callable[[Manifest], None], field: str) -> None:
    group = copy.deepcopy(render()["LeaderWorkerSet"])
    tamper(group)
    with pytest.raises(RenderMismatch) as caught:
        verify(planned(), step(None, {NAME: 1}), [group])
    assert field in str(caught.value)
