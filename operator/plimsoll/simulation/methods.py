"""Ways to serve sessions over chains, each as a fleet that can be simulated: the published ones and Plimsoll's own.

All of them see the same servers, delays and lengths; none is charged more for its decisions than the others.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from plimsoll.chains import (
    Chain,
    ChainProblem,
    Desk,
    Ledger,
    Placement,
    Route,
    compose,
    decode_costs,
    design_sessions,
    disjoint_chains,
    hops_of,
    mean_response_bounds,
    most_sessions,
    penalised,
    petals,
    place_conservatively,
    router,
    session_costs,
    session_seconds,
    shortest,
)
from plimsoll.chains.online import Router
from plimsoll.chains.problem import Floats, Ints
from plimsoll.chains.queue import FreePaths
from plimsoll.chains.replacement import MovePolicy, replace_servers
from plimsoll.chains.routes import Hops, Path
from plimsoll.chains.search import OVERLOADED, best_placement, most_feasible
from plimsoll.simulation.dispatch import (
    AssumedSeconds,
    Committed,
    ComposedChains,
    DeskBooks,
    Dispatcher,
    DispatcherFactory,
    LedgerBooks,
    Queued,
    Session,
)
from plimsoll.simulation.service import ServiceTimes
from plimsoll.simulation.sessions import ChainFleet, Replacement

Bools = NDArray[np.bool_]
Rule = Callable[[Hops, Floats, Floats], Path | None]
PLACES_GRID = 1.35
"""Ratio of neighbouring numbers of places that are tried for disjoint chains."""


@dataclass(frozen=True, slots=True, eq=False)
class Swarm:
    """What PETALS' servers and clients go by."""

    hidden_size: int
    forward_per_second: Floats
    """(S): tokens through one block."""
    network_per_second: Floats
    """(S)"""
    client_round_trips: Floats
    """(C, S) raw, in seconds."""
    server_round_trips: Floats
    """(S, S)"""
    join_order: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class ChainSetting:
    """One experiment: servers, clients, load and what is known of lengths."""

    problem: ChainProblem
    """Its output tokens are the expected ones; its cache bytes are for the greatest length."""
    arrivals_per_second: float
    swarm: Swarm
    greatest_tokens: int
    """Longest answer."""
    lengths_known: bool = True
    """Whether a request's answer length is known when it arrives; else the greatest is assumed."""
    counted_setup_seconds: float = 0.0
    """The part of the problem's setup that the published design number of sessions counts."""
    retry: bool = False
    full_when_equal: bool = False
    """PETALS' clients take a server as full only at exactly its number of sessions, as in the published simulator."""
    uncapped_design: bool = False
    """The published design number is computed without the servers' limits on blocks, as in the published simulator."""
    load_seconds: float = 0.0
    """Of weights, after a server was lost or moved."""

    def assumed(self) -> AssumedSeconds:
        """Seconds that a dispatcher takes for a session on a route."""
        times = ServiceTimes(self.problem)

        def seconds(session: Session, route: Route) -> float:
            tokens = session.request.output_tokens if self.lengths_known else self.greatest_tokens
            return times.seconds(route, session.client, tokens)

        return seconds

    def design(self, counted_seconds: float) -> int:
        """R as published: Poisson mean and deviation of the sessions that run at once, as far as memory goes.

        A session's time is that of the fastest route when placed for one session, and what else is counted.
        """
        problem = self.problem
        alone = replace(problem, block_limit=np.zeros(0, dtype=np.int64)) if self.uncapped_design else problem
        hops = hops_of(place_conservatively(alone, 1).placement, alone.blocks)
        path = shortest(hops, decode_costs(alone, hops, 0))
        if path is None:
            return 0
        seconds = counted_seconds + session_seconds(alone, hops.route(path.hops), 0)
        most = min(max(1, most_sessions(problem)), most_feasible(problem))
        return design_sessions(self.arrivals_per_second, seconds, most)


Method = Callable[[ChainSetting], ChainFleet]


