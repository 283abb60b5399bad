"""Random small fleets: answers are feasible, repeatable and priced right, and serve what one option could serve."""

from dataclasses import replace
from itertools import product

import numpy as np
from hypothesis import event, given, settings
from hypothesis import strategies as st

from plimsoll.allocation import Allocation, AllocationProblem, check, solve_greedy, subset
from tests.unit.allocation.builder import Builder

INFINITY = float("inf")


@st.composite
def fleets(draw: st.DrawFn) -> AllocationProblem:
    b = Builder(budget=draw(st.sampled_from([INFINITY, INFINITY, 3.0, 9.0])), keep_running=draw(st.booleans()))
    gpu_limit = st.sampled_from([INFINITY, INFINITY, 4.0])
    for _ in range(draw(st.integers(1, 3))):
        pool = b.pool(None if draw(st.integers(0, 4)) == 0 else [], gpu_limit=draw(gpu_limit))
        if not b.pools[pool][0]:
            for _ in range(draw(st.integers(0, 3))):
                b.node(pool, float(draw(st.integers(0, 8))), draw(st.sampled_from([4.0, 64.0])))
    for deployment in range(draw(st.integers(1, 3))):
        b.deployment(draw(st.integers(0, 2)), draw(st.integers(0, 6)))
        options = []
        for _ in range(draw(st.integers(0, 5))):
            gpus = draw(st.sampled_from([1, 2, 4]))
            pool = draw(st.integers(0, len(b.pools) - 1))
            options.append(
                b.option(
                    pool,
                    price=draw(st.sampled_from([0.0, 0.7, 1.0, 2.5])) * gpus,
                    gpus=gpus,
                    deployment=deployment,
                    pair=10 * deployment + 2 * pool + draw(st.integers(0, 1)),
                    capacity=draw(st.sampled_from([0.5, 0.85, 1.0])),
                    most=draw(st.integers(1, 5)),
                    cpus=draw(st.sampled_from([0.0, 1.5, 3.0])),
                    start=draw(st.sampled_from([0.0, 0.3])),
                    stop=draw(st.sampled_from([0.0, 0.2])),
                )
            )
        for _ in range(draw(st.integers(0, 3))):
            eligible = [option for option in options if draw(st.booleans())]
            values = st.sampled_from([0.5, 1.0, 2.0])
            b.traffic(
                {option: draw(st.one_of(st.just(0.0), st.floats(0.01, 4.0))) for option in eligible},
                deployment=deployment,
                rate=draw(st.sampled_from([0.0, 1.0, 100.0])),
                priority=draw(st.integers(0, 1)),
                limit=draw(st.sampled_from([0.0, 0.0, 0.2, 1.0])),
                penalty=draw(st.sampled_from([0.0, 0.01, 1.0])),
                latency_penalty=draw(st.sampled_from([0.0, 0.02])),
                delay_limit=draw(st.sampled_from([INFINITY, 1.0, 1.5])),
                error_limit=draw(st.sampled_from([INFINITY, 1.0, 1.5])),
                delays={option: draw(values) for option in eligible},
                errors={option: draw(values) for option in eligible},
            )
        for option in options:
            nodes = [n for n, node in enumerate(b.nodes) if node[0] == b.options[option]["pool"]]
            if draw(st.integers(0, 2)) == 0:
                b.running.append((option, draw(st.sampled_from([-1, *nodes])), draw(st.integers(1, 2))))
    return b.build()


@given(fleets())
@settings(max_examples=150, deadline=None)
def test_answers_are_feasible(problem: AllocationProblem) -> None:
    allocation = solve_greedy(problem)
    assert check(problem, allocation) == ()
    event(f"unserved: {bool((allocation.unserved > problem.class_unserved_limit + 1e-6).any())}")


@given(fleets())
@settings(max_examples=50, deadline=None)
def test_same_problem_same_answer(problem: AllocationProblem) -> None:
    first, second = solve_greedy(problem), solve_greedy(problem)
    for name in ("replicas", "share", "unserved", "packing"):
        assert getattr(first, name).tobytes() == getattr(second, name).tobytes()


@given(fleets())
@settings(max_examples=50, deadline=None)
def test_cost_by_another_formula(problem: AllocationProblem) -> None:
    allocation = solve_greedy(problem)
    running = dict.fromkeys(range(problem.options), 0)
    for option, _, count in problem.running.tolist():
        running[option] += count
    total = 0.0
    for option, count in enumerate(allocation.replicas.tolist()):
        more = count - running[option]
        total += count * problem.option_price_per_hour[option]
        total += more * problem.option_start_cost_per_hour[option] if more > 0 else 0.0
        total -= more * problem.option_stop_cost_per_hour[option] if more < 0 else 0.0
    for number, option, share, delay in zip(
        problem.pair_class, problem.pair_option, allocation.share, problem.pair_delay_seconds, strict=True
    ):
        assert option < problem.options
        penalty = problem.class_latency_penalty_per_request_second[number]
        total += penalty * problem.class_rate_per_hour[number] * delay * share
    for number, share in enumerate(allocation.unserved):
        total += problem.class_unserved_penalty_per_request[number] * problem.class_rate_per_hour[number] * share
    assert abs(total - allocation.cost.total) <= 1e-9 * max(1.0, abs(total))


def _unserved_beyond_limit(problem: AllocationProblem, allocation: Allocation) -> float:
    return float(np.maximum(allocation.unserved - problem.class_unserved_limit, 0.0).sum())


@st.composite
def single_class(draw: st.DrawFn, most_options: int = 3) -> AllocationProblem:
    """One class, up to three options, few nodes; loads are such that three replicas of an option may do."""
    b = Builder()
    for _ in range(draw(st.integers(1, 2))):
        b.pool([float(draw(st.integers(1, 6))) for _ in range(draw(st.integers(1, 2)))])
    loads = {}
    for _ in range(draw(st.integers(1, most_options))):
        gpus = draw(st.sampled_from([1, 2, 4]))
        pool = draw(st.integers(0, len(b.pools) - 1))
        option = b.option(
            pool,
            price=draw(st.floats(0.5, 4.0)),
            gpus=gpus,
            pair=2 * pool + draw(st.integers(0, 1)),
            most=3,
        )
        loads[option] = draw(st.floats(0.1, 6.0))
    b.deployment(0, draw(st.integers(1, 6)))
    b.traffic(loads)
    return b.build()


@given(single_class(), st.integers(0, 1), st.integers(1, 8))
@settings(max_examples=100, deadline=None)
def test_one_more_node_never_serves_less(problem: AllocationProblem, pool: int, gpus: int) -> None:
    pool = min(pool, len(problem.pool_unlimited) - 1)
    larger = replace(
        problem,
        node_pool=np.append(problem.node_pool, pool),
        node_free=np.vstack((problem.node_free, [[float(gpus), 1000.0, 1e15]])),
    )
    before = _unserved_beyond_limit(problem, solve_greedy(problem))
    assert _unserved_beyond_limit(larger, solve_greedy(larger)) <= before + 1e-6


def _packs(problem: AllocationProblem, replicas: tuple[int, ...]) -> bool:
    """Exact: does this number of replicas of each option fit on the nodes?"""
    sizes = sorted(
        (
            (int(problem.option_pool[n]), float(problem.option_demand[n, 0]))
            for n, count in enumerate(replicas)
            for _ in range(count)
        ),
        key=lambda item: -item[1],
    )

    def fits(index: int, free: list[float]) -> bool:
        if index == len(sizes):
            return True
        pool, gpus = sizes[index]
        for node in range(len(free)):
            if problem.node_pool[node] == pool and free[node] >= gpus:
                free[node] -= gpus
                if fits(index + 1, free):
                    return True
                free[node] += gpus
        return False

    return fits(0, problem.node_free[:, 0].tolist())


def _least_rents(problem: AllocationProblem) -> tuple[float, float]:
    """Brute force over up to three replicas per option: least rent that serves all, with one option and with any."""
    single = least = INFINITY
    for replicas in product(range(4), repeat=problem.options):
        served = sum(
            count * capacity / load
            for count, capacity, load in zip(
                replicas, problem.option_capacity[:, 0], problem.pair_load[:, 0], strict=True
            )
        )
        rent = float(np.dot(replicas, problem.option_price_per_hour))
        if served < 1.0 or (rent >= least and sum(map(bool, replicas)) > 1):
            continue
        if sum(replicas) > problem.deployment_max_replicas[0] or not _packs(problem, replicas):
            continue
        least = min(least, rent)
        if sum(map(bool, replicas)) == 1:
            single = min(single, rent)
    return single, least


@given(single_class())
@settings(max_examples=100, deadline=None)
def test_serves_everything_where_one_option_can(problem: AllocationProblem) -> None:
    single, least = _least_rents(problem)
    allocation = solve_greedy(problem)
    if single < INFINITY:
        assert _unserved_beyond_limit(problem, allocation) <= 1e-6
        assert allocation.cost.rental <= single + 1e-6
        event(f"gap to the optimum: {min(50, round(20 * (allocation.cost.rental / least - 1)) * 5)} %")


@given(fleets(), st.data())
@settings(max_examples=100, deadline=None)
def test_a_part_solved_again_fits_beside_the_rest(problem: AllocationProblem, data: st.DataObject) -> None:
    nothing_runs = replace(problem, running=np.zeros((0, 3), dtype=np.int64))
    answer = solve_greedy(nothing_runs)
    count = len(problem.deployment_min_replicas)
    chosen = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)), dtype=bool)
    part = subset(nothing_runs, answer, chosen)
    merged = part.merged(solve_greedy(part.problem))
    assert check(nothing_runs, merged) == ()
    others = ~chosen[problem.option_deployment]
    assert np.array_equal(merged.replicas[others], answer.replicas[others])
