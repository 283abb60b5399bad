"""Chained LLMDeployments, planned from files."""

import pytest

from plimsoll.api.gpunodepool import GPUNodePool
from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.api.placementpolicy import PlacementPolicy
from plimsoll.chains import check
from plimsoll.planning.chained_fleet import plan_chained
from plimsoll.planning.plan import DeploymentState
from plimsoll.planning.snapshot import Snapshot

API = "plimsoll.dev/v1alpha1"
MODEL = "meta-llama/Llama-3.3-70B-Instruct"


def pool(name, region, accelerator="L4", nodes=5, price="0.70"):
    return GPUNodePool.model_validate(
        {
            "apiVersion": API,
            "kind": "GPUNodePool",
            "metadata": {"name": name},
            "spec": {
                "accelerator": accelerator,
                "gpusPerNode": 1,
                "nodes": {"max": nodes},
                "price": {"perHour": price},
                "location": {"region": region},
            },
        }
    )


def deployment(name="assistant", per_minute=20, origins=("us-east",), mode="Chained"):
    traffic = {"name": "chat", "requestsPerMinute": per_minute, "tokens": {"input": 400, "output": 150}}
    if mode == "Chained":
        traffic["origins"] = [{"region": region, "share": "1"} for region in origins]
    precisions = [{"name": "int4", "checkpoint": "example/Llama-3.3-70B-AWQ"}]
    return LLMDeployment.model_validate(
        {
            "apiVersion": API,
            "kind": "LLMDeployment",
            "metadata": {"name": name, "namespace": "chat"},
            "spec": {
                "models": [{"name": MODEL, "precisions": precisions}],
                "traffic": [traffic],
                "placement": {"mode": mode},
            },
        }
    )


POLICY = PlacementPolicy.model_validate(
    {
        "apiVersion": API,
        "kind": "PlacementPolicy",
        "metadata": {"name": "default"},
        "spec": {
            "network": {"roundTripMilliseconds": [{"region": "us-east", "peer": "us-west", "milliseconds": 62}]},
            "defaultSLO": {
                "ttft": {"statistic": "Percentile", "percentile": 95, "milliseconds": 8000},
                "tpot": {"statistic": "Mean", "milliseconds": 600},
            },
        },
    }
)


def snapshot(*deployments, pools=None, policy=POLICY):
    pools = pools or (pool("east", "us-east"), pool("west", "us-west", price="0.60"))
    return Snapshot(deployments=deployments, pools=tuple(pools), policy=policy, nodes=None)


@pytest.fixture(scope="module")
def few():
    return plan_chained(snapshot(deployment(), deployment("other", mode="Replicated")))


@pytest.fixture(scope="module")
def many():
    return plan_chained(snapshot(deployment(per_minute=2000)))


def test_the_cheapest_servers_that_carry_the_load_hold_the_model(few):
    assert few.failed == ()
    plan = few.plans[0]
    assert plan.served == 1.0
    assert check(plan.problem, plan.chosen.placement) == []
    assert plan.chosen.placement.covers(80)
    assert {plan.servers[server].pool for server in plan.chosen.servers} == {"west"}
    assert plan.chosen.price_per_hour == pytest.approx(0.6 * len(plan.chosen.servers))
    for chain in plan.chosen.chains:
        first, per_token = plan.chain_seconds(chain, 0)
        assert first <= 8.0
        assert per_token <= 0.6


def test_the_rest_of_the_fleet_gets_what_is_left(few):
    assert [one.name for one in few.rest.deployments] == ["other"]


def test_equal_snapshots_give_equal_plans(few):
    one, other = few.plans[0], plan_chained(snapshot(deployment())).plans[0]
    assert one.chosen.servers == other.chosen.servers
    assert one.chosen.chains == other.chosen.chains


def test_what_cannot_be_carried_is_said(many):
    plan = many.deployments[0]
    assert plan.state is DeploymentState.SHORT
    assert plan.chains, "grown as far as possible"
    assert plan.classes[0].unserved > 0.9
    (finding,) = plan.findings
    assert finding.reason == "InsufficientCapacity"
    assert "of 2200.0 planned requests per minute" in finding.message


def test_too_few_nodes_are_told():
    found = plan_chained(snapshot(deployment(), pools=(pool("east", "us-east", nodes=1),)))
    assert found.plans == ()
    assert [finding.reason for finding in found.failed] == ["InsufficientCapacity"]
    assert "1 free nodes (1 GPUs)" in found.failed[0].message


def test_an_unknown_distance_is_asked_for():
    found = plan_chained(snapshot(deployment(origins=("ap-south",))))
    assert found.plans == ()
    assert {finding.reason for finding in found.failed} == {"RoundTripUnknown"}
    assert "ap-south and us-east" in "".join(finding.message for finding in found.failed)


def test_unknown_nodes_are_asked_for():
    endless = GPUNodePool.model_validate(
        {
            "apiVersion": API,
            "kind": "GPUNodePool",
            "metadata": {"name": "east"},
            "spec": {"accelerator": "L4", "price": {"perHour": "0.70"}, "location": {"region": "us-east"}},
        }
    )
    found = plan_chained(snapshot(deployment(), pools=(endless,)))
    assert [finding.reason for finding in found.failed] == ["NodesUnknown"]


def test_declared_nodes_are_given_once():
    found = plan_chained(snapshot(deployment("one", per_minute=5), deployment("other", per_minute=5)))
    taken = {
        name: sum(item.option.pool == name for plan in found.deployments for item in plan.placements)
        for name in ("east", "west")
    }
    assert [len(plan.chains) for plan in found.deployments] == [1, 1]
    assert max(taken.values()) <= 5
