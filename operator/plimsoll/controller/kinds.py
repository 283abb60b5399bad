"""Every kind of object that the operator reads or writes, and how the API server calls it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plimsoll.api import GROUP, KINDS, VERSION
from plimsoll.rendering import labels

OWN_OBJECTS = f"{labels.MANAGED_BY}={labels.MANAGER}"
UNFINISHED_PODS = "status.phase!=Succeeded,status.phase!=Failed"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of object at one version."""

    name: str
    group: str
    version: str
    plural: str
    namespaced: bool = True
    owned: bool = False
    """Plimsoll creates such objects; only those that carry its managed-by label are read."""
    optional: bool = False
    """The cluster may lack the API."""
    field_selector: str = ""
    everywhere: bool = False
    """Read in all namespaces, also when the operator is confined to some."""

    def scopes(self, namespaces: Sequence[str]) -> tuple[str, ...]:
        """Where to list the kind when the operator is confined to `namespaces` (none: it is not); empty: everywhere."""
        return tuple(namespaces) if namespaces and self.namespaced and not self.everywhere else ("",)

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def prefix(self) -> str:
        """Path of the API that serves the kind."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    @property
    def label_selector(self) -> str:
        return OWN_OBJECTS if self.owned else ""

    def path(self, namespace: str = "", name: str = "") -> str:
        """Path of one object, or of a list when `name` is empty."""
        middle = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        return f"{self.prefix}{middle}/{self.plural}{f'/{name}' if name else ''}"


RESOURCES: Mapping[str, Kind] = {
    model.__name__: Kind(
        model.__name__, GROUP, VERSION, model.names.plural, namespaced=model.names.scope == "Namespaced"
    )
    for model in KINDS
}
"""Plimsoll's own six kinds."""

NODE = Kind("Node", "", "v1", "nodes", namespaced=False)
POD = Kind("Pod", "", "v1", "pods", field_selector=UNFINISHED_PODS, everywhere=True)
"""Of all namespaces, since everybody's pods take GPUs from the same nodes."""
NAMESPACE = Kind("Namespace", "", "v1", "namespaces", namespaced=False)
RESOURCE_QUOTA = Kind("ResourceQuota", "", "v1", "resourcequotas")
LIMIT_RANGE = Kind("LimitRange", "", "v1", "limitranges")
DEPLOYMENT = Kind("Deployment", "apps", "v1", "deployments", owned=True)
LEADER_WORKER_SET = Kind(
    "LeaderWorkerSet", "leaderworkerset.x-k8s.io", "v1", "leaderworkersets", owned=True, optional=True
)
STATEFUL_SET = Kind("StatefulSet", "apps", "v1", "statefulsets", owned=True)
NETWORK_POLICY = Kind("NetworkPolicy", "networking.k8s.io", "v1", "networkpolicies", owned=True)
SERVICE = Kind("Service", "", "v1", "services", owned=True)
CONFIG_MAP = Kind("ConfigMap", "", "v1", "configmaps", owned=True)
DISRUPTION_BUDGET = Kind("PodDisruptionBudget", "policy", "v1", "poddisruptionbudgets", owned=True)
HTTP_ROUTE = Kind("HTTPRoute", "gateway.networking.k8s.io", "v1", "httproutes", owned=True, optional=True)

WORKLOADS = (DEPLOYMENT, LEADER_WORKER_SET, STATEFUL_SET)
"""Kinds that a placement may be: replicas on one node, or over several; a server of a chain."""

ALL: tuple[Kind, ...] = (
    *RESOURCES.values(),
    NODE,
    POD,
    NAMESPACE,
    RESOURCE_QUOTA,
    LIMIT_RANGE,
    DEPLOYMENT,
    LEADER_WORKER_SET,
    STATEFUL_SET,
    NETWORK_POLICY,
    SERVICE,
    CONFIG_MAP,
    DISRUPTION_BUDGET,
    HTTP_ROUTE,
)
"""What the feed watches, in this order."""

_BY_NAME = {(kind.api_version, kind.name): kind for kind in ALL}


def kind_of(manifest: Mapping[str, Any]) -> Kind:
    """The kind of a manifest.

    Raises:
        LookupError: when the operator does not handle the kind.
    """
    key = (str(manifest.get("apiVersion")), str(manifest.get("kind")))
    try:
        return _BY_NAME[key]
    except KeyError:
        raise LookupError(f"kind {key[1]} of {key[0]} is not one that Plimsoll reads or writes") from None
