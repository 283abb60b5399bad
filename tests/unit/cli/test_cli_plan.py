"""`plimsoll plan`: files in, decision out; errors point to file, object and field."""

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from plimsoll.cli.main import main
from plimsoll.performance import Estimate
from plimsoll.planning.observed import Learnt, ReplicaKind
from plimsoll.rendering.corrections import corrections_config_map

EXAMPLES = Path(__file__).parents[3] / "examples"
POOL = """
apiVersion: plimsoll.dev/v1alpha1
kind: GPUNodePool
metadata: {name: l40s}
spec: {accelerator: L40S, price: {perHour: "1.10"}}
"""
DEPLOYMENT = """
apiVersion: plimsoll.dev/v1alpha1
kind: LLMDeployment
metadata: {name: assistant, namespace: chat}
spec:
  models: [{name: meta-llama/Llama-3.1-8B-Instruct}]
  traffic: [{name: default, requestsPerMinute: 120, tokens: {input: 1000, output: 250}}]
"""
NODE = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": "gpu-0", "labels": {"nvidia.com/gpu.product": "NVIDIA-L40S"}},
    "status": {
        "allocatable": {"cpu": "96", "memory": "1Ti", "nvidia.com/gpu": "4"},
        "conditions": [{"type": "Ready", "status": "True"}],
    },
}


def pod(name: str, gpus: int, **metadata: object) -> dict:
    resources = {"limits": {"nvidia.com/gpu": str(gpus)}, "requests": {"cpu": "2", "memory": "9Gi"}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "chat", **metadata},
        "spec": {"nodeName": "gpu-0", "containers": [{"name": "main", "resources": resources}]},
        "status": {"phase": "Running"},
    }


