"""How sessions get a route and its memory: routes chosen at arrival, or a central queue for what becomes free.

A dispatcher is told of sessions that ask and of sessions that end, and says which may begin. It never sees how long a
session will really last.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from plimsoll.chains import Chain, ChainProblem, Hops, Ledger, Placement, Route, retried, session_costs, shortest
from plimsoll.chains.online import Router
from plimsoll.chains.problem import Floats, Ints
from plimsoll.simulation.traffic import Request


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
    """Bookings that can be taken back."""

    def forget(self, route: Route, end_seconds: float) -> None:
        for server, blocks in zip(route.servers, route.blocks, strict=True):
            booked = self._ends[server]
            if (end_seconds, blocks) in booked:
                booked.remove((end_seconds, blocks))


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
        self._books.forget(route, self._ends.pop(session), now_seconds)
        self._book(session, route, begin, now_seconds)
        self._ready.append(session)

    def _book(self, session: Session, route: Route, begin_seconds: float, now_seconds: float) -> None:
        end = begin_seconds + self._assumed(session, route)
        self._ends[session] = end
        self._books.admit(route, end, now_seconds)


class CentralQueue:
    """First come, first served: the head of the queue takes the fastest route whose servers have room now."""

    def __init__(self, problem: ChainProblem, hops: Hops, slots: Ints) -> None:
        self._hops = hops
        self._need = hops.processed
        self._costs: list[Floats] = [session_costs(problem, hops, client) for client in range(problem.clients)]
        fits = slots[hops.server] >= self._need
        self._routable = [shortest(hops, np.where(fits, cost, np.inf)) is not None for cost in self._costs]
        self._free = slots.copy()
        self._queue: deque[Session] = deque()
        self._ready: list[Session] = []

    def ask(self, session: Session, now_seconds: float) -> bool:  # noqa: ARG002
        if not self._routable[session.client]:
            return False
        self._queue.append(session)
        self._serve()
        return True

    def adopt(self, session: Session) -> None:
        self._take(session, -1)

    def release(self, session: Session, now_seconds: float) -> None:  # noqa: ARG002
        if session.route is None:
            self._queue.remove(session)
        else:
            self._take(session, 1)
        self._serve()

    def ready(self) -> list[Session]:
        ready, self._ready = self._ready, []
        return ready

    def _serve(self) -> None:
        while self._queue:
            head = self._queue[0]
            open_cost = np.where(self._free[self._hops.server] >= self._need, self._costs[head.client], np.inf)
            path = shortest(self._hops, open_cost)
            if path is None:
                return
            head.route = self._hops.route(path.hops)
            self._take(self._queue.popleft(), -1)
            self._ready.append(head)

    def _take(self, session: Session, sign: int) -> None:
        if session.route is None:
            raise ValueError("a session without a route holds nothing")
        for server, blocks in zip(session.route.servers, session.route.blocks, strict=True):
            self._free[server] += sign * blocks


class FastestFreeChain:
    """JFFC: composed chains with a number of places each; the head of the queue takes the fastest free place."""

    def __init__(self, chains: Sequence[Chain], slots: Ints) -> None:
        self._chains = sorted(chains, key=lambda chain: chain.service_seconds)
        self._places = [chain.places for chain in self._chains]
        self._free = slots.tolist()
        self._number: dict[Session, int] = {}
        self._queue: deque[Session] = deque()
        self._ready: list[Session] = []

    def ask(self, session: Session, now_seconds: float) -> bool:  # noqa: ARG002
        if not self._chains:
            return False
        self._queue.append(session)
        self._serve()
        return True

    def adopt(self, session: Session) -> None:
        self._take(session, -1)

    def release(self, session: Session, now_seconds: float) -> None:  # noqa: ARG002
        if session.route is None:
            self._queue.remove(session)
        else:
            self._take(session, 1)
            number = self._number.pop(session, None)
            if number is not None:
                self._places[number] += 1
        self._serve()

    def ready(self) -> list[Session]:
        ready, self._ready = self._ready, []
        return ready

    def _serve(self) -> None:
        while self._queue:
            number = next((index for index, places in enumerate(self._places) if places and self._room(index)), None)
            if number is None:
                return
            session = self._queue.popleft()
            session.route = self._chains[number].route
            self._places[number] -= 1
            self._number[session] = number
            self._take(session, -1)
            self._ready.append(session)

    def _room(self, number: int) -> bool:
        """Sessions from before a change of the fleet may hold memory that chains were composed of."""
        route = self._chains[number].route
        return all(self._free[server] >= need for server, need in zip(route.servers, route.blocks, strict=True))

    def _take(self, session: Session, sign: int) -> None:
        if session.route is None:
            raise ValueError("a session without a route holds nothing")
        for server, blocks in zip(session.route.servers, session.route.blocks, strict=True):
            self._free[server] += sign * blocks
