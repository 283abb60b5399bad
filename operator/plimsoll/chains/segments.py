"""Hops that do the same, as one: all servers that lead from one block position to another form a segment.

A client relays everything, so only the cheapest usable server of a segment matters to a route. Of a thousand servers
few differ in their intervals: the work of a shortest path grows with the differences, not with the servers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from plimsoll.chains.problem import SLACK, Floats, Ints
from plimsoll.chains.routes import Hops


@dataclass(frozen=True, slots=True, eq=False)
class Segments:
    """The hops of a placement, sorted by start, stop, cost and server, and where each segment (G) begins among them."""

    server: Ints
    """(H)"""
    cost: Floats
    """(H): of the client that the segments are made for."""
    begin: Ints
    """(G): first hop of each segment."""
    end: tuple[int, ...]
    """(G): hop after its last."""
    start: tuple[int, ...]
    """(G): next needed block before it."""
    stop: tuple[int, ...]
    """(G): next needed block after it."""
    leaving: tuple[tuple[int, tuple[int, ...]], ...]
    """Positions from the last to the first, each with the segments that start there."""
    blocks: int

    @property
    def need(self) -> Ints:
        """(H): cache slots that a session takes."""
        sizes = np.asarray(self.stop, dtype=np.int64) - np.asarray(self.start, dtype=np.int64)
        lengths = np.diff(np.append(self.begin, len(self.server)))
        return np.repeat(sizes, lengths)

    def through(self, costs: Floats) -> tuple[float, list[int]] | None:
        """The cheapest way through, as hops, for costs per hop (H); None where all are closed."""
        found = self.path(self.cheapest(costs))
        if found is None:
            return None
        low = self.begin
        return found[0], [int(low[one]) + int(costs[low[one] : self.end[one]].argmin()) for one in found[1]]

    def cheapest(self, costs: Floats) -> list[float]:
        """(G): least cost of each segment for costs per hop (H)."""
        found: list[float] = np.minimum.reduceat(costs, self.begin).tolist() if len(costs) else []
        return found

    def path(self, least: Sequence[float]) -> tuple[float, list[int]] | None:
        """The cheapest way through, as segments, for a cost per segment (G); None where all are closed."""
        best = [math.inf] * self.blocks + [0.0]
        choice = [-1] * self.blocks
        stop = self.stop
        for position, segments in self.leaving:
            lowest, chosen = math.inf, -1
            for segment in segments:
                total = least[segment] + best[stop[segment]]
                if total < lowest:
                    lowest, chosen = total, segment
            best[position], choice[position] = lowest, chosen
        if best[0] == math.inf:
            return None
        way = []
        position = 0
        while position < self.blocks:
            way.append(choice[position])
            position = stop[way[-1]]
        return best[0], way


def segments_of(hops: Hops, cost: Floats) -> Segments:
    """Group hops for costs of one client (H)."""
    order = np.lexsort((hops.server, cost, hops.stop, hops.start))
    start, stop = hops.start[order], hops.stop[order]
    fresh = np.ones(len(order), dtype=bool)
    fresh[1:] = (start[1:] != start[:-1]) | (stop[1:] != stop[:-1])
    begin = np.flatnonzero(fresh)
    starts = start[begin].tolist()
    leaving: dict[int, list[int]] = {}
    for segment, position in enumerate(starts):
        leaving.setdefault(position, []).append(segment)
    return Segments(
        server=hops.server[order],
        cost=cost[order],
        begin=begin,
        end=(*begin[1:].tolist(), len(order)) if len(order) else (),
        start=tuple(starts),
        stop=tuple(stop[begin].tolist()),
        leaving=tuple((position, tuple(leaving[position])) for position in sorted(leaving, reverse=True)),
        blocks=hops.blocks,
    )


class Exhausting:
    """Shortest paths one after the other while servers run out of cache slots, each from what the last one changed."""

    def __init__(self, segments: Segments, slots: Ints) -> None:
        self._segments = segments
        self._slots: list[int] = slots.tolist()
        self._server: list[int] = segments.server.tolist()
        self._cost: list[float] = segments.cost.tolist()
        self._head: list[int] = segments.begin.tolist()
        self._of_server: dict[int, list[int]] = {}
        for segment, (low, high) in enumerate(zip(self._head, segments.end, strict=True)):
            for server in self._server[low:high]:
                self._of_server.setdefault(server, []).append(segment)
        self._entering: dict[int, set[int]] = {}
        for begin, stop in zip(segments.start, segments.stop, strict=True):
            self._entering.setdefault(stop, set()).add(begin)
        self._best = [math.inf] * segments.blocks + [0.0]
        self._choice = [-1] * segments.blocks
        for segment in range(len(self._head)):
            self._advance(segment)
        self._update({position for position, _ in segments.leaving})

    def take(self) -> tuple[float, list[int], list[int], int] | None:
        """The cheapest path that is left, with all the sessions that its servers have room for, which are then taken.

        Returns:
            Cost, servers, blocks that each processes, sessions; None when no path is left.
        """
        segments, cost = self._segments, self._best[0]
        if math.isinf(cost):
            return None
        servers, needs, position = [], [], 0
        while position < segments.blocks:
            segment = self._choice[position]
            servers.append(self._server[self._head[segment]])
            needs.append(segments.stop[segment] - position)
            position = segments.stop[segment]
        sessions = min(self._slots[server] // need for server, need in zip(servers, needs, strict=True))
        changed = set()
        for server, need in zip(servers, needs, strict=True):
            self._slots[server] -= sessions * need
            for segment in self._of_server[server]:
                if self._advance(segment):
                    changed.add(segments.start[segment])
        self._update(changed)
        return cost, servers, needs, sessions

    def _advance(self, segment: int) -> bool:
        """Move to the cheapest server of a segment that still has room; whether that is another one."""
        segments, head = self._segments, self._head[segment]
        need = segments.stop[segment] - segments.start[segment]
        number, end = head, segments.end[segment]
        while number < end and self._slots[self._server[number]] < need:
            number += 1
        self._head[segment] = number
        return number != head

    def _update(self, dirty: set[int]) -> None:
        for position, leaving in self._segments.leaving:
            if position not in dirty:
                continue
            lowest, chosen = math.inf, -1
            for segment in leaving:
                head = self._head[segment]
                if head == self._segments.end[segment]:
                    continue
                total = self._cost[head] + self._best[self._segments.stop[segment]]
                if total == math.inf:
                    continue
                slack = SLACK * max(1.0, total)
                if chosen < 0 or total < lowest - slack or (total <= lowest + slack and self._before(segment, chosen)):
                    lowest, chosen = total, segment
            if lowest != self._best[position] or chosen != self._choice[position]:
                self._best[position], self._choice[position] = lowest, chosen
                dirty |= self._entering.get(position, set())

    def _before(self, segment: int, other: int) -> bool:
        """Whether the cheapest server of a segment has a smaller number than another's."""
        return self._server[self._head[segment]] < self._server[self._head[other]]
