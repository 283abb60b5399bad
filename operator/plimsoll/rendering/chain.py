"""A server of a chain: a StatefulSet with one pod on its node. With the first come the chain's Services and policy.

A StatefulSet, since its pod keeps its name, by which the other servers find the first one.
"""

from typing import Any

from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.planning.plan import Option, Placement, PoolPlan, Stage
from plimsoll.rendering import labels
from plimsoll.rendering.engine import petals_chain, vllm, vllm_chain
from plimsoll.rendering.engine.vllm_nodes import RANK_PORT
from plimsoll.rendering.manifest import Manifest, metadata
from plimsoll.rendering.workload import engine_container, pod_template, serving_container


def render_server(owner: LLMDeployment, placement: Placement, stage: Stage, pool: PoolPlan, replicas: int) -> Manifest:
    """The StatefulSet of one server."""
    option = placement.option
    container = (_petals if _is_petals(owner) else _vllm)(owner, option, stage)
    template = pod_template(owner, placement, pool, container)
    template["metadata"]["labels"] = {
        **template["metadata"]["labels"],
        **labels.chain_labels(stage.chain, owner.spec.engine.type),
    }
    template["spec"]["affinity"] = _on_node(template["spec"]["affinity"], stage.node)
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": metadata(
            owner, placement.name, _labels(owner, placement, stage), labels.option_annotations(option)
        ),
        "spec": {
            "replicas": replicas,
            "revisionHistoryLimit": 1,
            # The servers of a chain wait for each other, so none may wait for another to be Ready.
            "podManagementPolicy": "Parallel",
            "serviceName": _peers(stage),
            "selector": {"matchLabels": labels.placement_selector(placement.name)},
            "template": template,
        },
    }


def _vllm(owner: LLMDeployment, option: Option, stage: Stage) -> Manifest:
    first = f"{stage.chain}-0.{_peers_address(owner, stage)}"
    args = vllm_chain.arguments(owner, option, stage, first)
    env = vllm_chain.environment(owner.spec.engine, stage)
    if stage.number == 0:
        return serving_container(option, args, env)
    probes = vllm_chain.probes(option.load_seconds, first)
    return engine_container(option, args, env, ports=(), behaviour=probes)


def _petals(owner: LLMDeployment, option: Option, stage: Stage) -> Manifest:
    args = petals_chain.arguments(owner, option, stage, _peers_address(owner, stage))
    env, command = petals_chain.environment(owner.spec.engine), petals_chain.command()
    ports = vllm.ports() if stage.number == 0 else []
    behaviour = petals_chain.behaviour(stage, option.load_seconds)
    return engine_container(option, args, env, ports, behaviour, command)


def render_chain(owner: LLMDeployment, placement: Placement, stage: Stage) -> tuple[Manifest, ...]:
    """What belongs to a whole chain, made with its first server: the Service by which the servers find each other, and
    the NetworkPolicy that lets them talk.

    All ports are open within the chain, since the collectives choose theirs as they start. What listens there
    authenticates nobody and runs what it is sent.
    """
    own = _labels(owner, placement, stage)
    chain = {labels.CHAIN: stage.chain}
    name, port = ("swarm", petals_chain.SWARM_PORT) if _is_petals(owner) else ("ranks", RANK_PORT)
    peers: Manifest = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(owner, _peers(stage), own),
        "spec": {
            "type": "ClusterIP",
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": chain,
            "ports": [{"name": name, "port": port, "protocol": "TCP", "targetPort": port}],
        },
    }
    policy: Manifest = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(owner, stage.chain, own),
        "spec": {
            "podSelector": {"matchLabels": chain},
            "policyTypes": ["Ingress"],
            "ingress": [
                {"from": [{"podSelector": {"matchLabels": chain}}]},
                {"ports": [{"port": vllm.PORT, "protocol": "TCP"}]},
            ],
        },
    }
    return peers, policy


def _labels(owner: LLMDeployment, placement: Placement, stage: Stage) -> dict[str, str]:
    own = labels.placement_labels(owner.name, placement.name, placement.option.pool)
    return {**own, **labels.chain_labels(stage.chain, owner.spec.engine.type)}


def _is_petals(owner: LLMDeployment) -> bool:
    return owner.spec.engine.type == "petals"


def _peers(stage: Stage) -> str:
    return f"{stage.chain}-peers"


def _peers_address(owner: LLMDeployment, stage: Stage) -> str:
    """Of all pods of the chain; those of one begin with its name."""
    return f"{_peers(stage)}.{owner.namespace}.svc.cluster.local"


def _on_node(affinity: dict[str, Any], node: str) -> dict[str, Any]:
    """The affinity, and this very node required. Terms are alternatives, so each of the user's gets it."""
    key = "requiredDuringSchedulingIgnoredDuringExecution"
    own = {"key": "metadata.name", "operator": "In", "values": [node]}
    nodes = dict(affinity.get("nodeAffinity") or {})
    given = (nodes.get(key) or {}).get("nodeSelectorTerms") or [{}]
    terms = [{**term, "matchFields": [*(term.get("matchFields") or ()), own]} for term in given]
    nodes[key] = {"nodeSelectorTerms": terms}
    return {**affinity, "nodeAffinity": nodes}
