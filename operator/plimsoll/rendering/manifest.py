"""What all rendered objects share: their type, metadata, quantities and errors.

Manifests hold only the fields that Plimsoll owns, in the form in which the API server gives them back, so that
server-side apply takes nothing from others and a second apply changes nothing.
"""

import math
from collections.abc import Mapping
from typing import Any

from plimsoll.api.common import API_VERSION
from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.api.units import canonical_quantity

Manifest = dict[str, Any]
"""A Kubernetes object as JSON data."""


class RenderError(ValueError):
    """A plan that cannot be written as Kubernetes objects. The message names object, field and value."""


def metadata(
    owner: LLMDeployment, name: str, labels: Mapping[str, str], annotations: Mapping[str, str] | None = None
) -> Manifest:
    """Metadata of an object in the namespace of the LLMDeployment that owns it.

    The owner is the controller, so that the object goes when the LLMDeployment goes. It does not block the owner's
    deletion: that would need a finalizer permission on what people wrote. An LLMDeployment that was read from a file
    has no uid and thus owns nothing: such objects are for people to look at.
    """
    result: Manifest = {"name": name, "namespace": owner.namespace, "labels": dict(labels)}
    if annotations:
        result["annotations"] = dict(annotations)
    if owner.metadata.uid is not None:
        result["ownerReferences"] = [
            {
                "apiVersion": API_VERSION,
                "kind": owner.kind,
                "name": owner.name,
                "uid": owner.metadata.uid,
                "controller": True,
                "blockOwnerDeletion": False,
            }
        ]
    return result


def bytes_quantity(value: int) -> str:
    """`value` bytes as a canonical quantity, rounded up to whole MiB: 17179869184 gives `16Gi`."""
    return canonical_quantity(f"{math.ceil(value / 2**20)}Mi")


def cores_quantity(value: float) -> str:
    """`value` cores as a canonical quantity, rounded up to whole millicores: 1.5 gives `1500m`."""
    return canonical_quantity(f"{math.ceil(value * 1000)}m")
