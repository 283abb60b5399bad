"""Tools that wait for objects understand each state of each kind."""

import pytest

from plimsoll.api import KINDS
from tests.kstatus import KStatus, kstatus
from tests.states import State, states

STATES = states()


@pytest.mark.parametrize("state", STATES, ids=str)
def test_tools_that_wait_understand_the_state(state: State) -> None:
    assert kstatus(state.manifest) is state.expected


def test_every_kind_has_been_looked_at() -> None:
    assert {state.kind for state in STATES} == {kind.__name__ for kind in KINDS}


@pytest.mark.parametrize("state", STATES, ids=str)
def test_no_condition_stands_twice_and_what_is_true_is_not_stalled(state: State) -> None:
    found = state.manifest["status"].get("conditions", [])
    by_type = {item["type"]: item["status"] for item in found}
    assert len(by_type) == len(found)
    if state.expected is KStatus.CURRENT:
        assert by_type.get("Stalled") != "True"


def test_an_object_that_is_being_deleted_is_terminating() -> None:
    manifest = {"metadata": {"generation": 1, "deletionTimestamp": "2026-01-01T00:00:00Z"}}
    assert kstatus(manifest) is KStatus.TERMINATING
