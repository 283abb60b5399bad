"""From `kubectl apply` of the examples to pods that serve: what people and programs then find in the cluster."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from plimsoll.rendering import labels
from plimsoll.rendering.routing import routing_schema
from tests.control_plane.bench import (
    Bench,
    Key,
    Manifest,
    conditions,
    document,
    key,
    option_value,
    placement_of,
    placements,
    policy,
)

REST_SECONDS = 6.0
OPTIONAL_COLUMNS = {"islo": {"TTFT MS", "TPOT MS", "E2E MS", "ATTAINMENT"}, "pplan": {"REASON"}}
"""Targets that an objective need not have; attainment is measured, and nothing measures it here. A plan that is simply
applied has no reason for its state."""


@dataclass(frozen=True)
class World:
    """The cluster after both examples have settled."""

    objects: dict[Key, Manifest]

    def kind(self, *kinds: str) -> list[Manifest]:
        return [item for item in self.objects.values() if item["kind"] in kinds]

    def placements(self) -> dict[tuple[str, str], Manifest]:
        """By namespace and name."""
        return {
            (item["metadata"]["namespace"], name): placement
            for item in self.kind("LLMDeployment")
            for name, placement in placements(item).items()
        }

    def pods(self) -> dict[tuple[str, str], list[Manifest]]:
        """By namespace and placement."""
        found: dict[tuple[str, str], list[Manifest]] = {}
        for pod in self.kind("Pod"):
            found.setdefault((pod["metadata"]["namespace"], placement_of(pod)), []).append(pod)
        return found


@pytest.fixture(scope="module")
def world(bench: Bench) -> World:
    bench.apply_example("quickstart")
    bench.settle()
    bench.apply_example("fleet")
    bench.wait("all four planned", lambda: len(bench.settle()) == 4)
    own = bench.own("pods", "deployments", "services", "poddisruptionbudgets", "configmaps", "endpointslices")
    written = bench.all(
        "llmdeployments", "gpunodepools", "inferenceslos", "placementpolicies", "placementplans", "nodes"
    )
    return World({key(item): item for item in (*own, *written)})


def test_pods_run_on_nodes_of_the_planned_pools(world: World) -> None:
    planned, pods = world.placements(), world.pods()
    assert len(planned) >= 4
    assert pods.keys() == planned.keys()
    for place, placement in planned.items():
        assert len(pods[place]) == placement["replicas"]["desired"] == placement["replicas"]["ready"] > 0
        for pod in pods[place]:
            assert pod["status"]["phase"] == "Running"
            # Names of nodes begin with their pool's.
            assert pod["spec"]["nodeName"].rpartition("-")[0] == placement["pool"]


def test_command_lines_and_gpus_are_those_of_the_status(world: World) -> None:
    for place, placement in world.placements().items():
        for pod in world.pods()[place]:
            (container,) = pod["spec"]["containers"]
            assert container["command"] == ["vllm", "serve"]
            args, degrees = container["args"], placement["parallelism"]
            assert option_value(args, "--tensor-parallel-size") == str(degrees["tensor"])
            assert option_value(args, "--pipeline-parallel-size") == str(degrees["pipeline"])
            assert container["resources"]["limits"] == {"nvidia.com/gpu": str(degrees["tensor"] * degrees["pipeline"])}
            assert container["image"] == placement["image"]
            assert placement["model"] in args


def test_the_large_model_takes_several_gpus(world: World) -> None:
    analyst = world.objects["LLMDeployment", "chat", "analyst"]
    assert all(item["parallelism"]["tensor"] > 1 for item in placements(analyst).values())
    assert conditions(analyst)["Ready"]["status"] == "True"


def test_routing_documents_are_valid_and_route_every_class_to_ready_placements(world: World) -> None:
    for deployment in world.kind("LLMDeployment"):
        namespace, name = deployment["metadata"]["namespace"], deployment["metadata"]["name"]
        config_map = world.objects["ConfigMap", namespace, f"{name}-routing"]
        content = document(config_map)
        jsonschema.validate(content, routing_schema())
        assert content["deployment"] == f"{namespace}/{name}"
        assert [item["name"] for item in content["classes"]] == [item["name"] for item in deployment["spec"]["traffic"]]
        planned = placements(deployment)
        for item in content["classes"]:
            assert sum(backend["weight"] for backend in item["backends"]) == 1000
            for backend in item["backends"]:
                placement = planned[backend["placement"]]
                (share,) = (each for each in placement["shares"] if each["traffic"] == item["name"])
                assert backend["weight"] == pytest.approx(1000 * float(share["value"]), abs=2)
                assert backend["service"].startswith(f"http://{backend['placement']}.{namespace}.svc.")
        router = deployment["spec"]["routing"]["vllmRouter"]
        assert ("vllm-router.json" in config_map["data"]) == router


def test_services_reach_all_pods_of_their_placement(world: World) -> None:
    slices = world.kind("EndpointSlice")
    for (namespace, name), pods in world.pods().items():
        service = world.objects["Service", namespace, name]
        assert service["spec"]["selector"] == {labels.PLACEMENT: name}
        addresses = {
            address
            for item in slices
            if item["metadata"]["labels"]["kubernetes.io/service-name"] == name
            for endpoint in item["endpoints"]
            if endpoint["conditions"]["ready"]
            for address in endpoint["addresses"]
        }
        assert addresses == {pod["status"]["podIP"] for pod in pods}


def test_only_placements_of_several_replicas_have_a_disruption_budget(world: World) -> None:
    expected = {place for place, item in world.placements().items() if item["replicas"]["desired"] > 1}
    budgets = world.kind("PodDisruptionBudget")
    assert {(item["metadata"]["namespace"], item["metadata"]["name"]) for item in budgets} == expected
    assert all(item["spec"]["maxUnavailable"] == 1 for item in budgets)


def test_every_object_is_owned_by_its_llmdeployment_and_nothing_has_finalizers(world: World) -> None:
    owners = {item["metadata"]["uid"]: item for item in world.kind("LLMDeployment")}
    owned = world.kind("Deployment", "Service", "PodDisruptionBudget", "ConfigMap")
    assert len(owned) >= 4 * 3
    for item in owned:
        (reference,) = item["metadata"]["ownerReferences"]
        owner = owners[reference["uid"]]
        assert (reference["kind"], reference["name"]) == ("LLMDeployment", owner["metadata"]["name"])
        assert reference["controller"] is True
        assert reference["blockOwnerDeletion"] is False
        assert item["metadata"]["namespace"] == owner["metadata"]["namespace"]
    assert not [key(item) for item in world.objects.values() if item["metadata"].get("finalizers")]


def test_people_see_filled_columns(bench: Bench, world: World) -> None:
    for kind in ("llmdep", "gnp", "islo", "pplan"):
        rows = _table(bench.cluster.kubectl("get", kind, "--all-namespaces", "--output=wide"))
        assert rows
        for row in rows:
            assert {name for name, text in row.items() if not text} <= OPTIONAL_COLUMNS.get(kind, set()), (kind, row)


def _table(text: str) -> list[dict[str, str]]:
    """kubectl's table: columns begin where their headings do; `<none>` and blanks are empty."""
    head, *lines = text.splitlines()
    starts = [0, *(index for index in range(2, len(head)) if head[index - 2 : index] == "  " and head[index] != " ")]
    stops = [*starts[1:], None]
    names = [head[start:stop].strip() for start, stop in zip(starts, stops, strict=True)]
    rows = []
    for line in lines:
        cells = [line[start:stop].strip() for start, stop in zip(starts, stops, strict=True)]
        rows.append(
            {name: "" if cell in ("<none>", "<unknown>") else cell for name, cell in zip(names, cells, strict=True)}
        )
    return rows


