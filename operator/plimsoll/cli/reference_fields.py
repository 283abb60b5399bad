"""The fields of a kind as lines of Markdown, from the schema that its CRD has."""

import json
from collections.abc import Iterator
from typing import Any

from plimsoll.api.common import Resource
from plimsoll.api.rules import VALIDATIONS
from plimsoll.api.schema import structural_schema
from plimsoll.cli.markdown import own_row, table

Schema = dict[str, Any]


def kind_section(kind: type[Resource]) -> list[str]:
    """Heading, names, fields of spec and status, and rules of one kind."""
    names = kind.names
    spec, status = structural_schema(kind.spec_model()), structural_schema(kind.status_model())
    lines = [
        f"### {kind.__name__}",
        "",
        " ".join((kind.__doc__ or "").split()),
        "",
        f"{names.scope}; `kubectl get {names.plural}`, short `{names.short_name}`.",
        "",
        *table(("field", "type", "default", "bounds", ""), _rows(spec, "spec", required=True)),
        "",
    ]
    rules = list(_rules(spec, "spec"))
    if rules:
        lines += ["What must hold across fields:", "", *(f"- `{path}`: {text}" for path, text in rules), ""]
    head = ("reported", "type", "")
    reported = [
        own_row(f"`{path}`", _type(item), item.get("description", "")) for path, item, _ in _walk(status, "status")
    ]
    return [*lines, *table(head, reported), ""]


def _rows(schema: Schema, path: str, *, required: bool) -> list[str]:
    return [
        own_row(f"`{name}`", _type(item), _default(item, needed=needed and required), _bounds(item), _text(item))
        for name, item, needed in _walk(schema, path)
    ]


def _text(item: Schema) -> str:
    return str(item.get("description", ""))


def _walk(schema: Schema, path: str) -> Iterator[tuple[str, Schema, bool]]:
    """Every field below `schema`: path, schema, whether it is required."""
    required = schema.get("required", ())
    for name, item in schema.get("properties", {}).items():
        here = f"{path}.{name}"
        yield here, item, name in required
        inner, suffix = item, ""
        while "items" in inner:
            inner, suffix = inner["items"], f"{suffix}[]"
        yield from _walk(inner, f"{here}{suffix}")


def _rules(schema: Schema, path: str) -> Iterator[tuple[str, str]]:
    for rule in schema.get(VALIDATIONS, ()):
        yield path, rule["message"]
    if "items" in schema:
        yield from _rules(schema["items"], f"{path}[]")
    for name, item in schema.get("properties", {}).items():
        yield from _rules(item, f"{path}.{name}")


def _type(item: Schema) -> str:
    kind = item.get("type", "any")
    if kind == "array":
        return f"list of {_type(item['items'])}"
    if kind == "object" and "additionalProperties" in item:
        return "map"
    if "enum" in item:
        return " or ".join(f"`{value}`" for value in item["enum"])
    return str(kind)


def _default(item: Schema, *, needed: bool) -> str:
    if needed:
        return "**required**"
    return f"`{json.dumps(item['default'])}`" if item.get("default") not in (None, {}, [], "") else ""


def _bounds(item: Schema) -> str:
    least, most = item.get("minimum"), item.get("maximum")
    parts = [f"{least} to {most}"] if least is not None and most is not None else []
    if not parts:
        parts = [f"at least {least}"] if least is not None else [f"at most {most}"] if most is not None else []
    parts += [f"at most {item[key]} {what}" for key, what in _SIZES.items() if key in item]
    return ", ".join(parts)


_SIZES = {"maxLength": "characters", "maxItems": "items", "maxProperties": "entries"}
