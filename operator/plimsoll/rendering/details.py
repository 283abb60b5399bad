"""The ConfigMaps that keep the whole of a decision, compressed, beside its PlacementPlan. Pure."""

import base64
import binascii
import gzip
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from plimsoll.api.common import API_VERSION
from plimsoll.planning.archive import ArchiveError, content_digest

KEY = "plan.json.gz"
PLAN_LABEL = "plimsoll.dev/plan"
PART_BYTES = 512 * 1024
"""Of compressed content in one ConfigMap: 683 KiB as base64, under the API server's limit of 1 MiB."""
MOST_PARTS = 16
_MOST_BYTES = 256 * 1024 * 1024
"""Of content: what unpacks to more is not ours."""


def compressed_parts(content: bytes) -> list[bytes]:
    """The content as it goes into ConfigMaps, in order; the same content always gives the same parts.

    Raises:
        ValueError: when it is more than a PlacementPlan can refer to.
    """
    packed = gzip.compress(content, compresslevel=6, mtime=0)
    parts = [packed[start : start + PART_BYTES] for start in range(0, len(packed), PART_BYTES)]
    if len(parts) > MOST_PARTS:
        raise ValueError(
            f"the whole decision takes {len(packed)} bytes compressed; {MOST_PARTS} ConfigMaps of {PART_BYTES} are kept"
        )
    return parts


def details_name(plan: str, part: int) -> str:
    """Name of the ConfigMap of one part."""
    return f"{plan}-details-{part}"


def details_config_map(plan: str, uid: str, namespace: str, part: int, content: bytes) -> dict[str, Any]:
    """One part, which goes when the PlacementPlan goes.

    Without the label by which the operator finds what it renders: this object must not wake the planner.
    """
    owner = {
        "apiVersion": API_VERSION,
        "kind": "PlacementPlan",
        "name": plan,
        "uid": uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": details_name(plan, part),
            "namespace": namespace,
            "labels": {"app.kubernetes.io/part-of": "plimsoll", PLAN_LABEL: plan},
            "ownerReferences": [owner],
        },
        "binaryData": {KEY: base64.b64encode(content).decode()},
    }


def details_content(config_maps: Sequence[Mapping[str, Any]], digest: str) -> bytes:
    """The content of all parts, in order.

    Raises:
        ArchiveError: when something is missing, damaged, or not what `digest` (hexadecimal) was taken of.
    """
    try:
        packed = b"".join(base64.b64decode(item["binaryData"][KEY], validate=True) for item in config_maps)
        unpacker = zlib.decompressobj(wbits=31)
        content = unpacker.decompress(packed, _MOST_BYTES)
    except (KeyError, TypeError, binascii.Error, zlib.error) as error:
        raise ArchiveError(f"damaged: {error!r}") from error
    if not unpacker.eof or content_digest(content) != digest:
        raise ArchiveError("the content is not what the plan's detailsDigest was taken of")
    return content
