"""What the tests of commands share."""

import pytest

from plimsoll.cli import explain
from plimsoll.cli import replay as replay_command
from plimsoll.planning import planner, replay, scenario
from tests.unit.planning.fleets import EVALUATOR


@pytest.fixture(autouse=True)
def one_evaluator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command begins with an evaluator that knows nothing; what it remembers changes no plan, and saves its time.

    tests/property/test_planning_properties.py states that it changes none.
    """
    for module in (explain, replay_command, planner, replay, scenario):
        monkeypatch.setattr(module, "Evaluator", lambda: EVALUATOR)
