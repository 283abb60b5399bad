"""Pausing by annotation: what is paused is held with its GPUs, and the plan says why."""

import pytest

from plimsoll.api.common import Resource
from plimsoll.planning import plan_fleet
from plimsoll.planning.digest import inputs_digest
from plimsoll.planning.plan import DeploymentState, Finding, FleetPlan, Severity
from tests.unit.planning.fleets import deployment, nodes, policy, pool, snapshot

HELD, PLANNED = DeploymentState.HELD, DeploymentState.PLANNED


def annotated(resource: Resource, value: str) -> Resource:
    annotations = {"plimsoll.dev/paused": value}
    return resource.model_copy(update={"metadata": resource.metadata.model_copy(update={"annotations": annotations})})


def state(fleet: FleetPlan, name: str) -> DeploymentState:
    return next(plan.state for plan in fleet.deployments if plan.resource.name == name)


def findings(fleet: FleetPlan, kind: str) -> list[Finding]:
    return [item for item in fleet.all_findings() if item.object.kind == kind]


def test_a_paused_deployment_is_held_and_the_others_are_planned() -> None:
    paused = annotated(deployment("first"), "true")
    fleet = plan_fleet(snapshot(pool(), paused, deployment("second"), nodes=nodes(2)))
    assert (state(fleet, "first"), state(fleet, "second")) == (HELD, PLANNED)
    (found,) = findings(fleet, "LLMDeployment")
    assert (found.object.name, found.reason) == ("first", "Paused")
    assert found.severity is Severity.WARNING, "nothing is wrong with it"


def test_false_is_as_good_as_no_annotation() -> None:
    fleet = plan_fleet(snapshot(pool(), annotated(deployment(), "false"), nodes=nodes(2)))
    assert state(fleet, "assistant") is PLANNED


def test_a_paused_policy_holds_all() -> None:
    paused = annotated(policy(), "true")
    fleet = plan_fleet(snapshot(pool(), paused, deployment("first"), deployment("second"), nodes=nodes(2)))
    assert {plan.state for plan in fleet.deployments} == {HELD}
    assert {item.reason for item in findings(fleet, "LLMDeployment")} == {"Paused"}


@pytest.mark.parametrize("value", ["True", "yes", "", "1"])
def test_a_value_that_cannot_be_read_pauses_and_is_told(value: str) -> None:
    fleet = plan_fleet(snapshot(pool(), annotated(deployment(), value), nodes=nodes(2)))
    assert state(fleet, "assistant") is HELD
    (found,) = findings(fleet, "LLMDeployment")
    assert found.reason == "PausedInvalid"
    assert f'"{value}": must be "true" or "false"' in found.message

    fleet = plan_fleet(snapshot(pool(), annotated(policy(), value), deployment(), nodes=nodes(2)))
    assert state(fleet, "assistant") is HELD
    (found,) = findings(fleet, "PlacementPolicy")
    assert (found.reason, found.field) == ("PausedInvalid", "metadata.annotations[plimsoll.dev/paused]")


def test_pausing_is_part_of_what_a_plan_depends_on() -> None:
    free, paused = (snapshot(pool(), item) for item in (deployment(), annotated(deployment(), "true")))
    assert inputs_digest(free) != inputs_digest(paused)
    assert inputs_digest(free) == inputs_digest(snapshot(pool(), annotated(deployment(), "false")))
