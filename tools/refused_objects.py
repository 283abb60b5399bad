"""Writes docs/refused-objects.md from the tables of bad and hostile objects, which the tests run through pydantic and a
real API server."""

from __future__ import annotations

from pathlib import Path

from tests.bad_objects import BAD_OBJECTS, BadObject
from tests.hostile_objects import HOSTILE_OBJECTS

PAGE = Path(__file__).parents[1] / "docs" / "refused-objects.md"
_HEAD = """\
# Objects that are refused

Generated from the tables that the tests run through Plimsoll's own parser and through a real API server; both give the
same verdict. Each of these objects is refused when it is applied, with a message that names the field; `plimsoll plan`
says the same. Nothing that runs is touched. An object that came in before a rule was there is `Invalid` and is held.

What the API server takes and Plimsoll does not is in [bad-input.md](bad-input.md).
"""


def page() -> str:
    """The page as it should be."""
    tables = [
        _table("Written on purpose", HOSTILE_OBJECTS),
        _table("Written by mistake", BAD_OBJECTS),
    ]
    return "\n".join([_HEAD, *tables])


def _table(title: str, objects: list[BadObject]) -> str:
    rows = [f"| {bad.object['kind']} | {_cell(_fault(bad))} | `{bad.field}` |" for bad in objects]
    return "\n".join([f"## {title}\n", "| object | what is wrong | field named |", "| --- | --- | --- |", *rows, ""])


def _fault(bad: BadObject) -> str:
    return bad.name.partition(": ")[2]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


if __name__ == "__main__":
    PAGE.write_text(page())
    print(PAGE)
