"""Plans that wait for a person: `kubectl plimsoll` with few rights, and what the operator makes of what people say."""

from __future__ import annotations

import base64
import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from devcluster.binaries import binary
from devcluster.installation import NAMESPACE as OPERATOR_NAMESPACE
from plimsoll.controller import records
from plimsoll.planning.archive import restored
from plimsoll.planning.plan import FleetPlan
from plimsoll.rendering.details import KEY, details_content
from tests.control_plane.bench import Bench, Manifest, conditions, llm_deployment, policy, pool

NAMESPACE, NAME = "chat", "assistant"
PERSON = "approver"
OBJECT_BYTES = 256 * 1024
Say = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def say(bench: Bench) -> Say:
    """`kubectl plimsoll …` as somebody who may list and patch plans, list the fleet and read details: nothing else."""
    everywhere = [
        {"apiGroups": ["plimsoll.dev"], "resources": ["placementplans"], "verbs": ["list", "patch"]},
        {
            "apiGroups": ["plimsoll.dev"],
            "resources": ["llmdeployments", "gpunodepools", "placementpolicies"],
            "verbs": ["list"],
        },
    ]
    details = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}]
    api = "rbac.authorization.k8s.io"
    bound = {"kind": "ServiceAccount", "name": PERSON, "namespace": NAMESPACE}
    inside = {"name": PERSON, "namespace": OPERATOR_NAMESPACE}
    bench.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": PERSON, "namespace": NAMESPACE}},
        {"apiVersion": f"{api}/v1", "kind": "ClusterRole", "metadata": {"name": PERSON}, "rules": everywhere},
        {"apiVersion": f"{api}/v1", "kind": "Role", "metadata": inside, "rules": details},
        {
            "apiVersion": f"{api}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": PERSON},
            "roleRef": {"apiGroup": api, "kind": "ClusterRole", "name": PERSON},
            "subjects": [bound],
        },
        {
            "apiVersion": f"{api}/v1",
            "kind": "RoleBinding",
            "metadata": inside,
            "roleRef": {"apiGroup": api, "kind": "Role", "name": PERSON},
            "subjects": [bound],
        },
    )
    token = bench.cluster.service_account_token(NAMESPACE, PERSON)
    kubeconfig = bench.cluster.kubeconfig_for_token(token, bench.cluster.directory / "person.kubeconfig")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "KUBECONFIG": str(kubeconfig)}

    def run(*arguments: str, admin: bool = False) -> subprocess.CompletedProcess[str]:
        whose = {**environment, "KUBECONFIG": str(bench.cluster.kubeconfig)} if admin else environment
        command = [binary("kubectl"), "plimsoll", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=whose, timeout=60)

    return run


def plans(bench: Bench) -> dict[str, tuple[str, str]]:
    """State and reason by name."""
    found = {item["metadata"]["name"]: item.get("status", {}) for item in bench.all("placementplans")}
    return {name: (status.get("state", ""), status.get("reason", "")) for name, status in found.items()}


def wait_state(bench: Bench, name: str, state: str, reason: str = "") -> None:
    bench.wait(f"{name} {state} {reason}", lambda: plans(bench).get(name) == (state, reason), 20)


def demand(bench: Bench, rate: int) -> None:
    bench.set(NAME, NAMESPACE, "/spec/traffic/0/requestsPerMinute", rate)


def details(bench: Bench, plan: str) -> Manifest:
    (reference,) = bench.get("placementplan", plan)["spec"]["detailsRefs"]
    return bench.get("configmap", reference["name"], reference["namespace"])


