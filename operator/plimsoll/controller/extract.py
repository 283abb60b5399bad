"""From raw objects to the frozen facts that planning starts from. Pure.

What is left out matters as much as what is kept: a heartbeat, a status or a resource version must not wake the planner.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from plimsoll.api import Resource
from plimsoll.api.parse import InvalidResource, parse
from plimsoll.controller.kinds import LIMIT_RANGE, NAMESPACE, NODE, POD, RESOURCE_QUOTA, RESOURCES, WORKLOADS, Kind
from plimsoll.planning.namespaces import LimitRangeFacts, NamespaceFacts, QuotaFacts
from plimsoll.planning.snapshot import InvalidObject, NodeFacts, ObjectRef, PodFacts, Workload
from plimsoll.rendering.observe import (
    mapping_of,
    metadata_of,
    node_facts,
    owning_deployments,
    pod_facts,
    workload_facts,
)
from plimsoll.rendering.observe_namespaces import limit_range_facts, namespace_facts, quota_facts

Manifest = Mapping[str, Any]

_KEPT_OF_PLANS = ("decisionDigest", "detailsDigest", "detailsRefs", "approval")
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


@dataclass(frozen=True, slots=True)
class OwnedFacts:
    """One of Plimsoll's own objects: enough to notice that it appeared, vanished, was edited or made progress."""

    ref: ObjectRef
    owner_uid: str
    content: str
    """Digest of everything but status and server-written metadata."""
    workload: Workload | None = None
    """For placements."""


@dataclass(frozen=True, slots=True)
class PlanRecord:
    """A PlacementPlan: the operator's own record, which must not wake the planner. What a person says to it must."""

    name: str
    approval: str = ""


@dataclass(frozen=True, slots=True)
class Absent:
    """An object that exists but counts for nothing: a finished pod, an LLMDeployment that is being deleted."""


NamespaceLimit = NamespaceFacts | QuotaFacts | LimitRangeFacts
Facts = Resource | InvalidObject | NodeFacts | PodFacts | NamespaceLimit | OwnedFacts | PlanRecord | Absent

_LIMITS: Mapping[Kind, Callable[[Manifest], NamespaceLimit]] = {
    NAMESPACE: namespace_facts,
    RESOURCE_QUOTA: quota_facts,
    LIMIT_RANGE: limit_range_facts,
}


def facts_of(kind: Kind, manifest: Manifest) -> Facts:
    """The facts of an object."""
    if kind.name == "LLMDeployment" and metadata_of(manifest).get("deletionTimestamp"):
        return Absent()  # its objects are being collected as garbage; writing them again would fight that
    if kind == NODE:
        return node_facts(manifest)
    if kind == POD:
        return pod_facts(manifest) or Absent()
    if kind in _LIMITS:
        return _LIMITS[kind](manifest)
    if kind.name == "PlacementPlan":
        approval = mapping_of(mapping_of(manifest, "spec"), "approval")
        said = f"{approval.get('decision')} {approval.get('digest')}" if approval else ""
        return PlanRecord(str(metadata_of(manifest).get("name", "")), said)
    if kind.name in RESOURCES:
        return resource_facts(manifest)
    return owned_facts(kind, manifest)


# --- Custom resources ------------------------------------------------------------------------------------------------


def resource_facts(manifest: Manifest) -> Resource | InvalidObject:
    """The parsed resource, without status and without what only the server writes; or what is wrong with it."""
    metadata = metadata_of(manifest)
    kept = {key: metadata[key] for key in ("name", "namespace", "uid", "generation", "labels") if key in metadata}
    annotations = {key: value for key, value in mapping_of(metadata, "annotations").items() if key != _LAST_APPLIED}
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


# --- Own objects -----------------------------------------------------------------------------------------------------


def owned_facts(kind: Kind, manifest: Manifest) -> OwnedFacts:
    """One of Plimsoll's own objects."""
    return OwnedFacts(
        ref=ref_of(manifest, kind),
        owner_uid=owner_uid(manifest),
        content=content_digest(manifest),
        workload=workload_facts(manifest) if kind in WORKLOADS else None,
    )


def content_digest(manifest: Manifest) -> str:
    """Digest of what people or Plimsoll can write: everything but status and server-written metadata."""
    metadata = metadata_of(manifest)
    kept = {key: metadata[key] for key in ("labels", "annotations", "ownerReferences") if key in metadata}
    essence = {key: value for key, value in manifest.items() if key not in ("metadata", "status")} | {"metadata": kept}
    return hashlib.sha256(json.dumps(essence, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def owner_uid(manifest: Manifest) -> str:
    """Uid of the LLMDeployment that owns the object; empty when none does."""
    return next((str(owner.get("uid", "")) for owner in owning_deployments(manifest)), "")


# --- What is kept of the raw object ----------------------------------------------------------------------------------


def live_part(kind: Kind, manifest: Manifest) -> Manifest | None:
    """What comparing, status writing and pruning need of the raw object; None for what is only read.

    Of `managedFields` those of statuses go. Plimsoll's entries say which fields an earlier apply owned; those of others
    say who changed what (controller/foreign.py). Nobody changes what is kept: equal field sets are one object.
    """
    if kind in (NODE, POD) or kind in _LIMITS:
        return None
    metadata = dict(metadata_of(manifest))
    metadata["managedFields"] = [
        {**entry, "fieldsV1": _field_set(json.dumps(entry.get("fieldsV1") or {}))}
        for entry in metadata.get("managedFields") or ()
        if entry.get("subresource") != "status"
        and (kind.owned or str(entry.get("manager", "")).startswith("plimsoll-"))
    ]
    if kind.name not in RESOURCES:
        return {**manifest, "metadata": metadata}
    short = {key: metadata[key] for key in ("name", "namespace", "uid", "generation", "annotations") if key in metadata}
    kept: dict[str, Any] = {"apiVersion": kind.api_version, "kind": kind.name, "metadata": short}
    kept["status"] = manifest.get("status") or {}
    if kind.name == "PlacementPlan":
        spec = mapping_of(manifest, "spec")
        kept["spec"] = {key: spec[key] for key in _KEPT_OF_PLANS if key in spec}
    return kept


@lru_cache(maxsize=1000)
def _field_set(text: str) -> Manifest:
    """The fields of an entry. They are half of a Deployment's memory, and thousands have the same."""
    fields: Manifest = json.loads(text)
    return fields


def ref_of(manifest: Manifest, kind: Kind | None = None) -> ObjectRef:
    """The reference that findings use."""
    metadata = metadata_of(manifest)
    name = kind.name if kind else str(manifest.get("kind", ""))
    return ObjectRef(name, str(metadata.get("namespace") or ""), str(metadata.get("name", "")))
