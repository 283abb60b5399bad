"""Nodes that are gone or about to go: what runs there counts as lost, so that its place is taken before it ends. Pure.

A node that is not Ready is gone as far as anybody can tell, and Kubernetes takes minutes to say so. A node that is to
be deleted, or whose provider or autoscaler announced that it takes it back, ends within seconds or minutes. A cordoned
node does not count: what runs there stays until somebody drains it.
"""

from collections.abc import Mapping

from plimsoll.planning.plan import DeploymentPlan
from plimsoll.planning.snapshot import NodeFacts, Snapshot

RECLAIM_TAINTS = frozenset(
    {
        "ToBeDeletedByClusterAutoscaler",
        "aws-node-termination-handler/asg-lifecycle-termination",
        "aws-node-termination-handler/rebalance-recommendation",
        "aws-node-termination-handler/scheduled-maintenance",
        "aws-node-termination-handler/spot-itn",
        "cloud.google.com/impending-node-termination",
        "karpenter.sh/disrupted",
        "node.cloudprovider.kubernetes.io/shutdown",
        "node.kubernetes.io/out-of-service",
    }
)
"""Keys of taints by which a node's end is announced."""


def going(node: NodeFacts) -> str:
    """Why nothing that runs on the node counts any more: one word or the taint; empty where it does."""
    if node.unschedulable_reason in ("not ready", "deleting"):
        return node.unschedulable_reason
    return next((taint.key for taint in node.taints if taint.key in RECLAIM_TAINTS), "")


def lost_pods(snapshot: Snapshot) -> dict[tuple[str, str], int]:
    """Pods that stand on such nodes and are not being deleted yet, by namespace and placement."""
    nodes = {node.name for node in snapshot.nodes or () if going(node)}
    found: dict[tuple[str, str], int] = {}
    for pod in snapshot.pods:
        if pod.placement and pod.node in nodes and not pod.deleting:
            key = (pod.namespace, pod.placement)
            found[key] = found.get(key, 0) + 1
    return found


def with_replacements(
    replicas: Mapping[str, int], plan: DeploymentPlan, lost: Mapping[tuple[str, str], int]
) -> dict[str, int]:
    """Replicas to ask for so that as many as planned are beside the lost ones: a workload counts those until
    Kubernetes has deleted their pods. Replicas over several nodes are left to what restarts them as a whole, and a
    server of a chain can be nowhere but on its node."""
    asked = dict(replicas)
    for placement in plan.placements:
        gone = lost.get((plan.ref.namespace, placement.name), 0)
        option = placement.option
        alone = option.nodes == 1 and option.stage is None
        if placement.name in asked and gone and alone and not placement.leaving:
            asked[placement.name] = max(asked[placement.name], placement.replicas + gone)
    return asked
