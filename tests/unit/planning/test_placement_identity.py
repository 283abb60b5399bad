"""Names of placements and digests of inputs."""

import re
from dataclasses import replace
from decimal import Decimal

import pytest

from plimsoll.api.placementpolicy import PlacementPolicy
from plimsoll.planning.digest import canonical, digest, inputs_digest
from tests.unit.planning.fleets import (
    GPU,
    LLAMA_70B,
    applied,
    deployment,
    exchanged,
    foreign_pod,
    node,
    nodes,
    objective,
    plan,
    plan_of,
    policy,
    pool,
    replicas,
    snapshot,
    traffic,
)


def names(*resources, count: int = 8) -> set[str]:
    return set(replicas(plan(snapshot(pool(), *resources, nodes=nodes(count)))))


def test_rate_replicas_and_shares_do_not_rename_a_placement():
    usual = names(deployment())
    assert names(deployment(rate=1000)) == usual
    assert names(deployment(placement={"replicas": {"min": 3}})) == usual
    assert names(deployment(placement={"replicas": {"min": 2, "max": 5}})) == usual
    assert names(deployment(), policy(headroom={"demand": "0.5"})) == usual
    assert names(deployment(routing={"vllmRouter": True})) == usual


def test_the_price_of_a_pool_and_the_number_of_nodes_do_not_rename_a_placement():
    usual = names(deployment())
    assert set(replicas(plan(snapshot(pool(per_hour="3"), deployment(), nodes=nodes(8))))) == usual
    assert names(deployment(), count=2) == usual


@pytest.mark.parametrize(
    "engine",
    [
        {"extraArgs": ["--enable-prefix-caching"]},
        {"maxModelLength": 8192},
        {"images": {"nvidia": "registry.example.com/vllm:1"}},
        {"env": [{"name": "A", "value": "b"}]},
        {"podTemplate": {"labels": {"team": "a"}}},
        {"modelCache": {"persistentVolumeClaim": {"claimName": "models"}}},
        {"huggingFaceTokenSecretRef": {"name": "hf", "key": "token"}},
    ],
    ids=lambda engine: next(iter(engine)),
)
def test_every_engine_change_renames_a_placement(engine):
    assert names(deployment(engine=engine)).isdisjoint(names(deployment()))


def test_new_tolerations_of_the_pool_rename_a_placement():
    tolerant = pool(tolerations=[{"key": "team", "operator": "Exists"}])
    assert set(replicas(plan(snapshot(tolerant, deployment(), nodes=nodes(8))))).isdisjoint(names(deployment()))


def test_a_new_class_renames_a_placement_since_it_is_served_under_a_name_of_its_own():
    more = [traffic(), traffic("batch", match={"headers": [{"name": "x", "value": "batch"}]})]
    assert names(deployment(traffic=more)).isdisjoint(names(deployment()))


def test_deployments_with_the_same_beginning_never_share_a_name():
    first, second = (f"customer-chat-of-europe-{region}" for region in ("east", "west"))
    assert names(deployment(first)).isdisjoint(names(deployment(second)))


@pytest.mark.parametrize("name", ["a", "a" * 52, "a-" * 25 + "a", "assistant"])
@pytest.mark.parametrize("pool_name", ["p", "l40s-" + "x" * 58, "l40s-" + "y-" * 28 + "y"])
@pytest.mark.parametrize("model", [LLAMA_70B, "mistralai/Mixtral-8x7B-Instruct-v0.1"])
def test_the_longest_names_are_dns_labels_of_52_characters_at_most(name, pool_name, model):
    big = pool(pool_name, "H100-SXM-80GB", "2.50")
    facts = snapshot(big, deployment(name, model=model), nodes=nodes(1, "H100-SXM-80GB", 8))
    found = list(replicas(plan(facts)))
    assert found
    for item in found:
        assert len(item) <= 52
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", item)


def test_the_name_says_owner_model_precision_pool_and_parallelism():
    (only,) = names(deployment())
    assert re.fullmatch(r"assistant-llama-3-1-8b-bf16-l40s-t1p1-[0-9a-f]{6}", only)


# --- Digests ----------------------------------------------------------------------------------------------------------


def facts():
    before = snapshot(
        pool(), objective(), policy(), deployment(slo="interactive"), nodes=nodes(2), pods=[foreign_pod("l40s-1", 1)]
    )
    return applied(before, plan(before))


def test_equal_facts_have_equal_digests():
    assert inputs_digest(facts()) == inputs_digest(facts()) == plan(facts()).digest


def test_readiness_names_and_order_of_pods_do_not_count():
    usual = facts()
    restarted = tuple(
        replace(pod, uid=f"{pod.uid}-2", name=f"{pod.name}-2", ready=not pod.ready) for pod in reversed(usual.pods)
    )
    waiting = tuple(replace(item, ready_replicas=0) for item in usual.workloads)
    assert inputs_digest(replace(usual, pods=restarted, workloads=waiting)) == inputs_digest(usual)


def test_status_and_metadata_that_the_server_writes_do_not_count():
    usual = facts()
    seen = tuple(
        item.model_copy(
            update={"metadata": item.metadata.model_copy(update={"resource_version": "7", "generation": 3})}
        )
        for item in usual.deployments
    )
    assert inputs_digest(replace(usual, deployments=seen)) == inputs_digest(usual)


@pytest.mark.parametrize(
    "change",
    [
        lambda usual: exchanged(usual, deployment(rate=121, slo="interactive")),
        lambda usual: exchanged(usual, objective(ttft=1999)),
        lambda usual: exchanged(usual, pool(per_hour="1.11")),
        lambda usual: exchanged(usual, policy(budget={"perHour": "9"})),
        lambda usual: replace(usual, nodes=(*usual.nodes, node("l40s-9"))),
        lambda usual: replace(usual, pods=(*usual.pods, foreign_pod("l40s-0", 1))),
        lambda usual: replace(usual, pods=tuple(replace(pod, deleting=True) for pod in usual.pods)),
        lambda usual: replace(usual, workloads=()),
        lambda usual: replace(usual, nodes=None),
    ],
    ids=["rate", "slo", "price", "policy", "node", "pod", "deleting", "workload", "stock unknown"],
)
def test_whatever_the_decision_depends_on_counts(change):
    assert inputs_digest(change(facts())) != inputs_digest(facts())


def test_the_implied_policy_and_the_absent_one_decide_the_same():
    usual = facts()
    implied = replace(usual, policy=PlacementPolicy.implied())
    assert plan_of(plan(implied)).placements == plan_of(plan(replace(usual, policy=None))).placements


def test_values_without_a_canonical_form_are_refused():
    with pytest.raises(TypeError, match="set"):
        canonical({1, 2})


def test_the_order_of_mapping_keys_does_not_count():
    assert digest({"a": 1, "b": Decimal("1.5")}) == digest({"b": Decimal("1.5"), "a": 1})
    assert digest({GPU: 1}) != digest({GPU: 2})
