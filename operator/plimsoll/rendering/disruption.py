"""The PodDisruptionBudget of a placement: drains of nodes take one replica at a time."""

from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.planning.plan import Placement
from plimsoll.rendering import labels
from plimsoll.rendering.manifest import Manifest, metadata


def render_disruption_budget(owner: LLMDeployment, placement: Placement, replicas: int) -> Manifest | None:
    """The budget; None below two replicas, where it would either forbid every drain or say nothing.

    Of replicas over several nodes it counts the leaders, since a replica is lost with any of its pods.
    """
    if replicas < 2:
        return None
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(
            owner, placement.name, labels.placement_labels(owner.name, placement.name, placement.option.pool)
        ),
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": labels.serving_selector(placement.name, placement.option)},
            # Pods that do not serve anyway must not keep a node from being drained.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }
