"""Manifests to values, with messages for people: each names the object, the field, the value and what would do.

    LLMDeployment chat/assistant: spec.traffic[0].tokens.input: -1: must be at least 1
    LLMDeployment chat/assistant: unknown field spec.trafic; did you mean traffic?

The verdict is that of the API server with strict field validation. Metadata is the server's, and status is ours: both
are read leniently.
"""

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from plimsoll.api import API_VERSION, KINDS
from plimsoll.api.common import GROUP, Metadata, Resource, Status, manifest_reference
from plimsoll.api.schema import Schema, full_schema

_KINDS = {kind.__name__: kind for kind in KINDS}
Location = tuple[str | int, ...]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a resource."""

    field: str
    """Path of the field, such as `spec.traffic[0].tokens.input`."""
    message: str
    """What is wrong with it."""
    value: object = None
    """The value at fault; None when the field is missing."""
    accepted: str = ""
    """What would be accepted, such as `an integer of at least 1`; empty when the message says it all."""

    def __str__(self) -> str:
        if self.message.startswith(("unknown field", self.field)):  # names the field already
            return self.message
        shown = self.value is not None and isinstance(self.value, str | int | float)
        return f"{self.field}: {_shown(self.value)}: {self.message}" if shown else f"{self.field}: {self.message}"


class InvalidResource(ValueError):  # noqa: N818  (it names what it is about; `InvalidResourceError` says no more)
    """A manifest is not one of Plimsoll's resources, or breaks its schema. Lists all problems."""

    def __init__(self, object_: str, problems: Sequence[Problem]) -> None:
        self.object = object_
        self.problems = tuple(problems)
        super().__init__("\n".join(f"{object_}: {problem}" for problem in self.problems))


def parse(manifest: Mapping[str, Any]) -> Resource:
    """The resource that `manifest` describes.

    Raises InvalidResource, which lists all problems (rules across fields are judged once the fields are right).
    """
    if not isinstance(manifest, Mapping):
        raise InvalidResource("object", [Problem("kind", "must be an object with apiVersion and kind", manifest)])
    reference = manifest_reference(manifest)
    kind = _kind(manifest, reference)
    schema = _schema(kind)
    body = _as_stored({key: value for key, value in manifest.items() if key != "status"}, schema)
    body["status"] = _lenient_status(kind, manifest.get("status"))
    try:
        return kind.model_validate(body, by_alias=True, by_name=False)
    except ValidationError as error:
        found = [details for details in error.errors(include_url=False) if not _spurious(details)]
        raise InvalidResource(reference, [_problem(details, schema) for details in found]) from None


def _kind(manifest: Mapping[str, Any], reference: str) -> type[Resource]:
    version, name = manifest.get("apiVersion"), manifest.get("kind")
    problems = []
    if version != API_VERSION:
        of_ours = isinstance(version, str) and version.startswith(f"{GROUP}/")
        message = f"this release knows {API_VERSION}" if of_ours else f"must be {API_VERSION}"
        problems.append(Problem("apiVersion", message if version is not None else "is required", version, API_VERSION))
    kind = _KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        near = difflib.get_close_matches(str(name), _KINDS, 1)
        message = f"unknown kind; did you mean {near[0]}?" if near else f"must be one of {', '.join(_KINDS)}"
        problems.append(Problem("kind", message if name is not None else "is required", name, ", ".join(_KINDS)))
    if problems or kind is None:
        raise InvalidResource(reference, problems)
    return kind


@cache
def _schema(kind: type[Resource]) -> Schema:
    """The schema of the whole object, with hints."""
    properties = {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": full_schema(Metadata),
        "spec": full_schema(kind.spec_model()),
        "status": {"type": "object", "properties": {}},
    }
    return {"type": "object", "properties": properties}


def _as_stored(value: Any, schema: Schema) -> Any:  # noqa: ANN401
    """`value` as the API server takes it: a field that is null is absent, and 3.0 is the integer 3."""
    if isinstance(value, Mapping):
        properties, others = schema.get("properties", {}), schema.get("additionalProperties")
        result = {}
        for key, item in value.items():
            child = properties.get(key, others)
            if child is None:
                result[key] = item
            elif item is not None:
                result[key] = _as_stored(item, child)
        return result
    if isinstance(value, list | tuple) and "items" in schema:
        return [_as_stored(item, schema["items"]) for item in value]
    if isinstance(value, float) and schema.get("type") == "integer" and value.is_integer():
        return int(value)
    return value


