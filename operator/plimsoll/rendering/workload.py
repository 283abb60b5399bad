"""A placement whose replicas fit one node each: a Deployment.

The pod template is a pure function of what the placement's name stands for, so a template never changes under its name;
only `replicas` does.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from plimsoll.api.common import to_wire
from plimsoll.api.engine import ModelCache
from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.api.pods import TopologySpreadConstraint
from plimsoll.api.units import canonical_quantity
from plimsoll.planning.plan import Option, Placement, PoolPlan
from plimsoll.rendering import labels
from plimsoll.rendering.engine import vllm
from plimsoll.rendering.manifest import Manifest, bytes_quantity, cores_quantity, metadata
from plimsoll.rendering.spread import per_node_limit

SCHEDULING_SECONDS = 600
"""Beside the start of the engine: for a node, and for an image of ten gigabytes."""


def render_workload(owner: LLMDeployment, placement: Placement, pool: PoolPlan, replicas: int) -> Manifest:
    """The Deployment of a placement with `replicas` replicas, each on one node."""
    option = placement.option
    own_labels = labels.placement_labels(owner.name, placement.name, pool.name)
    container = serving_container(option, vllm.arguments(owner, option), vllm.environment(owner.spec.engine))
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(owner, placement.name, own_labels, labels.option_annotations(option)),
        "spec": {
            "replicas": replicas,
            "revisionHistoryLimit": 1,
            "progressDeadlineSeconds": vllm.startup_seconds(option.load_seconds) + SCHEDULING_SECONDS,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "selector": {"matchLabels": labels.placement_selector(placement.name)},
            "template": pod_template(owner, placement, pool, container),
        },
    }


def template_hash(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of the pod templates of a workload: equal for equal templates, in every process."""
    spec = manifest["spec"]
    templates = spec["template"] if "template" in spec else spec["leaderWorkerTemplate"]
    text = json.dumps(templates, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def pod_template(owner: LLMDeployment, placement: Placement, pool: PoolPlan, container: Manifest) -> Manifest:
    """The template of a pod with this container."""
    added = owner.spec.engine.pod_template
    own_labels = labels.placement_labels(owner.name, placement.name, pool.name)
    about: Manifest = {"labels": {**added.labels, **own_labels}}
    if added.annotations:
        about["annotations"] = dict(added.annotations)
    spec: Manifest = {
        # A Service called `vllm` would make Kubernetes set VLLM_PORT, which vLLM reads as its own setting.
        "enableServiceLinks": False,
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": vllm.TERMINATION_GRACE_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": vllm.USER_ID,
            "runAsGroup": vllm.USER_ID,
            "fsGroup": vllm.USER_ID,
            # Otherwise each start walks through all the weights on a claim.
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "affinity": _affinity(added.affinity, pool.name),
        "tolerations": _tolerations(owner, pool),
        "containers": [container],
        "volumes": _volumes(owner.spec.engine.model_cache, placement.option),
    }
    if pool.node_selector:
        spec["nodeSelector"] = dict(pool.node_selector)
    spread = [_spread(constraint, placement.name) for constraint in added.topology_spread_constraints]
    spread += per_node_limit(placement)
    if spread:
        spec["topologySpreadConstraints"] = spread
    if added.runtime_class_name is not None:
        spec["runtimeClassName"] = added.runtime_class_name
    if added.image_pull_secrets:
        spec["imagePullSecrets"] = to_wire(added.image_pull_secrets)
    if added.priority_class_name is not None:
        spec["priorityClassName"] = added.priority_class_name
    return {"metadata": about, "spec": spec}


def serving_container(option: Option, args: Sequence[str], env: Sequence[Manifest]) -> Manifest:
    """The engine's container where it answers requests."""
    behaviour = {**vllm.probes(option.load_seconds), "lifecycle": vllm.lifecycle()}
    return engine_container(option, args, env, vllm.ports(), behaviour)


def engine_container(
    option: Option,
    args: Sequence[str],
    env: Sequence[Manifest],
    ports: Sequence[Manifest],
    behaviour: Manifest,
    command: Sequence[str] | None = None,
) -> Manifest:
    """The engine's container, whatever its part in a replica; `behaviour` is its probes and hooks, `command` that of
    another engine than vLLM."""
    host = option.host
    return {
        "name": "engine",
        "image": option.image,
        "command": list(command or vllm.command()),
        "args": list(args),
        "env": list(env),
        **({"ports": list(ports)} if ports else {}),
        "resources": {
            # GPUs in limits only: equal requests are implied. No limit on memory: a guess must not kill an engine.
            "limits": {option.gpu_resource: str(option.gpus_per_pod)},
            "requests": {"cpu": cores_quantity(host.cpu_cores), "memory": bytes_quantity(host.memory_bytes)},
        },
        **behaviour,
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [
            {"name": "model-cache", "mountPath": vllm.CACHE_PATH},
            {"name": "scratch", "mountPath": vllm.SCRATCH_PATH},
            {"name": "shared-memory", "mountPath": "/dev/shm"},  # noqa: S108  (a mount, not a temporary file)
        ],
    }


def _volumes(cache: ModelCache, option: Option) -> list[Manifest]:
    weights: Manifest = {"name": "model-cache"}
    if cache.persistent_volume_claim is not None:
        weights["persistentVolumeClaim"] = to_wire(cache.persistent_volume_claim)
    elif cache.host_path is not None:
        # Directory: a missing folder is a mistake to show, not one to fill the node's disk under.
        weights["hostPath"] = {"path": cache.host_path.path, "type": "Directory"}
    else:
        limit = cache.empty_dir.size_limit if cache.empty_dir is not None else None
        weights["emptyDir"] = {"sizeLimit": canonical_quantity(limit)} if limit else {}
    shared = bytes_quantity(option.host.shared_memory_bytes)
    return [
        weights,
        {"name": "scratch", "emptyDir": {}},
        {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": shared}},
    ]


def _tolerations(owner: LLMDeployment, pool: PoolPlan) -> list[Any]:
    """Those of the pool and the user's, each once."""
    result: list[Any] = [dict(toleration) for toleration in pool.tolerations]
    for toleration in owner.spec.engine.pod_template.tolerations:
        given = to_wire(toleration)
        if given not in result:
            result.append(given)
    return result


def _affinity(given: dict[str, Any] | None, pool: str) -> Manifest:
    """The user's affinity, and a preference for nodes that already run Plimsoll's pods of the pool, in any namespace.

    Small replicas thus fill partly used nodes, and whole nodes stay free for large replicas. For a replica that fills a
    node it means nothing: used nodes have no room for it. It is a wish, weaker than what people require.
    """
    wish = {
        "weight": 50,
        "podAffinityTerm": {
            "labelSelector": {"matchLabels": {labels.POOL: pool}},
            "namespaceSelector": {},
            "topologyKey": "kubernetes.io/hostname",
        },
    }
    affinity = dict(given or {})
    pods = dict(affinity.get("podAffinity") or {})
    key = "preferredDuringSchedulingIgnoredDuringExecution"
    pods[key] = [*(pods.get(key) or []), wish]
    affinity["podAffinity"] = pods
    return affinity


def _spread(constraint: TopologySpreadConstraint, placement: str) -> Any:  # noqa: ANN401  (JSON)
    """A constraint; without a selector of its own it counts the pods of the placement."""
    given = to_wire(constraint)
    given.setdefault("labelSelector", {"matchLabels": labels.placement_selector(placement)})
    return given
