"""The committed ranges of measured figures: what is outside of its range has changed, or the machine has.

`ranges.json` has for each figure the most that it may be, beside mean and standard deviation of the runs that it is
from. A limit is a fifth above the mean, or two deviations where that is more. New figures get one once they were
measured more than once on a machine that does nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from benchmarks.results import Figure, number

RANGES = Path(__file__).with_name("ranges.json")


def outside(figures: Iterable[Figure]) -> Iterator[str]:
    """A sentence for each figure above its limit."""
    limits = json.loads(RANGES.read_text(encoding="utf-8"))
    for figure in figures:
        known = limits.get(figure.name)
        if known is not None and figure.value > known["limit"]:
            yield (
                f"OUTSIDE ITS RANGE: {figure.name}: {number(round(figure.value, 2))} {figure.unit}, at most "
                f"{number(known['limit'])} (mean {number(known['mean'])} ± {number(known['spread'])})"
            )
