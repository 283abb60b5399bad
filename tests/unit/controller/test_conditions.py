"""Conditions: times move with the status, and only changes are told."""

from datetime import UTC, datetime

import pytest

from plimsoll.api import Condition
from plimsoll.controller.conditions import Aspect, build, changed

THEN, NOW = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)


def ready(status, reason="Serving", message="all is well"):
    return Aspect("Ready", status, reason, message)


def test_a_new_condition_gets_the_present_time():
    (condition,) = build([ready("True")], (), 3, NOW)
    assert condition.last_transition_time == NOW
    assert condition.observed_generation == 3


def test_the_time_stays_while_the_status_stays():
    before = build([ready("False", "WaitingForPods", "0 of 2")], (), 1, THEN)
    (after,) = build([ready("False", "NoCapacity", "none")], before, 2, NOW)
    assert after.last_transition_time == THEN
    assert (after.reason, after.observed_generation) == ("NoCapacity", 2)


def test_the_time_moves_with_the_status():
    before = build([ready("False")], (), 1, THEN)
    (after,) = build([ready("True")], before, 1, NOW)
    assert after.last_transition_time == NOW


def test_a_condition_that_is_no_longer_set_goes():
    before = build([ready("False"), Aspect("Stalled", "True", "Invalid", "x")], (), 1, THEN)
    assert [c.type for c in build([ready("True")], before, 1, NOW)] == ["Ready"]


def test_only_status_and_reason_count_as_a_change():
    before = build([ready("True", message="5 pods")], (), 1, THEN)
    assert changed(before, build([ready("True", message="6 pods")], before, 1, NOW)) == ()
    assert len(changed(before, build([ready("False", "Down")], before, 1, NOW))) == 1


def test_a_long_message_is_cut():
    (condition,) = build([ready("True", message="x" * 5000)], (), 1, NOW)
    assert len(condition.message) == 2000


@pytest.mark.parametrize(("type_", "told"), [("Planned", True), ("Rebalancing", False)])
def test_another_decision_is_told_though_the_reason_is_the_same(type_, told):
    before, after = (
        Condition(type=type_, status="True", reason="Same", message=message, last_transition_time=NOW)
        for message in ("1 placement", "2 placements")
    )
    assert bool(changed([before], [after])) is told
