"""Between the fleet's choices and the allocation problem's arrays, both ways."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import overload

import numpy as np

from plimsoll.allocation import AllocationProblem, Limit
from plimsoll.allocation.problem import ANY_NUMBER, Floats, Ints
from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.api.placementpolicy import PlacementPolicySpec
from plimsoll.planning.dominance import OptionKey, key_of_workload, option_key
from plimsoll.planning.options import Candidate, Choices, Way
from plimsoll.planning.plan import Option
from plimsoll.planning.pools import Offer, Pool
from plimsoll.planning.shortlist import USABLE_TIME, WHOLE, Shortlist
from plimsoll.planning.snapshot import Workload
from plimsoll.planning.stock import NO_NODE, Stock

DEFAULT_PENALTY_FACTOR = 10.0
"""Unserved penalty as a multiple of the cost of serving with the dearest eligible option (DESIGN section 4)."""
NO_LIMIT = 10_000
"""Replicas, where nobody limits them."""
GIGABYTES_PER_GIB = 2**30 / 1e9


@dataclass(frozen=True, slots=True)
class GroupLimit:
    """A limit of a tenant or a namespace for some options together."""

    limit: Limit
    reason: str
    """Of the finding of those who are short for it."""
    name: str
    """`tenant chat`, `ResourceQuota gpu`."""
    text: str
    """What is limited to what, for people: `spec.hard requests.nvidia.com/gpu 4`."""
    kept: float = 0.0
    """What others take of it."""
    unit: str = ""
    """Of the sum that would do; empty where no sum would."""


PlacementKey = tuple[str, str]
"""Namespace and name of a placement."""


@dataclass(frozen=True, slots=True)
class Known:
    """A running placement that is an option of its deployment."""

    deployment: int
    way: int
    """Among the deployment's ways."""
    candidate: Candidate


class Candidates(Sequence[Candidate]):
    """The candidate of each option (N), made when somebody asks: a large fleet has some hundred thousand."""

    def __init__(self, choices: Sequence[Choices], ways: Sequence[tuple[int, int]], pools: Sequence[int]) -> None:
        self._choices, self._ways, self._pools = choices, ways, pools
        self._made: dict[int, Candidate] = {}

    @overload
    def __getitem__(self, option: int) -> Candidate: ...

    @overload
    def __getitem__(self, option: slice) -> Sequence[Candidate]: ...

    def __getitem__(self, option: int | slice) -> Candidate | Sequence[Candidate]:
        if isinstance(option, slice):
            return [self[number] for number in range(*option.indices(len(self)))]
        if option not in self._made:
            deployment, way = self._ways[option]
            choices = self._choices[deployment]
            chosen = choices.ways[way]
            self._made[option] = choices.candidate(chosen, chosen.pools[self._pools[option]])
        return self._made[option]

    def __len__(self) -> int:
        return len(self._ways)


@dataclass(frozen=True, slots=True, eq=False)
class Fleet:
    """An allocation problem with the names of its rows."""

    problem: AllocationProblem
    deployments: tuple[LLMDeployment, ...]
    choices: tuple[Choices, ...]
    candidates: Sequence[Candidate]
    """Per option (N)."""
    class_keys: tuple[tuple[int, int], ...]
    """Per class (I): deployment number, class number within it."""
    pool_names: tuple[str, ...]
    limits: tuple[GroupLimit, ...] = ()
    """Of tenants and namespaces: what the problem's limits (L) mean."""
    node_names: tuple[str, ...] = ()
    """Per node (M)."""

    def pair(self, number: int, option: int) -> int | None:
        """The pair of a class and an option, if the class may use the option."""
        first, last = np.searchsorted(self.problem.pair_class, [number, number + 1])
        found = int(first + np.searchsorted(self.problem.pair_option[first:last], option))
        return found if found < last and self.problem.pair_option[found] == option else None

    def classes_of(self, deployment: int) -> range:
        """Numbers of a deployment's classes."""
        first, last = np.searchsorted(self.problem.class_deployment, [deployment, deployment + 1])
        return range(int(first), int(last))

    def options_of(self, deployment: int) -> slice:
        """Numbers of a deployment's options."""
        first, last = np.searchsorted(self.problem.option_deployment, [deployment, deployment + 1])
        return slice(int(first), int(last))


