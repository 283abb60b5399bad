"""Budget and storage limits of a fleet that runs: what was promised stays served, and money is spent once."""

from collections.abc import Mapping

import pytest

from plimsoll.planning import step_for
from plimsoll.planning.plan import DeploymentState, FleetPlan
from plimsoll.planning.snapshot import Snapshot
from plimsoll.planning.transition import ObservedRouting
from tests.unit.planning.fleets import (
    QWEN_7B,
    applied,
    deployment,
    exchanged,
    finding,
    nodes,
    objective,
    plan,
    plan_of,
    policy,
    pool,
    snapshot,
    spending,
    stored_gib,
)

ALGORITHMS = ("Adaptive", "Greedy", "Exact")
ONE_GPU = {"placement": {"parallelism": {"tensor": [1], "pipeline": [1]}}}
URGENT, USUAL = objective("urgent", priority=5), objective("usual")


def with_newcomer(algorithm: str, rate: int, **limits: Mapping[str, object]) -> tuple[Snapshot, FleetPlan, Snapshot]:
    """A fleet that runs, its plan, and the fleet with a more urgent LLMDeployment that wants more than is left."""
    old = deployment("old", rate=900, slo="usual", **ONE_GPU)
    facts = snapshot(pool(), policy(algorithm=algorithm, **limits), URGENT, USUAL, old, nodes=nodes(8))
    first = plan(facts)
    running = applied(facts, first)
    return running, first, exchanged(running, deployment("new", rate=rate, slo="urgent", model=QWEN_7B, **ONE_GPU))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("rate", [300, 700])
def test_a_more_urgent_newcomer_takes_no_money_from_what_keeps_running(algorithm, rate):
    running, first, asked = with_newcomer(algorithm, rate, budget={"perHour": "9"})
    second = plan(asked)
    assert plan_of(first, "old").state is plan_of(second, "old").state is DeploymentState.PLANNED
    assert sum(item.replicas for item in plan_of(second, "new").placements) == 2  # what 9 less 6 pods at 1.10 pays for
    assert spending(applied(asked, second)) <= 9
    own = [item for item in running.workloads if item.deployment == "old"]
    routed = step_for(plan_of(first, "old"), own, None, 0.0).routing
    step = step_for(plan_of(second, "old"), own, ObservedRouting(routed, 1000.0), 0.0)
    assert [item.admitted_requests_per_minute for item in step.routing.classes] == [900]
    assert dict(step.replicas) == {item.name: item.replicas for item in own}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_a_plan_costs_is_what_runs_once_it_is_applied(algorithm):
    _, _, asked = with_newcomer(algorithm, 300, budget={"perHour": "7"})
    for _ in range(3):
        fleet = plan(asked)
        asked = applied(asked, fleet)
        assert spending(asked) == pytest.approx(fleet.cost_per_hour)
        assert spending(asked) <= 7
    assert plan_of(fleet, "old").classes[0].unserved == 0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_more_urgent_newcomer_takes_no_storage_from_what_keeps_running(algorithm):
    running, _, asked = with_newcomer(algorithm, 300, storage={"limitGiB": 20})
    fleet = plan(asked)
    assert plan_of(fleet, "old").classes[0].unserved == 0
    assert plan_of(fleet, "new").state is DeploymentState.SHORT
    assert stored_gib(applied(asked, fleet)) == stored_gib(running)
    finding(fleet, "StorageLimitReached", "new")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_money_that_one_gives_back_is_another_s_in_the_same_round(algorithm):
    _, _, asked = with_newcomer(algorithm, 300, budget={"perHour": "6.60"})
    less = exchanged(asked, deployment("old", rate=300, slo="usual", **ONE_GPU))
    fleet = plan(less)
    assert [item.state for item in fleet.deployments] == [DeploymentState.PLANNED] * 2
    assert spending(applied(less, fleet)) <= 6.60
