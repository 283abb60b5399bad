"""The pages on bad input say what happens: each row stands for something that a test shows."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tools.refused_objects import PAGE, page

ROOT = Path(__file__).parents[3]
BAD_INPUT = (ROOT / "docs" / "bad-input.md").read_text()
_CALLS = {"Finding", "deployment_finding", "_finding"}
_NO_FAULTS = {"MadeByOtherRelease"}
"""What planning says although nothing is wrong."""


_SHOWN_BY_WORDS = {
    "GatewayAPIMissing": '"Gateway API" in messages',
    "PlanningDeadlineExceeded": "FailureReason.DEADLINE",
    "PlanningMemoryExceeded": "FailureReason.MEMORY",
}
"""Tests that look at what is said to people, where the reason itself is not shown."""


def _sources(folder: str) -> list[str]:
    return [path.read_text() for path in sorted((ROOT / folder).rglob("*.py"))]


def _listed() -> set[str]:
    rows = [line.split("|") for line in BAD_INPUT.splitlines() if line.startswith("| ") and "---" not in line]
    return {reason for row in rows for reason in re.findall(r"`([A-Z][A-Za-z]+)`", row[3])}


def _given() -> set[str]:
    """Reasons that planning gives, as far as they are written out."""
    found = set()
    for source in _sources("operator/plimsoll/planning"):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _CALLS:
                found |= {arg.value for arg in node.args[:2] if isinstance(arg, ast.Constant)}
    return {str(reason) for reason in found}


def test_the_page_of_refused_objects_is_what_the_tables_say() -> None:
    assert PAGE.read_text() == page(), "run `make docs`"


def test_every_reason_of_the_page_is_given_by_the_operator_and_shown_by_a_test() -> None:
    operator, tests = ("\n".join(_sources(folder)) for folder in ("operator", "tests"))
    for reason in _listed() - {"Invalid"}:
        assert f'"{reason}"' in operator, f"nothing gives {reason}"
        assert _SHOWN_BY_WORDS.get(reason, reason) in tests, f"no test shows {reason}"


def test_every_reason_that_planning_gives_is_on_the_page() -> None:
    assert _given() - _NO_FAULTS <= _listed()


def test_the_pages_cover_at_least_sixty_kinds_of_bad_input() -> None:
    rows = [line for line in BAD_INPUT.splitlines() if line.startswith("| ")]
    assert len(rows) >= 60
