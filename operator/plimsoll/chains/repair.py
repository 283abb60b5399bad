"""Small changes to a running placement: servers that host nothing get blocks, a few others move, and a new placement is
dealt out so that most servers keep what they host.

What counts is how many sessions the servers of each block carry at once, the scarcest block first.
"""

import numpy as np

from plimsoll.chains.conservative import block_counts
from plimsoll.chains.problem import ChainProblem, Ints, Placement

DESIGNS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Numbers of sessions from which the sizes of intervals that are tried come."""


def carried_sessions(problem: ChainProblem, placement: Placement) -> Ints:
    """(S): sessions that each server has cache memory for when each uses all its blocks."""
    slots = placement.cache_slots(problem)
    return np.where(placement.count > 0, slots // np.maximum(placement.count, 1), 0)


def block_capacity(problem: ChainProblem, placement: Placement) -> Ints:
    """(L): sessions that the servers of each block carry."""
    change = np.zeros(problem.blocks + 1, dtype=np.int64)
    carried = carried_sessions(problem, placement)
    np.add.at(change, placement.first, carried)
    np.subtract.at(change, placement.end, carried)
    return np.cumsum(change)[: problem.blocks]


def fill(problem: ChainProblem, placement: Placement, *, like_others: bool = False) -> Placement:
    """Blocks for the servers that host none, the fastest first; the others keep theirs.

    Args:
        like_others: only intervals that some server hosts already, so that stages stay stages.
    """
    first, count = placement.first.copy(), placement.count.copy()
    idle = np.flatnonzero(count == 0)
    order = idle[np.argsort(problem.session_block_seconds[idle], kind="stable")]
    capacity = block_capacity(problem, placement)
    sizes = np.stack([block_counts(problem, sessions) for sessions in DESIGNS])
    if like_others:
        sizes = np.zeros_like(sizes)
    for server in order.tolist():
        found = _best_interval(problem, capacity, server, sizes[:, server], Placement(first, count))
        if found is None:
            continue
        start, size, sessions = found
        first[server], count[server] = start, size
        capacity[start : start + size] += sessions
    return Placement(first, count)


def move_some(problem: ChainProblem, placement: Placement, most_moves: int) -> Placement:
    """Servers moved one after the other, each to where it relieves the scarcest blocks, as long as that helps."""
    first, count = placement.first.copy(), placement.count.copy()
    sizes = np.stack([block_counts(problem, sessions) for sessions in DESIGNS])
    for _ in range(most_moves):
        now = Placement(first, count)
        capacity, carried = block_capacity(problem, now), carried_sessions(problem, now)
        scarcest = int(capacity.min())
        best: tuple[list[int], int, tuple[int, int, int]] | None = None
        # Of like servers in the same place one stands for all.
        alike: set[tuple[float, ...]] = set()
        for server in np.flatnonzero(count > 0).tolist():
            kind = (
                float(first[server]),
                float(count[server]),
                float(problem.memory_bytes[server]),
                float(problem.session_block_seconds[server]),
            )
            window = slice(int(first[server]), int(first[server] + count[server]))
            if kind in alike or int((capacity[window] - carried[server]).min()) < scarcest:
                continue
            alike.add(kind)
            without = capacity.copy()
            without[window] -= carried[server]
            found = _best_interval(problem, without, server, sizes[:, server], now)
            if found is None or found[:2] == (first[server], count[server]):
                continue
            start, size, sessions = found
            without[start : start + size] += sessions
            value = sorted(without.tolist())
            if value > sorted(capacity.tolist()) and (best is None or value > best[0]):
                best = value, server, found
        if best is None:
            break
        first[best[1]], count[best[1]] = best[2][0], best[2][1]
    return Placement(first, count)


def _best_interval(
    problem: ChainProblem, capacity: Ints, server: int, sizes: Ints, running: Placement
) -> tuple[int, int, int] | None:
    """Start, size and sessions of the interval that leaves the scarcest blocks best off: the running ones, and every
    start for some sizes."""
    blocks = problem.blocks
    hosting = running.count > 0
    known = set(zip(running.first[hosting].tolist(), running.count[hosting].tolist(), strict=True))
    for size in {int(size) for size in sizes if size > 0}:
        known.update((start, size) for start in range(blocks - size + 1))
    intervals = np.array(sorted(known), dtype=np.int64).reshape(-1, 2)
    starts, lengths = intervals[:, 0], intervals[:, 1]
    sessions = problem.slots(problem.memory_bytes[server], lengths) // lengths
    usable = (sessions > 0) & (lengths <= problem.most_blocks[server])
    if not usable.any():
        return None
    starts, lengths, sessions = starts[usable], lengths[usable], sessions[usable]
    block = np.arange(blocks)
    inside = (block >= starts[:, None]) & (block < (starts + lengths)[:, None])
    after = np.sort(capacity + inside * sessions[:, None], axis=1)
    # Lexicographic: the last key of lexsort counts first.
    best = int(np.lexsort(-after.T[::-1])[0])
    return int(starts[best]), int(lengths[best]), int(sessions[best])


def dealt_out(problem: ChainProblem, target: Placement, running: Placement) -> Placement:
    """The target with its intervals exchanged among like servers (memory, speed, limit), so that as many as possible
    keep what they host now."""
    first, count = target.first.copy(), target.count.copy()
    kinds: dict[tuple[float, ...], list[int]] = {}
    columns = (problem.memory_bytes, problem.decode_block_seconds, problem.prefill_block_seconds, problem.most_blocks)
    for server, kind in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
        kinds.setdefault(kind, []).append(server)
    for servers in kinds.values():
        wanted: dict[tuple[int, int], int] = {}
        for server in servers:
            interval = int(target.first[server]), int(target.count[server])
            wanted[interval] = wanted.get(interval, 0) + 1
        without = []
        for server in servers:
            interval = int(running.first[server]), int(running.count[server])
            if wanted.get(interval, 0):
                wanted[interval] -= 1
                first[server], count[server] = interval
            else:
                without.append(server)
        rest = [interval for interval, number in wanted.items() for _ in range(number)]
        for server, interval in zip(without, rest, strict=True):
            first[server], count[server] = interval
    return Placement(first, count)
