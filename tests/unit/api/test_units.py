from __future__ import annotations

from decimal import Decimal

import pytest
from pydantic import TypeAdapter, ValidationError

from plimsoll.api.units import Money, Ratio, canonical_quantity, decimal_text, parse_quantity, rounded


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("1Gi", 2**30),
        ("80Gi", 80 * 2**30),
        ("1.5Gi", 3 * 2**29),
        ("500m", Decimal("0.5")),
        ("1k", 1000),
        ("2T", 2 * 10**12),
        ("1e3", 1000),
        ("1E", 10**18),
        ("1E3", 1000),
        ("+7", 7),
        ("-1Ki", -1024),
        (".5", Decimal("0.5")),
        ("5.", 5),
        ("1n", Decimal("1e-9")),
        ("0.1n", Decimal("1e-9")),
        ("-0.1n", Decimal("-1e-9")),
    ],
)
def test_parse_quantity(text: str, value: Decimal) -> None:
    assert parse_quantity(text) == value


@pytest.mark.parametrize("text", ["", "Gi", "1 Gi", "1gi", "1KB", "1e", "--1", "1.2.3", "0x10", "1Gi "])
def test_what_is_no_quantity_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=f'quantity "{text}"'):
        parse_quantity(text)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("1024Mi", "1Gi"),
        ("1.5Gi", "1536Mi"),
        ("0.5", "500m"),
        ("1000m", "1"),
        ("1e3", "1e3"),
        ("1000", "1k"),
        ("0Gi", "0"),
    ],
)
def test_canonical_quantity(text: str, canonical: str) -> None:
    assert canonical_quantity(text) == canonical
    assert canonical_quantity(canonical) == canonical
    assert parse_quantity(canonical) == parse_quantity(text)


def test_decimal_strings_keep_the_digits_they_were_written_with() -> None:
    adapter = TypeAdapter(Money)
    assert adapter.validate_python("1.10") == Decimal("1.10")
    assert adapter.dump_python(adapter.validate_python("1.10"), mode="json") == "1.10"
    assert decimal_text(Decimal("0.0000001")) == "0.0000001"


@pytest.mark.parametrize("value", [1, 1.5, True, None, "1,5", "1e3", " 1", "01", "1.", "٣", "1\n"])
def test_what_is_no_decimal_string_is_refused(value: object) -> None:
    with pytest.raises(ValidationError, match="must be an amount of money as a quoted decimal number"):
        TypeAdapter(Money).validate_python(value)


@pytest.mark.parametrize(
    ("value", "text"), [(0.62, "0.62"), (1 / 3, "0.333333"), (10.0, "10"), (0, "0"), (Decimal("31.4000"), "31.4")]
)
def test_rounded(value: float, text: str) -> None:
    assert decimal_text(rounded(value)) == text


def test_python_may_give_a_decimal_within_the_same_bounds() -> None:
    assert TypeAdapter(Ratio).validate_python(Decimal("0.5")) == Decimal("0.5")
    with pytest.raises(ValidationError):
        TypeAdapter(Ratio).validate_python(Decimal("1.5"))