def _lenient_status(kind: type[Resource], raw: object) -> Status:
    """What of the status can be read; the rest is as if it had not been written."""
    model = kind.status_model()
    readable = dict(raw) if isinstance(raw, Mapping) else {}
    try:
        return model.model_validate(readable)
    except ValidationError as error:
        bad = {details["loc"][0] for details in error.errors(include_url=False) if details["loc"]}
        return model.model_validate({key: value for key, value in readable.items() if key not in bad})


# --- Messages ---------------------------------------------------------------------------------------------------------


def _problem(error: ErrorDetails, schema: Schema) -> Problem:
    location: Location = tuple(part for part in error["loc"] if part != "[key]")
    kind = error["type"]
    if kind == "extra_forbidden":
        return _unknown_field(location, error["input"], schema)
    here = _schema_at(schema, location)
    accepted = _accepted(here)
    if kind == "missing":
        return Problem(_path(location), "is required", None, accepted)
    return Problem(_path(location), _message(error, accepted), error["input"], accepted if kind != "rule" else "")


def _spurious(error: ErrorDetails) -> bool:
    # pydantic counts only the valid items of a list, and then calls a list of bad items too short as well.
    return error["type"] == "too_short" and len(error["input"]) >= error["ctx"]["min_length"]


def _message(error: ErrorDetails, accepted: str) -> str:
    context = error.get("ctx", {})
    match error["type"]:
        case "rule" | "decimal_string":
            return error["msg"]
        case "greater_than_equal":
            return f"must be at least {context['ge']}"
        case "less_than_equal":
            return f"must be at most {context['le']}"
        case "string_too_long":
            return f"must have at most {context['max_length']} characters"
        case "string_too_short" if context["min_length"] == 1:
            return "must not be empty"
        case "too_long":
            return f"must have at most {context['max_length']} items, not {context['actual_length']}"
        case "too_short":
            return f"must have at least {context['min_length']} item{'s' if context['min_length'] > 1 else ''}"
        case _:
            return f"must be {accepted}" if accepted else error["msg"]


def _unknown_field(location: Location, value: object, schema: Schema) -> Problem:
    name = str(location[-1])
    known = list(_schema_at(schema, location[:-1]).get("properties", {}))
    folded = {candidate.lower(): candidate for candidate in known}
    near = difflib.get_close_matches(name.replace("_", "").lower(), folded, 1)
    elsewhere = [path for path in _paths(schema, "") if path.rsplit(".", 1)[-1] == name]
    message = f"unknown field {_path(location)}"
    if near:
        message += f"; did you mean {folded[near[0]]}?"
    elif len(elsewhere) == 1:
        message += f"; did you mean {elsewhere[0]}?"
    return Problem(_path(location), message, value, f"one of the fields {', '.join(known)}")


def _schema_at(schema: Schema, location: Location) -> Schema:
    for part in location:
        below = schema.get("items") if isinstance(part, int) else schema.get("properties", {}).get(part)
        schema = below or schema.get("additionalProperties") or {}
    return schema


def _paths(schema: Schema, path: str) -> Iterator[str]:
    """All field paths of `schema`, items of lists written as `[]`."""
    for name, child in schema.get("properties", {}).items():
        below = f"{path}.{name}" if path else name
        yield below
        yield from _paths(child, below)
    if "items" in schema:
        yield from _paths(schema["items"], f"{path}[]")


def _accepted(schema: Schema) -> str:
    """In words, what `schema` accepts."""
    if "accepted" in schema:
        return str(schema["accepted"])
    if "enum" in schema:
        return f"one of {', '.join(str(value) for value in schema['enum'])}"
    match schema.get("type"):
        case "integer":
            low, high = schema.get("minimum", 0), schema.get("maximum", 2**53)
            return f"an integer from {low} to {high}" if high < 1_000_000 else f"an integer of at least {low}"
        case "boolean":
            return "true or false"
        case "string":
            return f"a string of at most {schema['maxLength']} characters" if "maxLength" in schema else "a string"
        case "array":
            return f"a list of at most {schema['maxItems']} items" if "maxItems" in schema else "a list"
        case "object" if schema.get("properties"):
            return f"an object with the fields {', '.join(schema['properties'])}"
        case "object":
            return "an object"
        case _:
            return ""


def _path(location: Location) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _shown(value: object) -> str:
    # Line breaks and the like would forge lines of a log, so they are escaped.
    text = value if isinstance(value, str) and value.isprintable() and value else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
