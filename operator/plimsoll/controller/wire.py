"""What the API server sends, decoded no further than it is needed. Pure.

Nodes and pods come by the ten thousands and are mostly ballast. Of them only those fields become Python objects that
`rendering/observe.py` reads; a test holds the two together.
"""

from collections.abc import Mapping
from typing import Any, TypedDict, TypeVar

import msgspec

from plimsoll.controller.kinds import NODE, POD, Kind

T = TypeVar("T")
Manifest = Mapping[str, Any]
Raw = msgspec.Raw
"""JSON of one object."""


class UnreadableError(Exception):
    """The bytes are not what the API server should have sent."""


# --- Envelopes -------------------------------------------------------------------------------------------------------


class Metadata(msgspec.Struct, rename="camel", frozen=True):
    """What tells an object and its version from others."""

    uid: str = ""
    name: str = ""
    namespace: str = ""
    resource_version: str = ""


class Head(msgspec.Struct, frozen=True):
    """An object by its metadata alone."""

    metadata: Metadata = Metadata()


class ListMetadata(msgspec.Struct, rename={"version": "resourceVersion", "token": "continue"}, frozen=True):
    """Where a list stands: the version that it shows, and the token for its next page (empty: it was the last)."""

    version: str = ""
    token: str = ""


class Page(msgspec.Struct, frozen=True):
    """A page of a list."""

    metadata: ListMetadata = ListMetadata()
    items: list[Raw] | None = None


class HeadPage(msgspec.Struct, frozen=True):
    """A page of a metadata list."""

    metadata: ListMetadata = ListMetadata()
    items: list[Head] | None = None


class Event(msgspec.Struct, frozen=True):
    """A line of a watch: ADDED, MODIFIED, DELETED, BOOKMARK or ERROR."""

    type: str
    object: Raw


class Failure(msgspec.Struct, frozen=True):
    """What an ERROR says (`Status`)."""

    code: int = 0
    reason: str = ""
    message: str = ""


_PAGE, _HEAD_PAGE = msgspec.json.Decoder(Page), msgspec.json.Decoder(HeadPage)
_HEAD, _EVENT, _FAILURE = msgspec.json.Decoder(Head), msgspec.json.Decoder(Event), msgspec.json.Decoder(Failure)


def page_of(data: bytes) -> Page:
    """A page; its items are left as they are.

    Raises:
        UnreadableError: it is none. The same holds for the functions below.
    """
    return _decode(_PAGE, data)


def head_page_of(data: bytes) -> HeadPage:
    """A page of a metadata list."""
    return _decode(_HEAD_PAGE, data)


def head_of(raw: Raw) -> Metadata:
    """An object's metadata."""
    return _decode(_HEAD, raw).metadata


def event_of(line: bytes) -> Event:
    """A line of a watch; its object is left as it is."""
    return _decode(_EVENT, line)


def failure_of(raw: Raw) -> Failure:
    """What an ERROR says."""
    return _decode(_FAILURE, raw)


def _decode(decoder: msgspec.json.Decoder[T], data: bytes | Raw) -> T:
    try:
        return decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise UnreadableError(str(error)) from error


# --- Objects ---------------------------------------------------------------------------------------------------------


class _ObjectMetadata(TypedDict, total=False):
    uid: str
    name: str
    namespace: str
    resourceVersion: str
    deletionTimestamp: str | None
    labels: dict[str, str] | None


class _Condition(TypedDict, total=False):
    type: str
    status: str
    reason: str | None
    lastTransitionTime: str | None


class _Taint(TypedDict, total=False):
    key: str
    value: str | None
    effect: str | None


class _NodeSpec(TypedDict, total=False):
    taints: list[_Taint] | None
    unschedulable: bool | None


class _NodeStatus(TypedDict, total=False):
    allocatable: dict[str, str] | None
    conditions: list[_Condition] | None


class NodePart(TypedDict, total=False):
    """Of a node."""

    metadata: _ObjectMetadata
    spec: _NodeSpec | None
    status: _NodeStatus | None


class _Resources(TypedDict, total=False):
    limits: dict[str, str] | None
    requests: dict[str, str] | None


class _Container(TypedDict, total=False):
    restartPolicy: str | None
    resources: _Resources | None


class _PodSpec(TypedDict, total=False):
    nodeName: str | None
    containers: list[_Container] | None
    initContainers: list[_Container] | None
    resources: _Resources | None
    overhead: dict[str, str] | None


class _PodStatus(TypedDict, total=False):
    phase: str | None
    conditions: list[_Condition] | None


class PodPart(TypedDict, total=False):
    """Of a pod."""

    metadata: _ObjectMetadata
    spec: _PodSpec | None
    status: _PodStatus | None


_WHOLE = msgspec.json.Decoder(dict[str, Any])
_PARTS: Mapping[Kind, msgspec.json.Decoder[Any]] = {
    NODE: msgspec.json.Decoder(NodePart),
    POD: msgspec.json.Decoder(PodPart),
}


def manifest_of(kind: Kind, raw: Raw) -> Manifest:
    """An object with its kind, which items of a list come without; a node or pod with what is read of it only."""
    return {"apiVersion": kind.api_version, "kind": kind.name, **_decode(_PARTS.get(kind, _WHOLE), raw)}
