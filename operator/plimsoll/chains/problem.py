"""A model split over servers: what each server is, who asks, and where the blocks lie.

Blocks are numbered from 0 and intervals are half open: a server with `first` 2 and `count` 3 hosts blocks 2, 3 and 4.
Clients relay the hidden state from server to server, so a server's cost does not depend on the one before it.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
SLACK = 1e-9
"""Relative: memory that holds a whole number of blocks or sessions must not lose one to rounding."""


class ChainError(ValueError):
    """A chain problem that makes no sense; the message names the field and its value."""


@dataclass(frozen=True, slots=True, eq=False)
class ChainProblem:
    """Servers (S), clients (C) and one kind of session.

    Raises:
        ChainError: when shapes disagree, or sizes and times are not positive.
    """

    blocks: int
    block_bytes: float
    """Weights of one block."""
    cache_bytes: float
    """Attention cache of one session for one block, at the session's greatest length."""
    memory_bytes: Floats
    """(S) that weights and caches may use."""
    decode_trip_seconds: Floats
    """(C, S): round trip and overhead per output token."""
    decode_block_seconds: Floats
    """(S): one block, one output token."""
    prefill_trip_seconds: Floats
    """(C, S): round trip and overhead of the whole prompt."""
    prefill_block_seconds: Floats
    """(S): one block, the whole prompt."""
    output_tokens: int
    setup_seconds: float = 0.0
    """From arrival to the first hop: session start and cache allocation. Memory is held meanwhile."""
    block_limit: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """(S): the most blocks that a server may host whatever its memory; empty for no limit."""
    sessions_at_once: int = 0
    """The most sessions that a server may process at once, counted by blocks: two that each use half of its blocks are
    one. 0 for as many as memory holds."""

    def __post_init__(self) -> None:
        servers = len(self.memory_bytes)
        for name in ("decode_block_seconds", "prefill_block_seconds"):
            if getattr(self, name).shape != (servers,):
                raise ChainError(f"{name} has shape {getattr(self, name).shape}; memory_bytes asks for ({servers},)")
        for name in ("decode_trip_seconds", "prefill_trip_seconds"):
            shape = getattr(self, name).shape
            if len(shape) != 2 or shape[1] != servers or shape[0] != len(self.decode_trip_seconds):
                raise ChainError(f"{name} has shape {shape}; a row per client and {servers} columns are needed")
        if len(self.block_limit) not in (0, servers):
            raise ChainError(f"block_limit has {len(self.block_limit)} values for {servers} servers")
        for name in ("blocks", "block_bytes", "cache_bytes", "output_tokens"):
            if not getattr(self, name) > 0:
                raise ChainError(f"{name} is {getattr(self, name)}; it must be above 0")
        if self.sessions_at_once < 0:
            raise ChainError(f"sessions_at_once is {self.sessions_at_once}; it must be at least 0 (no limit)")

    @property
    def servers(self) -> int:
        return len(self.memory_bytes)

    @property
    def clients(self) -> int:
        return len(self.decode_trip_seconds)

    @property
    def most_blocks(self) -> Ints:
        """(S): blocks that a server may host, memory apart."""
        whole = np.full(self.servers, self.blocks, dtype=np.int64)
        return np.minimum(whole, self.block_limit) if len(self.block_limit) else whole

    def slots(self, memory_bytes: Floats, counts: Ints) -> Ints:
        """Cache slots (one block of one session each) beside so many blocks, broadcast; 0 where there are no blocks."""
        free = whole((memory_bytes - self.block_bytes * counts) / self.cache_bytes)
        if self.sessions_at_once:
            free = np.minimum(free, self.sessions_at_once * counts)
        return np.where(counts > 0, free, 0)

    @property
    def session_trip_seconds(self) -> Floats:
        """(C, S): all round trips of one session."""
        return self.prefill_trip_seconds + (self.output_tokens - 1) * self.decode_trip_seconds

    @property
    def session_block_seconds(self) -> Floats:
        """(S): one block for a whole session."""
        return self.prefill_block_seconds + (self.output_tokens - 1) * self.decode_block_seconds


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """Which interval of blocks each server hosts; `count` 0 for a server that hosts none."""

    first: Ints
    """(S)"""
    count: Ints
    """(S)"""

    @property
    def end(self) -> Ints:
        """(S): the first block after the interval."""
        return self.first + self.count

    def covers(self, blocks: int) -> bool:
        """Whether every block of 0..blocks-1 is hosted somewhere."""
        hosted = np.zeros(blocks, dtype=bool)
        for first, end in zip(self.first.tolist(), self.end.tolist(), strict=True):
            hosted[first:end] = True
        return bool(hosted.all())

    def cache_slots(self, problem: ChainProblem) -> Ints:
        """(S): pairs of session and block whose caches fit beside the weights."""
        return problem.slots(problem.memory_bytes, self.count)


def whole(values: Floats) -> Ints:
    """Rounded down, but not for the want of a billionth; never below 0."""
    return np.maximum(np.floor(values * (1 + SLACK) + SLACK), 0).astype(np.int64)
