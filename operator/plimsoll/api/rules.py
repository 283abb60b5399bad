"""Validation rules that hold in two places: as CEL in the API server, and as Python in pydantic.

A `Rule` carries both forms side by side, so that one cannot be changed without the other. The table of bad objects in
`tests/bad_objects.py` runs through both and demands the same verdict.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

VALIDATIONS = "x-kubernetes-validations"


@dataclass(frozen=True)
class Rule:
    """What must hold of a value. Used in `APIModel.rules`, or as an annotation of a single field.

    `cel` sees the value as `self`; `holds` says the same in Python, and is None for rules about a change (`oldSelf`),
    which only the API server can judge. `field` names the field at fault, relative to the value, in camelCase.
    """

    cel: str
    message: str
    holds: Callable[[Any], bool] | None
    field: str = ""

    def as_schema(self) -> dict[str, str]:
        """The rule as an entry of `x-kubernetes-validations`."""
        path = {"fieldPath": f".{self.field}"} if self.field else {}
        return {"rule": self.cel, "message": self.message, **path}

    def broken_by(self, value: object) -> bool:
        """Whether `value` breaks the rule, as far as that can be seen without its predecessor."""
        return self.holds is not None and not self.holds(value)

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        def validate(value: object) -> object:
            if self.broken_by(value):
                raise problems([((), self.message, value)])
            return value

        return core_schema.no_info_after_validator_function(validate, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        result = handler(schema)
        return {**result, VALIDATIONS: [*result.get(VALIDATIONS, []), self.as_schema()]}


@dataclass(frozen=True, init=False)
class ListMap:
    """Annotation of a list whose items are told apart by `keys` (camelCase): no two items may share them."""

    keys: tuple[str, ...]

    def __init__(self, *keys: str) -> None:
        object.__setattr__(self, "keys", keys)

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        def key_of(item: object) -> object:
            return "/".join(str(getattr(item, key)) for key in self.keys)

        def validate(items: tuple[object, ...]) -> tuple[object, ...]:
            return _unique(items, key_of, " and ".join(self.keys))

        return core_schema.no_info_after_validator_function(validate, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(schema), "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(self.keys)}


@dataclass(frozen=True)
class ListSet:
    """Annotation of a list of scalars in which no value may occur twice."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        def validate(items: tuple[object, ...]) -> tuple[object, ...]:
            return _unique(items, lambda item: item, "value")

        return core_schema.no_info_after_validator_function(validate, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(schema), "x-kubernetes-list-type": "set"}


def _unique(items: tuple[object, ...], key_of: Callable[[object], object], what: str) -> tuple[object, ...]:
    first: dict[object, int] = {}
    repeated = [(i, earlier) for i, item in enumerate(items) if (earlier := first.setdefault(key_of(item), i)) != i]
    if repeated:
        raise problems(
            [((i,), f"has the same {what} as item {earlier}: {key_of(items[i])}", items[i]) for i, earlier in repeated]
        )
    return items


def problems(found: Iterable[tuple[tuple[str | int, ...], str, object]]) -> ValidationError:
    """One pydantic error for several (location, message, value). pydantic puts the outer location before each."""
    details = [
        InitErrorDetails(type=PydanticCustomError("rule", cast("Any", message)), loc=loc, input=value)
        for loc, message, value in found
    ]
    return ValidationError.from_exception_data("rule", details)
