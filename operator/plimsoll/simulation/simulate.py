"""Requests through a fleet, in simulated time."""

import heapq
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from plimsoll.performance import LatencyTargets
from plimsoll.simulation.collect import ClassTally
from plimsoll.simulation.fleet import FleetChange, Placement, ReplicaFailure, Scenario
from plimsoll.simulation.generation import Generation
from plimsoll.simulation.members import Member, PlacementMembers
from plimsoll.simulation.report import Interval, SimulationReport
from plimsoll.simulation.routing import ShareRouter
from plimsoll.simulation.traffic import Request

ProgressCallback = Callable[[float, int], None]
"""Called with the simulated seconds and the requests that have arrived so far, after each interval."""


def simulate(
    scenario: Scenario,
    requests: Iterable[Request],
    *,
    targets: Mapping[str, LatencyTargets] | None = None,
    seed: int = 0,
    interval_seconds: float = 60.0,
    warm_up_seconds: float = 0.0,
    until_seconds: float | None = None,
    on_progress: ProgressCallback | None = None,
    on_completed: Callable[[Generation], None] | None = None,
) -> SimulationReport:
    """Send `requests` through the fleet and report what happened. Equal arguments give equal reports.

    Args:
        scenario: the fleet over time, and how traffic is spread over it.
        requests: in the order of arrival, from 0 s on; read one by one.
        targets: latency targets by traffic class, for the attainment.
        seed: of routing and failures. The requests have a seed of their own.
        interval_seconds: of the time series; also the batches of the confidence intervals, which must be long against
            a request's time in the fleet.
        warm_up_seconds: requests that arrive before do not count in latencies and attainment.
        until_seconds: the run ends then, with requests in flight; None: when all requests are done.
        on_progress: called after each interval.
        on_completed: called with each completed request; completions of one replica come in order.

    Raises:
        ValueError: requests out of order, before 0 s or without tokens; `interval_seconds` not above 0; `until_seconds`
            below 0.
    """
    simulation = Simulation(
        scenario,
        requests,
        targets=targets,
        seed=seed,
        interval_seconds=interval_seconds,
        warm_up_seconds=warm_up_seconds,
        on_progress=on_progress,
        on_completed=on_completed,
    )
    if until_seconds is None:
        simulation.run_to_end()
    else:
        simulation.run_until(until_seconds)
    return simulation.report()


