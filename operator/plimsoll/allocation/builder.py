"""Writes an allocation problem row by row; every figure that is not needed has a harmless default."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

import numpy as np
from numpy.typing import NDArray

from plimsoll.allocation.limits import Limit, limited
from plimsoll.allocation.problem import ANY_NUMBER, AllocationProblem
from plimsoll.allocation.validate import validate

MANY = 1_000_000
"""Replicas where nobody limits them."""

Loads = Mapping[int, float | Sequence[float]]
"""By option: what the whole class takes of each resource of a replica; a single number where there is one resource."""


@dataclass
class ProblemBuilder:
    """Add pools, nodes, deployments, options and classes; each method returns the number of what it added."""

    budget_per_hour: float = inf
    keep_running: bool = True
    storage_price_per_gigabyte_hour: float = 0.0
    storage_limit_gigabytes: float = inf
    one_option_per_pair: bool = False
    means_over_all: bool = False
    pools: list[tuple[bool, float]] = field(default_factory=list)
    """Per pool: whether its stock is unknown, and its GPU limit."""
    nodes: list[tuple[int, float, float, float]] = field(default_factory=list)
    """Per node: pool, free GPUs, free CPU cores, free bytes of memory."""
    deployments: list[tuple[int, int]] = field(default_factory=list)
    """Per deployment: least and most replicas. Without any, one deployment without limits is meant."""
    running: list[tuple[int, int, int]] = field(default_factory=list)
    """Option, node (-1 where it is not known) and pieces of replicas that run there now."""
    limits: list[Limit] = field(default_factory=list)
    """Of groups of options."""
    options: list[dict[str, float]] = field(default_factory=list)
    classes: list[dict[str, float]] = field(default_factory=list)
    _capacities: list[Sequence[float]] = field(default_factory=list)
    _demands: list[tuple[float, float, float]] = field(default_factory=list)
    _pairs: list[tuple[int, int, Sequence[float], float, float, float]] = field(default_factory=list)

    def pool(self, nodes: Sequence[float] | None = (), gpu_limit: float = inf) -> int:
        """A pool whose nodes have these free GPUs; None for a pool of unknown stock."""
        self.pools.append((nodes is None, gpu_limit))
        for gpus in nodes or ():
            self.node(len(self.pools) - 1, gpus)
        return len(self.pools) - 1

    def node(self, pool: int, gpus: float, cpu_cores: float = 1000.0, memory_bytes: float = 1e15) -> int:
        """A node of a pool, with what is free on it of everything but the problem's own running replicas."""
        self.nodes.append((pool, gpus, cpu_cores, memory_bytes))
        return len(self.nodes) - 1

    def deployment(self, min_replicas: int = 0, max_replicas: int = MANY) -> int:
        """A deployment: its classes may use its options only."""
        self.deployments.append((min_replicas, max_replicas))
        return len(self.deployments) - 1

    def add_option(
        self,
        pool: int,
        *,
        price_per_hour: float,
        gpus: float = 1.0,
        deployment: int = 0,
        pair: int | None = None,
        tensor: int | None = None,
        pipeline: int = 1,
        capacity: float | Sequence[float] = 1.0,
        max_replicas: int = MANY,
        cpu_cores: float = 0.0,
        memory_bytes: float = 0.0,
        nodes: int = 1,
        per_node: int = ANY_NUMBER,
        spare: int = 0,
        start_cost_per_hour: float = 0.0,
        stop_cost_per_hour: float = 0.0,
        storage_gigabytes: float = 0.0,
    ) -> int:
        """One way to serve; `pair` is the same for the configurations of one model variant in one pool.

        `gpus`, `cpu_cores` and `memory_bytes` are of each of the replica's `nodes` pieces.
        """
        number = len(self.options)
        self.options.append(
            {
                "deployment": deployment,
                "pool": pool,
                "pair": number if pair is None else pair,
                "tensor": int(gpus) * nodes // pipeline if tensor is None else tensor,
                "pipeline": pipeline,
                "nodes": nodes,
                "per_node": per_node,
                "spare": spare,
                "price_per_hour": price_per_hour,
                "max_replicas": max_replicas,
                "start_cost_per_hour": start_cost_per_hour,
                "stop_cost_per_hour": stop_cost_per_hour,
                "storage_gigabytes": storage_gigabytes,
            }
        )
        self._capacities.append(_each(capacity))
        self._demands.append((gpus, cpu_cores, memory_bytes))
        return number

    def add_class(
        self,
        loads: Loads,
        *,
        rate_per_hour: float,
        deployment: int = 0,
        priority: int = 0,
        unserved_limit: float = 0.0,
        unserved_penalty_per_request: float = 0.0,
        latency_penalty_per_request_second: float = 0.0,
        mean_delay_limit_seconds: float = inf,
        mean_error_limit: float = inf,
        delays_seconds: Mapping[int, float] | None = None,
        errors: Mapping[int, float] | None = None,
        storage_costs_per_hour: Mapping[int, float] | None = None,
    ) -> int:
        """A traffic class, eligible on the options that `loads` names."""
        number = len(self.classes)
        self.classes.append(
            {
                "deployment": deployment,
                "rate_per_hour": rate_per_hour,
                "priority": priority,
                "unserved_limit": unserved_limit,
                "unserved_penalty_per_request": unserved_penalty_per_request,
                "latency_penalty_per_request_second": latency_penalty_per_request_second,
                "mean_delay_limit_seconds": mean_delay_limit_seconds,
                "mean_error_limit": mean_error_limit,
            }
        )
        for option, load in loads.items():
            delay = (delays_seconds or {}).get(option, 0.0)
            error = (errors or {}).get(option, 0.0)
            storage = (storage_costs_per_hour or {}).get(option, 0.0)
            self._pairs.append((number, option, _each(load), delay, error, storage))
        return number

    def build(self) -> AllocationProblem:
        """The problem of all that was added. Raises ValueError that names what no solver can take."""
        pairs = sorted(self._pairs, key=lambda pair: pair[:2])
        nodes = np.array(self.nodes, dtype=np.float64).reshape(-1, 4)
        deployments = self.deployments or [(0, MANY)]
        resources = len(self._capacities[0]) if self._capacities else 1

        def of_class(name: str) -> NDArray[np.float64]:
            return np.array([entry[name] for entry in self.classes], dtype=np.float64)

        def of_option(name: str) -> NDArray[np.float64]:
            return np.array([entry[name] for entry in self.options], dtype=np.float64)

        def of_pair(position: int) -> NDArray[np.float64]:
            return np.array([pair[position] for pair in pairs], dtype=np.float64)

        problem = AllocationProblem(
            class_deployment=of_class("deployment").astype(np.int64),
            class_rate_per_hour=of_class("rate_per_hour"),
            class_priority=of_class("priority").astype(np.int64),
            class_unserved_limit=of_class("unserved_limit"),
            class_unserved_penalty_per_request=of_class("unserved_penalty_per_request"),
            class_latency_penalty_per_request_second=of_class("latency_penalty_per_request_second"),
            class_mean_delay_limit_seconds=of_class("mean_delay_limit_seconds"),
            class_mean_error_limit=of_class("mean_error_limit"),
            option_deployment=of_option("deployment").astype(np.int64),
            option_pool=of_option("pool").astype(np.int64),
            option_pair=of_option("pair").astype(np.int64),
            option_tensor=of_option("tensor").astype(np.int64),
            option_pipeline=of_option("pipeline").astype(np.int64),
            option_price_per_hour=of_option("price_per_hour"),
            option_max_replicas=of_option("max_replicas").astype(np.int64),
            option_capacity=np.array(self._capacities, dtype=np.float64).reshape(-1, resources),
            option_demand=np.array(self._demands, dtype=np.float64).reshape(-1, 3),
            option_nodes=of_option("nodes").astype(np.int64),
            option_per_node=of_option("per_node").astype(np.int64),
            option_spare=of_option("spare").astype(np.int64),
            option_start_cost_per_hour=of_option("start_cost_per_hour"),
            option_stop_cost_per_hour=of_option("stop_cost_per_hour"),
            option_storage_gigabytes=of_option("storage_gigabytes"),
            pair_class=of_pair(0).astype(np.int64),
            pair_option=of_pair(1).astype(np.int64),
            pair_load=of_pair(2).reshape(-1, resources),
            pair_delay_seconds=of_pair(3),
            pair_error=of_pair(4),
            pair_storage_cost_per_hour=of_pair(5),
            node_pool=nodes[:, 0].astype(np.int64),
            node_free=nodes[:, 1:],
            pool_unlimited=np.array([unlimited for unlimited, _ in self.pools], dtype=bool),
            pool_gpu_limit=np.array([limit for _, limit in self.pools], dtype=np.float64),
            deployment_min_replicas=np.array([least for least, _ in deployments], dtype=np.int64),
            deployment_max_replicas=np.array([most for _, most in deployments], dtype=np.int64),
            running=np.array(self.running, dtype=np.int64).reshape(-1, 3),
            keep_running=self.keep_running,
            budget_per_hour=self.budget_per_hour,
            storage_price_per_gigabyte_hour=self.storage_price_per_gigabyte_hour,
            storage_limit_gigabytes=self.storage_limit_gigabytes,
            one_option_per_pair=self.one_option_per_pair,
            means_over_all=self.means_over_all,
        )
        problem = limited(problem, self.limits)
        validate(problem)
        return problem


def _each(value: float | Sequence[float]) -> Sequence[float]:
    return (value,) if isinstance(value, int | float) else value
