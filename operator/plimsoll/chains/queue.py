"""Sessions of unknown length: the fastest way that is free now, or else one queue for all, first come first served.

Nothing is promised that rests on a guess of when a session ends.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from plimsoll.chains.composition import Chain
from plimsoll.chains.problem import ChainProblem, Floats, Ints, Placement
from plimsoll.chains.routes import Route, hops_of, session_costs
from plimsoll.chains.segments import segments_of


@dataclass(frozen=True, slots=True)
class Start:
    """A request that starts now: its route, and its service at the greatest length in seconds."""

    request: int
    route: Route
    service_seconds: float


class Places(Protocol):
    """Where sessions can run."""

    def take(self, client: int) -> tuple[Route, float] | None:
        """The fastest way that is free, which then is not; None when there is none."""
        ...

    def give_back(self, route: Route) -> None:
        """What a session has used is free again."""
        ...


class FreePaths:
    """Any path through a placement whose servers have cache slots left."""

    def __init__(self, problem: ChainProblem, placement: Placement, slots: Ints | None = None) -> None:
        """Args:
        slots: (S) cache slots; what is left beside the weights when None.
        """
        hops = hops_of(placement, problem.blocks)
        self._segments = [segments_of(hops, session_costs(problem, hops, client)) for client in range(problem.clients)]
        self._need = [own.need for own in self._segments]
        self._left = (placement.cache_slots(problem) if slots is None else slots).copy()

    def take(self, client: int) -> tuple[Route, float] | None:
        segments, need = self._segments[client], self._need[client]
        costs: Floats = np.where(self._left[segments.server] >= need, segments.cost, np.inf)
        found = segments.through(costs)
        if found is None:
            return None
        seconds, hops = found
        route = Route(tuple(segments.server[hops].tolist()), tuple(need[hops].tolist()))
        self._left[list(route.servers)] -= route.blocks
        return route, seconds

    def give_back(self, route: Route) -> None:
        self._left[list(route.servers)] += route.blocks


class FreeChains:
    """Fixed chains with a number of places each (JFFC), the same for all clients."""

    def __init__(self, chains: Sequence[Chain]) -> None:
        self._chains = sorted(chains, key=lambda chain: chain.service_seconds)
        self._number = {chain.route: number for number, chain in enumerate(self._chains)}
        self._left = np.array([chain.places for chain in self._chains], dtype=np.int64)

    def take(self, client: int) -> tuple[Route, float] | None:  # noqa: ARG002 — chains cost every client the same
        free = np.flatnonzero(self._left > 0)
        if not len(free):
            return None
        chain = self._chains[int(free[0])]
        self._left[free[0]] -= 1
        return chain.route, chain.service_seconds

    def give_back(self, route: Route) -> None:
        self._left[self._number[route]] += 1


class CentralQueue:
    """Requests by number: who arrives starts at once or waits; who finishes lets the next ones start."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._waiting: deque[tuple[int, int]] = deque()
        self._running: dict[int, Route] = {}

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    def arrive(self, request: int, client: int = 0) -> Start | None:
        """Its start, or None: it waits."""
        self._waiting.append((request, client))
        started = self._start()
        return started[0] if started else None

    def finish(self, request: int) -> list[Start]:
        """A session ends; who starts in its place."""
        self._places.give_back(self._running.pop(request))
        return self._start()

    def _start(self) -> list[Start]:
        started: list[Start] = []
        while self._waiting:
            request, client = self._waiting[0]
            found = self._places.take(client)
            if found is None:
                break
            self._waiting.popleft()
            self._running[request] = found[0]
            started.append(Start(request, *found))
        return started