def petals_as_published(setting: ChainSetting) -> ChainFleet:
    """PETALS: fixed cache pools, servers join in any order, routes by latency."""
    return _petals(setting, setting.swarm.join_order)


def petals_in_order(setting: ChainSetting) -> ChainFleet:
    """PETALS with servers that join in CG-BP's order."""
    order = place_conservatively(setting.problem, setting.design(setting.counted_setup_seconds)).order
    return _petals(setting, (*order, *sorted(set(setting.swarm.join_order) - set(order))))


def conservative(setting: ChainSetting) -> ChainFleet:
    """CG-BP and WS-RR (BPRR), with the published design number of sessions."""
    return _conservative(setting, setting.counted_setup_seconds)


def conservative_all_delays(setting: ChainSetting) -> ChainFleet:
    """The same where the design number counts every delay that holds memory."""
    return _conservative(setting, setting.problem.setup_seconds)


def composed(setting: ChainSetting) -> ChainFleet:
    """GBP-CR, GCA and JFFC: disjoint chains for the number of places with the least bound on the mean response."""
    problem, arrivals = setting.problem, setting.arrivals_per_second
    best: tuple[float, Placement | None] = math.inf, None
    places = float(max(1, most_feasible(problem)))
    while places >= 1:
        placement = disjoint_chains(problem, round(places), math.inf, 1.0).placement
        if placement.covers(problem.blocks):
            score = _bound(problem, compose(problem, placement), arrivals)
            if score < best[0]:
                best = score, placement
        places /= PLACES_GRID
    if best[1] is None:
        return conservative(setting)

    def dispatcher(placement: Placement, slots: Ints) -> Dispatcher:
        chains = compose(problem, placement)
        return Queued(slots, lambda free: ComposedChains(chains, free), problem.clients)

    return _fleet(setting, best[1], dispatcher)


def ours(setting: ChainSetting) -> ChainFleet:
    """The best placement by Plimsoll's search, then a desk for the route of each request where lengths are known, else
    a central queue for the fastest free route."""
    problem = setting.problem
    found = best_placement(problem, setting.arrivals_per_second)
    if found is None:
        return conservative(setting)

    def dispatcher(placement: Placement, slots: Ints) -> Dispatcher:
        if setting.lengths_known:
            return Committed(slots, DeskBooks(Desk(problem, placement, slots)), setting.assumed(), retry=setting.retry)
        return Queued(slots, lambda free: FreePaths(problem, placement, free), problem.clients)

    fleet = _fleet(setting, found.placement, dispatcher)
    return replace(fleet, replace=_rearranged(setting))


METHODS: Mapping[str, Method] = {
    "PETALS": petals_as_published,
    "PETALS in CG-BP's order": petals_in_order,
    "CG-BP + WS-RR": conservative,
    "CG-BP + WS-RR, R counts every delay": conservative_all_delays,
    "GBP-CR + GCA + JFFC": composed,
    "Plimsoll": ours,
}
"""By name; the last is Plimsoll's own."""


def _fleet(setting: ChainSetting, placement: Placement, dispatcher: DispatcherFactory) -> ChainFleet:
    return ChainFleet(setting.problem, placement, dispatcher, retry=setting.retry, load_seconds=setting.load_seconds)


def _conservative(setting: ChainSetting, counted_seconds: float) -> ChainFleet:
    found = place_conservatively(setting.problem, setting.design(counted_seconds))

    def dispatcher(placement: Placement, slots: Ints) -> Dispatcher:
        return _by_rule(setting, placement, slots, penalised)

    return _fleet(setting, found.placement, dispatcher)


def _by_rule(setting: ChainSetting, placement: Placement, slots: Ints, rule: Rule) -> Dispatcher:
    problem = setting.problem
    hops = hops_of(placement, problem.blocks)
    routers = [router(hops, session_costs(problem, hops, client), rule) for client in range(problem.clients)]
    return Committed(slots, LedgerBooks(slots, routers), setting.assumed(), retry=setting.retry)


