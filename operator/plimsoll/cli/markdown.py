"""Markdown from text that anybody may have written: nothing in it makes a link, a mention, a tag or another cell."""

from collections.abc import Iterable, Sequence

_ESCAPES = {
    "&": "&amp;",
    "<": "&lt;",
    ">": "&gt;",
    "|": "\\|",
    "@": "&#64;",
    "[": "\\[",
    "]": "\\]",
    "\n": " ",
    "\r": " ",
}


def escaped(text: str) -> str:
    """`text` for a line of Markdown. Backticks and asterisks stay: they only change how it looks."""
    return "".join(_ESCAPES.get(character, character) for character in text)


def heading(text: str) -> str:
    """A heading of the fourth level."""
    return f"#### {escaped(text)}"


def row(*cells: object) -> str:
    """A row of a table."""
    return f"| {' | '.join(escaped(str(cell)) for cell in cells)} |"


def own_row(*cells: str) -> str:
    """A row of text that stands in the code: code spans stay as they are."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def table(head: Sequence[str], rows: Iterable[str]) -> list[str]:
    """The lines of a table with these rows."""
    return [row(*head), f"|{'---|' * len(head)}", *rows]
