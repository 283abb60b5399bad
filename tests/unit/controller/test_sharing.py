"""Equal parts of many objects are one object."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from plimsoll.controller import sharing
from plimsoll.controller.sharing import Shared

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@given(st.lists(st.dictionaries(st.text(max_size=3), JSON, max_size=3), max_size=6))
def test_what_comes_out_is_what_went_in(values: list[dict[str, Any]]) -> None:
    shared = Shared()
    for value in values:
        assert json.dumps(shared.of(value)) == json.dumps(value)  # tells 1, 1.0 and true apart, and the order of fields


def test_equal_parts_of_different_objects_are_one() -> None:
    shared = Shared()
    one, other = (shared.of({"name": name, "probe": {"path": "/health", "ports": [80]}}) for name in ("a", "b"))
    assert one["probe"] is other["probe"]
    assert one != other


def test_it_starts_afresh_before_it_grows_without_end(monkeypatch: Any) -> None:
    monkeypatch.setattr(sharing, "_MOST", 10)
    shared = Shared()
    for number in range(100):
        assert shared.of({"number": {"text": str(number)}}) == {"number": {"text": str(number)}}
    assert len(shared._known) < 30
