"""Other tools' own cases as problems of ours: our cost beside theirs and the exact one; memory against measurements.

`python -m benchmarks.peers` prints the tables. The cases lie in the data folder (`peer_cases/`), each with its origin.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from math import inf
from typing import Any

import numpy as np

from benchmarks.data import load_json
from benchmarks.methods import AGH, DEFAULT, EXACT, GH, Method
from benchmarks.results import Figure, Table, number, show
from plimsoll.allocation import Allocation, AllocationProblem, check
from plimsoll.allocation.builder import MANY, ProblemBuilder
from plimsoll.catalog import load_catalog
from plimsoll.performance import Parallelism, ReplicaShape, memory_fit, parallelism_problem

GIB = 2**30
METHODS = (GH, AGH, DEFAULT, EXACT)


@dataclass(frozen=True, slots=True)
class Case:
    """A problem of another tool. Costs are in its own unit."""

    name: str
    problem: AllocationProblem
    peer: float
    """What the other tool's answer costs."""
    exact: float
    fixed: float = 0.0
    """Cost of what our problem leaves out because it stays anyhow."""

    def cost(self, method: Method) -> float:
        """What our answer costs.

        Raises:
            AssertionError: it is not feasible, or leaves traffic unserved.
        """
        allocation = method.solve(self.problem)
        violations = check(self.problem, allocation)
        assert not violations, f"{self.name}, {method.name}: {violations}"
        assert _serves_all(allocation), f"{self.name}, {method.name}: unserved {allocation.unserved}"
        return self.fixed + allocation.cost.total


def _serves_all(allocation: Allocation) -> bool:
    return float(allocation.unserved.max(initial=0.0)) <= 1e-6


def inferno() -> Iterator[Case]:
    """Servers that take one accelerator type each, from limited and from unlimited stock; and limited, mixing types."""
    document = load_json("peer_cases/inferno_small.json")
    expected = document["expected"]
    limited, unlimited = expected["exact_one_config_per_server_limited"], expected["exact_unlimited"]
    stock = {entry["type"]: entry["count"] for entry in document["input"]["capacity"]["count"]}
    greedy = expected["peer_greedy_total_cost"]
    everything = sum(entry["cost"] for entry in unlimited["allocation"].values())
    yield Case("inferno_small, limited stock", _inferno(document, stock, mixing=False), greedy, limited["total_cost"])
    # The other tool's greedy takes each server's cheapest type when nothing is short: the exact answer.
    yield Case("inferno_small, unlimited", _inferno(document, None, mixing=False), everything, unlimited["total_cost"])


def inferno_mixing() -> AllocationProblem:
    """Limited stock, where a server may also split its traffic between accelerator types."""
    document = load_json("peer_cases/inferno_small.json")
    stock = {entry["type"]: entry["count"] for entry in document["input"]["capacity"]["count"]}
    return _inferno(document, stock, mixing=True)


def _inferno(document: Mapping[str, Any], stock: Mapping[str, float] | None, *, mixing: bool) -> AllocationProblem:
    """Each server is a deployment of its own.

    Without mixing, an option is a candidate as a whole (all its replicas) and a server has at most one. With mixing, it
    is one replica of a candidate; the whole server loads as many of them as the candidate has (its table has no
    fractions, so this is on the safe side).
    """
    builder = ProblemBuilder()
    types = sorted({item["type"] for item in document["input"]["accelerator"]["accelerators"]})
    for name in types:
        builder.pool(None, gpu_limit=stock.get(name, 0.0) if stock else inf)
    for candidates in document["candidates"].values():
        server = builder.deployment(max_replicas=MANY if mixing else 1)
        loads = {}
        for candidate in candidates:
            parts = candidate["replicas"] if mixing else 1
            option = builder.add_option(
                types.index(candidate["type"]),
                price_per_hour=candidate["cost"] / parts,
                gpus=candidate["chips_per_replica"] * candidate["replicas"] / parts,
                deployment=server,
            )
            loads[option] = float(parts)
        builder.add_class(loads, rate_per_hour=1.0, deployment=server)
    return builder.build()


def melange() -> Case:
    """GPU mix for a histogram of request sizes, each bucket split at will (the other tool: in two slices)."""
    document = load_json("peer_cases/melange_example.json")
    expected = document["expected"]
    return Case(
        "melange_example, free splitting",
        _melange(document),
        expected["ilp_by_slice_factor"]["2"]["cost_per_hour"],
        expected["continuous_split_integer_gpus"]["cost_per_hour"],
    )