@dataclass(frozen=True, slots=True)
class Kept:
    """What runs without being decided about takes budget and storage all the same."""

    rent_per_hour: float = 0.0
    storage_cost_per_hour: float = 0.0
    stored_gigabytes: float = 0.0

    @property
    def cost_per_hour(self) -> float:
        return self.rent_per_hour + self.storage_cost_per_hour


def storage_price_per_gigabyte_hour(policy: PlacementPolicySpec) -> float:
    """People price and limit GiB; the allocation problem counts gigabytes of 10^9 bytes."""
    return float(policy.storage.price_per_gib_hour) / GIGABYTES_PER_GIB


def build_fleet(
    deployments: Sequence[LLMDeployment],
    choices: Sequence[Choices],
    pools: Mapping[str, Pool],
    stock: Stock,
    policy: PlacementPolicySpec,
    known: Mapping[PlacementKey, Known],
    kept: Kept | None = None,
    tolerant: Collection[str] = (),
    shortlist: Shortlist = WHOLE,
) -> Fleet:
    """Arrays of the fleet's problem. Deployments with findings that hold them must have been left out; what they run
    comes off the budget and the storage limit as `kept`. The `tolerant` ones (namespace/name) keep spare replicas."""
    kept = kept or Kept()
    pool_numbers = {name: number for number, name in enumerate(sorted(pools))}
    rows = _Rows(pool_numbers, shortlist)
    for number, choice in enumerate(choices):
        _add_deployment(rows, number, choice)
    options = rows.options()
    offered = np.zeros(len(pool_numbers), dtype=bool)
    offered[options.pool] = True
    # Nodes that no option can use only slow the search down.
    nodes = [node for node in stock.nodes if offered[pool_numbers[node.pool]]]
    node_numbers = {node.name: number for number, node in enumerate(nodes)}
    running = [
        (rows.option_of(known[namespace, placement]), -1 if node == NO_NODE else node_numbers[node], count)
        for namespace, placement, node, count in stock.running
        if (namespace, placement) in known
    ]
    budget, storage_limit = policy.budget.per_hour, policy.storage.limit_gib
    limits = [deployment.spec.placement.replicas for deployment in deployments]
    ways = [choices[number].ways[way] for number, way in rows.ways]
    hours = np.array([way.option.load_seconds / 3600 for way in ways])[options.way]
    prices = options.price_per_hour
    asked = np.array([demand(way.option) for way in ways], dtype=float).reshape(-1, 3)[options.way]
    for one in known.values():
        asked[rows.option_of(one)] = demand(one.candidate.option)  # another release may have made it larger
    few = np.array([way.option.pods_per_node or ANY_NUMBER for way in ways], dtype=np.int64)
    tolerates = np.array([deployments[number].reference in tolerant for number, _ in rows.ways], dtype=bool)
    spares = np.array([spare_replicas(way.option, way.pools[0]) for way in ways], dtype=np.int64)
    problem = AllocationProblem(
        class_deployment=np.array(rows.class_deployment, dtype=np.int64),
        class_rate_per_hour=np.array(rows.class_rate, dtype=float),
        class_priority=np.array(rows.class_priority, dtype=np.int64),
        class_unserved_limit=np.array(rows.class_limit, dtype=float),
        class_unserved_penalty_per_request=np.array(rows.class_penalty, dtype=float),
        class_latency_penalty_per_request_second=np.array(rows.class_latency_penalty, dtype=float),
        class_mean_delay_limit_seconds=np.full(len(rows.class_rate), np.inf),
        class_mean_error_limit=np.array(rows.class_error_limit, dtype=float),
        option_deployment=options.deployment,
        option_pool=options.pool,
        option_pair=options.pair,
        option_tensor=np.array([way.option.parallelism.tensor for way in ways], dtype=np.int64)[options.way],
        option_pipeline=np.array([way.option.parallelism.pipeline for way in ways], dtype=np.int64)[options.way],
        option_price_per_hour=prices,
        option_max_replicas=np.full(len(prices), NO_LIMIT, dtype=np.int64),
        option_capacity=np.full((len(prices), 1), USABLE_TIME),
        option_demand=asked,
        option_nodes=np.array([way.option.nodes for way in ways], dtype=np.int64)[options.way],
        option_per_node=few[options.way],
        option_spare=np.where(tolerates, spares, 0)[options.way],
        option_start_cost_per_hour=prices * hours / policy.rebalance.horizon_hours,
        option_stop_cost_per_hour=np.zeros(len(prices)),
        option_storage_gigabytes=np.array([way.stored_gigabytes for way in ways], dtype=float)[options.way],
        pair_class=_joined(rows.pair_class, np.int64),
        pair_option=_joined(rows.pair_option, np.int64),
        pair_load=_joined(rows.pair_load, np.float64).reshape(-1, 1),
        pair_delay_seconds=_joined(rows.pair_delay, np.float64),
        pair_error=_joined(rows.pair_error, np.float64),
        pair_storage_cost_per_hour=np.zeros(sum(map(len, rows.pair_load))),
        node_pool=np.array([pool_numbers[node.pool] for node in nodes], dtype=np.int64),
        node_free=np.array([node.free for node in nodes], dtype=float).reshape(-1, 3),
        pool_unlimited=np.array([pools[name].unlimited for name in pool_numbers], dtype=bool),
        pool_gpu_limit=np.array([stock.gpu_limit.get(name, np.inf) for name in pool_numbers], dtype=float),
        deployment_min_replicas=np.array([limit.min for limit in limits], dtype=np.int64),
        deployment_max_replicas=np.array(
            [NO_LIMIT if limit.max is None else limit.max for limit in limits], dtype=np.int64
        ),
        running=np.array(running, dtype=np.int64).reshape(-1, 3),
        keep_running=True,
        budget_per_hour=float("inf") if budget is None else max(0.0, float(budget) - kept.cost_per_hour),
        storage_price_per_gigabyte_hour=storage_price_per_gigabyte_hour(policy),
        storage_limit_gigabytes=float("inf")
        if storage_limit is None
        else max(0.0, storage_limit * GIGABYTES_PER_GIB - kept.stored_gigabytes),
        one_option_per_pair=False,
        means_over_all=False,
    )
    return Fleet(
        problem=problem,
        deployments=tuple(deployments),
        choices=tuple(choices),
        candidates=Candidates(choices, [rows.ways[way] for way in options.way.tolist()], options.place.tolist()),
        class_keys=tuple(rows.class_keys),
        pool_names=tuple(pool_numbers),
        node_names=tuple(node_numbers),
    )