def test_nothing_is_created_until_a_person_has_approved(bench: Bench, say: Say) -> None:
    mark = bench.cluster.mark()
    bench.apply(policy(approval="Manual"), pool("l40s", "L40S", "1.10"), llm_deployment(NAME, NAMESPACE, rate=60))
    wait_state(bench, "plan-000001", "AwaitingApproval")
    bench.wait_condition("llmdeployment", NAME, NAMESPACE, "Planned", "True", "AwaitingApproval")
    written = {item["objectRef"]["resource"] for item in bench.writes(mark)}
    assert not written & {"deployments", "services", "poddisruptionbudgets"}
    shown = say("plan")
    assert shown.returncode == 0, shown.stderr
    for part in ("plan-000001", "AwaitingApproval", f"{NAMESPACE}/{NAME}", "0 → 1", "0.00 → 1.10 per hour"):
        assert part in shown.stdout
    assert "plan-000001 waits" in say("status").stdout

    answer = say("approve", "plan-000001", "--yes")
    assert answer.returncode == 0, answer.stderr
    assert "0 → 1" in answer.stdout
    bench.settle()
    wait_state(bench, "plan-000001", "Applied", "Approved")
    text = bench.cluster.kubectl("get", "placementplan", "plan-000001", "--output=json", "--show-managed-fields")
    fields = json.loads(text)["metadata"]["managedFields"]
    owners = [entry["manager"] for entry in fields if "f:approval" in json.dumps(entry["fieldsV1"])]
    assert owners == ["kubectl-plimsoll"]


def test_while_a_plan_waits_what_was_approved_runs_on_over_a_restart(bench: Bench, say: Say) -> None:
    before = bench.pod_uids()
    demand(bench, 300)
    wait_state(bench, "plan-000002", "AwaitingApproval")
    bench.operator.stop()
    bench.start()
    demand(bench, 500)
    wait_state(bench, "plan-000003", "AwaitingApproval")
    assert bench.pod_uids() == before
    deployment = bench.get("llmdeployment", NAME, NAMESPACE)
    found = conditions(deployment)
    assert (found["Ready"]["status"], found["Planned"]["reason"]) == ("True", "AwaitingApproval")
    assert deployment["status"]["observedGeneration"] == deployment["metadata"]["generation"]

    late = say("approve", "plan-000002", "--yes")
    assert "plan-000002 has been overtaken by plan-000003" in late.stderr
    wait_state(bench, "plan-000002", "Refused", "Stale")
    assert bench.pod_uids() == before


def test_edited_details_are_refused_by_the_command_and_by_the_operator(bench: Bench, say: Say) -> None:
    before = bench.pod_uids()
    kept = details(bench, "plan-000003")
    content = gzip.decompress(base64.b64decode(kept["binaryData"][KEY]))
    edited = gzip.compress(content.replace(b'"image":"', b'"image":"evil.example/'))
    patch = {"op": "replace", "path": f"/binaryData/{KEY}", "value": base64.b64encode(edited).decode()}
    bench.patch("configmap", kept["metadata"]["name"], OPERATOR_NAMESPACE, patch)
    refused = say("approve", "plan-000003", "--yes")
    assert refused.returncode == 1
    assert "cannot be trusted" in refused.stderr
    digest = bench.get("placementplan", "plan-000003")["spec"]["decisionDigest"]
    approval = {"op": "add", "path": "/spec/approval", "value": {"decision": "Approved", "digest": digest}}
    bench.patch("placementplan", "plan-000003", "", approval)
    wait_state(bench, "plan-000003", "Refused", "DigestMismatch")
    wait_state(bench, "plan-000004", "AwaitingApproval")
    assert bench.pod_uids() == before

    assert say("approve", "plan-000004", "--yes").returncode == 0
    bench.wait("more pods", lambda: bench.pod_uids() > before)
    bench.settle()
    wait_state(bench, "plan-000004", "Applied", "Approved")
    wait_state(bench, "plan-000001", "Superseded", "Replaced")
    explained = say("explain", NAME, "-n", NAMESPACE)
    assert explained.returncode == 0, explained.stderr
    assert "chosen" in explained.stdout
    assert "llama" in explained.stdout.lower()


