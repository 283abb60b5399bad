"""What one field manager applied, read back from an object: the inverse of a server-side apply."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def applied(live: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """The part of `live` that `fields`, a manager's `fieldsV1`, owns, with what names the object."""
    named = {key: live["metadata"][key] for key in ("name", "namespace") if key in live["metadata"]}
    part = _part(live, fields)
    return {
        "apiVersion": live["apiVersion"],
        "kind": live["kind"],
        **part,
        "metadata": {**part.get("metadata", {}), **named},
    }


def _part(value: Any, fields: Mapping[str, Any]) -> Any:
    below = {path: inner for path, inner in fields.items() if path != "."}
    if not below:
        return value
    kinds = {path[:1] for path in below}
    if kinds == {"f"}:
        return {path[2:]: _part(value[path[2:]], inner) for path, inner in below.items() if path[2:] in value}
    if kinds == {"k"}:
        keys = [(json.loads(path[2:]), inner) for path, inner in below.items()]
        return [
            {**key, **_part(item, inner)}
            for item in value
            for key, inner in keys
            if all(item.get(name) == wanted for name, wanted in key.items())
        ]
    if kinds == {"v"}:
        return [json.loads(path[2:]) for path in below]
    raise ValueError(f"fieldsV1 of a form that is not known: {sorted(below)}")
