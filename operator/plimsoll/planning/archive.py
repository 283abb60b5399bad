"""A fleet plan as canonical JSON and back: what is kept of a decision beside its PlacementPlan. Pure.

Equal plans give equal bytes. Reading goes by the type hints of the plan's own values, so a field that is added with a
default needs nothing here; a document that lacks what a value needs, or was written by another major form, is refused.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from decimal import Decimal
from enum import Enum
from functools import cache
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from pydantic import ValidationError
from pydantic.alias_generators import to_camel

from plimsoll.api.common import Resource, to_wire
from plimsoll.planning.plan import FleetPlan

FORM = "plimsoll.dev/plan-details/v1"
_METADATA = ("name", "namespace", "uid", "generation")
_AS_IT_IS = frozenset({str, int, bool, type(None)})


class ArchiveError(ValueError):
    """The bytes are not a plan that this release can read; says what is wrong."""


def archived(fleet: FleetPlan) -> bytes:
    """The plan as JSON: names as on the wire, keys sorted, no spaces."""
    document = {"form": FORM, "fleet": _written(fleet)}
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def restored(content: bytes) -> FleetPlan:
    """The plan that `archived` wrote.

    Raises:
        ArchiveError: for anything else.
    """
    try:
        document = json.loads(content)
        if document["form"] != FORM:
            raise ArchiveError(f"form {document['form']!r}; this release reads {FORM}")
        fleet = _read(FleetPlan, document["fleet"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, ArchiveError):
            raise
        detail = "a resource does not parse" if isinstance(error, ValidationError) else repr(error)
        raise ArchiveError(f"not a plan that this release can read: {detail}") from error
    if not isinstance(fleet, FleetPlan):
        raise ArchiveError("not a plan")
    return fleet


def content_digest(content: bytes) -> str:
    """SHA-256, hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def _written(value: object) -> Any:  # noqa: ANN401  (JSON has no narrower type)
    kind = type(value)
    if kind in _AS_IT_IS:
        return value
    if isinstance(value, float):
        # 2 and 2.0 are equal values, so they must give equal bytes.
        return int(value) if value.is_integer() else float(value)
    if isinstance(value, tuple | list):
        return [_written(item) for item in value]
    if is_dataclass(kind):
        return {key: _written(getattr(value, name)) for name, key in _keys(kind)}
    if isinstance(value, Resource):
        metadata = value.metadata
        kept = {key: item for key in _METADATA if (item := getattr(metadata, key)) is not None}
        return {"apiVersion": value.api_version, "kind": value.kind, "metadata": kept, "spec": to_wire(value.spec)}
    if isinstance(value, Mapping):
        return {str(key): _written(item) for key, item in value.items()}
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, Enum):
        return value.value
    raise TypeError(f"no form for {kind.__name__}")


@cache
def _keys(kind: type) -> tuple[tuple[str, str], ...]:
    return tuple((item.name, to_camel(item.name)) for item in fields(kind))


def _read(hint: Any, value: Any) -> Any:  # noqa: ANN401  (a type hint, and JSON)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _read_union(arguments, value)
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is ...:
            return tuple(_read(arguments[0], item) for item in value)
        return tuple(_read(one, item) for one, item in zip(arguments, value, strict=True))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {key: _read(arguments[1], item) for key, item in value.items()}
    if not isinstance(hint, type):
        raise TypeError(f"no form for {hint}")
    if issubclass(hint, Resource):
        return hint.model_validate(value)
    if is_dataclass(hint):
        known = _hints(hint)
        return hint(**{name: _read(known[name][1], value[key]) for name, key in _present(hint, value)})
    if hint is Decimal or issubclass(hint, Enum):
        return hint(value)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise TypeError(f"{value!r} where {hint.__name__} belongs")
    return value


def _read_union(arguments: tuple[Any, ...], value: Any) -> Any:  # noqa: ANN401
    if value is None and type(None) in arguments:
        return None
    choices = [one for one in arguments if one is not type(None)]
    if len(choices) == 1:
        return _read(choices[0], value)
    if type(value) in choices:
        return value
    raise TypeError(f"{value!r} where one of {choices} belongs")


@cache
def _hints(kind: type) -> dict[str, tuple[str, Any]]:
    hints = get_type_hints(kind)
    return {item.name: (to_camel(item.name), hints[item.name]) for item in fields(kind)}


def _present(kind: type, value: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names of fields and their keys, without those that the document lacks; a constructor minds if one is needed."""
    return [(name, key) for name, (key, _) in _hints(kind).items() if key in value]