class Simulation:
    """A run that can be looked at and changed on its way, as `simulate` makes it in one go (see there for arguments).

    `run_until(t)` simulates what happens until t; `change` then decides about the future from what `intervals` shows;
    `report()` ends the series where the run stands.
    """

    def __init__(
        self,
        scenario: Scenario,
        requests: Iterable[Request],
        *,
        targets: Mapping[str, LatencyTargets] | None = None,
        seed: int = 0,
        interval_seconds: float = 60.0,
        warm_up_seconds: float = 0.0,
        on_progress: ProgressCallback | None = None,
        on_completed: Callable[[Generation], None] | None = None,
    ) -> None:
        if interval_seconds <= 0.0:
            raise ValueError(f"interval_seconds is {interval_seconds}; above 0 is accepted")
        self._requests = iter(requests)
        self._coming = next(self._requests, None)
        self._scenario = scenario
        self._targets = dict(targets or {})
        self._seed = seed
        self._warm_up = warm_up_seconds
        self._on_progress, self._on_completed = on_progress, on_completed
        self._placements: list[PlacementMembers] = []
        self._classes: dict[str, ClassTally] = {}
        self._failure_stream = random.Random(f"{seed}/failures")  # noqa: S311
        self._interval_seconds = interval_seconds
        self._intervals: list[Interval] = []
        self._interval_begin, self._next_interval = 0.0, interval_seconds
        self._arrived = 0
        self._now = self._last_arrival = self._last_completion = 0.0
        self._least_outstanding = scenario.replica_choice == "least-outstanding"
        # Changes come before failures and failures before arrivals of the same moment.
        self._events: list[tuple[float, int, FleetChange | ReplicaFailure | Member]] = []
        self._event_number = 0
        for change in scenario.changes:
            self._schedule(change.seconds, change)
        for failure in scenario.failures:
            self._schedule(failure.seconds, failure)
        for spec in scenario.placements:
            members = self._add_placement(spec)
            for _ in range(spec.replicas):
                members.create(0.0, 0.0)

    @property
    def seconds(self) -> float:
        """Where the run stands."""
        return self._now

    @property
    def intervals(self) -> Sequence[Interval]:
        """The time series so far, without the open interval."""
        return self._intervals

    def change(self, change: FleetChange) -> None:
        """Schedule a change of the fleet, from now on.

        Raises:
            ValueError: it is in the past, or a placement's engine differs from the one that it had.
        """
        if change.seconds < self._now:
            raise ValueError(f"the run is at {self._now} s; a change at {change.seconds} s is in the past")
        # The scenario's own checks, beside everything that exists.
        known = {placement.spec.name: placement.spec for placement in self._placements}
        Scenario(tuple(replace(spec, shares={}) for spec in known.values()), (change,))
        self._schedule(change.seconds, change)

    def run_until(self, seconds: float) -> None:
        """Everything that happens before `seconds`: arrivals at that very moment come after it.

        Raises:
            ValueError: `seconds` is in the past, or a request is out of order or has no tokens.
        """
        if not seconds >= self._now:
            raise ValueError(f"the run is at {self._now} s; it cannot go back to {seconds} s")
        self._serve(seconds)
        self._go_to(seconds)
        self._advance_all(seconds)
        self._now = seconds

    def run_to_end(self) -> None:
        """Until all requests are done; the last interval ends with the last of them."""
        self._serve(math.inf)
        while True:
            event = self._events[0][0] if self._events else math.inf
            due = min(event, self._next_interval)
            self._advance_all(due if self._outstanding() else self._last_arrival)
            if not self._outstanding():
                self._now = max(self._last_arrival, self._last_completion, self._interval_begin, self._now)
                return
            self._go_to(due)

    def _serve(self, until_seconds: float) -> None:
        """All requests that arrive before `until_seconds`."""
        request, last = self._coming, self._last_arrival
        while request is not None:
            now = request.arrival_seconds
            if not now >= last:
                raise ValueError(f"a request arrives at {now} s after one at {last} s; times rise from 0")
            if now >= until_seconds:
                break
            last = self._last_arrival = now
            if now >= self._next_interval or (self._events and self._events[0][0] <= now):
                self._go_to(now)
            self._arrived += 1
            tally = self._classes.get(request.traffic_class) or self._add_class(request.traffic_class)
            tally.arrive(request)
            self._route(request, tally, now, attempts=1)
            request = next(self._requests, None)
        self._coming = request

    def _go_to(self, seconds: float) -> None:
        """Everything that is due until then, in the order of time."""
        while True:
            event = self._events[0][0] if self._events else math.inf
            if min(event, self._next_interval) > seconds:
                return
            if event <= self._next_interval:
                self._happen(*heapq.heappop(self._events)[::2])
            else:
                self._close_interval(self._next_interval)

    def _close_interval(self, seconds: float) -> None:
        """End the present interval of the time series."""
        self._advance_all(seconds)
        begin = self._interval_begin
        for placement in self._placements:
            placement.charge(seconds)
        length = seconds - begin
        self._intervals.append(
            Interval(
                begin_seconds=begin,
                end_seconds=seconds,
                classes={name: tally.close_interval() for name, tally in self._classes.items()},
                placements={placement.spec.name: placement.close_interval(length) for placement in self._placements},
            )
        )
        self._interval_begin, self._next_interval = seconds, seconds + self._interval_seconds
        if self._on_progress is not None:
            self._on_progress(seconds, self._arrived)

    def report(self) -> SimulationReport:
        """All of it until now; ends the open interval."""
        if self._now > self._interval_begin:
            self._close_interval(self._now)
        in_flight = Counter(
            generation.request.traffic_class
            for placement in self._placements
            for member in placement.everyone
            for generation in member.replica.unfinished
        )
        simulated = self._interval_begin
        placements = {placement.spec.name: placement.report(simulated) for placement in self._placements}
        return SimulationReport(
            simulated_seconds=simulated,
            cost=sum(placement.cost for placement in placements.values()),
            classes={name: tally.report(in_flight[name]) for name, tally in self._classes.items()},
            placements=placements,
            intervals=tuple(self._intervals),
        )

    def _route(self, request: Request, tally: ClassTally, now: float, attempts: int) -> None:
        key = tally.router.choose(admitted=attempts > 1)
        if key is None:
            if attempts > 1:
                tally.lost += 1
            elif self._has_share(request.traffic_class) and not self._ready_shares(request.traffic_class):
                tally.unroutable += 1
            else:
                tally.refused += 1
            return
        placement = self._placements[key]
        if self._least_outstanding:
            for member in placement.ready:
                self._advance(member, now)
        member = placement.router.choose(placement.ready)
        self._advance(member, now)
        if not member.replica.accepts(request):
            tally.too_long += 1
            return
        placement.requests += 1
        member.replica.submit(request, attempts)

    def _advance(self, member: Member, seconds: float) -> None:
        for generation in member.replica.advance(seconds):
            self._classes[generation.request.traffic_class].complete(generation)
            completed = generation.completed_seconds
            if completed is not None and completed > self._last_completion:
                self._last_completion = completed
            if self._on_completed is not None:
                self._on_completed(generation)

    def _advance_all(self, seconds: float) -> None:
        for placement in self._placements:
            for member in placement.everyone:
                if member.replica.clock_seconds < seconds:
                    self._advance(member, seconds)

    def _outstanding(self) -> int:
        return sum(member.outstanding for placement in self._placements for member in placement.everyone)

    def _schedule(self, seconds: float, event: FleetChange | ReplicaFailure | Member) -> None:
        self._event_number += 1
        heapq.heappush(self._events, (seconds, self._event_number, event))

    def _happen(self, now: float, event: FleetChange | ReplicaFailure | Member) -> None:
        if isinstance(event, FleetChange):
            self._change(now, event)
        elif isinstance(event, ReplicaFailure):
            self._fail(now, event)
        else:
            for placement in self._placements:
                if event in placement.starting:
                    placement.starting.remove(event)
                    self._advance(event, now)
                    placement.ready.append(event)
            self._share_out()

    def _change(self, now: float, change: FleetChange) -> None:
        self._advance_all(now)
        wanted = {placement.name: placement for placement in change.placements}
        # What was counted so far was at the present price.
        for placement in self._placements:
            placement.charge(now)
            if placement.spec.name not in wanted:
                placement.spec = _emptied(placement.spec)
        known = {placement.spec.name: placement for placement in self._placements}
        for spec in change.placements:
            members = known.get(spec.name) or self._add_placement(spec)
            members.spec = spec
            for _ in range(spec.replicas - members.wanted):
                self._create(members, now)
        for members in self._placements:
            members.shrink_to(members.spec.replicas, now)
        self._share_out()

    def _fail(self, now: float, failure: ReplicaFailure) -> None:
        for placement in self._placements:
            if placement.spec.name != failure.placement or not placement.ready:
                continue
            member = placement.ready[self._failure_stream.randrange(len(placement.ready))]
            self._advance(member, now)
            unfinished = member.replica.fail()
            placement.fail(member, now)
            if failure.restarts:
                self._create(placement, now)
            self._share_out()
            for generation in unfinished:
                tally = self._classes[generation.request.traffic_class]
                if self._scenario.retry_lost:
                    tally.retried += 1
                    self._route(generation.request, tally, now, generation.attempts + 1)
                else:
                    tally.lost += 1

    def _create(self, placement: PlacementMembers, now: float) -> None:
        member = placement.create(now, placement.spec.startup_seconds)
        if member in placement.starting:
            self._schedule(member.ready_from, member)

    def _add_placement(self, spec: Placement) -> PlacementMembers:
        stream = random.Random(f"{self._seed}/placement/{spec.name}")  # noqa: S311
        members = PlacementMembers(spec, self._scenario.replica_choice, stream)
        self._placements.append(members)
        return members

    def _add_class(self, name: str) -> ClassTally:
        stream = random.Random(f"{self._seed}/class/{name}")  # noqa: S311
        router = ShareRouter(self._scenario.placement_choice, stream)
        router.set_shares(self._ready_shares(name))
        tally = ClassTally(router, self._targets.get(name, LatencyTargets()), self._warm_up)
        self._classes[name] = tally
        return tally

    def _share_out(self) -> None:
        for name, tally in self._classes.items():
            tally.router.set_shares(self._ready_shares(name))

    def _has_share(self, traffic_class: str) -> bool:
        return any(placement.spec.shares.get(traffic_class, 0.0) > 0.0 for placement in self._placements)

    def _ready_shares(self, traffic_class: str) -> list[tuple[int, float]]:
        """(placement, share), with the shares of placements that are not ready spread over the others."""
        shares = [
            (key, placement.spec.shares[traffic_class], bool(placement.ready))
            for key, placement in enumerate(self._placements)
            if placement.spec.shares.get(traffic_class, 0.0) > 0.0
        ]
        ready = sum(share for _, share, is_ready in shares if is_ready)
        total = sum(share for _, share, _ in shares)
        return [(key, share * total / ready) for key, share, is_ready in shares if is_ready]


def _emptied(spec: Placement) -> Placement:
    return replace(spec, replicas=0, shares={})