def items(*objects: dict) -> str:
    return yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": list(objects)})


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def written(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


# --- What it prints ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("example", sorted({item.parent.name for item in EXAMPLES.glob("*/*.yaml")}))
def test_every_example_is_planned(example):
    result = run("plan", "-f", EXAMPLES / example)
    assert result.exit_code == 0, result.output


def test_the_table_shows_placements_latencies_pools_and_the_cost():
    result = run("plan", "-f", EXAMPLES / "fleet")
    for part in ("chat/assistant", "chat/analyst", "documents/summaries", "TTFT p95", "per hour for", "L40S", "margin"):
        assert part in result.stdout
    assert "error" not in result.stderr


def test_yaml_and_json_say_the_same():
    as_yaml, as_json = (run("plan", "-f", EXAMPLES / "fleet", "-o", form) for form in ("yaml", "json"))
    document = json.loads(as_json.stdout)
    assert yaml.safe_load(as_yaml.stdout) == document
    assert document["apiVersion"] == "plimsoll.dev/plan/v1"
    assert document["digest"].startswith("sha256:")
    total = sum(float(item["costPerHour"]) for item in document["deployments"])
    assert float(document["costPerHour"]) == pytest.approx(total)
    for item in document["deployments"]:
        assert item["state"] == "Planned"
        for part in item["traffic"]:
            served = sum(
                float(share["value"])
                for placement in item["placements"]
                for share in placement["shares"]
                if share["traffic"] == part["name"]
            )
            assert served == pytest.approx(1, abs=2e-3)


def test_money_and_ratios_are_strings_in_documents():
    document = json.loads(run("plan", "-f", EXAMPLES / "quickstart", "-o", "json").stdout)
    (only,) = document["deployments"][0]["placements"]
    assert all(isinstance(only[field], str) for field in ("costPerHour", "utilization"))
    assert isinstance(only["shares"][0]["value"], str)


def test_render_prints_every_object_as_if_all_were_ready():
    result = run("plan", "-f", EXAMPLES / "fleet", "--render")
    assert result.exit_code == 0
    manifests = list(yaml.safe_load_all(result.stdout))
    kinds = {item["kind"] for item in manifests}
    assert {"Deployment", "Service", "ConfigMap"} <= kinds
    routed = {item["metadata"]["name"] for item in manifests if item["kind"] == "ConfigMap"}
    assert routed == {"assistant-routing", "analyst-routing", "summaries-routing"}
    document = json.loads(run("plan", "-f", EXAMPLES / "fleet", "-o", "json").stdout)
    planned = {part["name"]: part["replicas"] for item in document["deployments"] for part in item["placements"]}
    rendered = {
        item["metadata"]["name"]: item["spec"]["replicas"] for item in manifests if item["kind"] == "Deployment"
    }
    assert rendered == planned


def test_the_same_files_give_the_same_bytes():
    assert (
        run("plan", "-f", EXAMPLES / "fleet", "-o", "json").stdout
        == run("plan", "-f", EXAMPLES / "fleet", "-o", "json").stdout
    )


def test_an_unknown_stock_is_a_warning_that_names_the_pool(tmp_path):
    result = run("plan", "-f", written(tmp_path, all=f"{POOL}---{DEPLOYMENT}"))
    assert result.exit_code == 0
    assert "warning" in result.stderr
    assert "GPUNodePool l40s: the stock is not known" in result.stderr


# --- Stock and running state ------------------------------------------------------------------------------------------


def test_nodes_and_pods_from_a_file_are_the_stock(tmp_path):
    written(tmp_path, all=f"{POOL}---{DEPLOYMENT}")
    stock = tmp_path / "stock.txt"
    stock.write_text(items(NODE, pod("trainer", 3)))
    document = json.loads(run("plan", "-f", tmp_path, "--nodes", stock, "-o", "json").stdout)
    assert document["pools"][0]["gpus"] == {"total": 4, "allocatable": 4, "usedByOthers": 3, "planned": 1}


def test_finished_pods_take_nothing(tmp_path):
    written(tmp_path, all=f"{POOL}---{DEPLOYMENT}")
    done = {**pod("done", 4), "status": {"phase": "Succeeded"}}
    written(tmp_path, stock=items(NODE, done))
    document = json.loads(run("plan", "-f", tmp_path, "-o", "json").stdout)
    assert document["pools"][0]["gpus"]["usedByOthers"] == 0


def test_a_file_that_is_named_twice_is_read_once(tmp_path):
    written(tmp_path, all=f"{POOL}---{DEPLOYMENT}", stock=items(NODE, pod("trainer", 3)))
    twice = run(
        "plan", "-f", tmp_path, "-f", tmp_path / "." / "all.yaml", "--nodes", tmp_path / "stock.yaml", "-o", "json"
    )
    assert twice.exit_code == 0, twice.stderr
    assert twice.stdout == run("plan", "-f", tmp_path, "-o", "json").stdout


def test_what_runs_already_is_planned_again(tmp_path):
    written(tmp_path, all=f"{POOL}---{DEPLOYMENT}", stock=items(NODE))
    first = json.loads(run("plan", "-f", tmp_path, "-o", "json").stdout)
    (placement,) = first["deployments"][0]["placements"]
    rendered = list(yaml.safe_load_all(run("plan", "-f", tmp_path, "--render").stdout))
    workload = next(item for item in rendered if item["kind"] == "Deployment")
    template = workload["spec"]["template"]
    running = pod(f"{placement['name']}-0", 1, labels=template["metadata"]["labels"])
    written(tmp_path, stock=items(NODE, running, workload))
    second = json.loads(run("plan", "-f", tmp_path, "-o", "json").stdout)
    assert second["deployments"][0]["placements"][0]["name"] == placement["name"]
    assert "runs already" in second["deployments"][0]["placements"][0]["reason"]


def test_what_the_operator_has_observed_counts_when_its_config_map_is_among_the_files(tmp_path):
    kind = ReplicaKind("meta-llama/Llama-3.1-8B-Instruct", "bf16", "L40S", 1, 1)
    learnt = {kind: Learnt(Estimate(1.5, 1.5, 900.0), Estimate(1.9, 1.9, 900.0), "")}
    folder = written(tmp_path, pool=POOL, deployment=DEPLOYMENT)
    plain = json.loads(run("plan", "-f", folder, "-o", "json").stdout)
    written(folder, corrections=items(corrections_config_map(learnt, "plimsoll-system")))
    corrected = json.loads(run("plan", "-f", folder, "-o", "json").stdout)
    (before,), (after,) = (found["deployments"][0]["placements"] for found in (plain, corrected))
    assert plain["digest"] != corrected["digest"]
    assert after["speed"] == f"{before['speed']}; corrected by observation: prefill ×1.50, decode ×1.90"


def test_a_config_map_of_observations_that_somebody_broke_is_refused(tmp_path):
    broken = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "plimsoll-corrections"}, "data": {}}
    result = run("plan", "-f", written(tmp_path, pool=POOL, deployment=DEPLOYMENT, corrections=items(broken)))
    assert result.exit_code == 1
    assert "corrections.yaml: ConfigMap plimsoll-corrections: corrections.json" in result.stderr


