"""Least-cost sets of servers that carry a load within latency targets: the choices that a fleet's planner has.

Servers of a pool are interchangeable but for their round trips. Pools form stages of their own, so what they carry
adds up: some pools are used wholly and one as far as needed, then every pool gives up what it can. Where no pool can
host the model alone, or servers are few, servers are taken from the best placement of all as long as the rest carries
the load.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from plimsoll.chains.composition import Chain, compose, place_rates
from plimsoll.chains.problem import ChainError, ChainProblem, Floats, Ints, Placement
from plimsoll.chains.promises import UTILISATION, Promise, promised
from plimsoll.chains.search import best_placement, response_score
from plimsoll.chains.stages import place_in_stages, stage_numbers, together
from plimsoll.performance import LatencyTargets

MOST_POOLS = 6
"""Pools that are combined: those that carry most for their price."""
FEW_SERVERS = 64


@dataclass(frozen=True, slots=True, eq=False)
class ServerSet:
    """Servers that carry a rate within the targets, and how."""

    servers: tuple[int, ...]
    placement: Placement
    chains: tuple[Chain, ...]
    """Those that meet the targets; no other may be used."""
    price_per_hour: float
    rate_per_second: float
    """The highest within the targets."""
    mean_response_seconds: float
    """At least, at the rate asked for."""


def server_sets(
    problem: ChainProblem,
    pools: Ints,
    price_per_hour: Floats,
    targets: LatencyTargets,
    rates_per_second: Sequence[float],
    *,
    client: int = 0,
    utilisation: float = UTILISATION,
) -> list[ServerSet]:
    """The cheapest set found for each rate that can be carried, by rising price; each carries more than those before.

    Args:
        pools: (S) pool of each server.
        price_per_hour: (S)

    Raises:
        ChainError: when shapes disagree, or a price or a rate is negative.
    """
    for name, values in (("pools", pools), ("price_per_hour", price_per_hour)):
        if values.shape != (problem.servers,):
            raise ChainError(
                f"{name} has shape {values.shape}; a value for each of {problem.servers} servers is needed"
            )
    if float(price_per_hour.min(initial=0.0)) < 0:
        raise ChainError(f"price_per_hour is {price_per_hour.min()} for a server; it must be at least 0")
    if any(not rate > 0 for rate in rates_per_second):
        raise ChainError(f"rates_per_second holds {min(rates_per_second)}; rates must be above 0")
    search = _Search(problem, pools, price_per_hour, targets, client, utilisation)
    found = [one for rate in sorted(rates_per_second) if (one := search.cheapest(rate)) is not None]
    kept: list[ServerSet] = []
    for one in sorted(found, key=lambda one: (one.price_per_hour, -one.rate_per_second)):
        if not kept or one.rate_per_second > kept[-1].rate_per_second:
            kept.append(one)
    return kept


Use = Mapping[int, tuple[int, int]]
"""Stages and servers by pool."""


class _Search:
    def __init__(
        self,
        problem: ChainProblem,
        pools: Ints,
        price_per_hour: Floats,
        targets: LatencyTargets,
        client: int,
        utilisation: float,
    ) -> None:
        self._problem, self._prices, self._targets = problem, price_per_hour, targets
        self._client, self._utilisation = client, utilisation
        trip = problem.session_trip_seconds[client]
        # The cheapest first, then the nearest.
        order = np.lexsort((trip, price_per_hour))
        self._members = {int(pool): order[pools[order] == pool] for pool in np.unique(pools)}
        self._known: dict[tuple[int, int, int], tuple[Placement | None, list[Chain]]] = {}
        self._whole = {pool: use for pool in self._members if (use := self._best_use(pool)) is not None}
        worth = {pool: self._promise({pool: use}).rate_per_second for pool, use in self._whole.items()}
        ranked = sorted(self._whole, key=lambda pool: self._price({pool: self._whole[pool]}) / worth[pool])
        self._pools = ranked[:MOST_POOLS]

    def cheapest(self, rate: float) -> ServerSet | None:
        """The cheapest set found that carries this rate."""
        use = self._combined(rate)
        found = None if use is None else self._set(self._thrifty(use, rate), rate)
        if found is None or self._problem.servers <= FEW_SERVERS:
            taken = self._taken_away(rate)
            if taken is not None and (found is None or taken.price_per_hour < found.price_per_hour):
                found = taken
        return found

    def _combined(self, rate: float) -> dict[int, tuple[int, int]] | None:
        """Some pools as a whole and one as far as needed: the cheapest way."""
        price, best = math.inf, None
        for size in range(len(self._pools)):
            for full in itertools.combinations(self._pools, size):
                use = {pool: self._whole[pool] for pool in full}
                if self._price(use) >= price or (full and self._carries(use, rate)):
                    continue
                for pool in self._pools:
                    if pool not in use and (least := self._least(use, pool, rate)) is not None:
                        more = {**use, pool: least}
                        if self._price(more) < price:
                            price, best = self._price(more), more
        return best

    def _thrifty(self, use: dict[int, tuple[int, int]], rate: float) -> dict[int, tuple[int, int]]:
        """Every pool, the dearest first, gives up what the others can do without."""
        for pool in sorted(use, key=lambda pool: -float(self._prices[self._members[pool]].mean())):
            others = {other: own for other, own in use.items() if other != pool}
            if others and self._carries(others, rate):
                use = others
                continue
            least = self._least(others, pool, rate)
            if least is not None and self._price({**others, pool: least}) < self._price(use):
                use = {**others, pool: least}
        return use

    def _least(self, others: Use, pool: int, rate: float) -> tuple[int, int] | None:
        """Stages and the fewest servers of a pool that carry the rate together with the others."""
        members = self._members[pool]
        best: tuple[int, int] | None = None
        for stages in stage_numbers(self._problem, members):
            low, high = stages - 1, len(members) if best is None else best[1] - 1
            if high < stages or not self._carries({**others, pool: (stages, high)}, rate):
                continue
            while high - low > 1:
                middle = (low + high) // 2
                if self._carries({**others, pool: (stages, middle)}, rate):
                    high = middle
                else:
                    low = middle
            best = stages, high
        return best

    def _best_use(self, pool: int) -> tuple[int, int] | None:
        """The number of stages at which a whole pool carries most."""
        size = len(self._members[pool])
        uses = [(stages, size) for stages in stage_numbers(self._problem, self._members[pool])]
        rated = [(self._promise({pool: use}).rate_per_second, -use[0], use) for use in uses]
        most = max(rated, default=None)
        return most[2] if most is not None and most[0] > 0 else None

    def _parts(self, use: Use) -> list[tuple[Placement | None, list[Chain]]]:
        parts = []
        for pool, (stages, count) in use.items():
            key = pool, stages, count
            if key not in self._known:
                placement, _ = place_in_stages(self._problem, self._members[pool][:count], stages)
                chains = [] if placement is None else compose(self._problem, placement, self._client)
                self._known[key] = placement, chains
            parts.append(self._known[key])
        return parts

    def _promise(self, use: Use) -> Promise:
        chains = [chain for _, own in self._parts(use) for chain in own]
        return self._promised(chains)

    def _promised(self, chains: Sequence[Chain]) -> Promise:
        return promised(self._problem, chains, self._targets, client=self._client, utilisation=self._utilisation)

    def _carries(self, use: Use, rate: float) -> bool:
        return self._promise(use).rate_per_second >= rate

    def _price(self, use: Use) -> float:
        return float(sum(self._prices[self._members[pool][:count]].sum() for pool, (_, count) in use.items()))

    def _set(self, use: Use, rate: float) -> ServerSet:
        placement = together([part for part, _ in self._parts(use) if part is not None])
        return self._described(placement, self._promise(use), rate)

    def _described(self, placement: Placement, promise: Promise, rate: float) -> ServerSet:
        """With the servers that the promised chains use, and no others."""
        used = sorted({server for chain in promise.chains for server in chain.route.servers})
        count = np.zeros_like(placement.count)
        count[used] = placement.count[used]
        return ServerSet(
            servers=tuple(used),
            placement=Placement(np.where(count > 0, placement.first, 0), count),
            chains=promise.chains,
            price_per_hour=float(self._prices[used].sum()),
            rate_per_second=promise.rate_per_second,
            mean_response_seconds=response_score(place_rates(promise.chains, self._problem.setup_seconds), rate),
        )

    def _taken_away(self, rate: float) -> ServerSet | None:
        """Of placements of all servers, the cheapest that is left when servers are taken from it."""
        everybody = np.concatenate(list(self._members.values()))
        stages = stage_numbers(self._problem, everybody)
        placements = [place_in_stages(self._problem, everybody, number)[0] for number in stages]
        best = best_placement(self._problem, rate / self._utilisation, self._client)
        if best is not None:
            placements.append(best.placement)
        found = [self._thinned(placement, rate) for placement in placements if placement is not None]
        return min((one for one in found if one is not None), key=lambda one: one.price_per_hour, default=None)

    def _thinned(self, placement: Placement, rate: float) -> ServerSet | None:
        """Servers are taken away as long as the rest carries the rate: the dearest first, many at once, then fewer."""
        promise = self._promised(compose(self._problem, placement, self._client))
        if promise.rate_per_second < rate:
            return None
        order = [int(server) for server in np.argsort(-self._prices, kind="stable") if placement.count[server] > 0]
        size = len(order)
        while size:
            left: list[int] = []
            for begin in range(0, len(order), size):
                count = placement.count.copy()
                count[order[begin : begin + size]] = 0
                fewer = Placement(placement.first, count)
                other = self._promised(compose(self._problem, fewer, self._client))
                if other.rate_per_second >= rate:
                    placement, promise = fewer, other
                else:
                    left += order[begin : begin + size]
            order, size = left, size // 2
        return self._described(placement, promise, rate)
