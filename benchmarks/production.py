"""Production's shape: many LLMDeployments of three traffic classes on 20 pools, planned as one problem.

The fleet is drawn with a seed. A replica's speed follows from a variant's size and a pool's compute and bandwidth, so
that classes with long inputs and classes with long outputs like different pools; larger tensor parallelism answers
faster and yields less per GPU; the smaller of two operating points gives up throughput for latency.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.results import Figure, Table, show
from plimsoll.allocation import AllocationProblem, check, solve_adaptive, solve_greedy
from plimsoll.allocation.decomposition import DecomposedSolution, Memory, solve_decomposed
from plimsoll.allocation.problem import ANY_NUMBER, Allocation, Bools, Cost, Floats, Ints

CLASSES = 3
GPUS_PER_NODE = 8
USABLE_TIME = 0.85
LEAST_REPLICAS, MOST_REPLICAS = 0.2, 50.0
"""Of a typical option, for a whole deployment; drawn log-uniformly between them."""
HORIZON_HOURS = 1.0
"""Over which the cost of starting a replica is spread."""


@dataclass(frozen=True, slots=True)
class Accelerator:
    """Relative speeds (an A100 is 1), memory and price of one GPU."""

    compute: float
    bandwidth: float
    memory_gb: float
    price_per_hour: float


ACCELERATORS = (
    Accelerator(6.5, 4.0, 180, 8.00),
    Accelerator(3.2, 2.4, 141, 4.20),
    Accelerator(3.2, 1.65, 80, 3.50),
    Accelerator(2.4, 1.0, 80, 2.30),
    Accelerator(1.0, 1.0, 80, 1.50),
    Accelerator(1.0, 0.77, 40, 1.30),
    Accelerator(1.15, 0.42, 48, 1.00),
    Accelerator(0.39, 0.15, 24, 0.35),
    Accelerator(0.40, 0.30, 24, 0.48),
    Accelerator(0.48, 0.34, 48, 0.58),
)
REGION_PRICE = (1.0, 1.06)
POOLS = len(ACCELERATORS) * len(REGION_PRICE)
"""Pool 2 a + r has accelerator a in region r."""

SHAPES = ((1, 1), (2, 1), (4, 1), (8, 1), (2, 2), (4, 2))
"""Tensor and pipeline parallelism; all GPUs of a replica are on one node."""
OPERATING_POINTS = ((1.0, 1.0), (0.62, 0.55))
"""Throughput and latency relative to the widest batch."""
VARIANT_GB = np.array([3.0, 8.0, 16.0, 28.0, 48.0, 75.0, 140.0])
"""Weights of the variants that a deployment may draw."""


@dataclass(frozen=True, slots=True)
class _Grid:
    """Every option of every deployment: (D, V, K, S) flattened with D first."""

    deployment: Ints
    variant: Ints
    pool: Ints
    tensor: Ints
    pipeline: Ints
    point: Ints


def production(
    deployments: int = 1000,
    seed: int = 0,
    *,
    stock: float | None = 1.1,
    budget_factor: float | None = 1.05,
    running: Allocation | None = None,
    keep_running: bool = False,
) -> AllocationProblem:
    """A fleet whose pools hold `stock` times the GPUs that the best answer without limits takes there.

    Args:
        deployments: number of LLMDeployments.
        seed: equal seeds give equal fleets.
        stock: part of the GPUs that the answer without limits takes; None for pools without limit.
        budget_factor: budget as a multiple of that answer's rent; None for no budget. At 1.05 it does not bind while
            the stock suffices, and limits what scarce pools may be replaced by.
        running: an earlier answer for the same fleet; its replicas run.
        keep_running: new replicas must fit beside all running ones.
    """
    free = _unlimited(deployments, seed)
    if stock is None and budget_factor is None:
        return free if running is None else with_running(free, running, keep_running=keep_running)
    best = solve_decomposed(free, ()).allocation
    problem = free if stock is None else with_stock(free, best, stock)
    if budget_factor is not None:
        problem = replace(problem, budget_per_hour=budget_factor * best.cost.spending)
    return problem if running is None else with_running(problem, running, keep_running=keep_running)


@dataclass(frozen=True, slots=True)
class Measured:
    """One search for a fleet, beside GH's answer for it."""

    stock: float
    warm: bool
    """1 % of the classes changed since the round before, whose answer runs and is remembered; else from nothing."""
    deployments: int
    seconds: float
    gap: float
    gap_as_served: float
    """Of the cost without the penalty, which is the same for all plans that serve the same and hides the rest."""
    cost: Cost
    unserved: float
    """Part of all requests, 0..1."""
    greedy_seconds: float
    greedy_cost: Cost
    greedy_unserved: float

    @property
    def name(self) -> str:
        """Of the fleet and what happened to it."""
        return f"production, {self.deployments:,} deployments, stock {self.stock}×, {'warm' if self.warm else 'cold'}"


