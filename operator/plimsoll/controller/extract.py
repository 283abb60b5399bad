"""From raw objects to the frozen facts that planning starts from. Pure.

What is left out matters as much as what is kept: a heartbeat, a status or a resource version must not wake the planner.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from plimsoll.api import Resource
from plimsoll.api.parse import InvalidResource, parse
from plimsoll.api.units import parse_quantity
from plimsoll.controller.kinds import DEPLOYMENT, NODE, POD, RESOURCES, Kind
from plimsoll.planning.snapshot import InvalidObject, NodeFacts, ObjectRef, PodFacts, Taint, Workload
from plimsoll.rendering import labels

Manifest = Mapping[str, Any]

_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


@dataclass(frozen=True, slots=True)
class OwnedFacts:
    """One of Plimsoll's own objects: enough to notice that it appeared, vanished, was edited or made progress."""

    ref: ObjectRef
    owner_uid: str
    content: str
    """Digest of everything but status and server-written metadata."""
    workload: Workload | None = None
    """For Deployments."""


@dataclass(frozen=True, slots=True)
class PlanRecord:
    """A PlacementPlan: the operator's own record, which must not wake the planner."""

    name: str


@dataclass(frozen=True, slots=True)
class Absent:
    """An object that exists but counts for nothing: a finished pod, an LLMDeployment that is being deleted."""


Facts = Resource | InvalidObject | NodeFacts | PodFacts | OwnedFacts | PlanRecord | Absent


def facts_of(kind: Kind, manifest: Manifest) -> Facts:
    """The facts of an object."""
    if kind.name == "LLMDeployment" and _metadata(manifest).get("deletionTimestamp"):
        return Absent()  # its objects are being collected as garbage; writing them again would fight that
    if kind == NODE:
        return node_facts(manifest)
    if kind == POD:
        return pod_facts(manifest)
    if kind.name == "PlacementPlan":
        return PlanRecord(_name(manifest))
    if kind.name in RESOURCES:
        return resource_facts(manifest)
    return owned_facts(kind, manifest)


# --- Custom resources ------------------------------------------------------------------------------------------------


def resource_facts(manifest: Manifest) -> Resource | InvalidObject:
    """The parsed resource, without status and without what only the server writes; or what is wrong with it."""
    metadata = _metadata(manifest)
    kept = {key: metadata[key] for key in ("name", "namespace", "uid", "generation", "labels") if key in metadata}
    annotations = {key: value for key, value in _mapping(metadata, "annotations").items() if key != _LAST_APPLIED}
    if annotations:
        kept["annotations"] = annotations
    essence = {key: manifest[key] for key in ("apiVersion", "kind", "spec") if key in manifest} | {"metadata": kept}
    try:
        return parse(essence)
    except InvalidResource as error:
        return InvalidObject(
            ref=ref_of(manifest),
            uid=str(metadata.get("uid", "")),
            generation=int(metadata.get("generation") or 0),
            problems=tuple(error.problems),
        )


# --- Nodes -----------------------------------------------------------------------------------------------------------


def node_facts(manifest: Manifest) -> NodeFacts:
    """A node without its heartbeat, images, addresses and everything else that does not move a placement."""
    spec, status = _mapping(manifest, "spec"), _mapping(manifest, "status")
    taints = tuple(
        Taint(str(taint.get("key", "")), str(taint.get("value") or ""), str(taint.get("effect") or ""))
        for taint in spec.get("taints") or ()
    )
    return NodeFacts(
        name=_name(manifest),
        labels=dict(sorted(_mapping(_metadata(manifest), "labels").items())),
        allocatable=_resources(_mapping(status, "allocatable")),
        taints=tuple(sorted(taints, key=lambda taint: (taint.key, taint.value, taint.effect))),
        unschedulable_reason=_unschedulable_reason(manifest),
    )


def _unschedulable_reason(manifest: Manifest) -> str:
    if _metadata(manifest).get("deletionTimestamp"):
        return "deleting"
    if _mapping(manifest, "spec").get("unschedulable"):
        return "cordoned"
    return "" if _condition(manifest, "Ready") else "not ready"


# --- Pods ------------------------------------------------------------------------------------------------------------


def pod_facts(manifest: Manifest) -> PodFacts | Absent:
    """A pod that holds or asks for resources."""
    metadata, spec, status = _metadata(manifest), _mapping(manifest, "spec"), _mapping(manifest, "status")
    if status.get("phase") in ("Succeeded", "Failed"):
        return Absent()
    own = _mapping(metadata, "labels")
    ours = own.get(labels.MANAGED_BY) == labels.MANAGER
    return PodFacts(
        uid=str(metadata.get("uid", "")),
        namespace=str(metadata.get("namespace", "")),
        name=_name(manifest),
        node=str(spec.get("nodeName") or ""),
        requests=pod_requests(spec),
        placement=str(own.get(labels.PLACEMENT, "")) if ours else "",
        ready=_condition(manifest, "Ready"),
        deleting=bool(metadata.get("deletionTimestamp")),
    )


def pod_requests(spec: Manifest) -> Mapping[str, float]:
    """What the scheduler sets aside for a pod: all containers and sidecars, or the largest start-up step if more."""
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
    total.update(_resources(_mapping(_mapping(spec, "resources"), "requests")))
    return dict(sorted(_sum((total, _resources(_mapping(spec, "overhead")))).items()))


