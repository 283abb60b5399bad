"""Every label and annotation that Plimsoll writes, in one place, and what they say.

Selectors use the placement's name alone: they cannot be changed later, and the name is all that stays the same. No
label of a pod says anything that changes while the pod lives (plan revision, epoch, share).
"""

from collections.abc import Mapping

from plimsoll.planning.plan import Option

NAME = "app.kubernetes.io/name"
MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGER = "plimsoll"
COMPONENT = "app.kubernetes.io/component"
SERVING_ENGINE = "serving-engine"
"""Component of the engine's pods; monitors of the vLLM production stack select on this value already."""
ROUTING = "routing"

PREFIX = "plimsoll.dev/"
LLM_DEPLOYMENT = f"{PREFIX}llmdeployment"
PLACEMENT = f"{PREFIX}placement"
POOL = f"{PREFIX}pool"
CHAIN = f"{PREFIX}chain"
"""On all objects of a chain: its name."""

WORKER_INDEX = "leaderworkerset.sigs.k8s.io/worker-index"
"""What LeaderWorkerSet numbers the pods of a replica by; 0 is the leader."""

ROUTED_AT = f"{PREFIX}routed-at"
"""When the content of the routing document last changed, RFC 3339."""

MADE_BY = f"{PREFIX}made-by"
"""Release of Plimsoll that rendered a workload."""
ASKED = f"{PREFIX}asked"
"""Fingerprint of what it was rendered for."""
RENDERED = f"{PREFIX}rendered"
"""Its spec as it was rendered, without replicas, as JSON."""

OPTION_ANNOTATIONS: Mapping[str, str] = {
    name: f"{PREFIX}{name}"
    for name in (
        *("model", "precision", "pool", "tensor", "pipeline", "max-num-seqs", "nodes"),
        *("chain", "stage", "node", "region", "layers", "max-model-length", "cache-tokens"),
    )
}
"""What a workload runs: short name -> annotation. Annotations, because model names do not fit into label values."""


def common_labels(deployment: str, component: str) -> dict[str, str]:
    """Labels of every object that belongs to an LLMDeployment."""
    return {
        NAME: "vllm",
        "app.kubernetes.io/instance": deployment,
        COMPONENT: component,
        "app.kubernetes.io/part-of": "plimsoll",
        MANAGED_BY: MANAGER,
        LLM_DEPLOYMENT: deployment,
    }


def placement_labels(deployment: str, placement: str, pool: str) -> dict[str, str]:
    """Labels of a placement's objects and pods."""
    return {**common_labels(deployment, SERVING_ENGINE), PLACEMENT: placement, POOL: pool}


def chain_labels(chain: str, engine: str) -> dict[str, str]:
    """Labels of a chain's objects and pods beside those of a placement."""
    return {CHAIN: chain, NAME: engine}


def placement_selector(placement: str) -> dict[str, str]:
    """Labels by which a placement's pods are found."""
    return {PLACEMENT: placement}


def serving_selector(placement: str, option: Option) -> dict[str, str]:
    """Labels by which those pods of a placement are found that answer requests: one of each replica."""
    leaders = {WORKER_INDEX: "0"} if option.nodes > 1 else {}
    return {**placement_selector(placement), **leaders}


def option_annotations(option: Option) -> dict[str, str]:
    """Annotations that say what a workload runs, so that a restarted operator can read it from the cluster.

    The number of nodes stands there only where it is more than one.
    """
    values = {
        "model": option.model,
        "precision": option.precision,
        "pool": option.pool,
        "tensor": str(option.parallelism.tensor),
        "pipeline": str(option.parallelism.pipeline),
        "max-num-seqs": str(option.max_num_seqs),
    }
    if option.nodes > 1:
        values["nodes"] = str(option.nodes)
    stage = option.stage
    if stage is not None:
        values |= {
            "chain": stage.chain,
            "stage": str(stage.number),
            "node": stage.node,
            "region": stage.region,
            "layers": ",".join(map(str, stage.partition)),
            "max-model-length": str(option.max_model_length),
        }
        if option.cache_tokens:
            values["cache-tokens"] = str(option.cache_tokens)
    return {OPTION_ANNOTATIONS[name]: value for name, value in values.items()}


def option_from_annotations(annotations: Mapping[str, str]) -> dict[str, str]:
    """The other way: short name -> value for those annotations that are there."""
    return {name: annotations[key] for name, key in OPTION_ANNOTATIONS.items() if key in annotations}
