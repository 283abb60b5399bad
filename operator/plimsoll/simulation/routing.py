"""Which placement, and which of its replicas, a request goes to."""

import math
import random
from collections.abc import Sequence
from typing import Protocol, TypeVar

from plimsoll.simulation.fleet import PlacementChoice, ReplicaChoice


class HasOutstanding(Protocol):
    """Anything with a number of unfinished requests."""

    @property
    def outstanding(self) -> int:
        """Requests that run or wait."""
        ...


class ShareRouter:
    """Chooses among weighted placements for one traffic class.

    What the weights leave of 1 is the unserved share, chosen as None.
    """

    __slots__ = ("_choice", "_counts", "_edges", "_random", "_served", "_targets")

    def __init__(self, choice: PlacementChoice, stream: random.Random) -> None:
        self._choice = choice
        self._random = stream
        self._edges: list[tuple[float, int | None]] = []
        self._targets: list[tuple[float, int | None]] = []
        self._counts: list[float] = []
        self._served = 0.0

    def set_shares(self, shares: Sequence[tuple[int, float]]) -> None:
        """(key, share) of the placements that may be chosen; shares add up to at most 1."""
        targets: list[tuple[float, int | None]] = [(share, key) for key, share in shares if share > 0.0]
        self._served = sum(share for share, _ in targets)
        unserved = 1.0 - self._served
        if unserved > 1e-9 or not targets:
            targets.append((unserved, None))
        self._targets, self._counts = targets, [0.0] * len(targets)
        self._edges, edge = [], 0.0
        for share, key in targets:
            edge += share
            self._edges.append((edge, key))
        self._edges[-1] = (2.0, self._edges[-1][1])  # whatever rounding left goes to the last

    def choose(self, *, admitted: bool = False) -> int | None:
        """A placement's key, or None for the unserved share; never that for an already admitted request, unless no
        placement may be chosen."""
        if self._choice == "random":
            point = self._random.random() * (self._served if admitted else 1.0)
            for edge, key in self._edges:
                if point < edge:
                    return key
        best, chosen = -math.inf, -1
        for index, (share, key) in enumerate(self._targets):
            if admitted and key is None and self._served:
                continue
            self._counts[index] += share
            if self._counts[index] > best + 1e-12:
                best, chosen = self._counts[index], index
        self._counts[chosen] -= 1.0
        return self._targets[chosen][1]


T = TypeVar("T", bound=HasOutstanding)


class ReplicaRouter:
    """Chooses among the ready replicas of one placement."""

    __slots__ = ("_choice", "_next", "_random")

    def __init__(self, choice: ReplicaChoice, stream: random.Random) -> None:
        self._choice = choice
        self._random = stream
        self._next = 0

    def choose(self, replicas: Sequence[T]) -> T:
        """One of them; for `least-outstanding` all must have been advanced to the present."""
        if len(replicas) == 1:
            return replicas[0]
        if self._choice == "random":
            return replicas[int(self._random.random() * len(replicas))]
        self._next = (self._next + 1) % len(replicas)
        if self._choice == "round-robin":
            return replicas[self._next]
        # Ties go round, or the first replica would get more than the others under little load.
        turn = [*replicas[self._next :], *replicas[: self._next]]
        return min(turn, key=lambda replica: replica.outstanding)