def test_a_rejected_plan_changes_nothing_and_is_not_repeated(bench: Bench, say: Say) -> None:
    before = bench.pod_uids()
    demand(bench, 60)
    wait_state(bench, "plan-000005", "AwaitingApproval")
    assert say("reject", "plan-000005", "--yes").returncode == 0
    wait_state(bench, "plan-000005", "Rejected")
    assert bench.pod_uids() == before
    assert list(plans(bench)) == [f"plan-00000{number}" for number in range(1, 6)]
    history = json.loads(say("history", "-o", "json").stdout)["plans"]
    assert [item["state"] for item in history] == ["Rejected", "Applied", "Refused", "Refused", "Superseded"]


def test_the_commands_say_what_is_wrong(bench: Bench, say: Say) -> None:
    for arguments, text in (
        (("approve", "plan-000009", "-y"), "there is no PlacementPlan plan-000009; kept are plan-000001 to"),
        (("approve", "plan-000003", "-y"), "it was refused: the content is not what"),
        (("explain", "nobody", "-n", NAMESPACE), f"no LLMDeployment {NAMESPACE}/nobody; it has: {NAMESPACE}/{NAME}"),
        (("pause", NAME, "-n", NAMESPACE), 'you may not do that: llmdeployments.plimsoll.dev "assistant" is forbidden'),
    ):
        answer = say(*arguments)
        assert answer.returncode == 1
        assert text in answer.stderr


def test_pause_and_resume_annotate(bench: Bench, say: Say) -> None:
    annotation = "plimsoll.dev/paused"
    assert say("pause", f"{NAMESPACE}/{NAME}", admin=True).returncode == 0
    assert bench.get("llmdeployment", NAME, NAMESPACE)["metadata"]["annotations"][annotation] == "true"
    assert "Paused" in say("status").stdout
    assert say("resume", f"{NAMESPACE}/{NAME}", admin=True).returncode == 0
    assert annotation not in bench.get("llmdeployment", NAME, NAMESPACE)["metadata"].get("annotations", {})


def test_from_manual_to_recommend_nothing_happens_and_to_automatic_everything(bench: Bench) -> None:
    before = bench.pod_uids()
    demand(bench, 900)
    bench.apply(policy(approval="Recommend"))
    bench.wait("a recommendation", lambda: "Recommended" in {state for state, _ in plans(bench).values()}, 20)
    assert bench.pod_uids() == before
    bench.apply(policy(approval="Automatic"))
    bench.wait("more pods", lambda: bench.pod_uids() > before)
    bench.settle()
    assert list(plans(bench).values())[-1][0] == "Applied"


def test_the_plan_of_a_thousand_deployments_is_a_small_object(bench: Bench) -> None:
    """With everything that the API server adds to it."""
    newest = bench.all("placementplans")[-1]["metadata"]["name"]
    digest = bench.get("placementplan", newest)["spec"]["detailsDigest"].removeprefix("sha256:")
    fleet = _thousandfold(restored(details_content([details(bench, newest)], digest)))
    manifest = {**records.manifest("plan-000100", fleet, ()), "metadata": {"name": "large"}}
    assert manifest["spec"]["summary"]["changedDeployments"] == 1000
    assert len(manifest["spec"]["changes"]) > 50
    bench.apply(manifest)
    text = bench.cluster.kubectl("get", "placementplan", "large", "--output=json", "--show-managed-fields")
    assert "managedFields" in text
    assert len(json.dumps(json.loads(text), separators=(",", ":"))) < OBJECT_BYTES


def _thousandfold(fleet: FleetPlan) -> FleetPlan:
    """The first deployment with the longest names and eight placements, a thousand times."""
    (plan,) = fleet.deployments
    (placement,) = plan.placements[:1]
    deployments = []
    for number in range(1000):
        name = f"{'d' * 59}{number:04}"
        metadata = plan.resource.metadata.model_copy(update={"name": name, "namespace": "n" * 63})
        placements = tuple(replace(placement, name=f"{'p' * 48}{number:03}{part}") for part in range(8))
        resource = plan.resource.model_copy(update={"metadata": metadata})
        deployments.append(replace(plan, resource=resource, placements=placements))
    return replace(fleet, deployments=tuple(deployments))
