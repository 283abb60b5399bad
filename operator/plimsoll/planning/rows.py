"""Makes the rows that each LLMDeployment has in the allocation problem, or finds those that were made before."""

from collections.abc import Sequence

import numpy as np

from plimsoll.allocation.problem import ANY_NUMBER, Floats, Ints
from plimsoll.planning.blocks import Block, Blocks, ClassRow, Known, Listed
from plimsoll.planning.dominance import OptionKey, option_key
from plimsoll.planning.options import Choices
from plimsoll.planning.plan import Option
from plimsoll.planning.pools import Offer
from plimsoll.planning.shortlist import USABLE_TIME, Shortlist

DEFAULT_PENALTY_FACTOR = 10.0
"""Unserved penalty as a multiple of the cost of serving with the dearest eligible option (DESIGN section 4)."""


class Rows:
    """Makes blocks, of which many need the same of pools. Those of unchanged choices are remembered."""

    def __init__(self, pool_names: tuple[str, ...], shortlist: Shortlist, blocks: Blocks) -> None:
        self._pool_names, self._shortlist, self._blocks = pool_names, shortlist, blocks
        self._pool_numbers = {name: number for number, name in enumerate(pool_names)}
        self._places: dict[tuple[int, frozenset[str] | None], tuple[tuple[Offer, ...], Ints, Ints, Floats]] = {}
        self._dearest: dict[int, tuple[tuple[Offer, ...], float]] = {}

    def block(self, number: int, choices: Choices) -> Block:
        """The rows of the deployment with this number."""
        kinds: dict[int, frozenset[str] | None] = {}
        for way in choices.ways:
            if id(way.pools) not in kinds:
                kinds[id(way.pools)] = self._shortlist.of(way.pools, number)
        listed = tuple(kinds[id(way.pools)] for way in choices.ways)
        key = id(choices.ways)
        known = self._blocks.get(key)
        if (
            known is None
            or known.ways is not choices.ways
            or known.classes != choices.classes
            or known.pool_names != self._pool_names
            or known.listed != listed
        ):
            known = Known(choices.ways, choices.classes, self._pool_names, listed, self._made(choices, listed))
            self._blocks[key] = known
        return known.block

    def _made(self, choices: Choices, listed: Listed) -> Block:
        ways = choices.ways
        places = [self._on(way.pools, names) for way, names in zip(ways, listed, strict=True)]
        way = np.repeat(np.arange(len(ways)), [len(pools) for _, pools, _ in places])
        place = joined([positions for positions, _, _ in places], np.int64)
        pool = joined([pools for _, pools, _ in places], np.int64)
        price = joined(
            [prices * ways[i].option.parallelism.gpus for i, (_, _, prices) in enumerate(places)], np.float64
        )
        rank = np.argsort(sorted(range(len(ways)), key=lambda index: _rank(ways[index].option)))
        order = np.lexsort((rank[way], price, pool)) if len(ways) else np.zeros(0, np.int64)
        way, place, pool, price = way[order], place[order], pool[order], price[order]
        variants: dict[tuple[str, str], int] = {}
        variant = np.array(
            [variants.setdefault((item.option.model, item.option.precision), len(variants)) for item in ways], np.int64
        )
        used, pair = np.unique(pool * max(1, len(variants)) + variant[way], return_inverse=True)
        classes: list[ClassRow] = []
        columns: list[tuple[Ints, Ints, Floats, Floats, Floats]] = []
        for number, item in enumerate(choices.classes):
            slo, name, rate = item.slo, item.declared.name, item.planned_rate_per_second
            capacities = [one.capacities.get(name) for one in ways]
            rates = np.array([0.0 if one is None else one.max_rate_per_second for one in capacities])[way]
            eligible = np.flatnonzero(rates > 0)
            rates, own = rates[eligible], way[eligible]
            dearest = max(
                (
                    self._dearest_of(one.pools)
                    * one.option.parallelism.gpus
                    / (capacity.max_rate_per_second * USABLE_TIME * 3600)
                    for one, capacity in zip(ways, capacities, strict=True)
                    if capacity is not None
                ),
                default=0.0,
            )
            penalty = slo.unserved.penalty_per_thousand_requests
            classes.append(
                ClassRow(
                    rate_per_hour=rate * 3600,
                    priority=slo.priority,
                    unserved_limit=float(slo.unserved.max),
                    unserved_penalty_per_request=DEFAULT_PENALTY_FACTOR * dearest
                    if penalty is None
                    else float(penalty) / 1000,
                    latency_penalty_per_request_second=float(slo.latency_penalty_per_thousand_request_seconds) / 1000,
                    error_limit=float("inf") if slo.max_task_error is None else float(slo.max_task_error),
                )
            )
            delays = [0.0 if one is None else one.unloaded.mean_end_to_end_seconds for one in capacities]
            errors = [one.task_errors.get(name, 0.0) for one in ways]
            whose = np.full(len(eligible), number, np.int64)
            columns.append((whose, eligible, rate / rates, np.array(delays)[own], np.array(errors)[own]))
        kinds: tuple[type[np.int64] | type[np.float64], ...] = (np.int64, np.int64, np.float64, np.float64, np.float64)
        pairs = [joined([one[index] for one in columns], kind) for index, kind in enumerate(kinds)]
        return Block(way, place, pool, pair.reshape(-1), price, len(used), tuple(classes), *pairs)

    def _dearest_of(self, pools: tuple[Offer, ...]) -> float:
        """Highest price per GPU, whether the pool is looked at or not."""
        if id(pools) not in self._dearest:
            self._dearest[id(pools)] = (pools, float(max(pool.price_per_gpu_hour for pool in pools)))
        return self._dearest[id(pools)][1]

    def _on(self, pools: tuple[Offer, ...], listed: frozenset[str] | None) -> tuple[Ints, Ints, Floats]:
        """Positions, numbers and prices per GPU of those pools that are looked at. The ways of all deployments share a
        few tuples of pools."""
        key = (id(pools), listed)
        if key not in self._places:
            seen = [number for number, pool in enumerate(pools) if listed is None or pool.name in listed]
            numbers = np.array([self._pool_numbers[pools[number].name] for number in seen], np.int64)
            prices = np.array([float(pools[number].price_per_gpu_hour) for number in seen])
            self._places[key] = (pools, np.array(seen, np.int64), numbers, prices)
        return self._places[key][1:]


def _rank(option: Option) -> tuple[int, OptionKey]:
    """Names do not count: those of another release must not decide between options that cost the same."""
    return (option.pods_per_node or ANY_NUMBER, option_key(option))


def joined(parts: Sequence[np.ndarray], kind: type[np.int64] | type[np.float64]) -> np.ndarray:
    """One after the other; none give an empty array."""
    return np.concatenate(parts).astype(kind, copy=False) if parts else np.zeros(0, kind)


def first_of(counts: Sequence[int]) -> Ints:
    """Where each of several runs of so many rows begins."""
    return np.concatenate(([0], np.cumsum(counts)[:-1])).astype(np.int64) if len(counts) else np.zeros(0, np.int64)
