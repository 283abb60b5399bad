"""Replicas of several pieces, limits of groups, spare replicas and limits per node, in small examples."""

from dataclasses import replace

import numpy as np
import pytest

from plimsoll.allocation import Allocation, AllocationProblem, Limit, check, full_pools, solve_adaptive, solve_greedy
from plimsoll.allocation.explain import Reason, alternatives, room
from plimsoll.allocation.problem import ANY_NUMBER
from tests.unit.allocation.builder import Builder

SOLVERS = {"greedy": solve_greedy, "adaptive": lambda problem: solve_adaptive(problem).allocation}


def kinds(problem: AllocationProblem, allocation: Allocation) -> set[str]:
    return {violation.kind for violation in check(problem, allocation)}


def changed(allocation: Allocation, **fields: list[list[int]] | list[int]) -> Allocation:
    return replace(allocation, **{name: np.array(value, dtype=np.int64) for name, value in fields.items()})


def over_two_nodes(free: list[float], *, replicas: float = 1.0, **others: float) -> AllocationProblem:
    """One option of two pieces with 8 GPUs each; traffic for so many replicas."""
    b = Builder()
    pool = b.pool(free)
    option = b.option(pool, price=16.0, gpus=8, nodes=2, **others)
    b.traffic({option: replicas}, penalty=10.0)
    return b.build()


@pytest.mark.parametrize("solver", SOLVERS)
def test_pieces_of_a_replica_lie_on_nodes_of_their_own_size(solver: str) -> None:
    problem = over_two_nodes([8, 8, 4])
    allocation = SOLVERS[solver](problem)
    assert check(problem, allocation) == ()
    assert allocation.replicas.tolist() == [1]
    assert sorted(allocation.packing.tolist()) == [[0, 0, 1], [0, 1, 1]]
    assert allocation.cost.rental == 16.0


@pytest.mark.parametrize("solver", SOLVERS)
def test_half_a_replica_serves_nobody(solver: str) -> None:
    allocation = SOLVERS[solver](over_two_nodes([8, 7]))
    assert allocation.replicas.tolist() == [0]
    assert allocation.unserved.tolist() == [1.0]


def test_pieces_of_one_replica_may_share_a_node() -> None:
    assert solve_greedy(over_two_nodes([16])).packing.tolist() == [[0, 0, 2]]


def test_a_replica_runs_when_all_its_pieces_do() -> None:
    problem = replace(over_two_nodes([8, 8, 8]), running=np.array([[0, 0, 1], [0, 1, 1], [0, 2, 1]], dtype=np.int64))
    assert problem.running_replicas().tolist() == [1]


def test_the_checker_counts_pieces_of_gpus_cores_and_memory() -> None:
    problem = over_two_nodes([8, 8], cpus=600.0)
    allocation = solve_greedy(problem)
    assert kinds(problem, changed(allocation, packing=[[0, 0, 1]])) == {"packing"}
    assert kinds(problem, changed(allocation, packing=[[0, 0, 2]])) == {"stock"}
    assert kinds(problem, allocation) == set()


def test_a_pools_limit_counts_the_gpus_of_whole_replicas() -> None:
    b = Builder()
    pool = b.pool([8, 8], gpu_limit=15.0)
    option = b.option(pool, gpus=8, nodes=2)
    b.traffic({option: 1.0})
    problem = b.build()
    assert solve_greedy(problem).replicas.tolist() == [0]


def test_room_and_full_pools_count_whole_replicas() -> None:
    problem = over_two_nodes([8, 8, 8])
    allocation = solve_greedy(problem)
    assert room(problem, allocation).tolist() == [0]
    assert full_pools(problem, allocation).tolist() == [True]


def two_tenants(limits: list[Limit], *, running: list[tuple[int, int, int]] | None = None) -> AllocationProblem:
    """Two deployments that want three replicas of one GPU each, on plenty of nodes."""
    b = Builder()
    pool = b.pool([8, 8])
    for deployment in (b.deployment(), b.deployment()):
        option = b.option(pool, price=2.0, deployment=deployment)
        b.traffic({option: 3.0}, deployment=deployment, penalty=10.0)
    b.limits = limits
    b.running = running or []
    return b.build()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("limit", [Limit(2.0, {0: 1.0}), Limit(5.0, {0: 2.0}, at_once=False)])
