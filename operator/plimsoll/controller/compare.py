"""Whether a live object already is what an apply would make of it, so that the apply can be left out.

No hash is kept, neither in memory nor on the object: after a restart the comparison gives the same answer, and it
notices what others changed. Two questions decide:

1. Does the live object contain every field of the rendered one? What is there beside is a default of the server or
   somebody else's business.
2. Does Plimsoll's entry in `managedFields` own nothing that the rendered object no longer has? Such a field would be
   removed by the next apply.

A wrong "no" costs one apply that changes nothing; the questions are asked so that a wrong "yes" does not happen.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from plimsoll.api.units import canonical_quantity

Manifest = Mapping[str, Any]

_QUANTITIES = frozenset({"limits", "requests", "sizeLimit", "capacity"})
_KEYS = ("name", "mountPath", "containerPort", "port", "uid", "type", "key")
"""Fields by which the API tells list items apart, most common first."""


def is_applied(desired: Manifest, live: Manifest, manager: str) -> bool:
    """Whether applying `desired` as `manager` would leave `live` as it is."""
    entry = _owned_fields(live, manager)
    return entry is not None and is_subset(desired, live) and not _owns_more(entry, desired)


def is_subset(desired: object, live: object, *, quantity: bool = False) -> bool:
    """Whether `live` has every field of `desired` with the same value; quantities count by value, not by spelling.

    Empty values equal absent ones: the server drops them.
    """
    if isinstance(desired, Mapping):
        if not isinstance(live, Mapping):
            return not desired and live is None
        return all(
            is_subset(value, live.get(key), quantity=quantity or key in _QUANTITIES) for key, value in desired.items()
        )
    if isinstance(desired, Sequence) and not isinstance(desired, str):
        return _is_sublist(desired, live if isinstance(live, Sequence) and not isinstance(live, str) else (), quantity)
    if live is None:
        return desired in (None, "", False, 0)
    if desired == live and isinstance(desired, bool) == isinstance(live, bool):
        return True
    return quantity and _canonical(desired) == _canonical(live)


def _is_sublist(desired: Sequence[object], live: Sequence[object], quantity: bool) -> bool:
    if len(desired) == len(live) and all(
        is_subset(left, right, quantity=quantity) for left, right in zip(desired, live, strict=True)
    ):
        return True
    key = _key_of(desired)
    if key is None:
        return False
    by_key = {item.get(key): item for item in live if isinstance(item, Mapping)}
    return all(
        isinstance(item, Mapping) and is_subset(item, by_key.get(item[key]), quantity=quantity) for item in desired
    )


def _key_of(items: Sequence[object]) -> str | None:
    """The field that tells all items apart; None when there is none, as in lists of scalars."""
    maps = [item for item in items if isinstance(item, Mapping)]
    if not maps or len(maps) != len(items):
        return None
    for key in _KEYS:
        values = [item.get(key) for item in maps]
        if None not in values and len(set(values)) == len(values):
            return key
    return None


def _canonical(value: object) -> str:
    try:
        return canonical_quantity(str(value))
    except ValueError:
        return str(value)


def _owned_fields(live: Manifest, manager: str) -> Manifest | None:
    """The `fieldsV1` of the manager's apply; None when it never applied the object."""
    for entry in live.get("metadata", {}).get("managedFields") or ():
        if entry.get("manager") == manager and entry.get("operation") == "Apply" and not entry.get("subresource"):
            fields: Manifest = entry.get("fieldsV1") or {}
            return fields
    return None


def _owns_more(owned: Manifest, desired: object) -> bool:
    """Whether `owned`, a tree of `fieldsV1`, has a leaf that `desired` lacks."""
    for path, below in owned.items():
        if path == ".":
            continue
        kind, _, text = path.partition(":")
        if kind == "f":
            if not isinstance(desired, Mapping) or text not in desired:
                return True
            child = desired[text]
        elif kind == "k":
            child = item_with(desired, json.loads(text))
            if child is None:
                return True
        elif kind == "v":
            if not isinstance(desired, Sequence) or json.loads(text) not in desired:
                return True
            continue
        else:
            return True  # a form that we do not know: apply rather than guess
        if below and _owns_more(below, child):
            return True
    return False


def item_with(items: object, keys: Mapping[str, object]) -> Manifest | None:
    """The list item with these key fields; key fields that it leaves out count as the server's default."""
    if not isinstance(items, Sequence) or isinstance(items, str):
        return None
    for item in items:
        if isinstance(item, Mapping) and all(item.get(key, value) == value for key, value in keys.items()):
            return item
    return None
