"""Routing decisions one after the other, with what they need kept between them.

A server's cache slots free up at moments that only an admission changes, not the passing of time. So the desk keeps,
per hop, the moment from which it has room, and looks again only at the servers of the route that was admitted.

What is best for one request is not best for all. Were a second of waiting to count like a second of service, queues at
fast servers would grow until every route takes as long as the slowest in use. A wait that counts more keeps fast
servers as busy with shorter queues.
"""

import math
from bisect import insort
from dataclasses import dataclass

import numpy as np

from plimsoll.chains.problem import SLACK, ChainProblem, Floats, Ints, Placement
from plimsoll.chains.routes import Route, hops_of, session_costs
from plimsoll.chains.segments import Segments, segments_of

WAIT_WEIGHT = 8.0
"""Lowers the mean by up to 15 % against 1 (docs/chains.md). With more, or without waits while any route is free, some
requests take very slow routes close to saturation."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A route, how long until all its servers have room at once, and its service after that (seconds)."""

    route: Route
    wait_seconds: float
    service_seconds: float


@dataclass(slots=True)
class _Server:
    slots: int
    used: int
    booked: list[tuple[float, int]]
    """End and slots of each session, sorted by end."""
    hops: list[tuple[int, list[tuple[int, int]]]]
    """Slots that a hop needs, most first, with the clients and positions of such hops in the desk's arrays."""


class Desk:
    """Routes requests through one placement and books their memory until their known ends.

    Sessions are charged from their admission; whoever comes later queues behind (no overtaking), as in `Ledger`.
    """

    def __init__(
        self,
        problem: ChainProblem,
        placement: Placement,
        slots: Ints | None = None,
        *,
        wait_weight: float = WAIT_WEIGHT,
    ) -> None:
        """Args:
        slots: (S) cache slots; what is left beside the weights when None.
        wait_weight: seconds of service that a second of waiting counts for; 1 for what is best for each request alone.
        """
        self._weight = wait_weight
        hops = hops_of(placement, problem.blocks)
        room = (placement.cache_slots(problem) if slots is None else slots).tolist()
        self._segments = [segments_of(hops, session_costs(problem, hops, client)) for client in range(problem.clients)]
        self._free_at = [np.where(own.need > np.take(room, own.server), np.inf, -np.inf) for own in self._segments]
        self._fastest = [_fastest(own, free) for own, free in zip(self._segments, self._free_at, strict=True)]
        self._servers = [_Server(own, 0, [], []) for own in room]
        for server, by_need in self._hops_by_server().items():
            self._servers[server].hops = [(need, by_need[need]) for need in sorted(by_need, reverse=True)]

    def _hops_by_server(self) -> dict[int, dict[int, list[tuple[int, int]]]]:
        found: dict[int, dict[int, list[tuple[int, int]]]] = {}
        for client, own in enumerate(self._segments):
            for number, (server, need) in enumerate(zip(own.server.tolist(), own.need.tolist(), strict=True)):
                if need <= self._servers[server].slots:
                    found.setdefault(server, {}).setdefault(need, []).append((client, number))
        return found

    def decide(self, now_seconds: float, client: int = 0) -> Decision | None:
        """The route with the least sum of service and weighted longest wait; None where no route exists.

        As `exact`, but the routes that are free now come first: mostly one of them is the best already.
        """
        segments, fastest = self._segments[client], self._fastest[client]
        if math.isinf(fastest):
            return None
        waits = np.maximum(self._free_at[client] - now_seconds, 0.0) * self._weight
        best = _through(segments, waits, 0.0)
        limit = math.inf
        if best is not None:
            # A hop that waits for longer than the fastest route would gain on the best is no part of a better one.
            limit = best.total - fastest
            if not ((waits > 0) & (waits < limit)).any():
                return self._decision(segments, best)
        while (found := _through(segments, waits, limit, inclusive=False)) is not None:
            if best is None or found.total < best.total - SLACK * max(1.0, best.total):
                best = found
            if found.wait <= 0 or found.cost >= best.total:
                break
            limit = min(found.wait, best.total - found.cost)
        return None if best is None else self._decision(segments, best)

    def _decision(self, segments: Segments, found: "_Found") -> Decision:
        hops = found.hops
        route = Route(tuple(segments.server[hops].tolist()), tuple(segments.need[hops].tolist()))
        return Decision(route, found.wait / self._weight, found.cost)

    def admit(self, route: Route, end_seconds: float, now_seconds: float) -> None:
        """Book a session on every server of its route."""
        for number, blocks in zip(route.servers, route.blocks, strict=True):
            server = self._servers[number]
            booked = server.booked
            ended = 0
            while ended < len(booked) and booked[ended][0] <= now_seconds:
                server.used -= booked[ended][1]
                ended += 1
            del booked[:ended]
            insort(booked, (end_seconds, blocks))
            server.used += blocks
            self._look_again(server)

    def _look_again(self, server: _Server) -> None:
        """From when each hop of a server has room: walk back from the last end, until too much would be held."""
        number, held = len(server.booked), 0
        for need, hops in server.hops:
            room = server.slots - need
            moment = -math.inf
            if server.used > room:
                while held <= room:
                    number -= 1
                    held += server.booked[number][1]
                moment = server.booked[number][0]
            for client, hop in hops:
                self._free_at[client][hop] = moment


@dataclass(frozen=True, slots=True)
class _Found:
    cost: float
    wait: float
    hops: list[int]

    @property
    def total(self) -> float:
        return self.cost + self.wait


def _through(segments: Segments, waits: Floats, limit: float, *, inclusive: bool = True) -> _Found | None:
    """The least service over hops that wait no longer than `limit`, or less long."""
    usable = waits <= limit if inclusive else waits < limit
    costs = np.where(usable, segments.cost, np.inf)
    found = segments.through(costs)
    return None if found is None else _Found(found[0], float(waits[found[1]].max()), found[1])


def _fastest(segments: Segments, free_at: Floats) -> float:
    """The least service where nobody waits; infinite without a route."""
    found = _through(segments, np.where(np.isinf(free_at) & (free_at > 0), np.inf, 0.0), 0.0)
    return math.inf if found is None else found.cost
