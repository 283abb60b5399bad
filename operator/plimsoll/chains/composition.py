"""Whole chains in place of routes per request: disjoint chains (GBP-CR), cache memory shared out to chains (GCA), and
bounds on the mean response when each request takes the fastest chain with a free place (JFFC).

After the follow-up work on chain composition. The bounds hold for Poisson arrivals and exponential service.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from plimsoll.chains.conservative import block_counts
from plimsoll.chains.problem import ChainProblem, Floats, Placement
from plimsoll.chains.routes import Route, hops_of, session_costs
from plimsoll.chains.segments import Exhausting, segments_of


@dataclass(frozen=True, slots=True)
class Chain:
    """Servers in order, how many sessions may run on them at once, and how long one takes."""

    route: Route
    places: int
    service_seconds: float

    @property
    def rate_per_second(self) -> float:
        return self.places / self.service_seconds


@dataclass(frozen=True, slots=True, eq=False)
class Disjoint:
    """Chains that share no server, and the placement that they make."""

    placement: Placement
    chains: tuple[tuple[int, ...], ...]
    """Servers of each chain, in order."""
    service_seconds: tuple[float, ...]
    """Of each chain, each server using all its blocks."""


def disjoint_chains(
    problem: ChainProblem, places: int, arrivals_per_second: float, utilisation: float, client: int = 0
) -> Disjoint:
    """GBP-CR: servers by amortised time per block fill one chain after the other until the rate suffices.

    Args:
        places: sessions that each server keeps memory for.
        utilisation: part of the capacity that may be used.
    """
    counts = block_counts(problem, places)
    trip, block = problem.session_trip_seconds[client], problem.session_block_seconds
    seconds = trip + block * counts
    hosting = np.flatnonzero(counts > 0)
    order = hosting[np.argsort(seconds[hosting] / counts[hosting], kind="stable")].tolist()
    first = np.zeros(problem.servers, dtype=np.int64)
    used = np.zeros(problem.servers, dtype=np.int64)
    chains: list[tuple[int, ...]] = []
    times: list[float] = []
    wanted = arrivals_per_second / (utilisation * places)
    chain: list[int] = []
    following, rate = 0, 0.0
    for server in order:
        count = int(counts[server])
        first[server] = min(following, problem.blocks - count)
        used[server] = count
        chain.append(server)
        following = int(first[server]) + count
        if following < problem.blocks:
            continue
        chains.append(tuple(chain))
        times.append(float(seconds[chain].sum()))
        rate += 1 / times[-1]
        chain, following = [], 0
        if rate >= wanted:
            break
    return Disjoint(Placement(first, used), tuple(chains), tuple(times))


def compose(problem: ChainProblem, placement: Placement, client: int = 0, most_places: float = math.inf) -> list[Chain]:
    """GCA: again and again the shortest route over servers that have cache left, with all the places it can have.

    Ends when no route is left, or when there are `most_places`.
    """
    hops = hops_of(placement, problem.blocks)
    segments = segments_of(hops, session_costs(problem, hops, client))
    left = Exhausting(segments, placement.cache_slots(problem))
    chains: list[Chain] = []
    total = 0
    while total < most_places and (found := left.take()) is not None:
        cost, servers, blocks, places = found
        chains.append(Chain(Route(tuple(servers), tuple(blocks)), places, cost))
        total += places
    return chains


def mean_response_bounds(chains: Sequence[Chain], arrivals_per_second: float) -> tuple[float, float]:
    """Least and greatest mean response in seconds of JFFC; both infinite when the chains cannot carry the load.

    A birth-death process: with n requests present the n fastest (or slowest) places serve.
    """
    rates = place_rates(chains)
    if float(rates.sum()) <= arrivals_per_second:
        return math.inf, math.inf
    return mean_response(rates, arrivals_per_second), mean_response(rates[::-1], arrivals_per_second)


def place_rates(chains: Sequence[Chain], held_seconds: float = 0.0) -> Floats:
    """(N): sessions per second of each place of these chains, fastest first, when a place is held for so much longer
    than the service."""
    seconds = np.array([chain.service_seconds for chain in chains]) + held_seconds
    rates = np.repeat(1 / seconds, [chain.places for chain in chains])
    return np.sort(rates)[::-1]


def mean_response(rates: Floats, arrivals_per_second: float) -> float:
    """Mean response in seconds where n requests keep the first n of these rates (N, per second) busy; their sum must
    exceed the arrivals."""
    deaths = np.cumsum(rates)
    logarithms = np.concatenate(([0.0], np.cumsum(math.log(arrivals_per_second) - np.log(deaths))))
    weights = np.exp(logarithms - logarithms.max())
    load = arrivals_per_second / float(deaths[-1])
    places = len(rates)
    # Beyond the last place the probabilities are geometric.
    tail = float(weights[-1]) * load / (1 - load)
    tail_count = tail * (places + 1 / (1 - load))
    total = float(weights.sum()) + tail
    occupancy = float((weights * np.arange(places + 1)).sum()) + tail_count
    return occupancy / total / arrivals_per_second
