"""What statuses remember of placements that did not start."""

from datetime import UTC, datetime, timedelta

from plimsoll.api.common import to_wire
from plimsoll.api.llmdeployment_status import FailedStart
from plimsoll.controller.starts import failures_in_force, next_try_seconds, remembered
from plimsoll.planning.starts import Late
from tests.unit.planning.test_transition_steps import runs

NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
LATE = Late("new", 1, 600.0)


def later(**span: float) -> datetime:
    return NOW + timedelta(**span)


def manifest(*failed: FailedStart, generation: int = 3):
    metadata = {"namespace": "chat", "name": "assistant", "generation": generation}
    return {"metadata": metadata, "status": {"failedStarts": [to_wire(item) for item in failed]}}


def test_a_failure_is_in_force_until_it_may_be_tried_again():
    (failure,) = remembered((), [LATE], runs(old=2, new=(3, 1)), 3, NOW)
    assert (failure.attempts, failure.ready, failure.retry_time) == (1, 1, later(seconds=2400))
    (known,) = failures_in_force([manifest(failure)], later(seconds=2399))
    assert (known.deployment, known.placement, known.ready, known.counts) == ("assistant", "new", 1, True)
    assert "600 s" in known.text
    assert next_try_seconds([failure], NOW) == 2400
    assert failures_in_force([manifest(failure)], later(seconds=2401)) == ()
    (edited,) = failures_in_force([manifest(failure, generation=4)], NOW)
    assert not edited.counts


def test_each_further_failure_doubles_the_wait_and_none_counts_twice():
    first = remembered((), [LATE], runs(old=2, new=(3, 1)), 3, NOW)
    assert remembered(first, [LATE], runs(old=2, new=(3, 1)), 3, later(seconds=5)) == first
    (second,) = remembered(first, [LATE], runs(old=2, new=(3, 1)), 3, later(seconds=3000))
    assert (second.attempts, second.retry_time) == (2, later(seconds=3000 + 4800))


def test_what_works_after_all_and_what_is_long_past_is_forgotten():
    first = remembered((), [LATE], runs(old=2, new=(3, 1)), 3, NOW)
    assert remembered(first, [], runs(old=2, new=(3, 2)), 3, later(seconds=60)) == ()
    assert remembered(first, [], runs(old=2), 3, later(hours=12)) == first
    assert remembered(first, [], runs(old=2), 3, later(days=2)) == ()


def test_a_status_that_cannot_be_read_says_nothing():
    broken = {"metadata": {"namespace": "chat", "name": "a"}, "status": {"failedStarts": [{"placement": 7}]}}
    assert failures_in_force([broken], NOW) == ()
