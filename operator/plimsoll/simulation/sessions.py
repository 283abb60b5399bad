"""Sessions over chains, in simulated time: requests take routes through servers that hold parts of a model.

The model is that of `plimsoll.chains`: memory for a session's greatest length is held on all servers of its route from
its begin to its end, its time is the problem's setup and the passes of its tokens, and it does not depend on how many
others run. What is simulated is who waits for whom, real lengths, and servers that leave and come back.
"""

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plimsoll.chains import ChainProblem, Placement, Route, retried, session_seconds
from plimsoll.chains.problem import Ints
from plimsoll.performance import LatencyTargets
from plimsoll.simulation.agenda import Agenda
from plimsoll.simulation.collect import ClassTally
from plimsoll.simulation.dispatch import Dispatcher, DispatcherFactory, Session
from plimsoll.simulation.latencies import LatencyRecorder
from plimsoll.simulation.service import ServiceTimes
from plimsoll.simulation.session_report import RouteUse, ServerUse, SessionInterval, SessionReport
from plimsoll.simulation.traffic import Request

Bools = NDArray[np.bool_]
MOST_ROUTES = 200
"""In a report."""
Replacement = Callable[[Placement, Bools], Sequence[Placement]]
"""What each server hosts or loads (lost and returned ones nothing) and which servers (S) exist in; what they are to
host out, wave after wave: each begins once the one before has loaded."""


@dataclass(frozen=True, slots=True, eq=False)
class ChainFleet:
    """Servers with a placement, and how sessions get their routes."""

    problem: ChainProblem
    placement: Placement
    dispatcher: DispatcherFactory
    slots: Callable[[Placement], Ints] | None = None
    """(S) cache slots of a placement; None: what fits beside the weights."""
    retry: bool = False
    """Sessions notice that a wait is over only when they try again (1, 3, 7, … seconds after they asked)."""
    replace: Replacement | None = None
    """Asked after each loss and each return of a server; None: everyone keeps the interval of the beginning."""
    load_seconds: float = 0.0
    """From the decision that a server hosts an interval until it does, and serves nobody meanwhile."""

    def cache_slots(self, placement: Placement) -> Ints:
        """(S): cache slots of a placement."""
        return placement.cache_slots(self.problem) if self.slots is None else self.slots(placement)


@dataclass(frozen=True, slots=True)
class Outage:
    """A server is lost with all its memory, and comes back empty, or never."""

    seconds: float
    server: int
    back_seconds: float = math.inf


@dataclass(frozen=True, slots=True)
class _Attempt:
    """Something that is to happen to a session, unless it was interrupted before."""

    session: Session
    number: int
    begins: bool


@dataclass(frozen=True, slots=True)
class _Return:
    server: int


@dataclass(frozen=True, slots=True)
class _Loaded:
    server: int
    number: int
    """Of its loads: an older one was overtaken by a loss."""


def simulate_sessions(
    fleet: ChainFleet,
    requests: Iterable[Request],
    *,
    clients: Mapping[str, int] | None = None,
    targets: Mapping[str, LatencyTargets] | None = None,
    outages: Sequence[Outage] = (),
    interval_seconds: float = 60.0,
    warm_up_seconds: float = 0.0,
    until_seconds: float = math.inf,
    on_completed: Callable[[Session], None] | None = None,
) -> SessionReport:
    """Send `requests` through the chains and report what happened. Equal arguments give equal reports.

    Args:
        fleet: servers, placement and dispatcher.
        requests: in the order of arrival; prompts are taken to be as long as the problem has it, answers are their own.
        clients: row of the problem's round trips by traffic class; the first for classes that are not named.
        targets: latency targets by traffic class.
        outages: in any order. An interrupted session begins anew elsewhere, its time counted from its arrival.
        interval_seconds: of the time series and of the batches of the confidence intervals.
        warm_up_seconds: requests that arrive before do not count in latencies.
        until_seconds: the run ends then, with sessions in flight; infinite: when all that can end have.
        on_completed: called with each completed session.

    Raises:
        ValueError: requests out of order, or `interval_seconds` not above 0.
    """
    run = _Run(fleet, clients or {}, targets or {}, interval_seconds, warm_up_seconds, on_completed)
    return run.report(requests, outages, until_seconds)


