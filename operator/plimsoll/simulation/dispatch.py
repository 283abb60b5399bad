"""How sessions get a route and its memory: routes chosen at arrival, or a central queue for what becomes free.

A dispatcher is told of sessions that ask and of sessions that end, and says which may begin. It never sees how long a
session will really last.
"""

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Protocol

import numpy as np

from plimsoll.chains import Chain, Desk, Hops, Ledger, Placement, Route, retried
from plimsoll.chains.online import Router
from plimsoll.chains.problem import Floats, Ints
from plimsoll.chains.queue import Places
from plimsoll.simulation.traffic import Request

AS_ASSUMED_SECONDS = 1e-6
"""An end that far from the assumed one is the assumed one."""


class Session:
    """A request on its way through a chain. Times are absolute simulated seconds."""

    __slots__ = (
        "asked_seconds",
        "asks",
        "begun_seconds",
        "client",
        "completed_seconds",
        "first_token_seconds",
        "request",
        "route",
    )

    def __init__(self, request: Request, client: int) -> None:
        self.request = request
        self.client = client
        self.asks = 1
        """Times that it asked for a route: again after each change of what can be routed over, unless it ran on."""
        self.asked_seconds = request.arrival_seconds
        """From when on it waits: its arrival, or the loss of a server."""
        self.route: Route | None = None
        self.begun_seconds: float | None = None
        """From when on it holds memory; None while it waits."""
        self.first_token_seconds = self.completed_seconds = 0.0

    @property
    def preemptions(self) -> int:
        """Always 0: memory for its greatest length is kept from its begin on."""
        return 0

    @property
    def ttft_seconds(self) -> float:
        """From its arrival to its first token, once it has begun."""
        return self.first_token_seconds - self.request.arrival_seconds

    @property
    def end_to_end_seconds(self) -> float:
        """From its arrival to its last token, once it has begun."""
        return self.completed_seconds - self.request.arrival_seconds

    @property
    def tpot_seconds(self) -> float | None:
        """Mean time per token after the first; None for an answer of one token."""
        tokens = self.request.output_tokens - 1
        return (self.completed_seconds - self.first_token_seconds) / tokens if tokens else None


class Dispatcher(Protocol):
    """Hands out routes over one placement."""

    def ask(self, session: Session, now_seconds: float) -> bool:
        """A session wants a route; False, and nothing is kept of it, where none exists at all."""
        ...

    def adopt(self, session: Session) -> None:
        """A session that already runs keeps its memory."""
        ...

    def release(self, session: Session, now_seconds: float) -> None:
        """A session has ended, or is lost: what it holds is free."""
        ...

    def ready(self) -> list[Session]:
        """Sessions that may begin and have not been told before, with their routes."""
        ...


DispatcherFactory = Callable[[Placement, Ints], Dispatcher]
"""A placement and its cache slots (S) in."""
AssumedSeconds = Callable[[Session, Route], float]
"""What a dispatcher takes for the time from a session's begin to its end."""


class Books(Protocol):
    """Finds routes, and knows until when sessions are assumed to hold memory on which server."""

    def decide(self, now_seconds: float, client: int) -> tuple[Route, float] | None:
        """A route and the wait until all its servers have room; None where no route exists."""
        ...

    def admit(self, route: Route, end_seconds: float, now_seconds: float) -> None:
        """A session is to hold memory on this route until then."""
        ...

    def forget(self, route: Route, end_seconds: float, now_seconds: float) -> None:
        """Take one such booking back, if it is not over already."""
        ...


