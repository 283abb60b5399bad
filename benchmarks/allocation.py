"""The planner: rounds on a fleet, solvers side by side, robustness, rolling plans, rivals' cases, a large fleet."""

from __future__ import annotations

from benchmarks import comparison, peers, production, robustness, rolling, rounds
from benchmarks.progress import say
from benchmarks.results import Figure, Table


def run() -> tuple[list[Figure], list[str], list[Table]]:
    """Measure all parts, the slowest last."""
    figures, notes = rounds.run()
    tables: list[Table] = []
    for part in (production, peers, robustness, rolling, comparison):
        say(part.__name__.rpartition(".")[2])
        more, shown = part.run()
        figures += more
        tables += shown
    return figures, notes, tables
