"""The rendered Deployment: golden file, pod security, what people may add, and what must never be in a template."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.api.variables import REFUSED_VARIABLES
from plimsoll.performance import Parallelism
from plimsoll.planning.images import PINNED
from plimsoll.planning.plan import Option
from plimsoll.rendering import template_hash
from plimsoll.rendering.engine import vllm
from plimsoll.rendering.workload import render_workload
from tests.unit.rendering.plans import GIB, LARGE, SMALL, large_option, llm_deployment, placement, pool, small_option

GOLDEN = Path(__file__).parent / "golden"

EVERYTHING = {
    "extraArgs": ["--enable-prefix-caching"],
    "env": [
        {"name": "VLLM_LOGGING_LEVEL", "value": "DEBUG"},
        {"name": "NCCL_DEBUG", "valueFrom": {"configMapKeyRef": {"name": "nccl", "key": "debug"}}},
    ],
    "huggingFaceTokenSecretRef": {"name": "hf", "key": "token"},
    "modelCache": {"persistentVolumeClaim": {"claimName": "models"}},
    "podTemplate": {
        "labels": {"team": "search"},
        "annotations": {"example.com/owner": "search"},
        "tolerations": [{"key": "spot", "operator": "Exists"}],
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "ScheduleAnyway"}
        ],
        "runtimeClassName": "nvidia",
        "imagePullSecrets": [{"name": "registry"}],
        "priorityClassName": "serving",
    },
}


def render(owner: LLMDeployment | None = None, option: Option | None = None, replicas: int = 3) -> dict[str, Any]:
    chosen = option or small_option()
    name = SMALL if chosen.pool == "l40s" else LARGE
    return render_workload(
        owner or llm_deployment(), placement(name, chosen, replicas), pool(chosen.pool, "X"), replicas
    )


def pod(manifest: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = manifest["spec"]["template"]["spec"]
    return spec


def container(manifest: dict[str, Any]) -> dict[str, Any]:
    (only,) = pod(manifest)["containers"]
    result: dict[str, Any] = only
    return result


def environment(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    variables = container(manifest)["env"]
    by_name = {variable["name"]: variable for variable in variables}
    assert len(by_name) == len(variables), "server-side apply refuses two variables of one name"
    return by_name


@pytest.mark.parametrize(
    ("file", "engine", "option"),
    [
        ("small.yaml", {}, small_option()),
        ("large.yaml", EVERYTHING, large_option()),
    ],
)
def test_golden(file: str, engine: dict[str, Any], option: Option) -> None:
    """A change here restarts running engines, unless names change too: planning/identity.py must take it into account.

    To accept it: PLIMSOLL_UPDATE_GOLDEN=1 pytest tests/unit/rendering
    """
    text = yaml.safe_dump(render(llm_deployment(engine), option), sort_keys=False, width=120)
    path = GOLDEN / file
    if os.environ.get("PLIMSOLL_UPDATE_GOLDEN") == "1":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("option", [small_option(), large_option()])
def test_pods_satisfy_the_restricted_pod_security_standard(option: Option) -> None:
    spec = pod(render(llm_deployment(EVERYTHING), option))
    security = spec["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] > 0
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not any(spec.get(field) for field in ("hostNetwork", "hostPID", "hostIPC"))
    allowed = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    assert all(set(volume) - {"name"} <= allowed for volume in spec["volumes"])
    for item in spec["containers"]:
        own = item["securityContext"]
        assert own["allowPrivilegeEscalation"] is False
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert "privileged" not in own
        assert all("hostPort" not in port for port in item["ports"])


def test_every_cache_directory_lies_on_a_writable_volume() -> None:
    manifest = render()
    mounts = {mount["mountPath"] for mount in container(manifest)["volumeMounts"]}
    variables = environment(manifest)
    for name in ("HOME", "HF_HOME", "XDG_CACHE_HOME", "VLLM_CACHE_ROOT", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"):
        path = Path(variables[name]["value"])
        assert any(path.is_relative_to(mount) for mount in mounts), name
    assert {variables["USER"]["value"], variables["LOGNAME"]["value"]} == {"vllm"}
    names = {volume["name"] for volume in pod(manifest)["volumes"]}
    assert {mount["name"] for mount in container(manifest)["volumeMounts"]} == names


def test_gpus_are_limits_only_and_memory_has_no_limit() -> None:
    resources = container(render(option=large_option()))["resources"]
    assert resources == {"limits": {"nvidia.com/gpu": "8"}, "requests": {"cpu": "9", "memory": "80Gi"}}


def test_quantities_are_canonical() -> None:
    host = replace(small_option().host, cpu_cores=1.5, memory_bytes=GIB + 1, shared_memory_bytes=3 * GIB // 2)
    manifest = render(
        llm_deployment({"modelCache": {"emptyDir": {"sizeLimit": "1024Mi"}}}), replace(small_option(), host=host)
    )
    assert container(manifest)["resources"]["requests"] == {"cpu": "1500m", "memory": "1025Mi"}
    volumes = {volume["name"]: volume for volume in pod(manifest)["volumes"]}
    assert volumes["shared-memory"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "1536Mi"}
    assert volumes["model-cache"]["emptyDir"] == {"sizeLimit": "1Gi"}


def test_amd_pools_ask_for_their_resource_and_image() -> None:
    manifest = render(option=replace(small_option(), gpu_resource="amd.com/gpu", image="registry.example/rocm:1"))
    assert container(manifest)["resources"]["limits"] == {"amd.com/gpu": "1"}
    assert container(manifest)["image"] == "registry.example/rocm:1"


def test_a_quantised_checkpoint_is_loaded_under_the_models_own_name() -> None:
    args = container(render(option=large_option()))["args"]
    assert args[0] == "neuralmagic/Llama-3.3-70B-Instruct-FP8"
    start = args.index("--served-model-name") + 1
    assert args[start : start + 4] == [
        "assistant",
        "assistant/batch",
        "assistant/chat",
        "meta-llama/Llama-3.3-70B-Instruct",
    ]


def test_arguments_of_the_precision_come_before_the_users() -> None:
    args = container(render(llm_deployment(EVERYTHING)))["args"]
    assert args[-3:] == ["--quantization", "fp8", "--enable-prefix-caching"]


@pytest.mark.parametrize(("load_seconds", "tries"), [(90.0, 60), (200.0, 60), (201.0, 61), (900.0, 270)])
def test_the_startup_probe_waits_three_times_the_load_time(load_seconds: float, tries: int) -> None:
    manifest = render(option=replace(small_option(), load_seconds=load_seconds))
    probe = container(manifest)["startupProbe"]
    assert (probe["periodSeconds"], probe["failureThreshold"]) == (10, tries)
    assert manifest["spec"]["progressDeadlineSeconds"] > 10 * tries


def test_a_stopping_pod_has_time_to_finish_its_requests() -> None:
    spec = pod(render())
    args = container(render())["args"]
    drain = int(args[args.index("--shutdown-timeout") + 1])
    pause = container(render())["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert drain > 0
    assert pause + drain < spec["terminationGracePeriodSeconds"]


def test_the_token_comes_from_the_secret() -> None:
    variables = environment(render(llm_deployment(EVERYTHING)))
    reference = {"secretKeyRef": {"name": "hf", "key": "token"}}
    assert variables["HF_TOKEN"]["valueFrom"] == variables["HUGGING_FACE_HUB_TOKEN"]["valueFrom"] == reference
    assert "HF_TOKEN" not in environment(render())


def test_every_variable_that_is_set_is_one_that_people_may_not_set() -> None:
    assert set(
        environment(render(llm_deployment({"huggingFaceTokenSecretRef": {"name": "hf", "key": "token"}})))
    ) <= set(REFUSED_VARIABLES)


def test_a_folder_of_the_node_must_be_there() -> None:
    volumes = pod(render(llm_deployment({"modelCache": {"hostPath": {"path": "/var/lib/models"}}})))["volumes"]
    assert volumes[0] == {"name": "model-cache", "hostPath": {"path": "/var/lib/models", "type": "Directory"}}


def test_what_people_add_to_pods() -> None:
    manifest = render(llm_deployment(EVERYTHING))
    spec = pod(manifest)
    assert manifest["spec"]["template"]["metadata"]["annotations"] == {"example.com/owner": "search"}
    assert manifest["spec"]["template"]["metadata"]["labels"]["team"] == "search"
    assert [toleration["key"] for toleration in spec["tolerations"]] == ["nvidia.com/gpu", "spot"]
    assert spec["topologySpreadConstraints"][0]["labelSelector"] == {"matchLabels": {"plimsoll.dev/placement": SMALL}}
    assert (spec["runtimeClassName"], spec["priorityClassName"]) == ("nvidia", "serving")
    assert spec["imagePullSecrets"] == [{"name": "registry"}]


def test_our_labels_win_over_the_users() -> None:
    added = {"labels": {"app.kubernetes.io/version": "1"}}
    found = render(llm_deployment({"podTemplate": added}))["spec"]["template"]["metadata"]["labels"]
    assert found["app.kubernetes.io/instance"] == "assistant"
    assert found["app.kubernetes.io/version"] == "1"


def test_a_toleration_of_the_pool_is_not_repeated() -> None:
    same = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    assert len(pod(render(llm_deployment({"podTemplate": {"tolerations": [same]}})))["tolerations"]) == 1


def test_the_users_affinity_is_kept_beside_our_wish() -> None:
    preferred = "preferredDuringSchedulingIgnoredDuringExecution"
    term: dict[str, Any] = {"weight": 10, "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname"}}
    node: dict[str, Any] = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}
    given: dict[str, Any] = {"nodeAffinity": node, "podAffinity": {preferred: [term]}}
    found = pod(render(llm_deployment({"podTemplate": {"affinity": given}})))["affinity"]
    assert found["nodeAffinity"] == node
    first, ours = found["podAffinity"][preferred]
    assert first == term
    assert ours["weight"] == 50
    assert ours["podAffinityTerm"]["labelSelector"] == {"matchLabels": {"plimsoll.dev/pool": "l40s"}}
    assert given["podAffinity"][preferred] == [term], "rendering must not change its inputs"


def test_selectors_hold_the_placement_only() -> None:
    manifest = render()
    assert manifest["spec"]["selector"] == {"matchLabels": {"plimsoll.dev/placement": SMALL}}
    labels = manifest["spec"]["template"]["metadata"]["labels"]
    assert labels.items() >= manifest["spec"]["selector"]["matchLabels"].items()


def test_replicas_do_not_change_the_template() -> None:
    assert template_hash(render(replicas=1)) == template_hash(render(replicas=9))


def test_the_order_of_classes_does_not_change_the_template() -> None:
    """Names do not depend on it either (planning/identity.py)."""
    owner = llm_deployment()
    turned = owner.model_copy(update={"spec": owner.spec.model_copy(update={"traffic": owner.spec.traffic[::-1]})})
    assert template_hash(render(owner)) == template_hash(render(turned))


@pytest.mark.parametrize(
    "changed",
    [
        {"parallelism": Parallelism(2, 1)},
        {"max_num_seqs": 65},
        {"image": "vllm/vllm-openai:v0.19.0"},
        {"checkpoint": "other/checkpoint"},
        {"max_model_length": 8192},
        {"engine_args": ()},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_every_part_of_the_option_changes_the_template(changed: dict[str, Any]) -> None:
    assert template_hash(render(option=replace(small_option(), **changed))) != template_hash(render())


def test_an_owner_from_a_file_owns_nothing() -> None:
    owner = llm_deployment()
    manifest = render(owner.model_copy(update={"metadata": owner.metadata.model_copy(update={"uid": None})}))
    assert "ownerReferences" not in manifest["metadata"]
    assert template_hash(manifest) == template_hash(render())


def test_the_pinned_images_are_new_enough() -> None:
    minimum = tuple(int(part) for part in vllm.MINIMUM_VERSION.split("."))
    for image in PINNED.values():
        assert tuple(int(part) for part in image.rsplit(":v", 1)[1].split(".")) >= minimum