class _Ledger(Ledger):
    """Bookings that can be taken back. What waits depend on is kept, and renewed where bookings have changed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._hops: Hops | None = None
        self._of_server: dict[int, list[tuple[int, int]]] = {}
        self._free_at: Floats = np.zeros(0)
        self._changed: set[int] = set()

    def admit(self, route: Route, end_seconds: float) -> None:
        for server, blocks in zip(route.servers, route.blocks, strict=True):
            insort(self._ends[server], (end_seconds, blocks))
        self._changed.update(route.servers)

    def forget(self, route: Route, end_seconds: float) -> None:
        for server, blocks in zip(route.servers, route.blocks, strict=True):
            booked = self._ends[server]
            at = bisect_left(booked, (end_seconds, blocks))
            if at < len(booked) and booked[at] == (end_seconds, blocks):
                del booked[at]
        self._changed.update(route.servers)

    def waits(self, hops: Hops, now_seconds: float) -> Floats:
        self.release_until(now_seconds)
        if self._hops is not hops:
            self._hops = hops
            self._of_server = {}
            for number, (server, need) in enumerate(zip(hops.server.tolist(), hops.processed.tolist(), strict=True)):
                self._of_server.setdefault(server, []).append((number, need))
            self._free_at = np.where(hops.processed > self.slots[hops.server], math.inf, -math.inf)
            self._changed = set(self._of_server)
        for server in self._changed & self._of_server.keys():
            booked, slots = self._ends[server], int(self.slots[server])
            held = list(accumulate(blocks for _, blocks in booked))
            for number, need in self._of_server[server]:
                excess = held[-1] + need - slots if held else 0
                if need <= slots:
                    self._free_at[number] = booked[bisect_left(held, excess)][0] if excess > 0 else -math.inf
        self._changed.clear()
        return np.maximum(self._free_at - now_seconds, 0.0)


class LedgerBooks:
    """Books around a router of `plimsoll.chains`, one for each client."""

    def __init__(self, slots: Ints, routers: Sequence[Router]) -> None:
        self._ledger, self._routers = _Ledger(slots), routers

    def decide(self, now_seconds: float, client: int) -> tuple[Route, float] | None:
        route = self._routers[client](self._ledger, now_seconds)
        return None if route is None else (route, self._ledger.route_wait(route, now_seconds))

    def admit(self, route: Route, end_seconds: float, now_seconds: float) -> None:  # noqa: ARG002
        self._ledger.admit(route, end_seconds)

    def forget(self, route: Route, end_seconds: float, now_seconds: float) -> None:  # noqa: ARG002
        self._ledger.forget(route, end_seconds)


class DeskBooks:
    """A desk, for sessions whose ends are known: nothing that it has booked ever changes."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def decide(self, now_seconds: float, client: int) -> tuple[Route, float] | None:
        found = self._desk.decide(now_seconds, client)
        return None if found is None else (found.route, found.wait_seconds)

    def admit(self, route: Route, end_seconds: float, now_seconds: float) -> None:
        self._desk.admit(route, end_seconds, now_seconds)

    def forget(self, route: Route, end_seconds: float, now_seconds: float) -> None:
        """Nothing: what is over is over for the desk, too."""


class Committed:
    """Each session gets its route on arrival and waits for it, whoever came before it first.

    The books assume ends of sessions; a session begins when all servers of its route really have room beside those
    that were booked before it. Where the assumptions are exact this is `plimsoll.chains.serve`.
    """

    def __init__(self, slots: Ints, books: Books, assumed: AssumedSeconds, *, retry: bool = False) -> None:
        """
        Args:
            slots: (S) cache slots.
            books: find the routes.
            retry: sessions notice that a wait is over only when they try again.
        """
        self._slots = slots.tolist()
        self._assumed = assumed
        self._retry = retry
        self._books = books
        self._ends: dict[Session, float] = {}
        self._held = [0] * len(self._slots)
        self._queues: list[deque[tuple[Session, int]]] = [deque() for _ in self._slots]
        self._missing: dict[Session, int] = {}
        """Servers without room for it yet, of each waiting session."""
        self._ready: list[Session] = []

    def ask(self, session: Session, now_seconds: float) -> bool:
        found = self._books.decide(now_seconds, session.client)
        if found is None:
            return False
        route, wait = found
        session.route = route
        self._book(session, route, now_seconds + (retried(wait) if self._retry else wait), now_seconds)
        missing = 0
        for server, blocks in zip(route.servers, route.blocks, strict=True):
            if self._queues[server] or self._held[server] + blocks > self._slots[server]:
                self._queues[server].append((session, blocks))
                missing += 1
            else:
                self._held[server] += blocks
        if missing:
            self._missing[session] = missing
        else:
            self._ready.append(session)
        return True

    def adopt(self, session: Session) -> None:
        route, begun = session.route, session.begun_seconds
        if route is None or begun is None:
            raise ValueError("only a session that has begun can be adopted")
        for server, blocks in zip(route.servers, route.blocks, strict=True):
            self._held[server] += blocks
        self._book(session, route, begun, begun)

    def release(self, session: Session, now_seconds: float) -> None:
        route = session.route
        if route is None:
            raise ValueError("a session without a route holds nothing")
        self._books.forget(route, self._ends.pop(session), now_seconds)
        waiting = self._missing.pop(session, None) is not None
        for server, blocks in zip(route.servers, route.blocks, strict=True):
            queue = self._queues[server]
            if waiting and (session, blocks) in queue:
                queue.remove((session, blocks))
            else:
                self._held[server] -= blocks
            while queue and self._held[server] + queue[0][1] <= self._slots[server]:
                following, need = queue.popleft()
                self._held[server] += need
                self._missing[following] -= 1
                if not self._missing[following]:
                    del self._missing[following]
                    self._begin(following, now_seconds)

    def ready(self) -> list[Session]:
        ready, self._ready = self._ready, []
        return ready

    def _begin(self, session: Session, now_seconds: float) -> None:
        """It may, now: earlier or later than assumed where ends were not known."""
        route = session.route
        if route is None:
            raise ValueError("a session without a route cannot begin")
        wait = now_seconds - session.asked_seconds
        begin = session.asked_seconds + (retried(wait) if self._retry else wait)
        if abs(begin + self._assumed(session, route) - self._ends[session]) > AS_ASSUMED_SECONDS:
            self._books.forget(route, self._ends.pop(session), now_seconds)
            self._book(session, route, begin, now_seconds)
        self._ready.append(session)

    def _book(self, session: Session, route: Route, begin_seconds: float, now_seconds: float) -> None:
        end = begin_seconds + self._assumed(session, route)
        self._ends[session] = end
        self._books.admit(route, end, now_seconds)


