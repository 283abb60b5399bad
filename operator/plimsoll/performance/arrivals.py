"""How arrivals cluster: Gamma-distributed times between them, by their coefficient of variation."""

from dataclasses import dataclass
from functools import lru_cache
from math import lgamma

import numpy as np

from plimsoll.performance.shapes import FloatArray

LEAST_BURSTINESS, MOST_BURSTINESS = 0.2, 10.0
"""Range of the coefficient of variation; beyond it the nearest is taken."""


@dataclass(frozen=True, slots=True)
class Arrivals:
    """A renewal process whose times between arrivals are Gamma-distributed; 1 is Poisson."""

    burstiness: float = 1.0
    """Coefficient of variation of the time between two arrivals."""

    @property
    def squared(self) -> float:
        """Squared coefficient of variation, within the range."""
        return float(min(max(self.burstiness, LEAST_BURSTINESS), MOST_BURSTINESS) ** 2)

    def companions(self, expected: FloatArray) -> FloatArray:
        """Arrivals that follow one within a time in which `expected` arrive on average, beyond these."""
        if self.squared == 1.0:
            return np.zeros_like(expected)
        at, excess, _ = _table(self.squared)
        return np.asarray(np.interp(expected, at, excess))

    def dispersion(self, expected: FloatArray) -> FloatArray:
        """Variance of the number of arrivals in such a time, over its mean."""
        if self.squared == 1.0:
            return np.ones_like(expected)
        at, _, dispersion = _table(self.squared)
        return np.asarray(np.interp(expected, at, dispersion))


POISSON = Arrivals()


@lru_cache(maxsize=64)
def _table(squared: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Times in mean times between arrivals, companions in excess within them, and index of dispersion.

    The renewal function is the sum over k of the chance that k gaps fit: incomplete gamma functions by their series.
    The variance of a count over t is t + 2 * integral of the excess (Cox, Renewal Theory).
    """
    shape = 1.0 / squared
    at = np.concatenate([[0.0], np.geomspace(1e-5, 6.0 * max(1.0, squared), 160)])
    scaled = np.maximum(shape * at, 1e-300)
    gaps = int((scaled[-1] + 9.0 * np.sqrt(scaled[-1]) + 9.0) / shape) + 1
    orders = np.arange(160.0)
    excess = -at.copy()
    for k in range(1, gaps + 1):
        logs = np.array([lgamma(k * shape + order + 1.0) for order in orders])
        terms = (k * shape + orders[None, :]) * np.log(scaled)[:, None] - scaled[:, None] - logs[None, :]
        excess += np.exp(terms).sum(axis=1)
    excess[0] = 0.0
    area = np.concatenate([[0.0], np.cumsum(0.5 * (excess[1:] + excess[:-1]) * np.diff(at))])
    dispersion = 1.0 + 2.0 * area / np.maximum(at, 1e-300)
    dispersion[0] = 1.0
    # Beyond the table the excess is constant and the dispersion tends to the squared variation.
    far = at[-1] * np.geomspace(1.0, 1e4, 60)[1:]
    limit = 0.5 * (squared - 1.0)
    far_dispersion = 1.0 + 2.0 * (area[-1] + limit * (far - at[-1])) / far
    return (
        np.concatenate([at, far]),
        np.concatenate([excess, np.full(len(far), limit)]),
        np.concatenate([dispersion, far_dispersion]),
    )
