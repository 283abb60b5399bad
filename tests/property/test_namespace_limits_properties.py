"""Random fleets under random tenants and quotas: no plan grows beyond a limit, and a plan that is applied is kept."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plimsoll.api.placementpolicy import PlacementPolicySpec
from plimsoll.api.tenants import Tenant
from plimsoll.planning.plan import FleetPlan
from plimsoll.planning.snapshot import Snapshot
from tests.property.test_planning_properties import MINIMAL_SAVING, fleets, placed
from tests.unit.planning.fleets import GPU, decision, plan, policy
from tests.unit.planning.test_quotas import pod, quota

FEW = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
ENTRIES = ("requests.nvidia.com/gpu", "pods", "cpu", "requests.memory")
GIB = 2**30


@st.composite
def bounded(draw: st.DrawFn) -> Snapshot:
    """A fleet with up to two tenants, a quota and somebody else's pod in the LLMDeployments' namespace."""
    facts = draw(fleets())
    tenants = [
        Tenant.model_validate(
            {
                "name": f"tenant-{number}",
                "namespaceSelector": {},
                "maxGPUs": draw(st.integers(0, 12)),
                "budgetPerHour": draw(st.sampled_from(["1", "5", "50"])),
            }
        )
        for number in range(draw(st.integers(0, 2)))
    ]
    rules = facts.policy or policy()
    spec: PlacementPolicySpec = rules.spec.model_copy(update={"tenants": tuple(tenants)})
    entry = draw(st.sampled_from(ENTRIES))
    hard = {"requests.nvidia.com/gpu": 8, "pods": 6, "cpu": 60, "requests.memory": 400 * GIB}[entry]
    quotas = (quota(hard={entry: str(draw(st.integers(0, hard)))}),)
    others = (pod("other", **{GPU: float(draw(st.integers(0, 2))), "cpu": 2.0, "memory": 4.0 * GIB}),)
    bounded_policy = rules.model_copy(update={"spec": spec})
    return replace(facts, policy=bounded_policy, quotas=quotas, pods=(*facts.pods, *others))


def used(fleet: FleetPlan, entry: str) -> float:
    """What the planned replicas take of an entry of a quota, reckoned from the options."""
    total = 0.0
    for item in (placement for plan_ in fleet.deployments for placement in plan_.placements):
        option = item.option
        each = {
            "requests.nvidia.com/gpu": float(option.parallelism.gpus),
            "pods": 1.0,
            "cpu": option.host.cpu_cores,
            "requests.memory": float(option.host.memory_bytes),
        }[entry]
        total += item.replicas * each
    return total


@FEW
@given(bounded())
def test_no_plan_grows_beyond_a_tenants_limits(facts: Snapshot) -> None:
    fleet = plan(facts)
    gpus = sum(item.gpus for item in fleet.deployments)
    rent = sum(item.price_per_hour for plan_ in fleet.deployments for item in plan_.placements)
    assert facts.policy is not None
    for tenant in facts.policy.spec.tenants:
        assert tenant.max_gpus is not None
        assert gpus <= tenant.max_gpus
        assert rent <= float(tenant.budget_per_hour or 0) + 1e-6


@FEW
@given(bounded())
def test_no_plan_asks_for_more_than_a_quota_admits_beside_others(facts: Snapshot) -> None:
    fleet = plan(facts)
    (limits,) = facts.quotas
    ((entry, hard),) = limits.hard.items()
    (other,) = [item for item in facts.pods if item.name == "other"]
    theirs = {"requests.nvidia.com/gpu": other.requests[GPU], "pods": 1.0, "cpu": 2.0, "requests.memory": 4.0 * GIB}[
        entry
    ]
    assert used(fleet, entry) <= max(0.0, hard - theirs) + 1e-6


@FEW
@given(bounded())
def test_a_plan_that_was_applied_is_its_own_plan_unless_another_saves_much(facts: Snapshot) -> None:
    first = plan(facts)
    after = placed(facts, first)
    if after is None:
        return
    second = plan(after)
    assert (
        decision(second) == decision(first) or second.cost_per_hour < (1 - MINIMAL_SAVING) * first.cost_per_hour + 1e-6
    )
