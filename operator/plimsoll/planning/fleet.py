"""Between the fleet's choices and the allocation problem's arrays, both ways."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np

from plimsoll.allocation import AllocationProblem, Limit
from plimsoll.allocation.problem import ANY_NUMBER
from plimsoll.allocation.remembered import Remembered
from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.api.placementpolicy import PlacementPolicySpec
from plimsoll.planning.blocks import Blocks
from plimsoll.planning.dominance import OptionKey, key_of_workload, option_key
from plimsoll.planning.options import Candidate, Choices
from plimsoll.planning.plan import Option
from plimsoll.planning.pools import Offer, Pool
from plimsoll.planning.rows import Rows, first_of, joined
from plimsoll.planning.shortlist import USABLE_TIME, WHOLE, Shortlist
from plimsoll.planning.snapshot import Workload
from plimsoll.planning.stock import NO_NODE, Stock

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
    blocks: Blocks | None = None,
) -> Fleet:
    """Arrays of the fleet's problem. Deployments with findings that hold them must have been left out; what they run
    comes off the budget and the storage limit as `kept`. The `tolerant` ones (namespace/name) keep spare replicas.
    `blocks` remembers the rows of choices that are the very same as before."""
    kept = kept or Kept()
    pool_numbers = {name: number for number, name in enumerate(sorted(pools))}
    maker = Rows(tuple(pool_numbers), shortlist, Remembered() if blocks is None else blocks)
    rows = [maker.block(number, choice) for number, choice in enumerate(choices)]
    sizes = [len(row.way) for row in rows]
    first_option, first_class = first_of(sizes), first_of([len(row.classes) for row in rows])
    first_way, first_pair = first_of([len(choice.ways) for choice in choices]), first_of([row.variants for row in rows])
    classes = [(number, index) for number, row in enumerate(rows) for index in range(len(row.classes))]
    class_rows = [row for one in rows for row in one.classes]
    option_way = joined([row.way for row in rows], np.int64) + np.repeat(first_way, sizes)
    option_pool = joined([row.pool for row in rows], np.int64)

    def option_of(one: Known) -> int:
        own = rows[one.deployment].option_of(one.way, pool_numbers[one.candidate.pool.name])
        return int(first_option[one.deployment]) + own

    offered = np.zeros(len(pool_numbers), dtype=bool)
    offered[option_pool] = True
    # Nodes that no option can use only slow the search down.
    nodes = [node for node in stock.nodes if offered[pool_numbers[node.pool]]]
    node_numbers = {node.name: number for number, node in enumerate(nodes)}
    running = [
        (option_of(known[namespace, placement]), -1 if node == NO_NODE else node_numbers[node], count)
        for namespace, placement, node, count in stock.running
        if (namespace, placement) in known
    ]
    budget, storage_limit = policy.budget.per_hour, policy.storage.limit_gib
    limits = [deployment.spec.placement.replicas for deployment in deployments]
    numbered = [(number, way) for number, choice in enumerate(choices) for way in range(len(choice.ways))]
    ways = [choices[number].ways[way] for number, way in numbered]
    pairs_of = [len(row.pair_class) for row in rows]
    hours = np.array([way.option.load_seconds / 3600 for way in ways])[option_way]
    prices = joined([row.price_per_hour for row in rows], np.float64)
    asked = np.array([demand(way.option) for way in ways], dtype=float).reshape(-1, 3)[option_way]
    for one in known.values():
        asked[option_of(one)] = demand(one.candidate.option)  # another release may have made it larger
    few = np.array([way.option.pods_per_node or ANY_NUMBER for way in ways], dtype=np.int64)
    tolerates = np.array([deployments[number].reference in tolerant for number, _ in numbered], dtype=bool)
    spares = np.array([spare_replicas(way.option, way.pools[0]) for way in ways], dtype=np.int64)
    problem = AllocationProblem(
        class_deployment=np.array([number for number, _ in classes], dtype=np.int64),
        class_rate_per_hour=np.array([row.rate_per_hour for row in class_rows], dtype=float),
        class_priority=np.array([row.priority for row in class_rows], dtype=np.int64),
        class_unserved_limit=np.array([row.unserved_limit for row in class_rows], dtype=float),
        class_unserved_penalty_per_request=np.array(
            [row.unserved_penalty_per_request for row in class_rows], dtype=float
        ),
        class_latency_penalty_per_request_second=np.array(
            [row.latency_penalty_per_request_second for row in class_rows], dtype=float
        ),
        class_mean_delay_limit_seconds=np.full(len(classes), np.inf),
        class_mean_error_limit=np.array([row.error_limit for row in class_rows], dtype=float),
        option_deployment=np.repeat(np.arange(len(rows)), sizes),
        option_pool=option_pool,
        option_pair=joined([row.variant for row in rows], np.int64) + np.repeat(first_pair, sizes),
        option_tensor=np.array([way.option.parallelism.tensor for way in ways], dtype=np.int64)[option_way],
        option_pipeline=np.array([way.option.parallelism.pipeline for way in ways], dtype=np.int64)[option_way],
        option_price_per_hour=prices,
        option_max_replicas=np.full(len(prices), NO_LIMIT, dtype=np.int64),
        option_capacity=np.full((len(prices), 1), USABLE_TIME),
        option_demand=asked,
        option_nodes=np.array([way.option.nodes for way in ways], dtype=np.int64)[option_way],
        option_per_node=few[option_way],
        option_spare=np.where(tolerates, spares, 0)[option_way],
        option_start_cost_per_hour=prices * hours / policy.rebalance.horizon_hours,
        option_stop_cost_per_hour=np.zeros(len(prices)),
        option_storage_gigabytes=np.array([way.stored_gigabytes for way in ways], dtype=float)[option_way],
        pair_class=joined([row.pair_class for row in rows], np.int64) + np.repeat(first_class, pairs_of),
        pair_option=joined([row.pair_option for row in rows], np.int64) + np.repeat(first_option, pairs_of),
        pair_load=joined([row.pair_load for row in rows], np.float64).reshape(-1, 1),
        pair_delay_seconds=joined([row.pair_delay_seconds for row in rows], np.float64),
        pair_error=joined([row.pair_error for row in rows], np.float64),
        pair_storage_cost_per_hour=np.zeros(sum(pairs_of)),
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
        candidates=Candidates(
            choices,
            [numbered[way] for way in option_way.tolist()],
            joined([row.place for row in rows], np.int64).tolist(),
        ),
        class_keys=tuple(classes),
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
