"""How old a routing document is, whatever the wall clock does."""

from datetime import UTC, datetime, timedelta

from plimsoll.controller.routing_age import RoutingAges

KEY = ("chat", "assistant")
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def test_a_new_operator_believes_the_document():
    assert RoutingAges().age_seconds(KEY, 3, NOON - HOUR, NOON, 50.0) == 3600


def test_a_document_from_the_future_is_new_and_ages():
    ages = RoutingAges()
    assert ages.age_seconds(KEY, 3, NOON + HOUR, NOON, 50.0) == 0
    assert ages.age_seconds(KEY, 3, NOON + HOUR, NOON, 57.0) == 7


def test_a_jump_of_the_clock_changes_no_age():
    ages = RoutingAges()
    ages.age_seconds(KEY, 3, NOON, NOON, 50.0)
    for jump in (HOUR, -HOUR):
        assert ages.age_seconds(KEY, 3, NOON, NOON + jump, 52.0) == 2


def test_a_change_under_our_eyes_is_new_even_if_the_clock_has_jumped():
    ages = RoutingAges()
    ages.age_seconds(KEY, 3, NOON - HOUR, NOON, 50.0)
    assert ages.age_seconds(KEY, 4, NOON, NOON + HOUR, 60.0) == 0
