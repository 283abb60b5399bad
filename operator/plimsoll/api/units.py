"""Numbers that people write as text: exact decimals (money, ratios) and Kubernetes quantities.

The Kubernetes API conventions forbid floating-point numbers in specs, so money and ratios are decimal strings in the
schema. In Python they are `decimal.Decimal`, and they go back to the wire as the same text.
"""

import re
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal
from typing import Annotated, Any, cast

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema


def decimal_text(value: Decimal) -> str:
    """`value` without an exponent, with the digits it was written with: `Decimal("1.10")` gives `"1.10"`."""
    return format(value, "f")


def rounded(value: float | Decimal, places: int = 6) -> Decimal:
    """`value` with at most `places` decimals and no zeros at the end, fit for a status: money, ratios."""
    exact = Decimal(str(value)).quantize(Decimal(1).scaleb(-places), rounding=ROUND_HALF_EVEN)
    return Decimal(decimal_text(exact.normalize()))


@dataclass(frozen=True)
class DecimalString:
    """Annotation for a `Decimal` that is a string in the schema. Numbers are refused, as by the API server."""

    pattern: str
    max_length: int
    accepted: str

    def parse(self, value: object) -> Decimal:
        """The exact value of `value`, a string (from a manifest) or a Decimal (from Python)."""
        text = decimal_text(value) if isinstance(value, Decimal) else value
        if not isinstance(text, str) or len(text) > self.max_length or not re.fullmatch(self.pattern, text):
            raise PydanticCustomError("decimal_string", cast("Any", f"must be {self.accepted}"))
        return Decimal(text)

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        serialization = core_schema.plain_serializer_function_ser_schema(
            decimal_text, return_schema=core_schema.str_schema(), when_used="json"
        )
        return core_schema.no_info_plain_validator_function(self.parse, serialization=serialization)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "pattern": self.pattern, "maxLength": self.max_length, "accepted": self.accepted}


Money = Annotated[
    Decimal,
    DecimalString(
        pattern=r"^(0|[1-9][0-9]{0,11})(\.[0-9]{1,6})?$",
        max_length=19,
        accepted='an amount of money as a quoted decimal number of at least 0, such as "2.50"',
    ),
]
"""An amount of money that is not negative. The currency is whatever the prices of the pools are in."""

Ratio = Annotated[
    Decimal,
    DecimalString(
        pattern=r"^(0(\.[0-9]{1,6})?|1(\.0{1,6})?)$",
        max_length=8,
        accepted='a ratio as a quoted decimal number from 0 to 1, such as "0.05"',
    ),
]
"""A ratio from 0 to 1, both included."""

ProperFraction = Annotated[
    Decimal,
    DecimalString(
        pattern=r"^0(\.[0-9]{1,6})?$",
        max_length=8,
        accepted='a ratio as a quoted decimal number from 0 to below 1, such as "0.1"',
    ),
]
"""A ratio from 0 to below 1."""

Factor = Annotated[
    Decimal,
    DecimalString(
        pattern=r"^(0\.[0-9]{0,5}[1-9]|[1-9][0-9]{0,2}(\.[0-9]{1,6})?)$",
        max_length=10,
        accepted='a factor as a quoted decimal number above 0 and below 1000, such as "1.15"',
    ),
]
"""A positive factor."""

Burstiness = Annotated[
    Decimal,
    DecimalString(
        pattern=r"^(0\.[1-9][0-9]{0,5}|[1-9](\.[0-9]{1,6})?|10(\.0{1,6})?)$",
        max_length=9,
        accepted='a coefficient of variation as a quoted decimal number from 0.1 to 10, such as "2"',
    ),
]
"""Coefficient of variation of the times between arrivals, from 0.1 to 10."""

BurnRate = Annotated[
    Decimal,
    DecimalString(
        pattern=r"^(0|[1-9][0-9]{0,3})(\.[0-9]{1,6})?$",
        max_length=11,
        accepted='a burn rate as a quoted decimal number from 0 to below 10000, such as "0.5"',
    ),
]
"""How fast an error budget burns: at 1 it lasts just as long as its window."""

Surplus = Annotated[
    Decimal,
    DecimalString(
        pattern=r"^[0-9](\.[0-9]{1,6})?$",
        max_length=8,
        accepted='a quoted decimal number from 0 to below 10, such as "0.1" for 10 % more',
    ),
]
"""How much more than needed, relative to the need: 0.1 is 10 % more."""


_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_QUANTITY = re.compile(
    r"(?P<number>[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))"
    r"(?P<suffix>Ki|Mi|Gi|Ti|Pi|Ei|[numkMGTPE]|[eE][+-]?[0-9]{1,2})?"
)
_NANO = Decimal("1e-9")


def _split(text: str) -> tuple[Decimal, str]:
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(f'quantity "{text}": must be a number with an optional suffix, such as 500m, 16 or 80Gi')
    number, suffix = Decimal(match["number"]), match["suffix"] or ""
    if suffix in _BINARY:
        value = number * _BINARY[suffix]
    elif suffix in _DECIMAL:
        value = number.scaleb(_DECIMAL[suffix])
    else:
        value = number.scaleb(int(suffix[1:]))
    # Kubernetes keeps nine decimal places and rounds away from zero.
    rounded = abs(value).quantize(_NANO, rounding=ROUND_CEILING) if value % _NANO else abs(value)
    return (-rounded if value < 0 else rounded), suffix


def parse_quantity(text: str) -> Decimal:
    """The value of a Kubernetes quantity: `"1Gi"` is 1073741824, `"500m"` is 0.5.

    Raises ValueError when `text` is not a quantity.
    """
    return _split(text)[0]


def canonical_quantity(text: str) -> str:
    """`text` as Kubernetes writes it back: no fraction, the largest suffix that allows that, the same suffix family.

    `"1024Mi"` gives `"1Gi"`, `"0.5"` gives `"500m"`, `"1e3"` stays `"1e3"`. Raises ValueError when `text` is
    no quantity.
    """
    value, suffix = _split(text)
    if suffix in _BINARY and value == value.to_integral_value() and abs(value) >= 1024:
        whole = int(value)
        return next(
            f"{whole // factor}{name}" for name, factor in [*reversed(_BINARY.items()), ("", 1)] if whole % factor == 0
        )
    if value == 0:
        return "0"
    exponents = {exponent: name for name, exponent in _DECIMAL.items()}
    exponent = next(e for e in sorted(exponents, reverse=True) if value.scaleb(-e) % 1 == 0)
    whole = int(value.scaleb(-exponent))
    if suffix[:1] in ("e", "E") and len(suffix) > 1:
        return f"{whole}e{exponent}" if exponent else str(whole)
    return f"{whole}{exponents[exponent]}"
