"""What a planning round decides, by behaviour."""

import pytest
import yaml

from plimsoll.api.parse import parse
from plimsoll.planning import Evaluator, plan_fleet
from plimsoll.planning.plan import DeploymentState
from tests.unit.planning.fleets import (
    deployment,
    nodes,
    plan,
    plan_of,
    pool,
    snapshot,
)

SMALLEST = """
apiVersion: plimsoll.dev/v1alpha1
kind: GPUNodePool
metadata: {name: l40s}
spec:
  accelerator: L40S
  price: {perHour: "1.10"}
---
apiVersion: plimsoll.dev/v1alpha1
kind: LLMDeployment
metadata: {name: assistant, namespace: chat}
spec:
  models: [{name: meta-llama/Llama-3.1-8B-Instruct}]
  traffic: [{name: default, requestsPerMinute: 120, tokens: {input: 1000, output: 250}}]
"""


def test_the_smallest_useful_input_is_planned():
    fleet = plan(snapshot(*map(parse, yaml.safe_load_all(SMALLEST)), nodes=nodes(1)))
    (only,) = fleet.deployments
    assert only.state is DeploymentState.PLANNED
    assert [(item.option.pool, item.option.precision) for item in only.placements] == [("l40s", "bf16")]
    assert only.classes[0].unserved == 0
    assert {figure.metric for figure in only.classes[0].latency} == {"ttft", "tpot", "endToEnd"}
    assert all(
        figure.predicted_milliseconds <= figure.target_milliseconds
        for figure in only.classes[0].latency
        if figure.target_milliseconds is not None
    )
    assert fleet.all_findings() == ()
    assert fleet.cost_per_hour == pytest.approx(1.10 * only.gpus)


def test_bursty_traffic_gets_more_replicas_and_is_part_of_the_digest():
    def planned(arrivals: str):
        text = SMALLEST.replace("requestsPerMinute: 120", f"requestsPerMinute: 6000{arrivals}")
        return plan(snapshot(*map(parse, yaml.safe_load_all(text)), nodes=nodes(30)))

    plain, poisson, bursty = map(planned, ("", ', arrivals: {burstiness: "1"}', ', arrivals: {burstiness: "4"}'))
    counts = [sum(item.replicas for item in fleet.deployments[0].placements) for fleet in (plain, poisson, bursty)]
    assert counts[0] == counts[1] < counts[2]
    assert bursty.digest != poisson.digest
    for fleet in (poisson, bursty):
        for figure in fleet.deployments[0].classes[0].latency:
            assert figure.target_milliseconds is None or figure.predicted_milliseconds <= figure.target_milliseconds


def test_a_plan_does_not_depend_on_what_the_evaluator_remembers():
    facts = snapshot(pool(), deployment(), nodes=nodes(2))
    assert plan_fleet(facts) == plan_fleet(facts, Evaluator()) == plan(facts)


def test_an_empty_fleet_is_an_empty_plan():
    fleet = plan(snapshot())
    assert (fleet.deployments, fleet.pools, fleet.cost_per_hour) == ((), (), 0)


def test_the_cheapest_pool_that_meets_the_objectives_is_used():
    facts = snapshot(
        pool(), pool("h100", "H100-SXM-80GB", "2.50"), deployment(), nodes=[*nodes(2), *nodes(1, "H100-SXM-80GB", 8)]
    )
    assert [item.option.pool for item in plan_of(plan(facts)).placements] == ["l40s"]


def test_capacity_at_spot_prices_is_charged_at_spot_prices():
    spot = pool(capacityType="Spot", price={"perHour": "1.10", "spotPerHour": "0.40"})
    fleet = plan(snapshot(spot, deployment(), nodes=nodes(1)))
    assert fleet.cost_per_hour == pytest.approx(0.40 * plan_of(fleet).gpus)
