"""Reading the cluster back: nodes, pods and running placements as the facts that planning starts from. Pure.

What is left out matters as much as what is kept: a heartbeat or a resource version must not wake the planner.
"""

from collections.abc import Iterable, Mapping
from sys import intern
from typing import Any

from plimsoll.api.common import GROUP
from plimsoll.api.units import parse_quantity
from plimsoll.planning.snapshot import NodeFacts, PodFacts, Taint, Workload
from plimsoll.rendering import labels
from plimsoll.rendering.record import made_of

Manifest = Mapping[str, Any]


def node_facts(manifest: Manifest) -> NodeFacts:
    """A node without its heartbeat, images, addresses and everything else that does not move a placement."""
    spec, status = mapping_of(manifest, "spec"), mapping_of(manifest, "status")
    own = mapping_of(metadata_of(manifest), "labels")
    taints = tuple(
        Taint(str(taint.get("key", "")), str(taint.get("value") or ""), str(taint.get("effect") or ""))
        for taint in spec.get("taints") or ()
    )
    return NodeFacts(
        name=intern(_name(manifest)),
        # Thousands of nodes say the same: interned, it is kept once, here and in what the planner is sent.
        labels={intern(str(key)): intern(str(value)) for key, value in sorted(own.items())},
        allocatable=_resources(mapping_of(status, "allocatable")),
        taints=tuple(sorted(taints, key=lambda taint: (taint.key, taint.value, taint.effect))),
        unschedulable_reason=_unschedulable_reason(manifest),
    )


def _unschedulable_reason(manifest: Manifest) -> str:
    if metadata_of(manifest).get("deletionTimestamp"):
        return "deleting"
    if mapping_of(manifest, "spec").get("unschedulable"):
        return "cordoned"
    return "" if _condition(manifest, "Ready") else "not ready"


def pod_facts(manifest: Manifest) -> PodFacts | None:
    """A pod that holds or asks for resources; None when it is finished."""
    metadata, spec, status = metadata_of(manifest), mapping_of(manifest, "spec"), mapping_of(manifest, "status")
    if status.get("phase") in ("Succeeded", "Failed"):
        return None
    own = mapping_of(metadata, "labels")
    ours = own.get(labels.MANAGED_BY) == labels.MANAGER
    return PodFacts(
        uid=str(metadata.get("uid", "")),
        namespace=intern(str(metadata.get("namespace", ""))),
        name=_name(manifest),
        node=intern(str(spec.get("nodeName") or "")),
        requests=pod_requests(spec),
        placement=str(own.get(labels.PLACEMENT, "")) if ours else "",
        ready=_condition(manifest, "Ready"),
        deleting=bool(metadata.get("deletionTimestamp")),
        unschedulable=_has(manifest, "PodScheduled", "False", "Unschedulable"),
    )


def pod_requests(spec: Manifest) -> Mapping[str, float]:
    """What the scheduler sets aside for a pod: containers and sidecars, or the largest start-up step if more."""
    running = _sum(_requests(container) for container in spec.get("containers") or ())
    started: dict[str, float] = {}
    peak: dict[str, float] = {}
    for container in spec.get("initContainers") or ():
        asked = _requests(container)
        if container.get("restartPolicy") == "Always":
            started = _sum((started, asked))
            peak = _max(peak, started)
        else:
            peak = _max(peak, _sum((started, asked)))
    total = _max(_sum((running, started)), peak)
    total.update(_resources(mapping_of(mapping_of(spec, "resources"), "requests")))
    return dict(sorted(_sum((total, _resources(mapping_of(spec, "overhead")))).items()))


def _requests(container: Manifest) -> dict[str, float]:
    resources = mapping_of(container, "resources")
    return {**_resources(mapping_of(resources, "limits")), **_resources(mapping_of(resources, "requests"))}


def _sum(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for part in parts:
        for name, amount in part.items():
            total[name] = total.get(name, 0.0) + amount
    return total


def _max(left: Mapping[str, float], right: Mapping[str, float]) -> dict[str, float]:
    return {name: max(left.get(name, 0.0), right.get(name, 0.0)) for name in {*left, *right}}


def workload_facts(manifest: Manifest) -> Workload | None:
    """A running placement; None for a Deployment or LeaderWorkerSet that is not Plimsoll's."""
    metadata, status = metadata_of(manifest), mapping_of(manifest, "status")
    if mapping_of(metadata, "labels").get(labels.MANAGED_BY) != labels.MANAGER:
        return None
    annotations = mapping_of(metadata, "annotations")
    replicas = mapping_of(manifest, "spec").get("replicas")
    return Workload(
        namespace=str(metadata.get("namespace", "")),
        name=_name(manifest),
        uid=str(metadata.get("uid", "")),
        deployment=next((str(owner["name"]) for owner in owning_deployments(manifest)), ""),
        replicas=1 if replicas is None else int(replicas),
        ready_replicas=int(status.get("readyReplicas") or 0),
        option=labels.option_from_annotations(annotations),
        made=made_of(manifest),
    )


def owning_deployments(manifest: Manifest) -> list[Manifest]:
    """Owner references to LLMDeployments."""
    references = metadata_of(manifest).get("ownerReferences") or ()
    return [
        reference
        for reference in references
        if reference.get("kind") == "LLMDeployment" and str(reference.get("apiVersion", "")).startswith(f"{GROUP}/")
    ]


def metadata_of(manifest: Manifest) -> Manifest:
    """Metadata; empty when it is missing or null."""
    return mapping_of(manifest, "metadata")


def _name(manifest: Manifest) -> str:
    return str(metadata_of(manifest).get("name", ""))


def mapping_of(parent: Manifest, key: str) -> Manifest:
    """An object inside another; empty when it is missing, null or something else."""
    value = parent.get(key)
    return value if isinstance(value, Mapping) else {}


def _condition(manifest: Manifest, type_: str) -> bool:
    return _has(manifest, type_, "True")


def _has(manifest: Manifest, type_: str, status: str, reason: str | None = None) -> bool:
    conditions = mapping_of(manifest, "status").get("conditions") or ()
    return any(
        item.get("type") == type_ and item.get("status") == status and reason in (None, item.get("reason"))
        for item in conditions
    )


def _resources(quantities: Manifest) -> dict[str, float]:
    """CPU, memory and extended resources. Disk, pod counts and huge pages limit no placement of Plimsoll."""
    kept: dict[str, float] = {}
    for name, text in sorted(quantities.items()):
        if name in ("cpu", "memory") or ("/" in name and not name.startswith("attachable-volumes")):
            try:
                kept[intern(name)] = float(parse_quantity(str(text)))
            except ValueError:
                continue  # the API server lets none through; a fact that cannot be read is no fact
    return kept
