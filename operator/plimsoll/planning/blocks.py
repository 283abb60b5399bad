"""The rows of one LLMDeployment in the allocation problem, in numbers of its own until those of all are joined."""

from dataclasses import dataclass

import numpy as np

from plimsoll.allocation.problem import Floats, Ints
from plimsoll.allocation.remembered import Remembered

Listed = tuple[frozenset[str] | None, ...]
"""Pools of each way that are looked at; None: all."""


@dataclass(frozen=True, slots=True, eq=False)
class ClassRow:
    """One traffic class."""

    rate_per_hour: float
    priority: int
    unserved_limit: float
    unserved_penalty_per_request: float
    latency_penalty_per_request_second: float
    error_limit: float


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """The rows of one LLMDeployment: n options, p pairs of class and option. All numbers count from 0 in it."""

    way: Ints
    """(n,), as are the next: by pool and price."""
    place: Ints
    """Position of the pool among the way's pools."""
    pool: Ints
    """Number in the fleet."""
    variant: Ints
    """Number of the pair of model variant and pool."""
    price_per_hour: Floats
    variants: int
    classes: tuple[ClassRow, ...]
    pair_class: Ints
    """(p,), as are the next."""
    pair_option: Ints
    pair_load: Floats
    pair_delay_seconds: Floats
    pair_error: Floats

    def option_of(self, way: int, pool: int) -> int:
        """The option of a way on a pool."""
        return int(np.flatnonzero((self.way == way) & (self.pool == pool))[0])


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """A block, and what it was made of."""

    ways: tuple[object, ...]
    classes: tuple[object, ...]
    pool_names: tuple[str, ...]
    listed: Listed
    block: Block


Blocks = Remembered[int, Known]
"""Made before, by identity of the ways."""
