"""Latencies as functions of the load that never fall, and where they cross a target: the two are exact inverses.

The approximations behind a latency take over from one another, and where they do it may dip although the load grows.
So latencies are computed at fixed loads only. A search by halving over these finds where a target is crossed; what it
finds never falls when the target is loosened, whatever the values are. Its inverse is the latency at a load: the value
interpolated between two neighbours, kept between the values at which the search turns towards them.
"""

from dataclasses import dataclass
from math import ceil, log, log1p

import numpy as np
from numpy.typing import NDArray

from plimsoll.performance.shapes import FloatArray

MAX_UTILIZATION = 0.98
"""Of the saturation rate: where no latency target binds, a queue still needs some room to be stable."""
_LEVELS = 6
_TOP = 1 << _LEVELS
_SPACING = log(1.0 / (1.0 - MAX_UTILIZATION)) / _TOP
"""Of the logarithm of the room that is left: waits grow as its inverse."""
_BITS = 40
_LAST = 0.9995
"""Beyond this load waits grow as the inverse of the room that is left."""


def load_of(number: float | FloatArray) -> FloatArray:
    """Utilization of the numbered loads: 0 at 0, `MAX_UTILIZATION` at `Search.top`; any number beyond."""
    return np.asarray(-np.expm1(-_SPACING * np.asarray(number, dtype=np.float64)))


def neighbours(load: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The fixed loads before and after each load below `MAX_UTILIZATION`."""
    number = np.minimum(np.floor(-np.log1p(-load) / _SPACING), _TOP - 1.0)
    return load_of(number), load_of(number + 1.0)


def settled(values: float | FloatArray) -> FloatArray:
    """Rounded to 40 bits: the last ones depend on what else is computed in the same arrays."""
    mantissa, exponent = np.frexp(values)
    return np.asarray(np.ldexp(np.rint(np.ldexp(mantissa, _BITS)), exponent - _BITS))


@dataclass(slots=True)
class Search:
    """For J rows and T targets each: the highest load below `top` at which all targets hold."""

    low: FloatArray
    """(J,) number of the highest load at which they were found to."""
    high: FloatArray
    """(J,) number of the lowest one at which some was missed."""
    met_above: NDArray[np.bool_]
    """(J, T) whether a target was met at a higher load, where another was missed: then it is met below, too."""

    top = _TOP
    levels = _LEVELS

    @classmethod
    def of(cls, met_at_top: NDArray[np.bool_]) -> "Search":
        """Where without load all are met, and at `top` these (J, T)."""
        rows = len(met_at_top)
        return cls(np.zeros(rows), np.full(rows, float(_TOP)), met_at_top)

    @property
    def next(self) -> FloatArray:
        """(J,) numbers of the loads to be looked at next."""
        return 0.5 * (self.low + self.high)

    def turn(self, met: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Go on, with the targets (J, T) that are met at `next`. (J,) whether all were."""
        met = met | self.met_above
        good, middle = np.asarray(met.all(axis=1)), self.next
        self.low, self.high = np.where(good, middle, self.low), np.where(good, self.high, middle)
        self.met_above = np.where(good[:, None], self.met_above, met)
        return good

    def found(self, targets: FloatArray, at_low: FloatArray, at_high: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(J,) loads, after as many turns as there are levels; and numbers of the targets that stop a higher one.

        From the targets and the latencies at both ends, all (J, T): in between latencies are interpolated.
        """
        rise, room = at_high - at_low, np.maximum(targets - at_low, 0.0)
        shares = np.where(self.met_above, np.inf, np.where(rise > room, room / np.where(rise > 0.0, rise, 1.0), 1.0))
        start, end = load_of(self.low), load_of(self.high)
        # A little less, since rates are rounded.
        found = (start + np.minimum(shares.min(axis=1), 1.0) * (end - start)) * (1.0 - 1e-11)
        return found, shares.argmin(axis=1)


@dataclass(frozen=True, slots=True)
class Path:
    """The fixed loads on which the latencies at one load depend."""

    load: float
    numbers: FloatArray
    """(P,) of these loads, except 0: first the search's way down, in order, beginning with `top`; or all beyond it."""

    @classmethod
    def to(cls, load: float) -> "Path":
        """To a load above 0 and below 1."""
        at = -log1p(-min(load, _LAST)) / _SPACING
        if at > _TOP:
            return cls(load, np.arange(_TOP, ceil(at - 1e-9) + 1, dtype=np.float64))
        way, low, high = [_TOP], 0, _TOP
        while high - low > 1:
            middle = (low + high) // 2
            way.append(middle)
            low, high = (middle, high) if float(load_of(middle)) < load else (low, middle)
        return cls(load, np.array(way, dtype=np.float64))

    def value(self, without_load: float, values: FloatArray) -> float:
        """The latency, from that without load and the values (P,) at the numbered loads."""
        if self.numbers[-1] > _TOP or len(self.numbers) == 1:
            return self._beyond(max(without_load, float(values[0])), values)
        known: dict[float, float] = {
            0.0: without_load,
            **dict(zip(self.numbers.tolist(), values.tolist(), strict=True)),
        }
        below = max(number for number in known if number == 0.0 or float(load_of(number)) < self.load)
        above = min(number for number in known if number > below)
        start, end = float(load_of(below)), float(load_of(above))
        found = known[below] + (known[above] - known[below]) * min((self.load - start) / (end - start), 1.0)
        for number in reversed(self.numbers.tolist()):
            found = max(found, known[number]) if number <= below else min(found, known[number])
        return max(found, without_load)

    def _beyond(self, least: float, values: FloatArray) -> float:
        highest = np.maximum(np.maximum.accumulate(values), least)
        at = min(self.load, _LAST)
        found = float(np.interp(at, load_of(self.numbers), highest))
        return found * (1.0 - at) / (1.0 - self.load) if self.load > at else found
