"""CG-BP: conservative greedy block placement (BPRR, section IV), and the design number of sessions.

Conservative: every server keeps room for all R sessions to use all its blocks, so that routing needs no memory check as
long as no more than R sessions run.
"""

import math
from dataclasses import dataclass

import numpy as np

from plimsoll.chains.problem import SLACK, ChainProblem, Floats, Ints, Placement, whole


@dataclass(frozen=True, slots=True, eq=False)
class ConservativePlacement:
    """A placement for R concurrent sessions and what is proven of it."""

    placement: Placement
    sessions: int
    """R."""
    order: tuple[int, ...]
    """Servers by amortised time per block, as they were placed."""
    covering: int
    """K: how many of them were placed when every block was first served for R sessions; 0 if that never happened."""
    feasible: bool
    worst_trip_seconds: Floats
    """(S): per output token, of the farthest client."""
    block_seconds: Floats
    """(S): amortised per block and output token; infinite for servers that host none."""
    carried: Ints
    """(S): sessions that each server can carry at least."""

    def decode_bound_seconds(self, problem: ChainProblem) -> float:
        """No client's shortest route takes longer per output token (Theorem 2). Infinite when infeasible."""
        hop = self.worst_trip_seconds + problem.decode_block_seconds * self.placement.count
        return self._bound(hop, problem.decode_block_seconds, problem.blocks)

    def session_bound_seconds(self, problem: ChainProblem) -> float:
        """The same for a whole session with its prompt and setup, while no more than R sessions run."""
        hop = problem.session_trip_seconds.max(axis=0) + problem.session_block_seconds * self.placement.count
        return problem.setup_seconds + self._bound(hop, problem.session_block_seconds, problem.blocks)

    def _bound(self, hop: Floats, per_block: Floats, blocks: int) -> float:
        if not self.feasible:
            return math.inf
        first = list(self.order[: self.covering])
        spare = int(self.placement.count[first].sum()) - blocks
        return float(hop[first].sum() - per_block[first[-1]] * spare)


def block_counts(problem: ChainProblem, sessions: int) -> Ints:
    """(S): blocks per server that leave room for the caches of this many sessions, or of as many as it may process."""
    held = min(sessions, problem.sessions_at_once) if problem.sessions_at_once else sessions
    fitting = whole(problem.memory_bytes / (problem.block_bytes + problem.cache_bytes * held))
    return np.minimum(fitting, problem.most_blocks)


def place_conservatively(problem: ChainProblem, sessions: int) -> ConservativePlacement:
    """Place blocks for this many concurrent sessions: fastest servers first, windows that lack the most service.

    O(S · L) window sums; ties by the smallest start and the smallest server.
    """
    counts = block_counts(problem, sessions)
    trip = problem.decode_trip_seconds.max(axis=0)
    hosts = counts > 0
    amortised = np.full(problem.servers, math.inf)
    amortised[hosts] = problem.decode_block_seconds[hosts] + trip[hosts] / counts[hosts]
    order = tuple(int(j) for j in np.argsort(amortised, kind="stable") if hosts[j])
    carried = np.zeros(problem.servers, dtype=np.int64)
    carried[hosts] = problem.slots(problem.memory_bytes[hosts], counts[hosts]) // counts[hosts]
    slowest = 1.0 + (float(amortised[hosts].max()) if order else 0.0)
    capacity = np.zeros(problem.blocks, dtype=np.int64)
    lacking = np.full(problem.blocks, sessions * slowest)
    first = np.zeros(problem.servers, dtype=np.int64)
    covering = 0
    for number, server in enumerate(order, start=1):
        count = int(counts[server])
        start = _emptiest(capacity, count) if covering else _neediest(lacking, capacity < sessions, count)
        first[server] = start
        window = slice(start, start + count)
        served = np.minimum(np.maximum(sessions - capacity[window], 0), carried[server])
        lacking[window] -= (slowest - amortised[server]) * served
        capacity[window] += carried[server]
        if covering == 0 and bool((capacity >= sessions).all()):
            covering = number
    return ConservativePlacement(
        placement=Placement(first, counts),
        sessions=sessions,
        order=order,
        covering=covering,
        feasible=covering > 0,
        worst_trip_seconds=trip,
        block_seconds=amortised,
        carried=carried,
    )


def _neediest(lacking: Floats, open_blocks: np.ndarray, count: int) -> int:
    """Start of the window with the most time lacking, among those that hold an open block."""
    sums = _windows(lacking, count)
    has_open = _windows(open_blocks.astype(float), count) > 0.5
    sums = np.where(has_open, sums, -math.inf)
    best = float(sums.max())
    return int(np.flatnonzero(sums >= best - SLACK * max(1.0, abs(best)))[0])


def _emptiest(capacity: Ints, count: int) -> int:
    """Start of the window whose capacities, sorted, come first in lexicographic order."""
    windows = np.sort(np.lib.stride_tricks.sliding_window_view(capacity, count), axis=1)
    rows = np.arange(len(windows))
    for column in range(count):
        values = windows[rows, column]
        rows = rows[values == values.min()]
        if len(rows) == 1:
            break
    return int(rows[0])


def _windows(values: Floats, count: int) -> Floats:
    sums = np.concatenate(([0.0], np.cumsum(values)))
    return np.asarray(sums[count:] - sums[:-count], dtype=np.float64)


def most_sessions(problem: ChainProblem) -> int:
    """A number of sessions for which CG-BP is surely feasible where nothing caps the blocks (sufficient, not needed);
    0 or less says nothing."""
    spread = problem.blocks + problem.servers
    return math.floor(
        (float(problem.memory_bytes.sum()) - problem.block_bytes * spread) / (problem.cache_bytes * spread)
    )


def design_sessions(arrivals_per_second: float, session_seconds: float, most: int) -> int:
    """R for a Poisson stream: mean plus one standard deviation of the sessions that run at once, at most `most`."""
    mean = arrivals_per_second * session_seconds
    return min(math.floor(mean + math.sqrt(mean) + 0.5), most)