def measure(deployments: int = 1000, seed: int = 0) -> Iterator[Measured]:
    """The production default at 1.1 and 0.9 times the stock."""
    for stock in (1.1, 0.9):
        problem = production(deployments, seed, stock=stock)
        cold, answer = _measured(problem, deployments, stock, None)
        yield cold
        runs = with_running(problem, answer, keep_running=False)
        memory = Memory()
        solve_adaptive(runs, memory=memory)
        yield _measured(changed(runs), deployments, stock, memory)[0]


def _measured(
    problem: AllocationProblem, deployments: int, stock: float, memory: Memory | None
) -> tuple[Measured, Allocation]:
    began = time.perf_counter()
    solution = solve_adaptive(problem, memory=memory)
    seconds = time.perf_counter() - began
    if not isinstance(solution, DecomposedSolution):
        raise TypeError("a fleet of many deployments is decomposed")
    answer = solution.allocation
    if violations := check(problem, answer):
        raise RuntimeError(f"{deployments} deployments, stock {stock}: {violations[:3]}")
    began = time.perf_counter()
    greedy = solve_greedy(problem)
    greedy_seconds = time.perf_counter() - began
    found = Measured(
        stock=stock,
        warm=memory is not None,
        deployments=deployments,
        seconds=seconds,
        gap=solution.gap,
        gap_as_served=(answer.cost.total - solution.lower_bound_as_served_per_hour) / _spent(answer.cost),
        cost=answer.cost,
        unserved=_unserved(problem, answer),
        greedy_seconds=greedy_seconds,
        greedy_cost=greedy.cost,
        greedy_unserved=_unserved(problem, greedy),
    )
    return found, answer


def _spent(cost: Cost) -> float:
    """Without the penalty for what is not served."""
    return cost.total - cost.unserved_penalty


def _unserved(problem: AllocationProblem, answer: Allocation) -> float:
    """Part of all requests."""
    rate = problem.class_rate_per_hour
    return float(rate @ answer.unserved / rate.sum())


def run() -> tuple[list[Figure], list[Table]]:
    """Time, gap and unserved demand of the search for 1,000 deployments (not of a whole round), and GH beside it."""
    rounds = list(measure())
    figures = []
    for item in rounds:
        figures += [
            Figure(f"{item.name}: time", item.seconds, "s", 1.0 if item.warm else 3.0),
            Figure(f"{item.name}: gap as served", 100 * item.gap_as_served, "%", 5.0),
            Figure(f"{item.name}: gap with penalty", 100 * item.gap, "%"),
            Figure(f"{item.name}: unserved", 100 * item.unserved, "% of requests"),
        ]
    lines = []
    for item in rounds:
        who = (
            ("default", item.seconds, item.cost, item.unserved),
            ("GH", item.greedy_seconds, item.greedy_cost, item.greedy_unserved),
        )
        for method, seconds, cost, unserved in who:
            figures_of = (f"{seconds:.2f}", f"{_spent(cost):,.0f}", f"{cost.unserved_penalty:,.0f}", f"{unserved:.2%}")
            lines.append((item.name.removeprefix("production, "), method, *figures_of))
    columns = ("fleet", "method", "s", "$/h without penalty", "penalty for unserved, $/h", "unserved")
    title = "Production's shape: cold from nothing, warm after 1 % of the classes changed"
    return figures, [Table(title, columns, lines)]


def with_stock(problem: AllocationProblem, best: Allocation, stock: float) -> AllocationProblem:
    """Nodes of eight GPUs that hold `stock` times what `best` takes of each pool; a pool's last node is smaller."""
    taken = np.bincount(problem.option_pool, best.replicas * problem.replica_gpus(), minlength=POOLS)
    node_pool: list[int] = []
    node_gpus: list[int] = []
    for pool, gpus in enumerate(np.round(stock * taken).astype(int).tolist()):
        whole, rest = divmod(gpus, GPUS_PER_NODE)
        node_gpus += [GPUS_PER_NODE] * whole + [rest] * (rest > 0)
        node_pool += [pool] * (whole + (rest > 0))
    free = np.array(node_gpus, dtype=np.float64)[:, None] * np.array([1.0, 24.0, 256e9])
    return replace(
        problem,
        node_pool=np.array(node_pool, dtype=np.int64),
        node_free=free.reshape(-1, 3),
        pool_unlimited=np.zeros(POOLS, dtype=bool),
    )


