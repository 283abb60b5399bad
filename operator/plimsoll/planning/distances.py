"""Measured round trips between regions, which take the place of the policy's: while they are fresh, and only when they
have moved. Pure: the time comes in as a value.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from plimsoll.planning.snapshot import MeasuredTrip

FRESH = timedelta(hours=24)
"""For as long a measurement counts; clocks may disagree by as much."""
MOVE = 0.2
"""Part by which a round trip must differ from the one in force to take its place."""
LEAST_MILLISECONDS = 2.0
"""And at least by so much."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One round trip, as somebody's probe has measured it."""

    region: str
    peer: str
    milliseconds: float
    time: datetime


def in_force(
    before: Iterable[MeasuredTrip], measured: Iterable[Measurement], now: datetime
) -> tuple[MeasuredTrip, ...]:
    """The measured round trips that count from now on, by regions. Of both directions the longer one counts.

    Args:
        before: those that counted until now.
        now: with a time zone, as the measurements have.
    """
    known = {(trip.region, trip.peer): trip.milliseconds for trip in before}
    fresh: dict[tuple[str, str], float] = {}
    for item in measured:
        if item.region != item.peer and abs(now - item.time) < FRESH:
            pair = min(item.region, item.peer), max(item.region, item.peer)
            fresh[pair] = max(fresh.get(pair, 0.0), item.milliseconds)
    return tuple(MeasuredTrip(*pair, _steadied(known.get(pair), fresh[pair])) for pair in sorted(fresh))


def stale(measured: Sequence[Measurement], now: datetime) -> int:
    """How many measurements do not count: too old, or of a time to come."""
    return sum(abs(now - item.time) >= FRESH for item in measured)


def _steadied(before: float | None, measured: float) -> float:
    if before is not None and abs(measured - before) <= max(LEAST_MILLISECONDS, MOVE * before):
        return before
    return float(round(measured))