class Queued:
    """First come, first served: the head of one queue takes the fastest place that is free."""

    def __init__(self, slots: Ints, places: Callable[[Ints], Places], clients: int) -> None:
        """
        Args:
            slots: (S) cache slots.
            places: where sessions can run, from the cache slots that are free.
        """
        self._make, self._free = places, slots.copy()
        self._routable = [places(slots).take(client) is not None for client in range(clients)]
        self._places: Places | None = None
        self._queue: deque[Session] = deque()
        self._ready: list[Session] = []

    def ask(self, session: Session, now_seconds: float) -> bool:  # noqa: ARG002
        if not self._routable[session.client]:
            return False
        self._queue.append(session)
        self._serve()
        return True

    def adopt(self, session: Session) -> None:
        if session.route is None or self._places is not None:
            raise ValueError("sessions with routes are adopted, before the first one asks")
        self._free[list(session.route.servers)] -= session.route.blocks

    def release(self, session: Session, now_seconds: float) -> None:  # noqa: ARG002
        if session.route is None:
            self._queue.remove(session)
        elif self._places is None:
            self._free[list(session.route.servers)] += session.route.blocks
        else:
            self._places.give_back(session.route)
        self._serve()

    def ready(self) -> list[Session]:
        ready, self._ready = self._ready, []
        return ready

    def _serve(self) -> None:
        if self._queue and self._places is None:
            self._places = self._make(self._free)
        while self._queue and self._places is not None:
            found = self._places.take(self._queue[0].client)
            if found is None:
                return
            session = self._queue.popleft()
            session.route = found[0]
            self._ready.append(session)


class ComposedChains:
    """Places of chains that were composed for servers of which some memory may still be held by others."""

    def __init__(self, chains: Sequence[Chain], free: Ints) -> None:
        self._chains = sorted(chains, key=lambda chain: chain.service_seconds)
        self._number = {chain.route: number for number, chain in enumerate(self._chains)}
        self._left = [chain.places for chain in self._chains]
        self._free = free.tolist()

    def take(self, client: int) -> tuple[Route, float] | None:  # noqa: ARG002 — chains are the same for all clients
        for number, chain in enumerate(self._chains):
            hops = list(zip(chain.route.servers, chain.route.blocks, strict=True))
            if self._left[number] > 0 and all(self._free[server] >= blocks for server, blocks in hops):
                self._left[number] -= 1
                for server, blocks in hops:
                    self._free[server] -= blocks
                return chain.route, chain.service_seconds
        return None

    def give_back(self, route: Route) -> None:
        for server, blocks in zip(route.servers, route.blocks, strict=True):
            self._free[server] += blocks
        number = self._number.get(route)
        if number is not None:
            self._left[number] = min(self._left[number] + 1, self._chains[number].places)
