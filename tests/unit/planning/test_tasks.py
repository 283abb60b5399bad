"""The steps of a transition as people see them."""

from plimsoll.planning import step_for
from plimsoll.planning.tasks import tasks
from plimsoll.planning.transition import ObservedRouting
from tests.unit.planning.test_transition_steps import NEW, OLD, WAIT, placement, planned, routed, runs

BEFORE = {"old": 2}


def done(plan, running, observed):
    found = tasks(plan, BEFORE, running, step_for(plan, running, observed, WAIT))
    return [task.done for task in found]


def test_steps_are_done_one_after_the_other():
    old, both = routed(OLD, runs(old=2)), runs(old=2, new=3)
    published = step_for(NEW, both, old, WAIT).routing
    history = [
        done(NEW, runs(old=2), old),
        done(NEW, runs(old=2, new=(3, 1)), old),
        done(NEW, both, ObservedRouting(published, 0.0)),
        done(NEW, both, ObservedRouting(published, WAIT)),
        done(NEW, runs(new=3), ObservedRouting(published, WAIT)),
    ]
    assert [sum(item) for item in history] == [0, 1, 3, 4, 5]
    assert {len(item) for item in history} == {5}


def test_what_only_grows_has_nothing_to_remove():
    more = planned(placement("old", 5))
    texts = [task.text for task in tasks(more, BEFORE, runs(old=2), step_for(more, runs(old=2), None, WAIT))]
    assert texts == [
        "start old with 5 replicas",
        "wait until 5 replicas of old are Ready",
        "move requests to the planned shares",
    ]


def test_where_nothing_changes_there_is_nothing_to_do():
    assert tasks(OLD, BEFORE, runs(old=2), step_for(OLD, runs(old=2), None, WAIT)) == []
