"""Latency statistics in memory that does not grow with the number of requests.

Values go into bins whose widths grow by 0.8 %, so a percentile is off by 0.4 % at most. Values of equal spans of
simulated time form batches; when there are too many, neighbours are merged. Confidence intervals come from the batch
means (as ratios, for batches differ in size). They hold although successive latencies are correlated, as long as a
batch is long against that correlation.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

_GROWTH = 1.008
_PER_LOG = 1.0 / math.log(_GROWTH)
_LEAST_SECONDS = 1e-6
_BINS = 3600
"""Up to 2.9 million seconds; what lies beyond counts in the last bin, and below a microsecond in the first."""
_MOST_BATCHES = 40
"""Merged in pairs when reached: a long run is reported in 20 to 40 batches."""


@dataclass(frozen=True, slots=True)
class LatencySummary:
    """Seconds of some kind of latency, over all requests of a run."""

    counts: IntArray
    """(batches, bins)."""
    sums: FloatArray
    """(batches,) seconds."""
    least_seconds: float
    most_seconds: float

    @property
    def count(self) -> int:
        """Values."""
        return int(self.counts.sum())

    @property
    def batches(self) -> int:
        """Batches with at least one value."""
        return int(np.count_nonzero(self.counts.sum(axis=1)))

    @property
    def mean_seconds(self) -> float:
        """Exact; nan without values."""
        return float(self.sums.sum()) / self.count if self.count else math.nan

    def percentile_seconds(self, percentile: float) -> float:
        """Within 0.4 %; nan without values. `percentile` is within 0..100."""
        total = self.counts.sum(axis=0)
        return self._quantile(total, percentile / 100.0)

    def share_within(self, seconds: float) -> float:
        """Part of the values that are at most `seconds`, to the resolution of a bin; nan without values."""
        total = self.counts.sum(axis=0)
        return float(total[: _bin(seconds) + 1].sum()) / self.count if self.count else math.nan

    def mean_half_width(self, confidence: float = 0.95) -> float:
        """Half of the mean's confidence interval, in seconds; infinite below 2 batches."""
        sizes = self.counts.sum(axis=1).astype(np.float64)
        return _ratio_half_width(self.sums, sizes, confidence)

    def percentile_interval(self, percentile: float, confidence: float = 0.95) -> tuple[float, float]:
        """Confidence interval of a percentile in seconds: the percentiles at the ends of the interval of the share of
        values below it."""
        total = self.counts.sum(axis=0)
        share = percentile / 100.0
        below = np.cumsum(total) / max(1, self.count)
        index = int(np.searchsorted(below, share - 1e-12))
        if index >= _BINS or not self.count:
            return math.nan, math.nan
        hits = self.counts[:, : index + 1].sum(axis=1).astype(np.float64)
        half = _ratio_half_width(hits, self.counts.sum(axis=1).astype(np.float64), confidence)
        half = max(half, 0.5 / self.count)
        return self._quantile(total, max(0.0, share - half)), self._quantile(total, min(1.0, share + half))

    def _quantile(self, total: IntArray, share: float) -> float:
        count = int(total.sum())
        if not count:
            return math.nan
        cumulative = np.cumsum(total)
        rank = share * count
        index = min(int(np.searchsorted(cumulative, max(rank, 1e-9), side="left")), _BINS - 1)
        before = int(cumulative[index - 1]) if index else 0
        within = min(1.0, max(0.0, (rank - before) / max(1, int(total[index]))))
        seconds = _LEAST_SECONDS * _GROWTH ** (index + within)
        return float(min(max(seconds, self.least_seconds), self.most_seconds))


@dataclass(frozen=True, slots=True)
class IntervalLatency:
    """Seconds of some kind of latency in one interval; nan without values."""

    count: int
    mean_seconds: float
    p50_seconds: float
    p95_seconds: float
    p99_seconds: float