def test_a_limit_of_a_group_holds_for_its_members_only(solver: str, limit: Limit) -> None:
    problem = two_tenants([limit])
    allocation = SOLVERS[solver](problem)
    assert check(problem, allocation) == ()
    assert allocation.replicas.tolist() == [2, 3]
    assert kinds(problem, changed(allocation, replicas=[3, 3])) >= {"limit"}


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_limit_below_what_runs_stops_growth_and_removes_nothing(solver: str) -> None:
    problem = two_tenants([Limit(1.0, {0: 1.0, 1: 1.0})], running=[(0, 0, 2), (1, 1, 1)])
    allocation = SOLVERS[solver](problem)
    assert check(problem, allocation) == ()
    assert allocation.replicas.tolist() == [2, 1]


def test_a_quota_counts_what_runs_until_it_is_gone_and_money_does_not() -> None:
    """The move from a dear option to a cheap one needs both at once."""
    answers = []
    for at_once in (True, False):
        b = Builder()
        pool = b.pool([8])
        dear, cheap = b.option(pool, price=5.0), b.option(pool, price=1.0)
        b.traffic({dear: 1.0, cheap: 1.0})
        b.running = [(dear, 0, 1)]
        b.limits = [Limit(1.0, {dear: 1.0, cheap: 1.0}, at_once)]
        problem = b.build()
        allocation = solve_adaptive(problem).allocation
        assert check(problem, allocation) == ()
        answers.append(allocation.replicas.tolist())
    assert answers == [[1, 0], [0, 1]]


def test_what_a_limit_keeps_from_being_used_is_told() -> None:
    b = Builder()
    pool = b.pool([8])
    dear, cheap = b.option(pool, price=5.0), b.option(pool, price=1.0)
    b.traffic({dear: 1.0, cheap: 1.0})
    b.limits = [Limit(0.0, {cheap: 1.0})]
    problem = b.build()
    ((other,),) = alternatives(problem, solve_greedy(problem))
    assert (other.option, other.reason) == (cheap, Reason.LIMIT)


def spread_out(free: list[float], load: float, *, most: int, spare: int) -> AllocationProblem:
    b = Builder()
    pool = b.pool(free)
    option = b.option(pool, per_node=most, spare=spare)
    b.traffic({option: load}, penalty=10.0)
    return b.build()


@pytest.mark.parametrize("solver", SOLVERS)
def test_spare_replicas_carry_nothing_and_lie_on_other_nodes(solver: str) -> None:
    problem = spread_out([8, 8, 8], 1.5, most=1, spare=1)
    allocation = SOLVERS[solver](problem)
    assert check(problem, allocation) == ()
    assert allocation.replicas.tolist() == [3]
    assert sorted(allocation.packing.tolist()) == [[0, 0, 1], [0, 1, 1], [0, 2, 1]]


@pytest.mark.parametrize("solver", SOLVERS)
def test_where_nodes_are_few_less_is_served(solver: str) -> None:
    allocation = SOLVERS[solver](spread_out([8, 8], 2.0, most=1, spare=1))
    assert allocation.replicas.tolist() == [2]
    assert allocation.unserved == pytest.approx([0.5])


def test_the_checker_finds_too_few_spare_replicas_and_too_many_on_a_node() -> None:
    problem = spread_out([8, 8, 8], 1.0, most=1, spare=1)
    allocation = solve_greedy(problem)
    alone = changed(allocation, replicas=[1], packing=[[0, 0, 1]])
    assert {"spare", "capacity"} <= kinds(problem, alone)
    assert kinds(problem, changed(allocation, packing=[[0, 0, 2]])) == {"per-node"}


def test_what_runs_on_a_node_counts_to_its_limit() -> None:
    problem = replace(spread_out([8, 8], 2.0, most=2, spare=0), running=np.array([[0, 0, 2]], dtype=np.int64))
    problem = replace(problem, pair_load=np.array([[3.0]]), option_per_node=np.array([2]))
    assert sorted(solve_greedy(problem).packing.tolist()) == [[0, 0, 2], [0, 1, 1]]
    assert room(problem, solve_greedy(problem)).tolist() == [1]


def test_nothing_is_limited_unless_somebody_says_so() -> None:
    problem = over_two_nodes([8, 8])
    assert problem.option_per_node.tolist() == [ANY_NUMBER]
    assert problem.option_spare.tolist() == [0]
    assert len(problem.limit_capacity) == 0