def _requests(container: Manifest) -> dict[str, float]:
    resources = _mapping(container, "resources")
    return {**_resources(_mapping(resources, "limits")), **_resources(_mapping(resources, "requests"))}


def _sum(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for part in parts:
        for name, amount in part.items():
            total[name] = total.get(name, 0.0) + amount
    return total


def _max(left: Mapping[str, float], right: Mapping[str, float]) -> dict[str, float]:
    return {name: max(left.get(name, 0.0), right.get(name, 0.0)) for name in {*left, *right}}


# --- Own objects -----------------------------------------------------------------------------------------------------


def owned_facts(kind: Kind, manifest: Manifest) -> OwnedFacts:
    """One of Plimsoll's own objects."""
    return OwnedFacts(
        ref=ref_of(manifest, kind),
        owner_uid=owner_uid(manifest),
        content=content_digest(manifest),
        workload=workload(manifest) if kind == DEPLOYMENT else None,
    )


def workload(manifest: Manifest) -> Workload:
    """A running placement."""
    metadata, status = _metadata(manifest), _mapping(manifest, "status")
    annotations = _mapping(metadata, "annotations")
    replicas = _mapping(manifest, "spec").get("replicas")
    return Workload(
        namespace=str(metadata.get("namespace", "")),
        name=_name(manifest),
        uid=str(metadata.get("uid", "")),
        deployment=next((str(owner["name"]) for owner in _owners(manifest)), ""),
        replicas=1 if replicas is None else int(replicas),
        ready_replicas=int(status.get("readyReplicas") or 0),
        option=labels.option_from_annotations(annotations),
    )


def content_digest(manifest: Manifest) -> str:
    """Digest of what people or Plimsoll can write: everything but status and server-written metadata."""
    metadata = _metadata(manifest)
    kept = {key: metadata[key] for key in ("labels", "annotations", "ownerReferences") if key in metadata}
    essence = {key: value for key, value in manifest.items() if key not in ("metadata", "status")} | {"metadata": kept}
    return hashlib.sha256(json.dumps(essence, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def owner_uid(manifest: Manifest) -> str:
    """Uid of the LLMDeployment that owns the object; empty when none does."""
    return next((str(owner.get("uid", "")) for owner in _owners(manifest)), "")


def _owners(manifest: Manifest) -> list[Manifest]:
    references = _metadata(manifest).get("ownerReferences") or ()
    group = RESOURCES["LLMDeployment"].group
    return [
        reference
        for reference in references
        if reference.get("kind") == "LLMDeployment" and str(reference.get("apiVersion", "")).startswith(f"{group}/")
    ]


# --- What is kept of the raw object ----------------------------------------------------------------------------------


def live_part(kind: Kind, manifest: Manifest) -> Manifest | None:
    """What comparing, status writing and pruning need of the raw object; None for nodes and pods.

    Of `managedFields` only Plimsoll's own entries stay: they say which fields an earlier apply owned.
    """
    if kind in (NODE, POD):
        return None
    metadata = dict(_metadata(manifest))
    metadata["managedFields"] = [
        entry
        for entry in metadata.get("managedFields") or ()
        if str(entry.get("manager", "")).startswith("plimsoll-") and entry.get("operation") == "Apply"
    ]
    if kind.name not in RESOURCES:
        return {**manifest, "metadata": metadata}
    short = {key: metadata[key] for key in ("name", "namespace", "uid", "generation", "annotations") if key in metadata}
    kept: dict[str, Any] = {"apiVersion": kind.api_version, "kind": kind.name, "metadata": short}
    kept["status"] = manifest.get("status") or {}
    return kept


def ref_of(manifest: Manifest, kind: Kind | None = None) -> ObjectRef:
    """The reference that findings use."""
    metadata = _metadata(manifest)
    name = kind.name if kind else str(manifest.get("kind", ""))
    return ObjectRef(name, str(metadata.get("namespace") or ""), str(metadata.get("name", "")))


# --- Raw access that survives missing and null fields ----------------------------------------------------------------


def _metadata(manifest: Manifest) -> Manifest:
    return _mapping(manifest, "metadata")


def _name(manifest: Manifest) -> str:
    return str(_metadata(manifest).get("name", ""))


def _mapping(parent: Manifest, key: str) -> Manifest:
    value = parent.get(key)
    return value if isinstance(value, Mapping) else {}


def _condition(manifest: Manifest, type_: str) -> bool:
    conditions = _mapping(manifest, "status").get("conditions") or ()
    return any(item.get("type") == type_ and item.get("status") == "True" for item in conditions)


def _resources(quantities: Manifest) -> dict[str, float]:
    """CPU, memory and extended resources. Disk, pod counts and huge pages limit no placement of Plimsoll."""
    kept: dict[str, float] = {}
    for name, text in sorted(quantities.items()):
        if name in ("cpu", "memory") or ("/" in name and not name.startswith("attachable-volumes")):
            try:
                kept[name] = float(parse_quantity(str(text)))
            except ValueError:
                continue  # the API server lets none through; a fact that cannot be read is no fact
    return kept