def _petals(setting: ChainSetting, order: Sequence[int]) -> ChainFleet:
    problem, swarm = setting.problem, setting.swarm
    counts = petals.block_counts(problem, swarm.hidden_size)
    reserved = petals.reserved_cache_bytes(swarm.hidden_size)
    speed = petals.throughput(counts, swarm.forward_per_second, swarm.network_per_second)
    limit = np.full(problem.servers, int(reserved // problem.cache_bytes))

    def slots(placement: Placement) -> Ints:
        return petals.cache_slots(problem, placement.count, reserved)

    def dispatcher(placement: Placement, slots: Ints) -> Dispatcher:
        quirk = setting.full_when_equal
        routers = []
        for trips in swarm.client_round_trips:
            network = petals.Network(trips, swarm.server_round_trips)
            plain = petals.router(problem, placement, network, limit, full_when_equal=quirk)
            routers.append(_remembered(plain, limit, quirk=quirk))
        return Committed(slots, LedgerBooks(slots, routers), setting.assumed(), retry=setting.retry)

    def rejoined(present: Placement, exists: Bools) -> list[Placement]:
        """Those that come back join where the throughput is worst; then everyone looks around once."""
        first, now = present.first.copy(), np.where(exists, present.count, 0)
        stream = np.random.default_rng(int(np.flatnonzero(~exists).sum()))
        for server in np.flatnonzero(exists & (now == 0) & (counts > 0)).tolist():
            hosted = _hosted(first, now, speed, problem.blocks)
            first[server] = petals.worst_window(hosted, int(counts[server]))
            now[server] = counts[server]
        for server in stream.permutation(np.flatnonzero(now)).tolist():
            first[server] = petals.rebalanced(
                Placement(first, now), speed, problem.blocks, server, lambda others: stream.permutation(others).tolist()
            )
        return [Placement(first, now)]

    start = petals.place(problem.blocks, counts, speed, order)
    return replace(_fleet(setting, start, dispatcher), slots=slots, replace=rejoined)


def _remembered(plain: Router, limit: Ints, *, quirk: bool) -> Router:
    """The same routes: they depend on nothing but which servers are full."""
    known: dict[bytes, Route | None] = {}

    def route(ledger: Ledger, now_seconds: float) -> Route | None:
        ledger.release_until(now_seconds)
        active = np.array([ledger.active(server) for server in range(len(limit))])
        key = (active == limit if quirk else active >= limit).tobytes()
        if key not in known:
            known[key] = plain(ledger, now_seconds)
        return known[key]

    return route


def _hosted(first: Ints, count: Ints, speed: Floats, blocks: int) -> Floats:
    """(L): throughput by block."""
    hosted = np.zeros(blocks)
    for server in np.flatnonzero(count).tolist():
        hosted[first[server] : first[server] + count[server]] += speed[server]
    return hosted


def _rearranged(setting: ChainSetting) -> Replacement:
    """Plimsoll's rule for who loads what after a loss or a return."""
    problem = setting.problem
    policy = MovePolicy(start_seconds=setting.load_seconds)

    def rearranged(present: Placement, exists: Bools) -> list[Placement]:
        left = replace(problem, memory_bytes=np.where(exists, problem.memory_bytes, 0.0))
        found = replace_servers(left, present, setting.arrivals_per_second, policy)
        return [present] if found is None else found.stages(present)

    return rearranged


def _bound(problem: ChainProblem, chains: Sequence[Chain], arrivals_per_second: float) -> float:
    """The least mean response with the setup in the service time; beyond all such where they cannot carry the load."""
    holding = [Chain(chain.route, chain.places, chain.service_seconds + problem.setup_seconds) for chain in chains]
    least, _ = mean_response_bounds(holding, arrivals_per_second)
    if math.isfinite(least):
        return least
    return OVERLOADED + arrivals_per_second - sum(chain.rate_per_second for chain in holding)
