"""`python -m benchmarks.report` writes RESULTS.md from all files in results/."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.results import RESULTS, number

REPORT = Path(__file__).with_name("RESULTS.md")
_HEAD = """# Benchmark results

Generated from `benchmarks/results/` by `python -m benchmarks.report`; `make bench` measures anew. A target is the most
that a figure may be; a figure that misses its target is listed as missed.
"""


def generate(results: Path = RESULTS) -> str:
    """The report as Markdown."""
    files = sorted(results.glob("*.json"))
    sections = [_section(path.stem, json.loads(path.read_text(encoding="utf-8"))) for path in files]
    return "\n".join([_HEAD, *sections])


def _section(name: str, document: dict[str, Any]) -> str:
    machine = document["machine"]
    where = f"{machine['cores']} cores of {machine['cpu']}, {machine['memory']} memory, {machine['os']}"
    lines = [
        f"## {name}",
        "",
        f"{document['date']}, {where}, Python {machine['python']}.",
        "",
        *(f"{note}\n" for note in document["notes"]),
        "| figure | value | target | |",
        "| --- | ---: | ---: | --- |",
        *(_row(figure) for figure in document["figures"]),
        "",
    ]
    for table in document.get("tables", ()):
        lines += [f"### {table['title']}", "", _cells(table["columns"]), _cells("---" for _ in table["columns"])]
        lines += [*map(_cells, table["rows"]), ""]
    return "\n".join(lines)


def _cells(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _row(figure: dict[str, Any]) -> str:
    verdict = {True: "met", False: "**missed**", None: ""}[figure["met"]]
    target = "" if figure["target"] is None else f"≤ {number(figure['target'])} {figure['unit']}".rstrip()
    return f"| {figure['name']} | {number(figure['value'])} {figure['unit']}".rstrip() + f" | {target} | {verdict} |"


def main() -> None:
    """Write the report."""
    REPORT.write_text(generate(), encoding="utf-8")
    print(f"wrote benchmarks/{REPORT.name}")


if __name__ == "__main__":
    main()