def test_json_files_are_read_too(tmp_path):
    for name, text in (("pool", POOL), ("deployment", DEPLOYMENT)):
        (tmp_path / f"{name}.json").write_text(json.dumps(yaml.safe_load(text)))
    assert run("plan", "-f", tmp_path).exit_code == 0


# --- What is wrong ----------------------------------------------------------------------------------------------------


def test_an_invalid_object_is_reported_with_file_object_and_field_and_the_rest_is_planned(tmp_path):
    bad = DEPLOYMENT.replace("name: assistant", "name: bad").replace("input: 1000", "input: 0")
    result = run("plan", "-f", written(tmp_path, all=f"{POOL}---{DEPLOYMENT}", bad=bad))
    assert result.exit_code == 1
    assert f"{tmp_path / 'bad.yaml'}: LLMDeployment chat/bad: spec.traffic[0].tokens.input: 0" in result.stderr
    assert "chat/assistant" in result.stdout


def test_an_unknown_field_gets_a_suggestion(tmp_path):
    result = run("plan", "-f", written(tmp_path, all=POOL + "---" + DEPLOYMENT.replace("traffic:", "trafic:")))
    assert result.exit_code == 1
    assert "did you mean traffic?" in result.stderr


def test_an_unknown_model_is_reported_with_file_object_field_and_the_nearest_name(tmp_path):
    typo = DEPLOYMENT.replace("Llama-3.1-8B-Instruct", "Llama-3.1-8B-Instrct")
    result = run("plan", "-f", written(tmp_path, all=f"{POOL}---{typo}"))
    assert result.exit_code == 1
    place = f"{tmp_path / 'all.yaml'}: LLMDeployment chat/assistant: spec.models[0].name"
    assert place in result.stderr
    assert '"meta-llama/Llama-3.1-8B-Instruct"' in result.stderr
    assert "[UnknownModel]" in result.stderr


def test_findings_stand_in_documents_too(tmp_path):
    typo = DEPLOYMENT.replace("Llama-3.1-8B-Instruct", "Llama-3.1-8B-Instrct")
    result = run("plan", "-f", written(tmp_path, all=f"{POOL}---{typo}"), "-o", "json")
    assert result.exit_code == 1
    (only,) = json.loads(result.stdout)["findings"]
    assert (only["object"], only["reason"], only["field"], only["severity"]) == (
        "LLMDeployment chat/assistant",
        "UnknownModel",
        "spec.models[0].name",
        "error",
    )


def test_demand_that_cannot_be_served_fails(tmp_path):
    many = DEPLOYMENT.replace("requestsPerMinute: 120", "requestsPerMinute: 50000")
    result = run("plan", "-f", written(tmp_path, all=f"{POOL}---{many}", stock=items(NODE)))
    assert result.exit_code == 1
    assert "[InsufficientCapacity]" in result.stderr
    assert "Short" in result.stdout


def test_an_invalid_slo_without_a_namespace_is_found_by_those_that_refer_to_it(tmp_path):
    slo = """
apiVersion: plimsoll.dev/v1alpha1
kind: InferenceSLO
metadata: {name: interactive}
spec: {priority: -1}
"""
    owner = DEPLOYMENT.replace(", namespace: chat", "").replace(
        "{name: default,", "{name: default, sloRef: {name: interactive},"
    )
    result = run("plan", "-f", written(tmp_path, all=f"{POOL}---{owner}---{slo}"))
    assert "InferenceSLO default/interactive" in result.stderr
    assert "[SLOInvalid]" in result.stderr


