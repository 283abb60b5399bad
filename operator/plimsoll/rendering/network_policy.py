"""The NetworkPolicy of a placement whose replicas span nodes: its pods trust each other, and nobody else."""

from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.planning.plan import Placement
from plimsoll.rendering import labels
from plimsoll.rendering.engine import vllm
from plimsoll.rendering.manifest import Manifest, metadata


def render_network_policy(owner: LLMDeployment, placement: Placement) -> Manifest:
    """All ports to the placement's own pods, the serving port to everyone, nothing else to anyone.

    All ports, since the collectives choose theirs as they start. What listens there authenticates nobody and runs
    what it is sent.
    """
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(
            owner, placement.name, labels.placement_labels(owner.name, placement.name, placement.option.pool)
        ),
        "spec": {
            "podSelector": {"matchLabels": labels.placement_selector(placement.name)},
            "policyTypes": ["Ingress"],
            "ingress": [
                {"from": [{"podSelector": {"matchLabels": labels.placement_selector(placement.name)}}]},
                {"ports": [{"port": vllm.PORT, "protocol": "TCP"}]},
            ],
        },
    }
