"""Which of many pools that are alike need be looked at.

Pools that differ in price alone fill up from the cheapest: one that is dearer than a pool with room left can serve
nobody better. So a large fleet's problem gets the cheapest of each kind of pools, as far as a rough guess says that
they suffice, and of each deployment those where it runs. Whether they did is seen from the answer: where no listed pool
that is cheaper than the others has room left, the list grows and the search is made again.

Where one deployment runs is offered to no other: a plan that is applied would be searched for among other options.

The answer's lower bound holds for all pools then: room left makes a pool's place worth nothing, and what is not on the
list costs more still.
"""

import heapq
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from plimsoll.allocation import Allocation, AllocationProblem
from plimsoll.allocation.explain import room
from plimsoll.planning.options import Choices, Way
from plimsoll.planning.pools import Offer
from plimsoll.planning.stock import Stock

MANY_OPTIONS = 40_000
"""Up to here everything is looked at."""
USABLE_TIME = 0.85
"""Part of a replica's time that is planned with (DESIGN section 4, rho)."""
Kind = tuple[str, ...]
"""Names of pools alike that a deployment may use."""


@dataclass(frozen=True, slots=True)
class Shortlist:
    """The pools to look at, of each kind."""

    lists: Mapping[Kind, frozenset[str]]
    """What is absent is looked at as a whole."""
    own: Mapping[int, frozenset[str]] = field(default_factory=dict)
    """Where a deployment runs, which it may look at besides."""

    def of(self, pools: Sequence[Offer], deployment: int) -> frozenset[str] | None:
        """Of these pools, which are alike; None: all."""
        kind = _kind(pools)
        listed = self.lists.get(kind)
        return None if listed is None else listed | (self.own.get(deployment, frozenset()) & set(kind))

    def longer(
        self,
        problem: AllocationProblem,
        allocation: Allocation,
        pool_names: Sequence[str],
        offers: Mapping[str, Offer],
    ) -> "Shortlist | None":
        """With twice as many pools where they were too few; None where they suffice."""
        full = np.zeros(len(pool_names), dtype=bool)
        full[problem.option_pool[room(problem, allocation) < 1]] = True
        closed = {name for name, is_full in zip(pool_names, full.tolist(), strict=True) if is_full}
        grown: dict[Kind, frozenset[str]] = {}
        for kind, listed in self.lists.items():
            ordered = _cheapest(kind, offers)
            first_left_out = next((number for number, name in enumerate(ordered) if name not in listed), None)
            if first_left_out is not None and not set(ordered[:first_left_out]) - closed:
                grown[kind] = listed.union(ordered[: 2 * len(listed)])
        return Shortlist({**self.lists, **grown}, self.own) if grown else None


WHOLE = Shortlist({})
"""Every pool of every kind."""


def shortlist(
    choices: Sequence[Choices], offers: Mapping[str, Offer], stock: Stock, in_use: Mapping[int, frozenset[str]]
) -> Shortlist:
    """The pools to begin with: those that a rough guess fills, of each kind one more, and those `in_use` by number of
    the deployment."""
    if sum(len(way.pools) for choice in choices for way in choice.ways) <= MANY_OPTIONS:
        return WHOLE
    # The ways of all deployments share a few tuples of pools.
    kinds = {id(way.pools): way.pools for choice in choices for way in choice.ways}
    used = _guess(choices, stock)
    lists: dict[Kind, frozenset[str]] = {}
    for kind in map(_kind, kinds.values()):
        ordered = _cheapest(kind, offers)
        last = max((number for number, name in enumerate(ordered) if name in used), default=-1)
        lists[kind] = frozenset(ordered[: last + 2])
    return Shortlist(lists, in_use)


def _guess(choices: Sequence[Choices], stock: Stock) -> set[str]:
    """Pools that fill when one deployment after the other takes the cheapest way that serves it alone."""
    free: dict[str, float] = {}
    for node in stock.nodes:
        free[node.pool] = free.get(node.pool, 0.0) + node.free[0]
    for name, most in stock.gpu_limit.items():
        free[name] = min(free.get(name, 0.0), most)
    used: set[str] = set()
    ordered: dict[int, list[tuple[float, str]]] = {}
    for way in (way for choice in choices for way in choice.ways):
        if id(way.pools) not in ordered:
            ordered[id(way.pools)] = sorted((float(pool.price_per_gpu_hour), pool.name) for pool in way.pools)
    for choice in choices:
        for _, _, gpus, name in heapq.merge(*(_offers(choice, way, ordered[id(way.pools)]) for way in choice.ways)):
            if free.get(name, math.inf) >= gpus:
                free[name] = free.get(name, math.inf) - gpus
                used.add(name)
                break
    return used


def _offers(choice: Choices, way: Way, pools: Sequence[tuple[float, str]]) -> Iterator[tuple[int, float, int, str]]:
    """Classes that go unserved, price per hour, GPUs and pool of a way that serves a deployment alone, by price."""
    rates = [
        (item.planned_rate_per_second, way.capacities[item.declared.name].max_rate_per_second)
        for item in choice.classes
        if item.declared.name in way.capacities
    ]
    replicas = max(1, math.ceil(sum(rate / highest for rate, highest in rates) / USABLE_TIME))
    gpus = replicas * way.option.parallelism.gpus
    missing = len(choice.classes) - len(rates)
    return ((missing, gpus * price, gpus, name) for price, name in pools)


def _kind(pools: Sequence[Offer]) -> Kind:
    return tuple(pool.name for pool in pools)


def _cheapest(kind: Kind, offers: Mapping[str, Offer]) -> list[str]:
    return sorted(kind, key=lambda name: (offers[name].price_per_gpu_hour, name))
