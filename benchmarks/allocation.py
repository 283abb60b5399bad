"""The planner: rounds on a fleet, solvers side by side, robustness, rolling plans, rivals' cases, a large fleet."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmarks import comparison, peers, production, robustness, rolling, rounds
from benchmarks.progress import say
from benchmarks.results import Figure, Table


def run(*, resume: bool = False) -> tuple[list[Figure], list[str], list[Table]]:
    """Measure all parts, the slowest last; `resume` keeps the comparison's rows in results/scaling.csv."""
    figures, notes = rounds.run()
    tables: list[Table] = []
    parts: dict[str, Callable[[], tuple[list[Figure], list[Table]]]] = {
        "production": production.run,
        "peers": peers.run,
        "robustness": robustness.run,
        "rolling": rolling.run,
        "comparison": partial(comparison.run, resume=resume),
    }
    for name, measure in parts.items():
        say(name)
        more, shown = measure()
        figures += more
        tables += shown
    return figures, notes, tables