def with_running(problem: AllocationProblem, answer: Allocation, *, keep_running: bool) -> AllocationProblem:
    """The problem while the answer's replicas run where it packed them."""
    rows = answer.packing
    placed = np.zeros(problem.options, dtype=np.int64)
    np.add.at(placed, rows[:, 0], rows[:, 2])
    rest = np.flatnonzero(answer.replicas > placed)
    unknown = np.stack((rest, np.full(len(rest), -1), answer.replicas[rest] - placed[rest]), axis=1)
    return replace(problem, running=np.concatenate((rows, unknown)), keep_running=keep_running)


def changed(problem: AllocationProblem, part: float = 0.01, seed: int = 1) -> AllocationProblem:
    """The problem with the traffic of a part of the classes doubled or halved."""
    draw = np.random.default_rng(seed)
    count = max(1, round(part * problem.classes))
    chosen = draw.choice(problem.classes, count, replace=False)
    factor = np.ones(problem.classes)
    factor[chosen] = draw.choice([0.5, 2.0], count)
    return replace(
        problem,
        class_rate_per_hour=problem.class_rate_per_hour * factor,
        pair_load=problem.pair_load * factor[problem.pair_class][:, None],
    )


def _unlimited(deployments: int, seed: int) -> AllocationProblem:
    """The fleet on pools without limit."""
    draw = np.random.default_rng(seed)
    compute, bandwidth, memory, price = np.array(
        [(a.compute, a.bandwidth, a.memory_gb, a.price_per_hour * r) for a in ACCELERATORS for r in REGION_PRICE]
    ).T
    count = draw.integers(2, 4, deployments)
    size = draw.integers(1, len(VARIANT_GB), deployments)
    """The largest variant; the others are smaller or quantised."""
    steps = np.stack((np.zeros(deployments, dtype=np.int64), draw.integers(1, 3, deployments), np.full(deployments, 3)))
    gigabytes = VARIANT_GB[np.maximum(size[:, None] - steps.T, 0)]
    region = draw.choice(3, deployments, p=[0.6, 0.25, 0.15])
    """0: anywhere, else the region it must stay in."""
    there = (np.arange(3)[None, :] < count[:, None])[:, :, None] & (
        (region[:, None] == 0) | (np.arange(POOLS)[None, :] % 2 == region[:, None] - 1)
    )[:, None, :]
    tensor, pipeline, point = (
        np.array(column)
        for column in zip(*((t, p, o) for t, p in SHAPES for o in range(len(OPERATING_POINTS))), strict=True)
    )
    gpus = tensor * pipeline
    fits = gigabytes[:, :, None, None] * 1.25 < 0.9 * memory[None, None, :, None] * gpus
    option = np.argwhere(there[:, :, :, None] & fits)
    deployment, variant, pool, shape = option.T
    grid = _Grid(deployment, variant, pool, tensor[shape], pipeline[shape], point[shape])
    weight = gigabytes[deployment, variant] / 16.0
    throughput, latency = np.array(OPERATING_POINTS)[grid.point].T
    affinity = np.exp(draw.normal(0.0, 0.12, (deployments, 3, POOLS)))[deployment, variant, pool]
    pace = affinity * grid.tensor**0.88 * grid.pipeline**0.97
    prefill, decode = compute[pool] * pace, bandwidth[pool] * pace
    seconds_factor = weight * latency / (affinity * grid.tensor**0.7 * grid.pipeline**-0.1)
    # Classes: the part of the work that is decoding, rates, targets and what errors they bear.
    decoding = draw.uniform(0.1, 0.9, (deployments, CLASSES))
    parts = draw.dirichlet([1.5] * CLASSES, deployments)
    patience = np.exp(draw.uniform(np.log(0.1), np.log(2.5), (deployments, CLASSES)))
    target = patience * gigabytes[:, :1] / 16.0
    error_limit = np.where(draw.random((deployments, CLASSES)) < 0.1, 0.05, np.inf)
    work = np.empty((len(option), CLASSES))
    delay = np.empty((len(option), CLASSES))
    for number in range(CLASSES):
        share = decoding[deployment, number]
        work[:, number] = weight * ((1 - share) / prefill + share / (decode * throughput))
        delay[:, number] = seconds_factor * ((1 - share) / compute[pool] + share / bandwidth[pool])
    error = draw.uniform(0.02, 0.05, (deployments, 1)) * np.array([1.0, 1.5, 2.5])
    meets = delay <= target[deployment]
    meets |= _fastest(delay, deployment, deployments)
    replicas = np.exp(draw.uniform(np.log(LEAST_REPLICAS), np.log(MOST_REPLICAS), deployments))
    typical = _typical(work, meets, deployment, deployments)
    load = work * (parts * replicas[:, None] / typical)[deployment]
    rate = np.exp(draw.normal(np.log(3000.0), 1.0, (deployments, CLASSES))) * replicas[:, None] * parts
    usable = meets.any(axis=1)
    number_of = np.cumsum(usable) - 1
    pair_option, pair_class = np.nonzero(meets)
    order = np.lexsort((pair_option, deployment[pair_option] * CLASSES + pair_class))
    pair_option, pair_class = pair_option[order], pair_class[order]
    owner = deployment[pair_option]
    options = int(usable.sum())
    option_price = (price[pool] * gpus[shape])[usable]
    load_seconds = (60.0 + 4.0 * gigabytes[deployment, variant] / gpus[shape])[usable]
    dearest = np.zeros((deployments, CLASSES))
    rent = (price[pool] * gpus[shape])[pair_option] * load[pair_option, pair_class] / USABLE_TIME
    np.maximum.at(dearest, (owner, pair_class), rent)
    return AllocationProblem(
        class_deployment=np.repeat(np.arange(deployments), CLASSES),
        class_rate_per_hour=rate.ravel(),
        class_priority=np.where(draw.random(deployments * CLASSES) < 0.2, 100, 10),
        class_unserved_limit=np.zeros(deployments * CLASSES),
        class_unserved_penalty_per_request=(10.0 * dearest / rate).ravel(),
        class_latency_penalty_per_request_second=np.zeros(deployments * CLASSES),
        class_mean_delay_limit_seconds=np.full(deployments * CLASSES, np.inf),
        class_mean_error_limit=error_limit.ravel(),
        option_deployment=deployment[usable],
        option_pool=pool[usable],
        option_pair=((deployment * 3 + variant) * POOLS + pool)[usable],
        option_tensor=grid.tensor[usable],
        option_pipeline=grid.pipeline[usable],
        option_price_per_hour=option_price,
        option_max_replicas=np.full(options, 10_000),
        option_capacity=np.full((options, 1), USABLE_TIME),
        option_demand=gpus[shape][usable, None] * np.array([1.0, 12.0, 120e9]),
        option_nodes=np.ones(options, dtype=np.int64),
        option_per_node=np.full(options, ANY_NUMBER, dtype=np.int64),
        option_spare=np.zeros(options, dtype=np.int64),
        option_start_cost_per_hour=option_price * load_seconds / 3600 / HORIZON_HOURS,
        option_stop_cost_per_hour=np.full(options, 0.01),
        option_storage_gigabytes=np.zeros(options),
        pair_class=owner * CLASSES + pair_class,
        pair_option=number_of[pair_option],
        pair_load=load[pair_option, pair_class][:, None],
        pair_delay_seconds=delay[pair_option, pair_class],
        pair_error=error[owner, variant[pair_option]],
        pair_storage_cost_per_hour=np.zeros(len(pair_option)),
        node_pool=np.zeros(0, dtype=np.int64),
        node_free=np.zeros((0, 3)),
        pool_unlimited=np.ones(POOLS, dtype=bool),
        pool_gpu_limit=np.full(POOLS, np.inf),
        deployment_min_replicas=np.zeros(deployments, dtype=np.int64),
        deployment_max_replicas=np.full(deployments, 10_000),
        running=np.zeros((0, 3), dtype=np.int64),
        keep_running=False,
        budget_per_hour=np.inf,
        storage_price_per_gigabyte_hour=0.0,
        storage_limit_gigabytes=np.inf,
        one_option_per_pair=False,
        means_over_all=False,
    )


def _fastest(delay: Floats, deployment: Ints, deployments: int) -> Bools:
    """Per class the options within a fifth of the deployment's least delay: every target can be met."""
    least = np.full((deployments, CLASSES), np.inf)
    np.minimum.at(least, deployment, delay)
    fastest: Bools = delay <= 1.2 * least[deployment]
    return fastest


def _typical(work: Floats, meets: Bools, deployment: Ints, deployments: int) -> Floats:
    """Median work of a class over the options that are eligible for it, (D, C)."""
    typical = np.empty((deployments, CLASSES))
    ends = np.searchsorted(deployment, np.arange(deployments + 1))
    for number in range(deployments):
        rows = slice(ends[number], ends[number + 1])
        for column in range(CLASSES):
            typical[number, column] = np.median(work[rows, column][meets[rows, column]])
    return typical


if __name__ == "__main__":
    show(*run())
