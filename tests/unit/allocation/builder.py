"""Hand-made allocation problems: short to write, every figure has a harmless default."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf

import numpy as np

from plimsoll.allocation import AllocationProblem


@dataclass
class Builder:
    """Add pools, nodes, deployments, options, classes and pairs; each method returns the number of what it added."""

    budget: float = inf
    keep_running: bool = True
    pools: list[tuple[bool, float]] = field(default_factory=list)
    nodes: list[tuple[int, float, float, float]] = field(default_factory=list)
    deployments: list[tuple[int, int]] = field(default_factory=list)
    options: list[dict[str, float]] = field(default_factory=list)
    demands: list[tuple[float, float, float]] = field(default_factory=list)
    classes: list[dict[str, float]] = field(default_factory=list)
    pairs: list[tuple[int, int, float, float, float]] = field(default_factory=list)
    running: list[tuple[int, int, int]] = field(default_factory=list)

    def pool(self, nodes: Sequence[float] | None = (), gpu_limit: float = inf) -> int:
        """A pool whose nodes have these free GPUs; None for a pool of unknown stock."""
        self.pools.append((nodes is None, gpu_limit))
        for gpus in nodes or ():
            self.node(len(self.pools) - 1, gpus)
        return len(self.pools) - 1

    def node(self, pool: int, gpus: float, cpus: float = 1000.0, memory_bytes: float = 1e15) -> int:
        self.nodes.append((pool, gpus, cpus, memory_bytes))
        return len(self.nodes) - 1

    def deployment(self, least: int = 0, most: int = 1000) -> int:
        self.deployments.append((least, most))
        return len(self.deployments) - 1

    def option(
        self,
        pool: int,
        price: float = 1.0,
        gpus: float = 1.0,
        *,
        deployment: int = 0,
        pair: int | None = None,
        tensor: int | None = None,
        capacity: float = 1.0,
        most: int = 1000,
        cpus: float = 0.0,
        memory_bytes: float = 0.0,
        start: float = 0.0,
        stop: float = 0.0,
    ) -> int:
        number = len(self.options)
        self.options.append(
            {
                "deployment": deployment,
                "pool": pool,
                "pair": number if pair is None else pair,
                "tensor": int(gpus) if tensor is None else tensor,
                "price": price,
                "capacity": capacity,
                "most": most,
                "start": start,
                "stop": stop,
            }
        )
        self.demands.append((gpus, cpus, memory_bytes))
        return number

    def traffic(
        self,
        loads: dict[int, float] | None = None,
        *,
        deployment: int = 0,
        rate: float = 100.0,
        priority: int = 0,
        limit: float = 0.0,
        penalty: float = 1.0,
        latency_penalty: float = 0.0,
        delay_limit: float = inf,
        error_limit: float = inf,
        delays: dict[int, float] | None = None,
        errors: dict[int, float] | None = None,
    ) -> int:
        """A class; `loads`, `delays` and `errors` are by option."""
        number = len(self.classes)
        self.classes.append(
            {
                "deployment": deployment,
                "rate": rate,
                "priority": priority,
                "limit": limit,
                "penalty": penalty,
                "latency_penalty": latency_penalty,
                "delay_limit": delay_limit,
                "error_limit": error_limit,
            }
        )
        for option, load in (loads or {}).items():
            self.pairs.append((number, option, load, (delays or {}).get(option, 1.0), (errors or {}).get(option, 0.0)))
        return number

    def build(self) -> AllocationProblem:
        pairs = np.array(sorted(self.pairs), dtype=np.float64).reshape(-1, 5)
        nodes = np.array(self.nodes, dtype=np.float64).reshape(-1, 4)
        deployments = self.deployments or [(0, 1000)]

        def of_class(name: str, kind: type = np.float64) -> np.ndarray:
            return np.array([entry[name] for entry in self.classes], dtype=kind)

        def of_option(name: str, kind: type = np.float64) -> np.ndarray:
            return np.array([entry[name] for entry in self.options], dtype=kind)

        return AllocationProblem(
            class_deployment=of_class("deployment", np.int64),
            class_rate_per_hour=of_class("rate"),
            class_priority=of_class("priority", np.int64),
            class_unserved_limit=of_class("limit"),
            class_unserved_penalty_per_request=of_class("penalty"),
            class_latency_penalty_per_request_second=of_class("latency_penalty"),
            class_mean_delay_limit_seconds=of_class("delay_limit"),
            class_mean_error_limit=of_class("error_limit"),
            option_deployment=of_option("deployment", np.int64),
            option_pool=of_option("pool", np.int64),
            option_pair=of_option("pair", np.int64),
            option_tensor=of_option("tensor", np.int64),
            option_pipeline=np.ones(len(self.options), dtype=np.int64),
            option_price_per_hour=of_option("price"),
            option_max_replicas=of_option("most", np.int64),
            option_capacity=of_option("capacity"),
            option_demand=np.array(self.demands, dtype=np.float64).reshape(-1, 3),
            option_start_cost_per_hour=of_option("start"),
            option_stop_cost_per_hour=of_option("stop"),
            pair_class=pairs[:, 0].astype(np.int64),
            pair_option=pairs[:, 1].astype(np.int64),
            pair_load=pairs[:, 2],
            pair_delay_seconds=pairs[:, 3],
            pair_error=pairs[:, 4],
            node_pool=nodes[:, 0].astype(np.int64),
            node_free=nodes[:, 1:],
            pool_unlimited=np.array([unlimited for unlimited, _ in self.pools], dtype=bool),
            pool_gpu_limit=np.array([limit for _, limit in self.pools], dtype=np.float64),
            deployment_min_replicas=np.array([least for least, _ in deployments], dtype=np.int64),
            deployment_max_replicas=np.array([most for _, most in deployments], dtype=np.int64),
            running=np.array(self.running, dtype=np.int64).reshape(-1, 3),
            keep_running=self.keep_running,
            budget_per_hour=self.budget,
        )
