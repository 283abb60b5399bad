"""Between the fleet's choices and the allocation problem's arrays, both ways."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from plimsoll.allocation import AllocationProblem, Limit
from plimsoll.allocation.problem import ANY_NUMBER
from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.api.placementpolicy import PlacementPolicySpec
from plimsoll.planning.dominance import option_key
from plimsoll.planning.options import Candidate, Choices
from plimsoll.planning.pools import Pool
from plimsoll.planning.stock import NO_NODE, Stock

USABLE_TIME = 0.85
"""Part of a replica's time that is planned with (DESIGN section 4, rho)."""
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


@dataclass(frozen=True, slots=True, eq=False)
class Fleet:
    """An allocation problem with the names of its rows."""

    problem: AllocationProblem
    deployments: tuple[LLMDeployment, ...]
    choices: tuple[Choices, ...]
    candidates: tuple[Candidate, ...]
    """Per option (N)."""
    class_keys: tuple[tuple[int, int], ...]
    """Per class (I): deployment number, class number within it."""
    pair_index: Mapping[tuple[int, int], int]
    """(class, option) -> pair."""
    limits: tuple[GroupLimit, ...] = ()
    """Of tenants and namespaces: what the problem's limits (L) mean."""


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
    kept: Kept | None = None,
    tolerant: Collection[str] = (),
) -> Fleet:
    """Arrays of the fleet's problem. Deployments with findings that hold them must have been left out; what they run
    comes off the budget and the storage limit as `kept`. The `tolerant` ones (namespace/name) keep spare replicas."""
    kept = kept or Kept()
    pool_numbers = {name: number for number, name in enumerate(sorted(pools))}
    rows = _Rows()
    for number, choice in enumerate(choices):
        _add_deployment(rows, number, choice, pool_numbers)
    node_numbers = {node.name: number for number, node in enumerate(stock.nodes)}
    option_numbers = {
        (deployments[rows.option_deployment[n]].namespace, candidate.name): n
        for n, candidate in enumerate(rows.candidates)
    }
    running = [
        (option_numbers[namespace, placement], -1 if node == NO_NODE else node_numbers[node], count)
        for namespace, placement, node, count in stock.running
        if (namespace, placement) in option_numbers
    ]
    budget, storage_limit = policy.budget.per_hour, policy.storage.limit_gib
    limits = [deployment.spec.placement.replicas for deployment in deployments]
    spare = [
        spare_replicas(candidate) if deployments[owner].reference in tolerant else 0
        for owner, candidate in zip(rows.option_deployment, rows.candidates, strict=True)
    ]
    prices = np.array([candidate.price_per_hour for candidate in rows.candidates])
    hours = np.array([candidate.option.load_seconds / 3600 for candidate in rows.candidates])
    problem = AllocationProblem(
        class_deployment=np.array(rows.class_deployment, dtype=np.int64),
        class_rate_per_hour=np.array(rows.class_rate, dtype=float),
        class_priority=np.array(rows.class_priority, dtype=np.int64),
        class_unserved_limit=np.array(rows.class_limit, dtype=float),
        class_unserved_penalty_per_request=np.array(rows.class_penalty, dtype=float),
        class_latency_penalty_per_request_second=np.array(rows.class_latency_penalty, dtype=float),
        class_mean_delay_limit_seconds=np.full(len(rows.class_rate), np.inf),
        class_mean_error_limit=np.array(rows.class_error_limit, dtype=float),
        option_deployment=np.array(rows.option_deployment, dtype=np.int64),
        option_pool=np.array([pool_numbers[candidate.pool.name] for candidate in rows.candidates], dtype=np.int64),
        option_pair=np.array(rows.option_pair, dtype=np.int64),
        option_tensor=np.array([candidate.option.parallelism.tensor for candidate in rows.candidates], dtype=np.int64),
        option_pipeline=np.array(
            [candidate.option.parallelism.pipeline for candidate in rows.candidates], dtype=np.int64
        ),
        option_price_per_hour=prices,
        option_max_replicas=np.full(len(rows.candidates), NO_LIMIT, dtype=np.int64),
        option_capacity=np.full((len(rows.candidates), 1), USABLE_TIME),
        option_demand=np.array([demand(candidate) for candidate in rows.candidates], dtype=float).reshape(-1, 3),
        option_nodes=np.array([candidate.option.nodes for candidate in rows.candidates], dtype=np.int64),
        option_per_node=np.array(
            [candidate.option.pods_per_node or ANY_NUMBER for candidate in rows.candidates], dtype=np.int64
        ),
        option_spare=np.array(spare, dtype=np.int64),
        option_start_cost_per_hour=prices * hours / policy.rebalance.horizon_hours,
        option_stop_cost_per_hour=np.zeros(len(rows.candidates)),
        option_storage_gigabytes=np.array([candidate.stored_gigabytes for candidate in rows.candidates], dtype=float),
        pair_class=np.array(rows.pair_class, dtype=np.int64),
        pair_option=np.array(rows.pair_option, dtype=np.int64),
        pair_load=np.array(rows.pair_load, dtype=float).reshape(-1, 1),
        pair_delay_seconds=np.array(rows.pair_delay, dtype=float),
        pair_error=np.array(rows.pair_error, dtype=float),
        pair_storage_cost_per_hour=np.zeros(len(rows.pair_load)),
        node_pool=np.array([pool_numbers[node.pool] for node in stock.nodes], dtype=np.int64),
        node_free=np.array([node.free for node in stock.nodes], dtype=float).reshape(-1, 3),
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
    pair_index = {pair: number for number, pair in enumerate(zip(rows.pair_class, rows.pair_option, strict=True))}
    return Fleet(
        problem=problem,
        deployments=tuple(deployments),
        choices=tuple(choices),
        candidates=tuple(rows.candidates),
        class_keys=tuple(rows.class_keys),
        pair_index=pair_index,
    )


def demand(candidate: Candidate) -> tuple[float, float, float]:
    """GPUs, CPU cores and memory bytes of one pod of a replica."""
    host = candidate.option.host
    return (float(candidate.option.gpus_per_pod), host.cpu_cores, float(host.memory_bytes))


def pods_per_node(candidate: Candidate) -> int:
    """Pods of the option that fit any node of its pool at most, by their GPUs."""
    return max(1, int(candidate.pool.gpus_per_node // demand(candidate)[0]))


def spare_replicas(candidate: Candidate) -> int:
    """Replicas that the loss of one node takes at most."""
    return candidate.option.pods_per_node or pods_per_node(candidate)


def only_running(problem: AllocationProblem, deployments: np.ndarray) -> AllocationProblem:
    """The problem with the given deployments (mask, D) confined to the replicas that they run now."""
    running = problem.running_replicas()
    confined = deployments[problem.option_deployment] if problem.options else np.zeros(0, dtype=bool)
    ceiling = np.where(confined, np.minimum(running, problem.option_max_replicas), problem.option_max_replicas)
    return replace(problem, option_max_replicas=ceiling)


class _Rows:
    """Growing columns of the arrays."""

    def __init__(self) -> None:
        self.class_keys: list[tuple[int, int]] = []
        self.class_deployment: list[int] = []
        self.class_rate: list[float] = []
        self.class_priority: list[int] = []
        self.class_limit: list[float] = []
        self.class_penalty: list[float] = []
        self.class_latency_penalty: list[float] = []
        self.class_error_limit: list[float] = []
        self.candidates: list[Candidate] = []
        self.option_deployment: list[int] = []
        self.option_pair: list[int] = []
        self.pair_class: list[int] = []
        self.pair_option: list[int] = []
        self.pair_load: list[float] = []
        self.pair_delay: list[float] = []
        self.pair_error: list[float] = []
        self.variant_numbers: dict[tuple[int, str, str, str], int] = {}


def _add_deployment(rows: _Rows, number: int, choices: Choices, pool_numbers: Mapping[str, int]) -> None:
    first = len(rows.candidates)
    # Names do not count: those of another release must not decide between options that cost the same.
    candidates = sorted(
        choices.candidates,
        key=lambda item: (
            pool_numbers[item.pool.name],
            item.price_per_hour,
            item.option.pods_per_node or ANY_NUMBER,
            option_key(item.option),
        ),
    )
    for candidate in candidates:
        option = candidate.option
        variant = (number, option.model, option.precision, option.pool)
        rows.candidates.append(candidate)
        rows.option_deployment.append(number)
        rows.option_pair.append(rows.variant_numbers.setdefault(variant, len(rows.variant_numbers)))
    for class_number, item in enumerate(choices.classes):
        slo = item.slo
        class_index = len(rows.class_rate)
        rate = item.planned_rate_per_second
        name = item.declared.name
        dearest = max(
            (
                candidate.price_per_hour / (candidate.capacities[name].max_rate_per_second * USABLE_TIME * 3600)
                for candidate in candidates
                if name in candidate.capacities
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
        for offset, candidate in enumerate(candidates):
            capacity = candidate.capacities.get(name)
            if capacity is None:
                continue
            rows.pair_class.append(class_index)
            rows.pair_option.append(first + offset)
            rows.pair_load.append(rate / capacity.max_rate_per_second)
            rows.pair_delay.append(capacity.unloaded.mean_end_to_end_seconds)
            rows.pair_error.append(candidate.task_errors[name])
