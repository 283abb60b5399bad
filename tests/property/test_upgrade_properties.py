"""Random small fleets under two releases of Plimsoll: the new one decides as the old one would have gone on."""

from dataclasses import replace

import pytest
from hypothesis import given, settings

from plimsoll.planning import Evaluator, identity, images, keeping, plan_fleet, renewal
from plimsoll.planning.plan import FleetPlan
from plimsoll.planning.snapshot import Made, Snapshot
from tests.property.test_planning_properties import FEW, fleets, placed
from tests.unit.planning.fleets import decision

OLD = "example.com/vllm:old"


def _under_the_old_release(facts: Snapshot) -> FleetPlan:
    with pytest.MonkeyPatch.context() as patch:
        for module in (keeping, renewal):
            patch.setattr(module, "__version__", "0.0.1")
        patch.setattr(images, "PINNED", {"nvidia": OLD})
        patch.setattr(identity, "TEMPLATE_RELEASE", 0)
        return plan_fleet(facts, Evaluator())


def _recorded(facts: Snapshot, fleet: FleetPlan) -> Snapshot:
    """The workloads as they say how they were made."""
    made = {
        (plan.ref.namespace, item.name): Made(
            "0.0.1",
            item.asked,
            item.option.image,
            item.option.checkpoint,
            item.option.host.cpu_cores,
            item.option.host.memory_bytes,
        )
        for plan in fleet.deployments
        for item in plan.placements
    }
    workloads = tuple(replace(item, made=made.get((item.namespace, item.name))) for item in facts.workloads)
    return replace(facts, workloads=workloads)


@given(fleets())
@settings(FEW, max_examples=10)
def test_the_new_release_decides_as_the_old_one_would_have_gone_on(facts: Snapshot) -> None:
    first = _under_the_old_release(facts)
    after = placed(facts, first)
    if after is None:
        return
    after = _recorded(after, first)
    new = plan_fleet(after, Evaluator())
    assert decision(new) == decision(_under_the_old_release(after))
    running = {(item.namespace, item.name) for item in after.workloads}
    for plan in new.deployments:
        for item in plan.placements:
            if (plan.ref.namespace, item.name) in running:
                assert (item.made_by, item.option.image) == ("0.0.1", OLD)
