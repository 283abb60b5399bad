"""What a benchmark found, as a JSON file that says on which kind of machine."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results")


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure; `target` is the most that it may be."""

    name: str
    value: float
    unit: str
    target: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without a target."""
        return None if self.target is None else self.value <= self.target

    def document(self) -> dict[str, Any]:
        """As it stands in the file."""
        return {
            "name": self.name,
            "value": _rounded(self.value),
            "unit": self.unit,
            "target": self.target,
            "met": self.met,
        }

    def __str__(self) -> str:
        aim = "" if self.target is None else f"  (target ≤ {number(self.target)}: {'met' if self.met else 'MISSED'})"
        return f"{self.name}: {number(_rounded(self.value))} {self.unit}".rstrip() + aim


@dataclass(frozen=True, slots=True)
class Table:
    """Things side by side that are no single figure; cells are written as they are to be read."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]

    def document(self) -> dict[str, Any]:
        """As it stands in the file."""
        return {"title": self.title, "columns": list(self.columns), "rows": [list(row) for row in self.rows]}

    def text(self) -> str:
        """For a terminal."""
        lines = [self.columns, *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.columns))]
        padded = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
        return "\n".join((self.title, *padded))


def write(name: str, figures: list[Figure], notes: list[str], tables: Iterable[Table] = ()) -> Path:
    """Write `results/NAME.json`."""
    document = {
        "machine": machine(),
        "date": datetime.now(UTC).date().isoformat(),
        "notes": notes,
        "figures": [figure.document() for figure in figures],
        "tables": [table.document() for table in tables],
    }
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def show(figures: Iterable[Figure], tables: Iterable[Table]) -> None:
    """Print them: the tables first."""
    for table in tables:
        print(table.text(), "\n")
    for figure in figures:
        print(figure)


def machine() -> dict[str, Any]:
    """The kind of machine: processor, cores, memory, system, Python. Nothing that names this one."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": f"{memory_bytes / 2**30:.0f} GiB",
        "os": _system(),
        "python": platform.python_version(),
    }


def number(value: float) -> str:
    """A figure for people: without needless decimals."""
    return f"{value:,.10g}"


def _system() -> str:
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        name = platform.system()
    return f"{name}, kernel {platform.release().split('-')[0]}"


def _rounded(value: float) -> float:
    """Three significant digits, or whole when it is larger."""
    return value if value == int(value) else round(value) if abs(value) >= 1000 else float(f"{value:.3g}")