@pytest.mark.parametrize("same_file", [True, False])
def test_an_object_that_is_defined_twice_is_refused(tmp_path, same_file):
    if same_file:
        written(tmp_path, all=f"{POOL}---{DEPLOYMENT}---{DEPLOYMENT}")
    else:
        written(tmp_path, all=f"{POOL}---{DEPLOYMENT}", more=DEPLOYMENT)
    result = run("plan", "-f", tmp_path)
    assert result.exit_code == 1
    assert "LLMDeployment chat/assistant is defined twice" in result.stderr
    assert ("all.yaml" in result.stderr) is True
    assert ("more.yaml" in result.stderr) is not same_file


def test_invalid_yaml_is_reported_with_file_and_line(tmp_path):
    result = run("plan", "-f", written(tmp_path, all="kind: Pod\nspec: [1,\nmetadata: }\n"))
    assert result.exit_code == 1
    assert f"{tmp_path / 'all.yaml'}:3: not valid YAML" in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"- 1\n- 2\n", "is not a Kubernetes object"),
        (b"hello", "is not a Kubernetes object"),
        (b"\xff\xfe\x00", "not "),
        (b"kind: List\nitems: [3]\n", "is not a Kubernetes object"),
        (b"# nothing\n---\n", "no object of plimsoll.dev"),
        (b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n", "no object of plimsoll.dev"),
    ],
)
def test_a_file_without_anything_useful_is_refused_with_its_name(tmp_path, content, says):
    (tmp_path / "all.yaml").write_bytes(content)
    result = run("plan", "-f", tmp_path)
    assert result.exit_code == 1
    assert str(tmp_path) in result.stderr
    assert says in result.stderr
    assert "Traceback" not in result.output


def test_objects_of_plimsoll_that_are_wrong_in_every_way_are_reported(tmp_path):
    wrong = """
apiVersion: plimsoll.dev/v1alpha1
kind: LLMDeploymnt
metadata: {name: a}
---
apiVersion: plimsoll.dev/v2
kind: LLMDeployment
metadata: {name: b}
---
apiVersion: plimsoll.dev/v1alpha1
kind: GPUNodePool
metadata: 3
---
apiVersion: plimsoll.dev/v1alpha1
kind: GPUNodePool
metadata: {name: c}
spec: {accelerator: 2026-01-01, price: {perHour: 1.5}}
"""
    result = run("plan", "-f", written(tmp_path, all=wrong))
    assert result.exit_code == 1
    assert result.exception is None or isinstance(result.exception, SystemExit)
    for part in (
        "did you mean LLMDeployment?",
        "this release knows plimsoll.dev/v1alpha1",
        "GPUNodePool c",
        "[Invalid]",
    ):
        assert part in result.stderr


def test_a_missing_folder_is_refused(tmp_path):
    result = run("plan", "-f", tmp_path / "nowhere")
    assert result.exit_code == 1
    assert f"{tmp_path / 'nowhere'}: no such file or folder" in result.stderr


def test_an_empty_folder_is_refused(tmp_path):
    result = run("plan", "-f", tmp_path)
    assert result.exit_code == 1
    assert "no .yaml, .yml or .json file" in result.stderr


def test_a_missing_stock_file_is_refused(tmp_path):
    result = run("plan", "-f", EXAMPLES / "quickstart", "--nodes", tmp_path / "nodes.yaml")
    assert result.exit_code == 1
    assert "nodes.yaml: no such file or folder" in result.stderr


