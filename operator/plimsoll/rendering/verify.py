"""What was planned is what gets rendered: an independent reading of the rendered workloads.

It shares no code and no constants with the renderer, so that one mistake cannot hide another. Run it before anything is
applied.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from plimsoll.planning.plan import DeploymentPlan, DeploymentState, Option, Placement, Stage
from plimsoll.planning.transition import Step

_SHORT_FLAGS = {"--tensor-parallel-size": "-tp", "--pipeline-parallel-size": "-pp"}
_LAYERS = "VLLM_PP_LAYER_PARTITION"


class RenderMismatch(ValueError):  # noqa: N818  (the name of the finding that people read)
    """A rendered object differs from the plan. The message names object, field, found and planned value."""

    def __init__(self, object_name: str, field: str, found: object, planned: object) -> None:
        super().__init__(f"{object_name}: {field}: rendered {found!r}, planned {planned!r}; not applied")
        self.object_name = object_name
        self.field = field
        self.found = found
        self.planned = planned


def verify(deployment: DeploymentPlan, step: Step, manifests: Iterable[Mapping[str, Any]]) -> None:
    """Compare the workloads among `manifests` with the plan: which, replicas, nodes, GPUs, parallelism, model, batch,
    image.

    Raises:
        RenderMismatch: on the first difference.
    """
    namespace = deployment.resource.metadata.namespace or "default"
    workloads: dict[str, Mapping[str, Any]] = {}
    for manifest in manifests:
        if manifest.get("kind") not in ("Deployment", "LeaderWorkerSet", "StatefulSet"):
            continue
        name = str(_at(manifest, "metadata", "name"))
        _compare(f"{manifest['kind']} {namespace}/{name}", "number of manifests", 2 if name in workloads else 1, 1)
        workloads[name] = manifest
    planned = {} if deployment.state is DeploymentState.HELD else dict(step.replicas)
    owner = f"LLMDeployment {namespace}/{deployment.resource.metadata.name}"
    _compare(owner, "Deployments", sorted(workloads), sorted(planned))
    placements = {placement.name: placement for placement in deployment.placements}
    for name, replicas in planned.items():
        where = f"{workloads[name]['kind']} {namespace}/{name}"
        if name not in placements:
            raise RenderMismatch(where, "placement", name, sorted(placements))
        option = placements[name].option
        if placements[name].leaving:
            # Nobody decides about its template any more: it is what its own record says.
            _compare(where, "spec.replicas", _at(workloads[name], "spec", "replicas"), replicas)
            _compare(where, "spec", _without_replicas(workloads[name]), _record(workloads[name]))
            continue
        kind = "Deployment" if option.nodes == 1 else "LeaderWorkerSet"
        _compare(where, "kind", workloads[name]["kind"], kind if option.stage is None else "StatefulSet")
        _compare(where, "metadata.namespace", _at(workloads[name], "metadata", "namespace"), namespace)
        _compare(where, "spec.replicas", _at(workloads[name], "spec", "replicas"), replicas)
        if option.stage is not None:
            _verify_server(where, deployment, placements[name], option.stage, workloads[name])
        elif option.nodes == 1:
            _verify_pod(where, deployment, placements[name], workloads[name], "spec.template")
        else:
            _verify_group(where, deployment, placements[name], workloads[name])


def _without_replicas(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in (_at(manifest, "spec") or {}).items() if key != "replicas"}


def _record(manifest: Mapping[str, Any]) -> Any:  # noqa: ANN401  (JSON)
    """The spec that a workload was made with, as its annotation says."""
    text = (_at(manifest, "metadata", "annotations") or {}).get("plimsoll.dev/rendered")
    return json.loads(text) if text else None


def _verify_server(
    where: str, deployment: DeploymentPlan, placement: Placement, stage: Stage, manifest: Mapping[str, Any]
) -> None:
    """The planned layers, at the planned place of the chain, on the planned node."""
    spec = _at(manifest, "spec", "template", "spec")
    service = _at(manifest, "spec", "serviceName")
    namespace = deployment.resource.metadata.namespace or "default"
    peers = f"{service}.{namespace}.svc.cluster.local"
    args: list[str] = []
    if deployment.resource.spec.engine.type == "petals":
        _verify_petals(where, deployment, placement.option, stage, spec, peers)
    else:
        args = _verify_pod(where, deployment, placement, manifest, "spec.template", pipeline=len(stage.partition))
    required = ("affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms")
    for number, term in enumerate(_at(spec, *required) or [{}]):
        fields = [item for item in term.get("matchFields") or () if item.get("key") == "metadata.name"]
        nodes = [item.get("values") for item in fields if item.get("operator") == "In"]
        _compare(where, f"spec.template.spec.affinity.nodeAffinity term {number}: nodes", nodes, [[stage.node]])
    if len(stage.partition) == 1 or deployment.resource.spec.engine.type == "petals":
        return
    expected = {
        "--nnodes": [str(len(stage.partition))],
        "--node-rank": [str(stage.number)],
        "--master-addr": [f"{stage.chain}-0.{peers}"],
    }
    for flag, values in expected.items():
        _compare(where, f"args {flag}", _values(args, flag), values)
    _compare(where, "args --headless", "--headless" in args, stage.number > 0)
    given = [item.get("value") for item in _at(spec, "containers")[0].get("env") or () if item.get("name") == _LAYERS]
    _compare(where, f"env {_LAYERS}", given, [",".join(str(count) for count in stage.partition)])


def _verify_petals(
    where: str, deployment: DeploymentPlan, option: Option, stage: Stage, spec: Mapping[str, Any], peers: str
) -> None:
    """A server with the planned blocks and caches; the first one answers requests, too."""
    containers = _at(spec, "containers")
    _compare(where, "number of containers", len(containers) if isinstance(containers, list) else 0, 1)
    container = containers[0]
    _compare(where, "image", _at(container, "image"), option.image)
    limits = _at(container, "resources", "limits") or {}
    _compare(where, f"limits[{option.gpu_resource}]", limits.get(option.gpu_resource), str(option.parallelism.gpus))
    args = [str(argument) for argument in _at(container, "args") or ()]
    _compare(where, "args[0]", args[0] if args else None, option.checkpoint)
    first = stage.number == 0
    devices = [f"cuda:{number}" for number in range(option.parallelism.gpus)]
    expected = {
        "--peers": [peers],
        "--dht_prefix": [stage.chain],
        "--block_indices": [f"{stage.first_layer}:{stage.first_layer + stage.layers}"],
        "--attn_cache_tokens": [str(option.cache_tokens)],
        "--inference_max_length": [str(option.max_model_length)],
        "--quant_type": [{"int8": "int8", "int4": "nf4"}.get(option.precision, "none")],
        "--tensor_parallel_devices": devices if len(devices) > 1 else [],
        "--max-model-len": [str(option.max_model_length)] if first else [],
        "--max-num-seqs": [str(option.max_num_seqs)] if first else [],
    }
    for flag, values in expected.items():
        _compare(where, f"args {flag}", _following(args, flag), values)
        _compare(where, f"args {flag}: how often", args.count(flag), int(bool(values)))
    served = _following(args, "--served-model-name")
    for name in (deployment.resource.metadata.name, option.model) if first else ():
        _compare(where, "args --served-model-name", name if name in served else served, name)


def _verify_group(where: str, deployment: DeploymentPlan, placement: Placement, manifest: Mapping[str, Any]) -> None:
    """A leader that serves, workers that do not, and as many ranks over all pods as the plan has GPUs."""
    template, option = "spec.leaderWorkerTemplate", placement.option
    size = _at(manifest, *template.split("."), "size")
    _compare(where, f"{template}.size", size, option.nodes)
    for part, rank, headless in (("leaderTemplate", "0", []), ("workerTemplate", "$(LWS_WORKER_INDEX)", [""])):
        args = _verify_pod(where, deployment, placement, manifest, f"{template}.{part}")
        expected = {
            "--nnodes": [str(option.nodes)],
            "--node-rank": [rank],
            "--master-addr": ["$(LWS_LEADER_ADDRESS)"],
        }
        for flag, values in expected.items():
            _compare(where, f"{template}.{part} args {flag}", _values(args, flag), values)
        found = [""] if "--headless" in args else []
        _compare(where, f"{template}.{part} args --headless", found, headless)


def _verify_pod(
    where: str,
    deployment: DeploymentPlan,
    placement: Placement,
    manifest: Mapping[str, Any],
    template: str,
    *,
    pipeline: int | None = None,
) -> list[str]:
    """One pod template; its arguments."""
    option = placement.option
    containers = _at(manifest, *template.split("."), "spec", "containers")
    _compare(where, "number of containers", len(containers) if isinstance(containers, list) else 0, 1)
    container = containers[0]
    tensor, own = option.parallelism.tensor, option.parallelism.pipeline
    prefix = f"{template}.spec.containers[0]"
    _compare(where, f"{prefix}.image", _at(container, "image"), option.image)
    limits = _at(container, "resources", "limits")
    gpus = limits.get(option.gpu_resource) if isinstance(limits, Mapping) else None
    _compare(where, f"{prefix}.resources.limits[{option.gpu_resource}]", gpus, str(tensor * own // option.nodes))
    requested = _at(container, "resources", "requests", option.gpu_resource)
    if requested is not None:
        _compare(where, f"{prefix}.resources.requests[{option.gpu_resource}]", requested, gpus)
    args = [str(argument) for argument in _at(container, "args") or ()]
    _compare(where, f"{prefix}.args[0]", args[0] if args else None, option.checkpoint)
    expected = {
        "--tensor-parallel-size": tensor,
        "--pipeline-parallel-size": own if pipeline is None else pipeline,
        "--max-num-seqs": option.max_num_seqs,
        "--max-model-len": option.max_model_length,
    }
    for flag, value in expected.items():
        found = _values(args, flag)
        _compare(where, f"{prefix}.args {flag}", found[0] if len(found) == 1 else found, str(value))
    names = _following(args, "--served-model-name")
    for name in (deployment.resource.metadata.name, option.model):
        _compare(where, f"{prefix}.args --served-model-name", name if name in names else names, name)
    return args


def _compare(where: str, field: str, found: object, planned: object) -> None:
    if type(found) is not type(planned) or found != planned:
        raise RenderMismatch(where, field, found, planned)


def _at(value: Any, *path: str) -> Any:  # noqa: ANN401  (JSON)
    """The value under a path of keys; None where the path ends early."""
    for key in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def _values(args: Sequence[str], flag: str) -> list[str]:
    """All values that a command line gives to a flag; more than one is a fault, since the last would win.

    Read as vLLM's parser reads it: `=`, underscores for hyphens, short names and unambiguous beginnings all count.
    """
    values: list[str] = []
    for position, argument in enumerate(args):
        head, equals, value = argument.partition("=")
        head = head.replace("_", "-")
        if head == _SHORT_FLAGS.get(flag) or (len(head) > 3 and head.startswith("--") and flag.startswith(head)):
            values.append(value if equals else "".join(args[position + 1 : position + 2]))
    return values


def _following(args: Sequence[str], flag: str) -> list[str]:
    """The arguments after `flag`, up to the next flag."""
    if flag not in args:
        return []
    rest = args[list(args).index(flag) + 1 :]
    end = next((position for position, argument in enumerate(rest) if argument.startswith("-")), len(rest))
    return list(rest[:end])
