"""The paper's problem (arXiv 2604.07472) as an `AllocationProblem`: a replica of one configuration per model and tier.

A tier is a GPU type at a numeric precision. Delay, memory and compute follow the two-phase model whose formulas each
instance document carries; everything is per hour here, while the paper counts a whole period.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from plimsoll.allocation.problem import ANY_NUMBER, AllocationProblem, Floats

COMPUTE, KV_MEMORY = 0, 1
"""Resources of a replica: sustained TFLOP/s, and GB of KV cache beside the weights."""


@dataclass(frozen=True, slots=True, eq=False)
class PaperInstance:
    """A problem with the names of its rows. Costs of a whole period are the problem's costs times `period_hours`."""

    problem: AllocationProblem
    period_hours: float
    class_names: tuple[str, ...]
    option_names: tuple[tuple[str, str, int, int], ...]
    """Per option: model, tier, tensor and pipeline degree."""


def from_paper_instance(
    document: Mapping[str, Any],
    *,
    arrival_scale: float = 1.0,
    delay_factor: Floats | float = 1.0,
    error_factor: Floats | float = 1.0,
    arrivals_per_hour: Sequence[float] | None = None,
) -> PaperInstance:
    """Load an instance document, e.g. the reference instance R1.

    Args:
        document: query types, models, tiers, configurations and constants, in the units that the keys name.
        arrival_scale: multiplies all arrival rates.
        delay_factor: multiplies all delays and, by Little's law, the KV memory; broadcasts to (types, models, tiers).
        error_factor: multiplies all error rates; broadcasts likewise.
        arrivals_per_hour: replaces the document's rates, one for each type.
    """
    types, models, tiers = document["query_types"], document["models"], document["tiers"]
    constants = document["constants"]
    hours = float(constants["horizon_h"])

    def of(items: Sequence[Mapping[str, Any]], key: str) -> Floats:
        return np.array([item[key] for item in items], dtype=np.float64)

    tensor, pipeline = np.array(document["configs_tp_pp"], dtype=np.int64).T
    gpus = tensor * pipeline
    usable = constants["usable_memory_fraction"] * of(tiers, "mem_GB")
    weights = of(models, "weight_GB_fp16")[:, None] * of(tiers, "weight_factor")  # (J, K)
    fits = weights[:, :, None] < usable[None, :, None] * gpus
    model, tier, configuration = np.nonzero(fits)
    n, m, g = tensor[configuration], pipeline[configuration], gpus[configuration]

    rate = of(types, "arrivals_per_hour") if arrivals_per_hour is None else np.array(arrivals_per_hour, dtype=float)
    rate = rate * arrival_scale
    per_second = rate[:, None] / 3600
    inputs, outputs = of(types, "input_tokens")[:, None], of(types, "output_tokens")[:, None]
    parameters, peak = of(models, "params_B")[model], of(tiers, "peak_TFLOPs")[tier]
    stored = weights[model, tier]

    prefill = 2 * parameters * inputs / (constants["prefill_efficiency"] * peak * 1e3 * n)
    prefill = prefill * (1 + constants["pp_prefill_bubble_per_hop"] * (m - 1))
    bandwidth = constants["decode_bw_efficiency"] * of(tiers, "mem_bw_TBps")[tier] * 1e3 * n
    per_token = stored / bandwidth + constants["tp_overhead_s_per_token_per_log2n"] * np.log2(n)
    per_token = per_token + constants["pp_overhead_s_per_token_per_hop"] * (m - 1)
    shape = (len(types), len(models), len(tiers))
    delay = (prefill + outputs * per_token) * np.broadcast_to(delay_factor, shape)[:, model, tier]
    error = of(types, "base_error")[:, None] / of(models, "capability")[model] * of(tiers, "error_factor")[tier]
    error = error * np.broadcast_to(error_factor, shape)[:, model, tier]

    compute = 2e-3 * parameters * (inputs + outputs) * per_second
    kv_gigabytes = of(models, "kv_KiB_per_token")[model] * 1024 / 1e9 * (inputs + outputs / 2) * per_second * delay
    storage_price = float(constants["storage_usd_per_GB_h"])
    data_cost = storage_price * of(types, "token_size_GB") * (inputs + outputs)[:, 0] * rate
    options, classes = len(model), len(types)
    problem = AllocationProblem(
        class_deployment=np.zeros(classes, dtype=np.int64),
        class_rate_per_hour=rate,
        class_priority=np.zeros(classes, dtype=np.int64),
        class_unserved_limit=of(types, "max_unmet"),
        class_unserved_penalty_per_request=of(types, "unmet_penalty_usd_per_query"),
        class_latency_penalty_per_request_second=of(types, "delay_penalty_usd_per_s_per_query"),
        class_mean_delay_limit_seconds=of(types, "delay_slo_s"),
        class_mean_error_limit=of(types, "error_slo"),
        option_deployment=np.zeros(options, dtype=np.int64),
        option_pool=tier.astype(np.int64),
        option_pair=(model * len(tiers) + tier).astype(np.int64),
        option_tensor=n,
        option_pipeline=m,
        option_price_per_hour=of(tiers, "price_usd_per_h")[tier] * g,
        option_max_replicas=np.ones(options, dtype=np.int64),
        option_capacity=np.stack(
            (constants["compute_capacity_fraction"] * peak * g, usable[tier] * g - stored), axis=1
        ),
        option_demand=np.stack((g.astype(np.float64), np.zeros(options), np.zeros(options)), axis=1),
        option_nodes=np.ones(options, dtype=np.int64),
        option_per_node=np.full(options, ANY_NUMBER, dtype=np.int64),
        option_spare=np.zeros(options, dtype=np.int64),
        option_start_cost_per_hour=np.zeros(options),
        option_stop_cost_per_hour=np.zeros(options),
        option_storage_gigabytes=stored,
        pair_class=np.repeat(np.arange(classes), options),
        pair_option=np.tile(np.arange(options), classes),
        pair_load=np.stack((compute.ravel(), kv_gigabytes.ravel()), axis=1),
        pair_delay_seconds=delay.ravel(),
        pair_error=error.ravel(),
        pair_storage_cost_per_hour=np.repeat(data_cost, options),
        node_pool=np.zeros(0, dtype=np.int64),
        node_free=np.zeros((0, 3)),
        pool_unlimited=np.ones(len(tiers), dtype=bool),
        pool_gpu_limit=np.full(len(tiers), np.inf),
        deployment_min_replicas=np.zeros(1, dtype=np.int64),
        deployment_max_replicas=np.array([options], dtype=np.int64),
        running=np.zeros((0, 3), dtype=np.int64),
        keep_running=False,
        budget_per_hour=float(constants["budget_usd"]) / hours,
        storage_price_per_gigabyte_hour=storage_price,
        storage_limit_gigabytes=float(constants["storage_cap_GB"]),
        one_option_per_pair=True,
        means_over_all=True,
    )
    return PaperInstance(
        problem=problem,
        period_hours=hours,
        class_names=tuple(item["name"] for item in types),
        option_names=tuple(
            (models[j]["name"], tiers[k]["name"], int(tp), int(pp))
            for j, k, tp, pp in zip(model, tier, n, m, strict=True)
        ),
    )