def demand(option: Option) -> tuple[float, float, float]:
    """GPUs, CPU cores and memory bytes of one pod of a replica."""
    return (float(option.gpus_per_pod), option.host.cpu_cores, float(option.host.memory_bytes))


def known_placements(
    deployments: Sequence[LLMDeployment], choices: Sequence[Choices], workloads: Iterable[Workload]
) -> dict[PlacementKey, Known]:
    """Which running placements are options of their deployments."""
    numbers = {(item.namespace, item.name): number for number, item in enumerate(deployments)}
    neighbours: dict[str, list[int]] = {}
    for number, item in enumerate(deployments):
        neighbours.setdefault(item.namespace, []).append(number)
    found: dict[PlacementKey, Known] = {}
    for workload in workloads:
        mine = numbers.get((workload.namespace, workload.deployment))
        own = [mine] if mine is not None else []
        if not workload.deployment:
            own = neighbours.get(workload.namespace, [])  # rendered and applied by hand: it has no owner
        one = _known(own, choices, workload)
        if one is not None:
            found[workload.namespace, workload.name] = one
    return found


def _known(own: Sequence[int], choices: Sequence[Choices], workload: Workload) -> Known | None:
    said = key_of_workload(workload)
    # The name alone decides, and is dear to make: what the annotations point to, which people can edit, comes first.
    for pointed_to in (True, False):
        for number in own:
            for index, way in enumerate(choices[number].ways):
                same = said is not None and _but_pool(option_key(way.option)) == _but_pool(said)
                if pointed_to and not same:
                    continue
                for pool in way.pools:
                    if (same and said is not None and pool.name == said[2]) is pointed_to:
                        candidate = choices[number].candidate(way, pool)
                        if candidate.name == workload.name:
                            return Known(number, index, candidate)
    return None


