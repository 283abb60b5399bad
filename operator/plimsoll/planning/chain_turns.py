"""Chains of PETALS servers, which take one session's step after the other: batches are not made (the note of
`PrioritizedTaskPool` in PETALS)."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from plimsoll.chains import ChainProblem

AT_ONCE = (1, 2, 4, 8, 16)
"""Sessions of a chain: what is tried."""
HOP_SECONDS = 0.018
"""Per server and step, for packing and unpacking: measured by its authors (`_build_inference_graph` of its client)."""


def taking_turns(alone: ChainProblem, trips: NDArray[np.float64], at_once: int) -> ChainProblem:
    """The problem with so many sessions on a chain, each of which waits for the others' steps.

    Sessions go round the servers, and follow each other as soon as the slowest server lets them: a token takes a round
    without waiting or, if that is more, as many steps of the slowest server as there are sessions. The slowest step is
    bounded by a server full of blocks, a round's by the fewest servers that hold the model and the fastest blocks. So
    times are upper bounds, but for the prompts that others send in between.

    Args:
        alone: of sessions that are alone; its caches count.
        trips: (C, S) round trips in seconds.
    """
    most = alone.memory_bytes // (alone.block_bytes + at_once * alone.cache_bytes)
    most = np.clip(most, 0, alone.blocks)
    steps = alone.decode_trip_seconds - trips
    if not most.max() >= 1:
        return replace(alone, sessions_at_once=at_once)
    slowest = float((steps + most * alone.decode_block_seconds).max())
    servers = np.ceil(alone.blocks / most.max())
    around = float(servers * steps.min() + alone.blocks * alone.decode_block_seconds.min())
    longer = max(1.0, at_once * slowest / around)
    return replace(
        alone,
        decode_trip_seconds=trips + HOP_SECONDS + longer * steps,
        decode_block_seconds=longer * alone.decode_block_seconds,
        sessions_at_once=at_once,
    )
