"""Structural schemas: what `model_json_schema()` says, in the dialect that the API server takes for CRDs.

The API server knows no `$ref`, `anyOf` with null, `const`, exclusive limits as numbers or schemas without a type, and
it wants every string, list and map bounded, or CEL rules over them cost too much. What cannot be translated, or what is
missing (bounds, descriptions), is refused here, so that a mistake in a model shows in a unit test, not on a cluster.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from plimsoll.api.common import APIModel
from plimsoll.api.rules import VALIDATIONS

Schema = dict[str, Any]

_PRESERVE = "x-kubernetes-preserve-unknown-fields"
_KEPT = (
    "type",
    "format",
    "description",
    "default",
    "enum",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "pattern",
    "minItems",
    "maxItems",
    "maxProperties",
    "required",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    _PRESERVE,
    VALIDATIONS,
)
# Known, and of no use to the API server. `accepted` serves our own messages (plimsoll.api.parse).
_DROPPED = ("title", "accepted", "additionalProperties", "properties", "items", "propertyNames")
_INT32_MAX = 2**31 - 1


class SchemaError(Exception):
    """A model cannot be expressed as a structural schema."""


@cache
def full_schema(model: type[APIModel]) -> Schema:
    """The structural schema of `model` together with `accepted`, the hints for people. Callers must not change it."""
    root = model.model_json_schema(mode="validation", by_alias=True)
    return _translate(root, root.get("$defs", {}), model.__name__, ())


def structural_schema(model: type[APIModel]) -> Schema:
    """The structural schema of `model` for a CRD. Raises SchemaError, which names the field at fault."""
    schema = _without_hints(full_schema(model))
    faults = list(_faults(schema, model.__name__))
    if faults:
        raise SchemaError("; ".join(faults))
    return schema


def _translate(node: Schema, definitions: Mapping[str, Schema], path: str, inside: tuple[str, ...]) -> Schema:
    """`node` with references resolved and pydantic's idioms replaced."""
    node = dict(node)
    node.pop("$defs", None)
    if "$ref" in node:
        name = node.pop("$ref").removeprefix("#/$defs/")
        if name in inside:
            raise SchemaError(f"{path}: refers to itself by way of {name}")
        return _translate({**definitions[name], **node}, definitions, path, (*inside, name))
    if "anyOf" in node:
        branches = [branch for branch in node.pop("anyOf") if branch != {"type": "null"}]
        if len(branches) != 1:
            raise SchemaError(f"{path}: a union of {len(branches)} types has no structural schema")
        if node.get("default", ...) is None:
            del node["default"]
        return _translate({**branches[0], **node}, definitions, path, inside)
    if "const" in node:
        node["enum"] = [node.pop("const")]
    for exclusive, inclusive, step in (("exclusiveMinimum", "minimum", 1), ("exclusiveMaximum", "maximum", -1)):
        if exclusive in node:
            if node.get("type") != "integer":
                raise SchemaError(f"{path}: {exclusive} is translated for integers only")
            node[inclusive] = node.pop(exclusive) + step
    unknown = sorted(set(node) - set(_KEPT) - set(_DROPPED))
    if unknown:
        raise SchemaError(f"{path}: unknown to the API server: {', '.join(unknown)}")
    result = {key: node[key] for key in _KEPT if key in node}
    if "accepted" in node:
        result["accepted"] = node["accepted"]
    if result.get("default", ...) in ([], None) or (result.get("default") == {} and "properties" not in node):
        del result["default"]  # an empty list or map by default says nothing
    match node.get("type"):
        case "integer" if "enum" not in node:
            result["format"] = "int32" if node.get("maximum", 2**63) <= _INT32_MAX else "int64"
        case "array":
            result.setdefault("x-kubernetes-list-type", "atomic")
            result["items"] = _translate(node["items"], definitions, f"{path}[]", inside)
            result["items"].pop("description", None)  # `kubectl explain` would print it after the list's own
        case "object" if "properties" in node:
            result["properties"] = {
                name: _translate(child, definitions, f"{path}.{name}", inside)
                for name, child in node["properties"].items()
            }
        case "object" if _PRESERVE not in node:
            result["additionalProperties"] = _translate(node["additionalProperties"], definitions, f"{path}[]", inside)
        case _:
            pass
    if "description" in result:
        result["description"] = " ".join(str(result["description"]).split())
    return result


def _without_hints(schema: Schema) -> Schema:
    result = {key: value for key, value in schema.items() if key != "accepted"}
    for key in ("items", "additionalProperties"):
        if key in result:
            result[key] = _without_hints(result[key])
    if "properties" in result:
        result["properties"] = {name: _without_hints(child) for name, child in result["properties"].items()}
    return result


def _faults(node: Schema, path: str) -> Iterator[str]:
    """What the API server would refuse, or what a reader would miss, anywhere in `node`."""
    match node.get("type"):
        case "string" if not {"maxLength", "enum"} & set(node) and node.get("format") != "date-time":
            yield f"{path}: a string needs max_length"
        case "integer" if "enum" not in node and not {"minimum", "maximum"} <= set(node):
            yield f"{path}: an integer needs ge and le"
        case "array":
            if "maxItems" not in node:
                yield f"{path}: a list needs max_length"
            yield from _faults(node["items"], f"{path}[]")
        case "object" if "properties" in node:
            for name, child in node["properties"].items():
                if not child.get("description"):
                    yield f"{path}.{name}: needs a description"
                yield from _faults(child, f"{path}.{name}")
        case "object" if "additionalProperties" in node:
            if "maxProperties" not in node:
                yield f"{path}: a map needs max_length"
            yield from _faults(node["additionalProperties"], f"{path}[]")
        case None | "number":
            yield f"{path}: type {node.get('type')} has no place in these resources"
        case _:
            pass