class _Run:
    def __init__(
        self,
        fleet: ChainFleet,
        clients: Mapping[str, int],
        targets: Mapping[str, LatencyTargets],
        interval_seconds: float,
        warm_up_seconds: float,
        on_completed: Callable[[Session], None] | None,
    ) -> None:
        if not interval_seconds > 0:
            raise ValueError(f"interval_seconds is {interval_seconds}; above 0 is accepted")
        servers = fleet.problem.servers
        self._fleet, self._clients, self._targets = fleet, clients, targets
        self._warm_up, self._interval = warm_up_seconds, interval_seconds
        self._on_completed = on_completed
        self._agenda: Agenda[_Attempt | Outage | _Return | _Loaded] = Agenda()
        self._classes: dict[str, ClassTally] = {}
        self._response, self._wait = LatencyRecorder(), LatencyRecorder()
        self._active: dict[Session, None] = {}
        """That hold memory or will: in the order in which they asked last."""
        self._stranded: list[Session] = []
        self._lost: dict[Session, float] = {}
        """When an interrupted session lost its server."""
        self._recoveries: list[float] = []
        self._interrupted = 0
        self._times = ServiceTimes(fleet.problem)
        self._routes: Counter[tuple[Route, int]] = Counter()
        self._begun = [0] * servers
        self._held = [0.0] * servers
        self._exists = np.ones(servers, dtype=bool)
        # What each server hosts or loads, and how much of it can be routed over.
        self._first, self._count = fleet.placement.first.copy(), fleet.placement.count.copy()
        self._hosted_count = self._count.copy()
        self._loads = [0] * servers
        self._waves: deque[Placement] = deque()
        self._hosting = 0
        self._dispatcher = self._dispatch()
        self._now = self._interval_begin = 0.0
        self._running = 0
        self._integrals = [0.0, 0.0, 0.0]
        self._totals = [0.0, 0.0, 0.0]
        self._intervals: list[SessionInterval] = []

    def report(self, requests: Iterable[Request], outages: Sequence[Outage], until_seconds: float) -> SessionReport:
        for outage in outages:
            self._agenda.schedule(outage.seconds, outage)
        stream = iter(requests)
        coming = next(stream, None)
        while True:
            arrival = math.inf if coming is None else coming.arrival_seconds
            due = min(arrival, self._agenda.next_seconds)
            # What only outages would go on for is not waited for.
            if due >= until_seconds or (coming is None and not self._active and not self._stranded):
                break
            if math.isinf(due):
                break
            while self._interval_begin + self._interval <= due:
                self._close_interval(self._interval_begin + self._interval)
            if due < self._now:
                raise ValueError(f"a request arrives at {due} s after one at {self._now} s; times rise from 0")
            self._pass(due)
            # Ends come before arrivals of the same moment.
            if self._agenda.next_seconds <= arrival:
                self._happen(self._agenda.take()[1])
            elif coming is not None:
                self._arrive(coming)
                coming = next(stream, None)
        if math.isfinite(until_seconds):
            while self._interval_begin + self._interval <= until_seconds:
                self._close_interval(self._interval_begin + self._interval)
            self._pass(until_seconds)
        if self._now > self._interval_begin:
            self._close_interval(self._now)
        return self._summary()

    def _arrive(self, request: Request) -> None:
        tally = self._classes.get(request.traffic_class)
        if tally is None:
            tally = ClassTally(self._targets.get(request.traffic_class, LatencyTargets()), self._warm_up)
            self._classes[request.traffic_class] = tally
        tally.arrive(request)
        self._ask(Session(request, self._clients.get(request.traffic_class, 0)))
        self._begin_ready()

    def _ask(self, session: Session) -> None:
        session.route = session.begun_seconds = None
        if self._dispatcher.ask(session, self._now):
            self._active[session] = None
        else:
            self._stranded.append(session)

    def _begin_ready(self) -> None:
        for session in self._dispatcher.ready():
            waited = self._now - session.asked_seconds
            begin = session.asked_seconds + retried(waited) if self._fleet.retry else self._now
            if begin > self._now:
                self._agenda.schedule(begin, _Attempt(session, session.asks, begins=True))
            else:
                self._begin(session)

    def _begin(self, session: Session) -> None:
        route = session.route
        if route is None:
            raise ValueError("a session without a route cannot begin")
        now = session.begun_seconds = self._now
        first, per_token = self._times.parts(route, session.client)
        session.first_token_seconds = now + first
        session.completed_seconds = session.first_token_seconds + (session.request.output_tokens - 1) * per_token
        self._agenda.schedule(session.completed_seconds, _Attempt(session, session.asks, begins=False))
        self._running += 1
        self._routes[route, session.client] += 1
        for server in route.servers:
            self._begun[server] += 1
        lost = self._lost.pop(session, None)
        if lost is not None:
            self._recoveries.append(now - lost)

    def _happen(self, event: _Attempt | Outage | _Return | _Loaded) -> None:
        if isinstance(event, _Attempt):
            session = event.session
            if event.number != session.asks:
                return
            if event.begins:
                self._begin(session)
                return
            self._stop(session)
            self._dispatcher.release(session, self._now)
            self._complete(session)
            self._begin_ready()
        elif isinstance(event, Outage):
            self._lose(event)
        elif isinstance(event, _Return):
            self._exists[event.server] = True
            self._rearrange(set())
        elif event.number == self._loads[event.server]:
            self._hosted_count[event.server] = self._count[event.server]
            self._renew(self._next_wave())

    def _lose(self, outage: Outage) -> None:
        server = outage.server
        if not self._exists[server]:
            return
        if math.isfinite(outage.back_seconds):
            self._agenda.schedule(outage.back_seconds, _Return(server))
        self._exists[server] = False
        self._count[server] = self._hosted_count[server] = 0
        self._loads[server] += 1
        self._rearrange({server})

    def _rearrange(self, down: set[int]) -> None:
        """After a loss or a return: who is to host what from now on; what was still to move is forgotten."""
        replace = self._fleet.replace
        if replace is None:
            self._waves = deque([self._fleet.placement])
        else:
            self._waves = deque(replace(Placement(self._first.copy(), self._count.copy()), self._exists.copy()))
        self._load(self._waves.popleft(), down)
        self._renew(down | self._next_wave())

    def _next_wave(self) -> set[int]:
        """Who goes down for it: nobody while servers load."""
        down: set[int] = set()
        while self._waves and not (self._exists & (self._count > self._hosted_count)).any():
            self._load(self._waves.popleft(), down)
        return down

    def _load(self, wanted: Placement, down: set[int]) -> None:
        differs = (wanted.count != self._count) | ((wanted.first != self._first) & (wanted.count > 0))
        for server in np.flatnonzero(self._exists & differs).tolist():
            down.add(server)
            self._first[server], self._count[server] = wanted.first[server], wanted.count[server]
            self._hosted_count[server] = 0
            self._loads[server] += 1
            if wanted.count[server]:
                load = _Loaded(server, self._loads[server])
                self._agenda.schedule(self._now + self._fleet.load_seconds, load)

    def _renew(self, down: set[int]) -> None:
        """Other servers can be routed over: whoever waits asks anew, and so does whoever was on one that is down."""
        self._dispatcher = self._dispatch()
        asking = list(self._stranded)
        for session in self._active:
            if session.begun_seconds is None:
                asking.append(session)
            elif session.route is not None and not down.isdisjoint(session.route.servers):
                self._stop(session)
                session.asked_seconds = self._now
                self._lost[session] = self._now
                self._interrupted += 1
                self._classes[session.request.traffic_class].retried += 1
                asking.append(session)
            else:
                self._dispatcher.adopt(session)
        self._stranded = []
        for session in sorted(asking, key=lambda each: each.request.arrival_seconds):
            self._active.pop(session, None)
            session.asks += 1
            self._ask(session)
        self._begin_ready()

    def _dispatch(self) -> Dispatcher:
        hosted = Placement(self._first.copy(), self._hosted_count.copy())
        self._hosting = int(np.count_nonzero(hosted.count))
        return self._fleet.dispatcher(hosted, self._fleet.cache_slots(hosted))

    def _stop(self, session: Session) -> None:
        """It holds no memory any more."""
        self._running -= 1
        self._charge(session)

    def _charge(self, session: Session) -> None:
        route, begun = session.route, session.begun_seconds
        if route is not None and begun is not None:
            for server, blocks in zip(route.servers, route.blocks, strict=True):
                self._held[server] += blocks * (self._now - begun)

    def _complete(self, session: Session) -> None:
        del self._active[session]
        self._classes[session.request.traffic_class].complete(session)
        if session.request.arrival_seconds >= self._warm_up and session.begun_seconds is not None:
            self._response.add(session.end_to_end_seconds)
            self._wait.add(session.begun_seconds - session.request.arrival_seconds)
        if self._on_completed is not None:
            self._on_completed(session)

    def _pass(self, seconds: float) -> None:
        """Time goes by."""
        span = seconds - self._now
        if span > 0:
            self._integrals[0] += span * self._running
            self._integrals[1] += span * (len(self._active) - self._running + len(self._stranded))
            self._integrals[2] += span * self._hosting
            self._now = seconds

    def _close_interval(self, seconds: float) -> None:
        self._pass(seconds)
        length = seconds - self._interval_begin
        running, waiting, servers = (value / length for value in self._integrals)
        self._totals = [total + value for total, value in zip(self._totals, self._integrals, strict=True)]
        self._integrals = [0.0, 0.0, 0.0]
        classes = {name: tally.close_interval() for name, tally in self._classes.items()}
        self._response.close_interval()
        self._wait.close_interval()
        self._intervals.append(SessionInterval(self._interval_begin, seconds, classes, running, waiting, servers))
        self._interval_begin = seconds

    def _summary(self) -> SessionReport:
        in_flight = Counter(session.request.traffic_class for session in self._active)
        unroutable = Counter(session.request.traffic_class for session in self._stranded)
        for session in self._active:
            self._charge(session)
        for name, count in unroutable.items():
            self._classes[name].unroutable += count
        simulated = max(self._interval_begin, 1e-300)
        fleet = self._fleet
        slots = fleet.cache_slots(fleet.placement).tolist()
        used = [held / simulated / slot if slot else 0.0 for held, slot in zip(self._held, slots, strict=True)]
        routes = [
            RouteUse(route, client, count, session_seconds(fleet.problem, route, client))
            for (route, client), count in self._routes.most_common(MOST_ROUTES)
        ]
        return SessionReport(
            simulated_seconds=self._interval_begin,
            classes={name: tally.report(in_flight[name]) for name, tally in self._classes.items()},
            response=self._response.summary(),
            wait=self._wait.summary(),
            interrupted=self._interrupted,
            recovery_seconds=tuple(self._recoveries),
            running=self._totals[0] / simulated,
            waiting=self._totals[1] / simulated,
            servers=tuple(map(ServerUse, self._begun, used)),
            routes=tuple(routes),
            intervals=tuple(self._intervals),
        )
