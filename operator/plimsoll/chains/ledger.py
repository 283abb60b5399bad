"""Which sessions hold cache memory on which server until when, and how long a new one would have to wait."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from plimsoll.chains.problem import Floats, Ints
from plimsoll.chains.routes import Hops, Route


@dataclass
class Ledger:
    """Sessions are charged from their admission to their known end; whoever comes later queues behind (no overtaking).

    `slots` (S) are cache slots: one block of one session each.
    """

    slots: Ints
    _ends: list[list[tuple[float, int]]] = field(init=False)
    """Per server: end and slots of each session, sorted by end."""

    def __post_init__(self) -> None:
        self._ends = [[] for _ in range(len(self.slots))]

    def admit(self, route: Route, end_seconds: float) -> None:
        """Book a session on every server of its route."""
        for server, blocks in zip(route.servers, route.blocks, strict=True):
            booked = self._ends[server]
            booked.append((end_seconds, blocks))
            booked.sort()

    def release_until(self, now_seconds: float) -> None:
        """Forget sessions that have ended."""
        for booked in self._ends:
            while booked and booked[0][0] <= now_seconds:
                booked.pop(0)

    def active(self, server: int) -> int:
        """Sessions that hold memory on a server (after `release_until`)."""
        return len(self._ends[server])

    def wait_seconds(self, server: int, need: int, now_seconds: float) -> float:
        """Until `need` slots are free; infinite where the server has fewer in all."""
        if need > self.slots[server]:
            return math.inf
        booked = self._ends[server]
        free = int(self.slots[server]) - sum(blocks for _, blocks in booked)
        if free >= need:
            return 0.0
        for end, blocks in booked:
            free += blocks
            if free >= need:
                return end - now_seconds
        raise AssertionError("all slots are free once every session has ended")

    def waits(self, hops: Hops, now_seconds: float) -> Floats:
        """(H): the wait before each hop."""
        self.release_until(now_seconds)
        needs = zip(hops.server.tolist(), hops.processed.tolist(), strict=True)
        known: dict[tuple[int, int], float] = {}
        found = np.zeros(len(hops.server))
        for number, pair in enumerate(needs):
            if pair not in known:
                known[pair] = self.wait_seconds(*pair, now_seconds)
            found[number] = known[pair]
        return found

    def route_wait(self, route: Route, now_seconds: float) -> float:
        """Until all servers of a route have room at once."""
        return max(
            (self.wait_seconds(*pair, now_seconds) for pair in zip(route.servers, route.blocks, strict=True)),
            default=0.0,
        )


RETRY_CAP_SECONDS = 60.0


def retried(wait_seconds: float) -> float:
    """When a client that tries again after 1, 2, 4, … seconds (60 at most) finds that the wait is over."""
    if wait_seconds <= 0:
        return 0.0
    elapsed, pause = 1.0, 1.0
    while elapsed < wait_seconds:
        pause = min(2 * pause, RETRY_CAP_SECONDS)
        elapsed += pause
    return elapsed


def earliest_starts(capacity: Ints, sessions: Sequence[tuple[Route, float]]) -> list[float]:
    """When each session of a batch that is there from time 0 can start, in their order.

    The earliest time at which every server of the route has room without a break for the whole session; gaps between
    earlier ones are used. `sessions` are routes with their durations.
    """
    booked: list[list[tuple[float, float, int]]] = [[] for _ in range(len(capacity))]
    starts: list[float] = []
    for route, duration in sessions:
        pairs = list(zip(route.servers, route.blocks, strict=True))
        candidates = sorted({0.0, *(end for server, _ in pairs for _, end, _ in booked[server])})
        start = next(
            time
            for time in candidates
            if all(_has_room(booked[server], int(capacity[server]), need, time, duration) for server, need in pairs)
        )
        for server, need in pairs:
            booked[server].append((start, start + duration, need))
        starts.append(start)
    return starts


def _has_room(
    booked: Sequence[tuple[float, float, int]], capacity: int, need: int, start: float, duration: float
) -> bool:
    overlapping = [item for item in booked if item[0] < start + duration and item[1] > start]
    moments = [start, *(begin for begin, _, _ in overlapping if begin > start)]
    return all(
        sum(used for begin, end, used in overlapping if begin <= moment < end) + need <= capacity for moment in moments
    )