class LatencyRecorder:
    """Collects values; `close_interval` is called at equal spans of simulated time, which make the batches."""

    __slots__ = (
        "_batch",
        "_batch_counts",
        "_batch_sum",
        "_batch_sums",
        "_bins",
        "_least",
        "_merge",
        "_most",
        "_pending",
        "_sum",
    )

    def __init__(self) -> None:
        self._bins: dict[int, int] = {}  # of the open interval
        self._sum = 0.0
        self._least, self._most = math.inf, -math.inf
        self._batch = np.zeros(_BINS, dtype=np.int64)
        self._batch_sum = 0.0
        self._batch_counts: list[IntArray] = []
        self._batch_sums: list[float] = []
        self._merge, self._pending = 1, 0  # intervals that make a batch, and those in the open one

    def add(self, seconds: float) -> None:
        """One value."""
        self._sum += seconds
        if seconds < self._least:
            self._least = seconds
        if seconds > self._most:
            self._most = seconds
        index = _bin(seconds)
        self._bins[index] = self._bins.get(index, 0) + 1

    def close_interval(self) -> IntervalLatency:
        """End a span of time; what it held."""
        held = self._take()
        self._pending += 1
        if self._pending == self._merge:
            self._pending = 0
            self._batch_counts.append(self._batch)
            self._batch_sums.append(self._batch_sum)
            self._batch, self._batch_sum = np.zeros(_BINS, dtype=np.int64), 0.0
            if len(self._batch_sums) == _MOST_BATCHES:
                pairs = range(0, _MOST_BATCHES, 2)
                self._batch_counts = [self._batch_counts[i] + self._batch_counts[i + 1] for i in pairs]
                self._batch_sums = [self._batch_sums[i] + self._batch_sums[i + 1] for i in pairs]
                self._merge *= 2
        return held

    def summary(self) -> LatencySummary:
        """Of all closed intervals; the last batch may be shorter than the others."""
        counts, sums = list(self._batch_counts), list(self._batch_sums)
        if self._pending or not sums:
            counts.append(self._batch)
            sums.append(self._batch_sum)
        return LatencySummary(np.array(counts), np.array(sums), self._least, self._most)

    def _take(self) -> IntervalLatency:
        """Move the open interval's values into the open batch."""
        if not self._bins:
            return IntervalLatency(0, math.nan, math.nan, math.nan, math.nan)
        bins = np.array(sorted(self._bins))
        counts = np.array([self._bins[index] for index in bins.tolist()])
        self._batch[bins] += counts
        self._batch_sum += self._sum
        below = np.cumsum(counts)
        count, mean = int(below[-1]), self._sum / float(below[-1])
        middles = [
            _LEAST_SECONDS * _GROWTH ** (float(bins[int(np.searchsorted(below, share * count))]) + 0.5)
            for share in (0.5, 0.95, 0.99)
        ]
        self._bins, self._sum = {}, 0.0
        return IntervalLatency(count, mean, *middles)


def _bin(seconds: float) -> int:
    if seconds <= _LEAST_SECONDS:
        return 0
    return min(_BINS - 1, int(math.log(seconds / _LEAST_SECONDS) * _PER_LOG))


def _ratio_half_width(sums: FloatArray, sizes: FloatArray, confidence: float) -> float:
    """Half width of the confidence interval of Σ sums / Σ sizes, over batches."""
    used = sizes > 0
    sums, sizes = sums[used], sizes[used]
    batches = len(sizes)
    if batches < 2:
        return math.inf
    ratio = sums.sum() / sizes.sum()
    variance = float(np.square(sums - ratio * sizes).sum()) * batches / (batches - 1) / float(sizes.sum()) ** 2
    return student(confidence, batches - 1) * math.sqrt(variance)


def student(confidence: float, freedom: int) -> float:
    """Two-sided quantile of Student's t: Cornish and Fisher's expansion, within 1 % from 4 degrees of freedom."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2.0)
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )
