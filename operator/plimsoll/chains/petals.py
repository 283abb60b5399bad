"""PETALS as a baseline: how its servers choose blocks, move, and how its clients choose routes.

A weak baseline at high load: its cache pools have a fixed size whatever memory is left over.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from plimsoll.chains.ledger import Ledger
from plimsoll.chains.online import Router
from plimsoll.chains.problem import SLACK, ChainProblem, Floats, Ints, Placement, whole
from plimsoll.chains.routes import Route

BACKWARD_RESERVE_BYTES = 2 * 2**30
"""For backward passes, at BLOOM's hidden size of 14336; scales with the hidden size."""
RESERVE_HIDDEN_SIZE = 14336
ATTENTION_TOKENS, GROUPED_ATTENTION_TOKENS = 4096, 16384
"""Tokens whose cache each block reserves, without and with grouped queries."""
HOP_SECONDS = 0.018
"""What its router takes for serialising, per hop."""
NO_CACHE_SECONDS = 10.0
"""What its router adds for a server without room."""
BALANCE_QUALITY = 0.75


def reserved_cache_bytes(hidden_size: int, key_value_groups: int = 1) -> float:
    """Bytes that a server reserves per block for caches."""
    tokens = GROUPED_ATTENTION_TOKENS if key_value_groups > 1 else ATTENTION_TOKENS
    return float(2 * hidden_size * tokens * 2 // key_value_groups)


def block_counts(problem: ChainProblem, hidden_size: int, key_value_groups: int = 1) -> Ints:
    """(S): blocks that each server takes."""
    reserve = BACKWARD_RESERVE_BYTES * hidden_size / RESERVE_HIDDEN_SIZE
    per_block = problem.block_bytes + reserved_cache_bytes(hidden_size, key_value_groups)
    return np.minimum(whole((problem.memory_bytes - reserve) / per_block), problem.most_blocks)


def cache_slots(problem: ChainProblem, counts: Ints, cache_bytes_per_block: float) -> Ints:
    """(S): cache slots of the fixed pools."""
    return whole(np.asarray(counts * (cache_bytes_per_block / problem.cache_bytes), dtype=np.float64))


def throughput(counts: Ints, forward_per_second: Floats, network_per_second: Floats) -> Floats:
    """(S): what a server says that it can do: half of its blocks on average, or its network."""
    return np.minimum(forward_per_second / ((1 + counts) / 2), network_per_second)


def place(blocks: int, counts: Ints, speed: Floats, order: Sequence[int]) -> Placement:
    """Servers join in order, each where the throughput is worst."""
    hosted = np.zeros(blocks)
    first = np.zeros(len(counts), dtype=np.int64)
    for server in order:
        count = int(counts[server])
        if count:
            first[server] = worst_window(hosted, count)
            hosted[first[server] : first[server] + count] += speed[server]
    return Placement(first, counts)


def worst_window(hosted: Floats, count: int) -> int:
    """Start of the window whose throughputs, sorted, come first in lexicographic order; the smallest among equals."""
    windows = np.sort(np.lib.stride_tricks.sliding_window_view(hosted, count), axis=1)
    rows = np.arange(len(windows))
    for column in range(count):
        values = windows[rows, column]
        least = values.min()
        rows = rows[values <= least + SLACK * max(1.0, abs(least))]
        if len(rows) == 1:
            break
    return int(rows[0])


def rebalanced(
    placement: Placement,
    speed: Floats,
    blocks: int,
    server: int,
    shuffled: Callable[[Sequence[int]], Sequence[int]],
    quality: float = BALANCE_QUALITY,
) -> int:
    """Where a server moves to when it looks around: the start of its new window, or the present one.

    It moves only if, after everybody has followed, the worst block is better off by more than the quality factor.

    Args:
        shuffled: gives the order in which the others would follow.
    """
    first, count = placement.first.copy(), placement.count
    hosted = _hosted(first, count, speed, blocks)
    before = float(hosted.min())
    own = slice(int(first[server]), int(first[server] + count[server]))
    hosted[own] -= speed[server] * 1.001
    if before > 0 and hosted.min() <= 0:
        return int(first[server])
    start = worst_window(hosted, int(count[server]))
    if start == first[server]:
        return start
    first[server] = start
    moved = True
    while moved:
        moved = False
        for other in shuffled([number for number in range(len(count)) if count[number] > 0]):
            hosted = _hosted(first, count, speed, blocks)
            hosted[first[other] : first[other] + count[other]] -= speed[other] * 1.001
            better = worst_window(hosted, int(count[other]))
            if better != first[other]:
                first[other], moved = better, True
    after = float(_hosted(first, count, speed, blocks).min())
    if after < before or after < 1e-3 or before / after >= quality - 0.001:
        return int(placement.first[server])
    return start


def _hosted(first: Ints, count: Ints, speed: Floats, blocks: int) -> Floats:
    hosted = np.zeros(blocks)
    for number in range(len(count)):
        hosted[first[number] : first[number] + count[number]] += speed[number]
    return hosted


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """Raw round trips, in seconds."""

    client: Floats
    """(S): client and server."""
    servers: Floats
    """(S, S): between servers."""


def router(
    problem: ChainProblem,
    placement: Placement,
    network: Network,
    session_limit: Ints,
    *,
    full_when_equal: bool = False,
) -> Router:
    """Latency-minimising routes as PETALS clients find them: half a round trip and a serialisation per hop, one step
    per block, and a penalty for servers that have no room.

    Args:
        session_limit: (S) sessions that a server has room for.
        full_when_equal: a server counts as full only while it has exactly that many sessions, as in the published
            simulator: once oversubscribed it looks free again.
    """
    hosting = np.flatnonzero(placement.count > 0)
    by_end = hosting[np.argsort(-placement.end[hosting], kind="stable")]

    def full(ledger: Ledger) -> Floats:
        active = np.array([ledger.active(server) for server in range(problem.servers)])
        left = session_limit - active
        return np.where(left == 0 if full_when_equal else left <= 0, NO_CACHE_SECONDS, 0.0)

    def route(ledger: Ledger, now_seconds: float) -> Route | None:
        ledger.release_until(now_seconds)
        penalty = full(ledger)
        rest = np.full(problem.servers, np.inf)
        following = np.full(problem.servers, -1, dtype=np.int64)
        for server in by_end.tolist():
            end = int(placement.end[server])
            if end == problem.blocks:
                rest[server] = network.client[server] / 2
                continue
            rest[server], following[server] = _next(
                problem, placement, network.servers[server], penalty, rest, hosting, end
            )
        _, server = _next(problem, placement, network.client, penalty, rest, hosting, 0)
        if server < 0:
            return None
        servers, blocks, position = [], [], 0
        while server >= 0:
            servers.append(server)
            blocks.append(int(placement.end[server]) - position)
            position, server = int(placement.end[server]), int(following[server])
        return Route(tuple(servers), tuple(blocks))

    return route


def _next(
    problem: ChainProblem,
    placement: Placement,
    trip: Floats,
    penalty: Floats,
    rest: Floats,
    hosting: Ints,
    position: int,
) -> tuple[float, int]:
    """The best server to go to at a block position, and what is left from there; -1 when there is none."""
    usable = hosting[(placement.first[hosting] <= position) & (position < placement.end[hosting])]
    if not len(usable):
        return np.inf, -1
    hop = trip[usable] / 2 + HOP_SECONDS + penalty[usable]
    totals = hop + problem.decode_block_seconds[usable] * (placement.end[usable] - position) + rest[usable]
    least = float(totals.min())
    if not np.isfinite(least):
        return np.inf, -1
    return least, int(usable[np.flatnonzero(totals <= least + SLACK * max(1.0, least))[0]])