def test_without_files_a_cluster_is_asked(tmp_path, monkeypatch):
    for arguments in (("plan",), ("explain", "chat/assistant"), ("approve", "plan-000001"), ("history",), ("status",)):
        result = run(*arguments, "--context", "nowhere")
        assert result.exit_code == 1
        assert "the kubeconfig cannot be used" in result.stderr
    empty = written(tmp_path, config="{}") / "config.yaml"
    assert run("plan", "--kubeconfig", empty).exit_code == 1
    assert run("plan", "--kubeconfig", tmp_path / "none").exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("plan", "--render"), "--render belong to files"),
        (("explain",), "name an LLMDeployment"),
        (("explain", "a", "--deployment", "chat/a"), "--deployment belong to files"),
        (("plan", "plan-000001", "-f", EXAMPLES), "-f decides from files"),
        (("explain", "-n", "chat", "-f", EXAMPLES), "-f decides from files"),
        (("pause",), "name one LLMDeployment, or give --all"),
        (("resume", "assistant", "--all"), "name one LLMDeployment, or give --all"),
    ],
)
def test_files_and_a_cluster_are_not_mixed(arguments, text):
    result = run(*arguments)
    assert result.exit_code == 2
    assert text in result.stderr


# --- Tenants and quotas -----------------------------------------------------------------------------------------------

BUSY = DEPLOYMENT.replace("120", "2400")
TENANTS = """
apiVersion: plimsoll.dev/v1alpha1
kind: PlacementPolicy
metadata: {name: default}
spec: {tenants: [{name: talk, namespaceSelector: {matchLabels: {team: talk}}, maxGPUs: 2}]}
"""
NAMESPACE = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "chat", "labels": {"team": "talk"}}}
QUOTA = {
    "apiVersion": "v1",
    "kind": "ResourceQuota",
    "metadata": {"name": "gpus", "namespace": "chat"},
    "spec": {"hard": {"requests.nvidia.com/gpu": "3"}},
}
RANGE = {
    "apiVersion": "v1",
    "kind": "LimitRange",
    "metadata": {"name": "sizes", "namespace": "chat"},
    "spec": {"limits": [{"type": "Container", "max": {"memory": "1Gi"}}]},
}


def test_a_tenant_is_known_by_the_labels_of_namespace_manifests(tmp_path):
    free = run("plan", "-f", written(tmp_path, pool=POOL, busy=BUSY, tenants=TENANTS))
    assert free.exit_code == 0, free.output
    bounded = run("plan", "-f", written(tmp_path, namespace=yaml.safe_dump(NAMESPACE)))
    assert bounded.exit_code == 1
    assert "tenant talk: PlacementPolicy default spec.tenants[0].maxGPUs 2 is used up" in bounded.output
    assert "binding limits: tenant talk of PlacementPolicy default" in bounded.output


@pytest.mark.parametrize(
    ("limit", "says"),
    [
        (QUOTA, "ResourceQuota gpus: spec.hard requests.nvidia.com/gpu 3 is used up"),
        (RANGE, "LimitRange sizes: its default limit of memory"),
    ],
)
def test_limits_of_namespaces_count_from_files_too(tmp_path, limit, says):
    result = run("plan", "-f", written(tmp_path, pool=POOL, busy=BUSY, limits=items(limit)))
    assert result.exit_code == 1
    assert says in result.output


# --- Several nodes ----------------------------------------------------------------------------------------------------


def test_replicas_over_several_nodes_need_the_crd_of_leader_worker_set_among_the_files(tmp_path: Path) -> None:
    pool_ = POOL.replace("l40s", "h100").replace("L40S", "H100-SXM-80GB")
    large = DEPLOYMENT.replace("Llama-3.1-8B", "Llama-3.1-405B")
    folder = written(tmp_path, objects=f"{pool_}---{large}")
    without = run("plan", "-f", folder)
    assert without.exit_code == 1
    assert "needs 2 nodes per replica: install LeaderWorkerSet" in without.stderr
    name = "leaderworkersets.leaderworkerset.x-k8s.io"
    crd = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": name}}
    written(tmp_path, crd=yaml.safe_dump(crd))
    with_it = run("plan", "-f", folder, "--render")
    assert with_it.exit_code == 0
    assert {item["kind"] for item in yaml.safe_load_all(with_it.stdout)} >= {"LeaderWorkerSet", "NetworkPolicy"}
    (placement,) = json.loads(run("plan", "-f", folder, "-o", "json").stdout)["deployments"][0]["placements"]
    assert placement["podsPerReplica"] == 2
