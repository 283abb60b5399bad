"""Hand-made allocation problems in few words: the library's builder with short names and defaults for everything."""

from collections.abc import Mapping, Sequence
from math import inf

from plimsoll.allocation import ProblemBuilder
from plimsoll.allocation.problem import ANY_NUMBER


class Builder(ProblemBuilder):
    """`budget`, `storage_price` and `storage_limit` for short; options cost 1 per hour, classes have 100 requests."""

    def __init__(self, *, budget: float = inf, storage_price: float = 0.0, storage_limit: float = inf, **others: bool):
        super().__init__(
            budget_per_hour=budget,
            storage_price_per_gigabyte_hour=storage_price,
            storage_limit_gigabytes=storage_limit,
            **others,
        )

    def deployment(self, least: int = 0, most: int = 1000) -> int:
        return super().deployment(least, most)

    def option(
        self,
        pool: int,
        price: float = 1.0,
        gpus: float = 1.0,
        *,
        deployment: int = 0,
        pair: int | None = None,
        tensor: int | None = None,
        capacity: float | Sequence[float] = 1.0,
        most: int = 1000,
        cpus: float = 0.0,
        memory_bytes: float = 0.0,
        nodes: int = 1,
        per_node: int = ANY_NUMBER,
        spare: int = 0,
        start: float = 0.0,
        stop: float = 0.0,
        storage: float = 0.0,
    ) -> int:
        return self.add_option(
            pool,
            price_per_hour=price,
            gpus=gpus,
            deployment=deployment,
            pair=pair,
            tensor=tensor,
            capacity=capacity,
            max_replicas=most,
            cpu_cores=cpus,
            memory_bytes=memory_bytes,
            nodes=nodes,
            per_node=per_node,
            spare=spare,
            start_cost_per_hour=start,
            stop_cost_per_hour=stop,
            storage_gigabytes=storage,
        )

    def traffic(
        self,
        loads: Mapping[int, float | Sequence[float]] | None = None,
        *,
        deployment: int = 0,
        rate: float = 100.0,
        priority: int = 0,
        limit: float = 0.0,
        penalty: float = 1.0,
        latency_penalty: float = 0.0,
        delay_limit: float = inf,
        error_limit: float = inf,
        delays: Mapping[int, float] | None = None,
        errors: Mapping[int, float] | None = None,
        storage_costs: Mapping[int, float] | None = None,
    ) -> int:
        """A class; `loads`, `delays` (else 1), `errors` and `storage_costs` are by option."""
        loads = loads or {}
        return self.add_class(
            loads,
            rate_per_hour=rate,
            deployment=deployment,
            priority=priority,
            unserved_limit=limit,
            unserved_penalty_per_request=penalty,
            latency_penalty_per_request_second=latency_penalty,
            mean_delay_limit_seconds=delay_limit,
            mean_error_limit=error_limit,
            delays_seconds={**dict.fromkeys(loads, 1.0), **(delays or {})},
            errors=errors,
            storage_costs_per_hour=storage_costs,
        )
