"""Chains that share no server, for engines whose processes belong to one pipeline each.

A chain gets its part of the requests by a weight and has a queue of its own, so each promises for itself and rates add
up. Hidden states go from server to server and the sampled token back to the first. Times are those of a relay beside
the first server, to each server and back: no shorter where distances keep the triangle inequality, so promises hold.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from plimsoll.chains.composition import Chain, place_rates
from plimsoll.chains.problem import ChainError, ChainProblem, Floats, Ints, Placement, whole
from plimsoll.chains.promises import UTILISATION, promised, spare_seconds
from plimsoll.chains.routes import Route, session_seconds
from plimsoll.chains.search import response_score
from plimsoll.chains.sets import ServerSet
from plimsoll.performance import LatencyTargets

MOST_CHAINS = 16
"""As many as routers are told of."""
MOST_SERVERS = 16
"""Of a chain."""
_MOST_PLACES = 256
"""Of a chain, where the problem has no limit."""


def pipeline(problem: ChainProblem, servers: Sequence[int], *, client: int = 0) -> Chain | None:
    """The chain of these servers in this order that has the most places; None where they cannot hold the model.

    Each server hosts a part of the blocks in proportion to what it could host beside so many sessions.
    """
    index = np.array(servers, dtype=np.int64)
    if not 0 < len(index) <= min(problem.blocks, MOST_SERVERS):
        return None
    low, high = 0, (problem.sessions_at_once or _MOST_PLACES) + 1
    while high - low > 1:
        middle = (low + high) // 2
        if int(_limits(problem, index, middle).sum()) >= problem.blocks:
            low = middle
        else:
            high = middle
    limits = _limits(problem, index, low)
    if low < 1 or int(limits.min()) < 1:
        return None
    route = Route(tuple(index.tolist()), tuple(_parts(limits, problem.blocks).tolist()))
    return Chain(route, low, session_seconds(problem, route, client))


def chain_rate(
    problem: ChainProblem,
    chain: Chain,
    targets: LatencyTargets,
    *,
    client: int = 0,
    utilisation: float = UTILISATION,
) -> float:
    """The highest rate per second at which the targets hold on a chain with a queue of its own."""
    return promised(problem, [chain], targets, client=client, utilisation=utilisation).rate_per_second


def seen_from(problem: ChainProblem, client: int, approach_seconds: float = 0.0) -> ChainProblem:
    """The problem of one client, which requests take so long to reach."""
    return replace(
        problem,
        decode_trip_seconds=problem.decode_trip_seconds[[client]],
        prefill_trip_seconds=problem.prefill_trip_seconds[[client]],
        setup_seconds=problem.setup_seconds + approach_seconds,
    )


def pipeline_set(
    problem: ChainProblem,
    groupings: Sequence[Ints],
    price_per_hour: Floats,
    targets: LatencyTargets,
    rate_per_second: float,
    *,
    entry: Ints | None = None,
    approach_seconds: Floats | None = None,
    kept: Sequence[Chain] = (),
    least_places: int = 1,
    utilisation: float = UTILISATION,
) -> ServerSet | None:
    """The cheapest disjoint chains found that carry the rate, or such as carry most of it; None where there are none.

    At most `MOST_CHAINS`, with at most `MOST_SERVERS` each.

    Args:
        groupings: each (S), the group of each server. Chains are made within groups first, then of what is left.
        price_per_hour: (S)
        entry: (S) the client that is beside each server: its trips count for chains that begin there. None: the first.
        approach_seconds: (C) until requests reach each client; none without.
        kept: chains that are there already and stay; their servers are in no other.
        least_places: of a chain.

    Raises:
        ChainError: when shapes disagree or the rate is not above 0.
    """
    for name, values in (("price_per_hour", price_per_hour), *(("groupings", own) for own in groupings)):
        if values.shape != (problem.servers,):
            raise ChainError(
                f"{name} has shape {values.shape}; a value for each of {problem.servers} servers is needed"
            )
    if not rate_per_second > 0:
        raise ChainError(f"rate_per_second is {rate_per_second}; it must be above 0")
    search = _Search(problem, price_per_hour, targets, entry, approach_seconds, utilisation)
    best: tuple[tuple[float, float, float], list[Chain]] | None = None
    taken = {server for chain in kept for server in chain.route.servers}
    for grouping in groupings:
        for places in _designs(problem, least_places):
            chains = search.chains(grouping, places, taken)
            made = [chain for chain in chains if chain.places >= least_places]
            chosen = search.cheapest(kept, made, rate_per_second)
            if not chosen:
                continue
            key = search.key(chosen, rate_per_second)
            if best is None or key < best[0]:
                best = key, chosen
    return None if best is None else search.described(best[1], rate_per_second)


class _Search:
    def __init__(
        self,
        problem: ChainProblem,
        prices: Floats,
        targets: LatencyTargets,
        entry: Ints | None,
        approach_seconds: Floats | None,
        utilisation: float,
    ) -> None:
        self._problem, self._prices, self._targets, self._utilisation = problem, prices, targets, utilisation
        self._entry = np.zeros(problem.servers, dtype=np.int64) if entry is None else entry
        self._approach = np.zeros(problem.clients) if approach_seconds is None else approach_seconds
        self._views = [seen_from(problem, client, float(self._approach[client])) for client in range(problem.clients)]
        self._rates: dict[tuple[int, float, float, float], float] = {}

    def rate(self, chain: Chain) -> float:
        """What a chain promises. Chains of like servers promise the same."""
        view = self._views[self._entry[chain.route.servers[0]]]
        spare = spare_seconds(view, chain, self._targets)
        if spare < 0:
            return 0.0
        key = chain.places, chain.service_seconds, spare, view.setup_seconds
        if key not in self._rates:
            self._rates[key] = chain_rate(view, chain, self._targets, utilisation=self._utilisation)
        return self._rates[key]

    def price(self, chain: Chain) -> float:
        return float(self._prices[list(chain.route.servers)].sum())

    def chains(self, grouping: Ints, places: int, taken: Iterable[int]) -> list[Chain]:
        """As many chains as there can be, each with the fewest servers that leave room for so many sessions."""
        free = np.ones(self._problem.servers, dtype=bool)
        free[list(taken)] = False
        limits = _limits(self._problem, np.arange(self._problem.servers), places)
        free &= limits > 0
        # What a block costs, then the nearest to those who ask.
        order = np.lexsort((self._approach[self._entry], self._prices / np.maximum(limits, 1)))
        found: list[Chain] = []
        left: list[int] = []
        for group in np.unique(grouping[free]).tolist():
            members = [int(server) for server in order if free[server] and grouping[server] == group]
            left += self._filled(members, limits, found)
        self._filled(left, limits, found)
        return found

    def _filled(self, members: Sequence[int], limits: Ints, found: list[Chain]) -> list[int]:
        """Chains of servers in this order go to `found`; returns what is left of them."""
        own: list[int] = []
        for server in members:
            own = [*own, server][-MOST_SERVERS:]
            if int(limits[own].sum()) >= self._problem.blocks:
                chain = self._chain(own)
                if chain is not None and self.rate(chain) > 0:
                    found.append(chain)
                    own = []
                else:
                    own = own[1:]
        return own

    def _chain(self, servers: Sequence[int]) -> Chain | None:
        """The best chain of these servers: it begins in one place, and goes on to the next nearest."""
        best: Chain | None = None
        for client in np.unique(self._entry[servers]).tolist():
            trip = self._problem.session_trip_seconds[client]
            order = sorted(servers, key=lambda one: (self._entry[one] != client, trip[one], self._entry[one], one))
            chain = pipeline(self._views[client], order)
            if chain is not None and (best is None or self._merit(chain) > self._merit(best)):
                best = chain
        return best

    def _merit(self, chain: Chain) -> tuple[float, float]:
        return self.rate(chain), -chain.service_seconds

    def cheapest(self, kept: Sequence[Chain], made: Sequence[Chain], rate: float) -> list[Chain]:
        """Those kept, and of the others the cheapest for what they promise until the rate is carried."""
        chosen = [chain for chain in kept if self.rate(chain) > 0]
        missing = rate - sum(self.rate(chain) for chain in chosen)
        order = sorted(made, key=lambda one: (self.price(one) / self.rate(one), one.service_seconds))
        price = math.inf
        spent, added = 0.0, 0
        most = min(len(order), MOST_CHAINS - len(chosen))
        best = order[:most]
        while missing > 0 and added < most:
            # The last one need not be the cheapest for what it promises, only enough.
            last = min((one for one in order[added:] if self.rate(one) >= missing), key=self._cost, default=None)
            if last is not None and spent + self.price(last) < price:
                price, best = spent + self.price(last), [*order[:added], last]
            spent += self.price(order[added])
            missing -= self.rate(order[added])
            added += 1
        if missing <= 0 and spent < price:
            best = order[:added]
        return chosen + best

    def _cost(self, chain: Chain) -> tuple[float, float]:
        return self.price(chain), chain.service_seconds

    def key(self, chains: Sequence[Chain], rate: float) -> tuple[float, float, float]:
        """The smallest is the best: most of the rate, then the price, then the response."""
        carried = min(rate, sum(self.rate(chain) for chain in chains))
        return (-round(carried, 9), round(sum(map(self.price, chains)), 9), self._response(chains, rate))

    def _response(self, chains: Sequence[Chain], rate: float) -> float:
        return response_score(place_rates(chains, self._problem.setup_seconds), rate)

    def described(self, chains: Sequence[Chain], rate: float) -> ServerSet:
        first = np.zeros(self._problem.servers, dtype=np.int64)
        count = np.zeros(self._problem.servers, dtype=np.int64)
        for chain in chains:
            position = 0
            for server, blocks in zip(chain.route.servers, chain.route.blocks, strict=True):
                first[server], count[server] = position, blocks
                position += blocks
        return ServerSet(
            servers=tuple(np.flatnonzero(count).tolist()),
            placement=Placement(first, count),
            chains=tuple(chains),
            price_per_hour=float(sum(map(self.price, chains))),
            rate_per_second=sum(self.rate(chain) for chain in chains),
            mean_response_seconds=self._response(chains, rate),
        )


def _limits(problem: ChainProblem, servers: Ints, places: int) -> Ints:
    """(n): blocks that each of these servers may host beside the caches of so many sessions for them."""
    room = whole(problem.memory_bytes[servers] / (problem.block_bytes + places * problem.cache_bytes))
    return np.asarray(np.minimum(room, problem.most_blocks[servers]), dtype=np.int64)


def _parts(limits: Ints, blocks: int) -> Ints:
    """(n): blocks in proportion to the limits, which they do not exceed; at least one each."""
    exact = limits * (blocks / int(limits.sum()))
    parts: Ints = np.clip(np.floor(exact).astype(np.int64), 1, limits)
    while (missing := blocks - int(parts.sum())) != 0:
        step = 1 if missing > 0 else -1
        able = parts < limits if step > 0 else parts > 1
        parts[int(np.argmax(np.where(able, step * (exact - parts), -np.inf)))] += step
    return parts


def _designs(problem: ChainProblem, least: int) -> list[int]:
    most = problem.sessions_at_once or _MOST_PLACES
    return sorted({places for power in range(9) if least <= (places := min(2**power, most))} | {max(1, least)})
