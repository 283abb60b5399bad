"""The performance model against measurements."""

from __future__ import annotations

from benchmarks import calibration, queueing, simulator, validation
from benchmarks.progress import say
from benchmarks.results import Figure, Table


def run() -> tuple[list[Figure], list[str], list[Table]]:
    """Measure all parts."""
    figures: list[Figure] = []
    tables: list[Table] = []
    for part in (validation, queueing, simulator):
        say(part.__name__.rpartition(".")[2])
        more, shown = part.run()
        figures += more
        tables += shown
    say("calibration")
    fitted, notes, shown = calibration.run()
    return [*figures, *fitted], [*validation.notes(), *notes], [*tables, *shown]
