"""What tools that wait for objects (Flux, kpt, Argo's generic check) make of one: the rules of kstatus, written anew.

https://github.com/kubernetes-sigs/cli-utils/blob/master/pkg/kstatus/README.md
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any


class KStatus(StrEnum):
    """What there is to wait for."""

    CURRENT = "Current"
    IN_PROGRESS = "InProgress"
    FAILED = "Failed"
    TERMINATING = "Terminating"


def kstatus(manifest: Mapping[str, Any]) -> KStatus:
    """The status of a custom resource."""
    metadata, status = manifest.get("metadata", {}), manifest.get("status") or {}
    if metadata.get("deletionTimestamp"):
        return KStatus.TERMINATING
    if "observedGeneration" in status and status["observedGeneration"] != metadata.get("generation"):
        return KStatus.IN_PROGRESS
    conditions = status.get("conditions", ())
    for condition in conditions:
        if condition["status"] == "True" and condition["type"] == "Reconciling":
            return KStatus.IN_PROGRESS
        if condition["status"] == "True" and condition["type"] == "Stalled":
            return KStatus.FAILED
    for condition in conditions:
        if condition["type"] == "Ready":
            return KStatus.CURRENT if condition["status"] == "True" else KStatus.IN_PROGRESS
    return KStatus.CURRENT
