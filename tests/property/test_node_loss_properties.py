"""Whatever node is lost, the survivors of a plan that keeps spare replicas serve all traffic, wherever pods lie."""

from itertools import product

import numpy as np
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from plimsoll.allocation import Allocation, AllocationProblem, check, solve_greedy
from plimsoll.allocation.exact import solve_exact
from plimsoll.api.placementpolicy import Availability
from plimsoll.planning.fleet import USABLE_TIME
from plimsoll.planning.plan import DeploymentState
from plimsoll.planning.snapshot import Snapshot
from tests.property.test_planning_properties import fleets as planned_fleets
from tests.property.test_planning_properties import placed
from tests.unit.allocation.builder import Builder
from tests.unit.planning.fleets import exchanged, plan, policy


@st.composite
def tolerant(draw: st.DrawFn) -> AllocationProblem:
    """Fleets in which every option keeps as many replicas spare as one node may hold pieces of it."""
    b = Builder(keep_running=draw(st.booleans()))
    for _ in range(draw(st.integers(1, 2))):
        b.pool([float(draw(st.integers(1, 8))) for _ in range(draw(st.integers(1, 4)))])
    for deployment in range(draw(st.integers(1, 2))):
        b.deployment(draw(st.integers(0, 2)), 12)
        options = [
            b.option(
                draw(st.integers(0, len(b.pools) - 1)),
                price=draw(st.sampled_from([0.7, 1.0, 2.5])),
                gpus=draw(st.sampled_from([1, 2, 4])),
                nodes=draw(st.sampled_from([1, 1, 2])),
                deployment=deployment,
                per_node=(most := draw(st.integers(1, 3))),
                spare=most,
            )
            for _ in range(draw(st.integers(1, 3)))
        ]
        for _ in range(draw(st.integers(1, 2))):
            b.traffic(
                {option: draw(st.floats(0.05, 3.0)) for option in options if draw(st.integers(0, 3))},
                deployment=deployment,
                limit=draw(st.sampled_from([0.0, 0.0, 0.25])),
                penalty=10.0,
            )
    return b.build()


def beyond(problem: AllocationProblem, replicas: list[int], limit: np.ndarray) -> float:
    """Least sum of what these replicas leave unserved beyond the limit, as shares of the classes."""
    pairs, classes = problem.pairs, problem.classes
    cost = np.concatenate([np.zeros(pairs + classes), np.ones(classes)])
    demand = np.zeros((classes, pairs + 2 * classes))
    demand[problem.pair_class, np.arange(pairs)] = 1.0
    demand[np.arange(classes), pairs + np.arange(classes)] = 1.0
    demand[np.arange(classes), pairs + classes + np.arange(classes)] = 1.0
    load = np.zeros((problem.options, pairs + 2 * classes))
    load[problem.pair_option, np.arange(pairs)] = problem.pair_load[:, 0]
    bounds = [(0.0, 1.0)] * pairs + [(0.0, float(most)) for most in limit] + [(0.0, 1.0)] * classes
    room = problem.option_capacity[:, 0] * replicas
    result = linprog(cost, load, room, demand, np.ones(classes), bounds=bounds, method="highs")
    assert result.status == 0
    return float(result.fun)


def losses(problem: AllocationProblem, replicas: list[int], node: int, pieces: dict[tuple[int, int], int]) -> list[int]:
    """Replicas left once the node is gone: every piece there belonged to another replica, at worst."""
    return [max(0, count - pieces.get((option, node), 0)) for option, count in enumerate(replicas)]


def assert_survives(problem: AllocationProblem, allocation: Allocation, pieces: dict[tuple[int, int], int]) -> None:
    """No class has more unserved than its limit or, where stock was short before, than it had."""
    limit = np.maximum(problem.class_unserved_limit, allocation.unserved)
    for node in range(len(problem.node_pool)):
        left = losses(problem, allocation.replicas.tolist(), node, pieces)
        assert beyond(problem, left, limit) <= 1e-6, (node, left)


@given(tolerant())
@settings(max_examples=30, deadline=None)
def test_every_node_of_the_packing_can_be_lost(problem: AllocationProblem) -> None:
    for allocation in (solve_greedy(problem), solve_exact(problem).allocation):
        assert check(problem, allocation) == ()
        pieces = {(option, node): count for option, node, count in allocation.packing.tolist()}
        assert_survives(problem, allocation, pieces)
        event(f"serves: {bool((allocation.unserved < 1).any())}")


@given(tolerant(), st.randoms(use_true_random=False))
@settings(max_examples=20, deadline=None)
def test_every_node_can_be_lost_wherever_a_scheduler_puts_the_pods(problem: AllocationProblem, random: object) -> None:
    """Pods go to any node of their pool that has not its full number of them; what it has free is not looked at."""
    allocation = solve_greedy(problem)
    pieces: dict[tuple[int, int], int] = {}
    for option, count in enumerate(allocation.replicas.tolist()):
        for _ in range(count * int(problem.option_nodes[option])):
            nodes = [
                node
                for node in np.flatnonzero(problem.node_pool == problem.option_pool[option]).tolist()
                if pieces.get((option, node), 0) < problem.option_per_node[option]
            ]
            chosen = random.choice(nodes)
            pieces[option, chosen] = pieces.get((option, chosen), 0) + 1
    assert_survives(problem, allocation, pieces)


@given(planned_fleets())
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_plans_without_a_warning_survive_every_node(facts: Snapshot) -> None:
    """Each placement alone carries what it is planned to carry, whichever node is gone."""
    before = facts.policy if facts.policy is not None else policy()
    spec = before.spec.model_copy(update={"availability": Availability(tolerate_node_loss=1)})
    facts = exchanged(facts, before.model_copy(update={"spec": spec}))
    fleet = plan(facts)
    after = placed(facts, fleet)
    if after is None:
        return
    warned = {item.object for item in fleet.all_findings() if item.reason == "NodeLossNotTolerated"}
    for item in fleet.deployments:
        if item.state is not DeploymentState.PLANNED or item.ref in warned:
            continue
        event("survives")
        for node, part in product(after.nodes or (), item.placements):
            own = [pod for pod in after.pods if (pod.namespace, pod.placement) == (item.ref.namespace, part.name)]
            left = part.replicas - sum(pod.node == node.name for pod in own)
            assert part.utilization * part.replicas <= USABLE_TIME * max(0, left) + 1e-6