def _melange(document: Mapping[str, Any], slices: int = 1) -> AllocationProblem:
    """One class for each bucket, or for each of its equal slices."""
    given = document["input"]
    builder = ProblemBuilder()
    gpus = list(given["gpu_info"].values())
    options = [builder.add_option(builder.pool(None), price_per_hour=gpu["cost"]) for gpu in gpus]
    for row, shares in enumerate(given["workload_distribution"]):
        for column, part in enumerate(shares):
            rate = part * given["total_request_rate"] / slices
            loads = {option: rate / gpu["tputs"][row][column] for option, gpu in zip(options, gpus, strict=True)}
            for _ in range(slices):
                builder.add_class(loads, rate_per_hour=3600 * rate)
    return builder.build()


def melange_sliced(method: Method, slices: int) -> float:
    """The least cost where a slice of a bucket goes to one GPU type: the method on every choice of types."""
    document = load_json("peer_cases/melange_example.json")
    whole = _melange(document, slices)
    types = whole.options
    least = inf
    for of_bucket in product(_splits(types, slices), repeat=whole.classes // slices):
        option = np.concatenate([np.repeat(np.arange(types), counts) for counts in of_bucket])
        kept = option[whole.pair_class] == whole.pair_option
        fields = {name: getattr(whole, name)[kept] for name in whole.__slots__ if name.startswith("pair_")}
        least = min(least, Case("melange_example", replace(whole, **fields), inf, inf).cost(method))
    return least


def _splits(types: int, slices: int) -> list[tuple[int, ...]]:
    """How many of the slices go to each type."""
    return [counts for counts in product(range(slices + 1), repeat=types) if sum(counts) == slices]


def autoscaler() -> Iterator[Case]:
    """Replica changes of variants of one model under missing or spare capacity.

    Missing capacity buys replicas beside those that stay; of spare capacity, replicas go as long as the rest suffices.
    """
    for case in load_json("peer_cases/wva_cost_aware_optimizer.json")["cases"]:
        variants = case["variants"]
        prices = np.array([float(variant["cost"]) for variant in variants])
        sizes = np.array([float(variant["perReplicaCapacity"]) for variant in variants])
        running = np.array([variant["replicas"] for variant in variants])
        growing = case["requiredCapacity"] > 0
        needed = float(case["requiredCapacity"] if growing else max(0.0, sizes @ running - case["spareCapacity"]))
        builder = ProblemBuilder()
        builder.deployment(min_replicas=0 if growing else 1)
        for price, most in zip(prices.tolist(), running.tolist(), strict=True):
            builder.add_option(builder.pool(None), price_per_hour=price, max_replicas=MANY if growing else most)
        loads = {option: needed / size for option, size in enumerate(sizes.tolist()) if size > 0}
        builder.add_class(loads, rate_per_hour=needed)
        yield Case(
            f"wva {case['name']}",
            builder.build(),
            case["peer_rule_cost_after"],
            case["exact_cost_after"],
            fixed=float(prices @ running) if growing else 0.0,
        )


def cases() -> list[Case]:
    """All cases with a cost."""
    return [*inferno(), melange(), *autoscaler()]


@dataclass(frozen=True, slots=True)
class Measured:
    """One memory figure of vLLM, measured, and ours: GiB, or tokens."""

    what: str
    model: str
    how: str
    measured: float
    ours: float

    @property
    def error(self) -> float:
        """Relative, above 0 where ours is larger."""
        return self.ours / self.measured - 1


def vllm_memory() -> tuple[list[Measured], list[str]]:
    """Ours beside vLLM 0.19 on an H100, and the models that the catalog does not know."""
    catalog = load_catalog()
    measured_gpu = replace(catalog.gpu("H100-SXM-80GB"), memory_bytes=int(79.19 * GIB))
    rows: list[Measured] = []
    unknown: list[str] = []
    for case in load_json("peer_cases/llmd_planner_memory.json")["measured"]:
        note = case.get("note", "")
        if case["model"] not in catalog.models:
            unknown.append(case["model"])
            continue
        precision = catalog.precision("fp8" if "quantization fp8" in note else "bf16")
        if "kv-cache-dtype fp8" in note:
            precision = replace(precision, kv_bytes_per_element=1.0)
        if "float32" in note:
            precision = replace(precision, bytes_per_parameter=4.0, kv_bytes_per_element=4.0)
        parallelism = Parallelism(case["tp"], case["pp"])
        model = catalog.model(case["model"])
        fit = memory_fit(ReplicaShape(model, precision, measured_gpu, parallelism, case["max_model_len"]), 0.95)
        how = f"{parallelism}{', ' + note.split(':')[0] if note.startswith('--') else ''}"
        for what, key, ours in (
            ("weights", "weight_GiB_per_gpu", fit.weights_bytes_per_gpu / GIB),
            ("KV pool", "kv_pool_GiB_per_gpu", fit.kv_bytes_per_gpu / GIB),
            ("KV tokens", "kv_tokens", float(fit.kv_tokens)),
        ):
            if case.get(key) is not None:
                rows.append(Measured(what, case["model"], how, case[key], ours))
    return rows, unknown


def formulas() -> list[Measured]:
    """Weights of published checkpoints, and KV cache of 10,000 tokens, by our formulas."""
    catalog = load_catalog()
    published = {
        entry["what"]: entry["GiB"]
        for entry in load_json("peer_cases/llmd_planner_memory.json")["formula_checks"]
        if "GiB" in entry
    }
    rows = []
    for what, name, precision in (
        ("weights Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B-Instruct", "bf16"),
        ("weights Qwen3-8B FP8-dynamic", "Qwen/Qwen3-8B", "fp8"),
        ("weights gpt-oss-20b (MXFP4)", "openai/gpt-oss-20b", "int4"),
        ("KV for 10000 tokens, Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B-Instruct", None),
        ("KV for 10000 tokens, DeepSeek-V3/R1 (MLA)", "deepseek-ai/DeepSeek-V3", None),
    ):
        model = catalog.model(name)
        if precision is None:
            ours = 10_000 * model.kv_bytes_per_token()
        else:
            ours = model.weights_bytes(catalog.precision(precision).bytes_per_parameter)
        rows.append(Measured(what, name, precision or "", published[what], ours / GIB))
    return rows


@dataclass(frozen=True, slots=True)
class NodeFit:
    """Fewest nodes for one replica: KAITO's rule and our memory fit. `ours` is inf where no parallelism fits."""

    model: str
    instance: str
    context_tokens: int
    theirs: int
    ours: float
    below_weights: bool
    """Ours would have the weights alone exceed all memory."""


def node_fits() -> tuple[list[NodeFit], list[str]]:
    """All models of the catalog on all instance types, and the models that it does not know."""
    catalog = load_catalog()
    document = load_json("peer_cases/kaito_node_fit.json")
    rows: list[NodeFit] = []
    unknown: list[str] = []
    for case in document["models"]:
        if case["name"] not in catalog.models:
            unknown.append(case["name"])
            continue
        model = catalog.model(case["name"])
        precision = catalog.precision(model.native_precision)
        for instance in document["instances"]:
            bytes_each = int(instance["total_GPU_GiB"] * GIB / instance["gpus"])
            # Every parallelism on a node is open to their rule; an A100's link does not limit ours either.
            gpu = replace(catalog.gpu("A100-SXM-80GB"), memory_bytes=bytes_each)
            for context, by_instance in case["nodes"].items():
                fitting = (
                    (nodes, tensor * per_node * nodes)
                    for nodes in range(1, 17)
                    for tensor in (1, 2, 4, 8)
                    for per_node in range(1, instance["gpus"] // tensor + 1)
                    if parallelism_problem(model, gpu, shape := Parallelism(tensor, per_node * nodes)) is None
                    and memory_fit(ReplicaShape(model, precision, gpu, shape, int(context))).fits
                )
                nodes, gpus = min(fitting, default=(inf, inf))
                weights = model.weights_bytes(precision.bytes_per_parameter)
                rows.append(
                    NodeFit(
                        model.name,
                        instance["sku"],
                        int(context),
                        by_instance[instance["sku"]],
                        nodes,
                        weights > gpus * bytes_each,
                    )
                )
    return rows, unknown


def run() -> tuple[list[Figure], list[Table]]:
    """Costs beside the exact ones and the other tools'; memory beside measurements and beside KAITO's rule."""
    figures: list[Figure] = []
    lines = []
    above: dict[tuple[str, str], list[float]] = {}
    for case in cases():
        costs = {method.name: case.cost(method) for method in METHODS}
        group = case.name.partition(" ")[0].rstrip(",")
        for name in (DEFAULT.name, EXACT.name):
            above.setdefault((group, name), []).append(100 * (costs[name] / case.exact - 1))
        lines.append((case.name, number(case.peer), number(case.exact), *map(_money, costs.values())))
    for (group, name), values in above.items():
        text = f"{group}, {len(values)} cases: {name}, most above the exact cost"
        figures.append(Figure(text, max(values), "%", 1.0 if name == DEFAULT.name else 0.1))
    mixed = Case("inferno_small, limited stock, types mixed within a server", inferno_mixing(), inf, inf)
    lines.append((mixed.name, "", "", *(_outcome(mixed, method) for method in METHODS)))
    published = load_json("peer_cases/melange_example.json")["expected"]["ilp_by_slice_factor"]
    for slices in (1, 2):
        cost = published[str(slices)]["cost_per_hour"]
        least = [_money(melange_sliced(method, slices)) for method in METHODS]
        lines.append((f"melange_example, slices {slices}", number(cost), number(cost), *least))
    columns = ("case", "other tool", "exact", *(method.name for method in METHODS))
    tables = [Table("Other tools' own cases: cost, in each case's own unit", columns, lines)]
    for part in (_memory(), _nodes()):
        figures += part[0]
        tables.append(part[1])
    return figures, tables


def _outcome(case: Case, method: Method) -> str:
    """The cost, or that there is none to compare."""
    lost = float(method.solve(case.problem).unserved.max(initial=0.0))
    return f"serves {1 - lost:.0%} of a server" if lost > 1e-6 else _money(case.cost(method))


def _money(value: float) -> str:
    return f"{value:,.6g}"


def _memory() -> tuple[list[Figure], Table]:
    measured, unknown = vllm_memory()
    checked = formulas()
    figures = []
    for what, aim, chosen in (
        ("weights per GPU", 2.0, [row for row in measured if row.what == "weights"]),
        ("KV pool", 10.0, [row for row in measured if row.what == "KV pool"]),
        ("KV tokens", None, [row for row in measured if row.what == "KV tokens"]),
        ("formulas", 0.1, checked),
    ):
        error = 100 * max(abs(row.error) for row in chosen)
        figures.append(Figure(f"llmd_planner_memory: largest error, {what} ({len(chosen)} figures)", error, "%", aim))
    lines = [
        (row.what, row.model, row.how, number(row.measured), f"{row.ours:,.7g}", f"{row.error:+.2%}")
        for row in (*measured, *checked)
    ]
    title = "Memory beside vLLM 0.19 on an H100 (GiB per GPU, tokens per replica); the constants for what is neither "
    title += "weights nor KV cache were taken from these measurements, so the KV rows are a fit"
    title += f"; not in the catalog: {', '.join(sorted(set(unknown)))}" if unknown else ""
    return figures, Table(title, ("", "model", "", "measured", "ours", "error"), lines)


def _nodes() -> tuple[list[Figure], Table]:
    rows, unknown = node_fits()
    figures = [
        Figure("kaito_node_fit: replicas compared", len(rows), ""),
        Figure("kaito_node_fit: same number of nodes", sum(row.ours == row.theirs for row in rows), ""),
        Figure("kaito_node_fit: ours takes fewer nodes", sum(row.ours < row.theirs for row in rows), ""),
        Figure("kaito_node_fit: ours takes more nodes", sum(row.ours > row.theirs for row in rows), ""),
        Figure(
            "kaito_node_fit: accepted with less memory than the weights", sum(row.below_weights for row in rows), "", 0
        ),
    ]
    lines = [
        (row.model, row.instance, number(row.context_tokens), str(row.theirs), number(row.ours))
        for row in rows
        if row.ours != row.theirs
    ]
    title = "Fewest nodes for a replica where our memory fit and KAITO's rule differ"
    title += f"; not in the catalog: {', '.join(unknown)}" if unknown else ""
    return figures, Table(title, ("model", "instance", "context", "KAITO", "ours"), lines)


if __name__ == "__main__":
    show(*run())
