"""A limit of a placement's pods per node, in the words that Kubernetes' scheduler has for it."""

from plimsoll.planning.plan import Placement
from plimsoll.rendering import labels
from plimsoll.rendering.manifest import Manifest

MORE_THAN_NODES = 1_000_000
"""With fewer nodes than it asks for, a constraint measures its skew from 0, not from the node that has least.

So the skew is a limit per node, and a node that is full of other pods keeps nobody from using the others.
"""


def per_node_limit(placement: Placement) -> list[Manifest]:
    """The constraint that no node holds more of the placement's pods than its option says; none where it says 0."""
    most = placement.option.pods_per_node
    if not most:
        return []
    return [
        {
            "maxSkew": most,
            "minDomains": MORE_THAN_NODES,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": labels.placement_selector(placement.name)},
        }
    ]
