"""The Service of a placement: the address that routers send its requests to."""

from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.planning.plan import Placement
from plimsoll.rendering import labels
from plimsoll.rendering.engine import vllm
from plimsoll.rendering.manifest import Manifest, metadata


def render_service(owner: LLMDeployment, placement: Placement) -> Manifest:
    """A ClusterIP Service over the Ready pods of a placement; of replicas over several nodes, over their leaders."""
    own = labels.placement_labels(owner.name, placement.name, placement.option.pool)
    if placement.option.stage is not None:
        own |= labels.chain_labels(placement.option.stage.chain, owner.spec.engine.type)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(owner, placement.name, own),
        "spec": {
            "type": "ClusterIP",
            "selector": labels.serving_selector(placement.name, placement.option),
            "ports": [{"name": vllm.PORT_NAME, "port": vllm.PORT, "protocol": "TCP", "targetPort": vllm.PORT_NAME}],
        },
    }


def service_url(placement: str, namespace: str) -> str:
    """Address of a placement's Service.

    The long form: the router of the vLLM production stack refuses hosts whose last label is not letters only, as
    `service.team-1` would be.
    """
    return f"http://{placement}.{namespace}.svc.cluster.local:{vllm.PORT}"