def test_conditions_are_those_that_gitops_tools_wait_for(world: World) -> None:
    for item in world.kind("LLMDeployment"):
        found = conditions(item)
        generation = item["metadata"]["generation"]
        assert item["status"]["observedGeneration"] == generation
        assert {found[type_]["status"] for type_ in ("Ready", "Planned")} == {"True"}
        # kstatus: present and True means "still busy" or "failed".
        assert not [
            each for type_ in ("Reconciling", "Stalled") if (each := found.get(type_)) and each["status"] != "False"
        ]
        assert found["Rebalancing"]["status"] == "False"
        assert {each["observedGeneration"] for each in found.values()} == {generation}
        assert all(each["reason"] and each["message"] for each in found.values())
    for item in world.kind("GPUNodePool", "InferenceSLO", "PlacementPolicy"):
        assert conditions(item)["Ready"]["status"] == "True", key(item)
        assert item["status"]["observedGeneration"] == item["metadata"]["generation"]


def test_pools_count_their_gpus(world: World) -> None:
    for item in world.kind("GPUNodePool"):
        name, found = item["metadata"]["name"], item["status"]
        nodes = [node for node in world.kind("Node") if node["metadata"]["name"].startswith(f"{name}-")]
        assert found["nodes"] == len(nodes)
        assert found["gpus"]["total"] == sum(int(node["status"]["allocatable"]["nvidia.com/gpu"]) for node in nodes)
        used = sum(
            int(pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])
            for pod in world.kind("Pod")
            if pod["metadata"]["labels"][labels.POOL] == name
        )
        assert found["gpus"]["usedByPlimsoll"] == used
        assert found["gpus"]["free"] == found["gpus"]["total"] - used


def test_the_newest_plan_is_applied_and_referred_to(world: World) -> None:
    plans = sorted(world.kind("PlacementPlan"), key=lambda item: str(item["metadata"]["name"]))
    newest = plans[-1]
    assert newest["status"]["state"] == "Applied"
    assert {item["status"]["state"] for item in plans[:-1]} == {"Superseded"}
    assert newest["spec"]["summary"]["gpus"] == sum(item["status"]["gpus"] for item in world.kind("LLMDeployment"))
    names = {item["metadata"]["name"] for item in plans}
    assert {item["status"]["planRef"]["name"] for item in world.kind("LLMDeployment")} <= names
    policy_status = world.objects["PlacementPolicy", "", "default"]["status"]
    assert policy_status["lastPlanRef"]["name"] == newest["metadata"]["name"]
    cost = sum(float(item["status"]["costPerHour"]) for item in world.kind("LLMDeployment"))
    assert float(policy_status["costPerHour"]) == pytest.approx(cost, abs=0.02)


def test_events_name_what_happened(bench: Bench, world: World) -> None:
    for item in world.kind("LLMDeployment"):
        namespace, name = item["metadata"]["namespace"], item["metadata"]["name"]
        events = bench.events("LLMDeployment", name, namespace)
        told = {event["reason"]: event for event in events}
        assert told.keys() >= {"Planned", "WaitingForPods", "Serving"}
        assert f"{item['status']['gpus']} GPUs" in told["Planned"]["note"]
        assert {event["type"] for event in events} == {"Normal"}
        times = [told[reason]["eventTime"] for reason in ("Planned", "Serving")]
        assert times == sorted(times)
    lines = bench.cluster.kubectl("get", "events", "--namespace=chat")
    assert "llmdeployment/assistant" in lines


def test_at_rest_nothing_is_written(bench: Bench, world: World) -> None:
    mark = bench.cluster.mark()
    time.sleep(REST_SECONDS)
    assert bench.wrote(mark) == []


def test_the_command_line_tool_decides_the_same_from_files(bench: Bench, world: World, tmp_path: Path) -> None:
    planned = plan_from_files(bench, tmp_path)
    found = {
        (item["namespace"], placement["name"]): (placement["replicas"], _shares(placement))
        for item in planned["deployments"]
        for placement in item["placements"]
    }
    assert found == {
        place: (placement["replicas"]["desired"], _shares(placement)) for place, placement in world.placements().items()
    }


def _shares(placement: Manifest) -> dict[str, float]:
    return {item["traffic"]: pytest.approx(float(item["value"]), abs=0.001) for item in placement["shares"]}


def plan_from_files(bench: Bench, folder: Path) -> dict[str, Any]:
    """What `plimsoll plan` makes of dumps of the cluster."""
    dumps = {
        "written": "llmdeployments,gpunodepools,inferenceslos,modelprofiles,placementpolicies",
        "stock": "nodes,pods",
        "running": "deployments",
    }
    for name, kinds in dumps.items():
        text = bench.cluster.kubectl("get", kinds, "--all-namespaces", "--output=yaml")
        (folder / f"{name}.yaml").write_text(text)
    command = [sys.executable, "-m", "plimsoll.cli.main", "plan", "--output=json", "-f", folder / "written.yaml"]
    options = ["--nodes", folder / "stock.yaml", "--running", folder / "running.yaml"]
    answer = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    plan: dict[str, Any] = json.loads(answer.stdout)
    return plan


def test_recommend_reports_a_plan_and_applies_nothing(bench: Bench, world: World, tmp_path: Path) -> None:
    bench.operator.stop()
    bench.clear()
    bench.apply(policy(approval="Recommend"))
    bench.apply_example("fleet")
    bench.cluster.kubectl("wait", "node", "--all", "--for=condition=Ready", "--timeout=30s")
    mark = bench.cluster.mark()
    bench.start()
    for namespace, name in (("chat", "assistant"), ("chat", "analyst"), ("documents", "summaries")):
        bench.wait_condition("llmdeployment", name, namespace, "Planned", "True", "AwaitingApproval")
    plans = bench.wait("a plan with its state", lambda: [p for p in bench.all("placementplans") if p.get("status")])
    (plan,) = plans
    assert plan["status"]["state"] == "Recommended"
    assert plan["spec"]["summary"]["changedDeployments"] == 3
    assert {item["name"] for item in plan["spec"]["changes"]} == {"assistant", "analyst", "summaries"}
    found = bench.all("llmdeployments")
    assert all(placements(item) and item["status"]["replicas"].startswith("0/") for item in found)
    assert not [each for item in found for type_, each in conditions(item).items() if type_ == "Reconciling"]
    own = f"{plan['metadata']['name']}-details-0"
    targets = [item["objectRef"] for item in bench.writes(mark)]
    resources = {target["resource"] for target in targets if target.get("name") != own}
    assert not resources & {"deployments", "services", "configmaps", "poddisruptionbudgets"}
    assert not bench.own("pods,deployments,services,configmaps")

    # Nothing was applied, so the inputs are still those of the plan: the tool's digest is the plan's.
    from_files = plan_from_files(bench, tmp_path)
    assert from_files["digest"] == plan["spec"]["inputsDigest"]
    assert {(p["name"], p["replicas"]) for d in from_files["deployments"] for p in d["placements"]} == {
        (name, p["replicas"]["desired"]) for item in found for name, p in placements(item).items()
    }

    bench.apply(policy(approval="Automatic"))
    bench.settle()
    assert len(bench.own("deployments")) >= 3