def _but_pool(key: OptionKey) -> tuple[object, ...]:
    return (*key[:2], *key[3:])


def pods_per_node(option: Option, pool: Offer) -> int:
    """Pods of the option that fit any node of its pool at most, by their GPUs."""
    return max(1, int(pool.gpus_per_node // demand(option)[0]))


def spare_replicas(option: Option, pool: Offer) -> int:
    """Replicas that the loss of one node takes at most."""
    return option.pods_per_node or pods_per_node(option, pool)


def only_running(problem: AllocationProblem, deployments: np.ndarray) -> AllocationProblem:
    """The problem with the given deployments (mask, D) confined to the replicas that they run now."""
    running = problem.running_replicas()
    confined = deployments[problem.option_deployment] if problem.options else np.zeros(0, dtype=bool)
    ceiling = np.where(confined, np.minimum(running, problem.option_max_replicas), problem.option_max_replicas)
    return replace(problem, option_max_replicas=ceiling)


@dataclass(frozen=True, slots=True, eq=False)
class _Options:
    """Columns of the options (N)."""

    deployment: Ints
    way: Ints
    """Numbered over all deployments."""
    place: Ints
    """Position of the pool among the way's pools."""
    pool: Ints
    pair: Ints
    price_per_hour: Floats


class _Rows:
    """Growing columns of the arrays."""

    def __init__(self, pool_numbers: Mapping[str, int], shortlist: Shortlist) -> None:
        self._pool_numbers, self._shortlist = pool_numbers, shortlist
        self._places: dict[tuple[int, frozenset[str] | None], tuple[tuple[Offer, ...], Ints, Ints, Floats]] = {}
        self._dearest: dict[int, tuple[tuple[Offer, ...], float]] = {}
        self._parts: list[_Options] = []
        self._first_way: list[int] = []
        self._first_option: list[int] = []
        self._pairs = 0
        self.options_so_far = 0
        self.ways: list[tuple[int, int]] = []
        """Deployment, and way within it."""
        self.class_keys: list[tuple[int, int]] = []
        self.class_deployment: list[int] = []
        self.class_rate: list[float] = []
        self.class_priority: list[int] = []
        self.class_limit: list[float] = []
        self.class_penalty: list[float] = []
        self.class_latency_penalty: list[float] = []
        self.class_error_limit: list[float] = []
        self.pair_class: list[Ints] = []
        self.pair_option: list[Ints] = []
        self.pair_load: list[Floats] = []
        self.pair_delay: list[Floats] = []
        self.pair_error: list[Floats] = []

    def add_options(self, ways: Sequence[Way]) -> _Options:
        """The options of the next deployment: each way on each of its pools, by pool and price."""
        number, first = len(self._first_way), len(self.ways)
        self._first_way.append(first)
        self._first_option.append(self.options_so_far)
        self.ways.extend((number, index) for index in range(len(ways)))
        places = [self._on(way.pools, number) for way in ways]
        way = np.repeat(np.arange(len(ways)), [len(pools) for _, pools, _ in places])
        place = _joined([positions for positions, _, _ in places], np.int64)
        pool = _joined([pools for _, pools, _ in places], np.int64)
        price = _joined(
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
        part = _Options(
            np.full(len(way), number, np.int64), first + way, place, pool, self._pairs + pair.reshape(-1), price
        )
        self._pairs += len(used)
        self._parts.append(part)
        self.options_so_far += len(way)
        return part

    def options(self) -> _Options:
        """All of them."""
        columns = {
            item.name: _joined(
                [getattr(part, item.name) for part in self._parts],
                np.float64 if item.name == "price_per_hour" else np.int64,
            )
            for item in fields(_Options)
        }
        return _Options(**columns)

    def option_of(self, known: Known) -> int:
        """The number of a running placement's option."""
        part = self._parts[known.deployment]
        way = self._first_way[known.deployment] + known.way
        pool = self._pool_numbers[known.candidate.pool.name]
        return self._first_option[known.deployment] + int(np.flatnonzero((part.way == way) & (part.pool == pool))[0])

    def dearest(self, pools: tuple[Offer, ...]) -> float:
        """Highest price per GPU, whether the pool is looked at or not."""
        if id(pools) not in self._dearest:
            self._dearest[id(pools)] = (pools, float(max(pool.price_per_gpu_hour for pool in pools)))
        return self._dearest[id(pools)][1]

    def _on(self, pools: tuple[Offer, ...], deployment: int) -> tuple[Ints, Ints, Floats]:
        """Positions, numbers and prices per GPU of those pools that are looked at. The ways of all deployments share a
        few tuples of pools."""
        listed = self._shortlist.of(pools, deployment)
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


def _joined(parts: Sequence[np.ndarray], kind: type[np.generic]) -> np.ndarray:
    return np.concatenate(parts).astype(kind, copy=False) if parts else np.zeros(0, kind)


def _add_deployment(rows: _Rows, number: int, choices: Choices) -> None:
    first = rows.options_so_far
    options = rows.add_options(choices.ways)
    way = options.way - (len(rows.ways) - len(choices.ways))
    for class_number, item in enumerate(choices.classes):
        slo = item.slo
        class_index = len(rows.class_rate)
        rate = item.planned_rate_per_second
        name = item.declared.name
        capacities = [one.capacities.get(name) for one in choices.ways]
        rates = np.array([0.0 if one is None else one.max_rate_per_second for one in capacities])[way]
        eligible = np.flatnonzero(rates > 0)
        rates, ways = rates[eligible], way[eligible]
        dearest = max(
            (
                rows.dearest(one.pools)
                * one.option.parallelism.gpus
                / (capacity.max_rate_per_second * USABLE_TIME * 3600)
                for one, capacity in zip(choices.ways, capacities, strict=True)
                if capacity is not None
            ),
            default=0.0,
        )
        penalty = slo.unserved.penalty_per_thousand_requests
        rows.class_keys.append((number, class_number))
        rows.class_deployment.append(number)
        rows.class_rate.append(rate * 3600)
        rows.class_priority.append(slo.priority)
        rows.class_limit.append(float(slo.unserved.max))
        rows.class_penalty.append(DEFAULT_PENALTY_FACTOR * dearest if penalty is None else float(penalty) / 1000)
        rows.class_latency_penalty.append(float(slo.latency_penalty_per_thousand_request_seconds) / 1000)
        rows.class_error_limit.append(float("inf") if slo.max_task_error is None else float(slo.max_task_error))
        delays = [0.0 if one is None else one.unloaded.mean_end_to_end_seconds for one in capacities]
        errors = [one.task_errors.get(name, 0.0) for one in choices.ways]
        rows.pair_class.append(np.full(len(eligible), class_index, np.int64))
        rows.pair_option.append(first + eligible)
        rows.pair_load.append(rate / rates)
        rows.pair_delay.append(np.array(delays)[ways])
        rows.pair_error.append(np.array(errors)[ways])
