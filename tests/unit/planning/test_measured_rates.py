"""Measured demand in the planner's memory: rates drift all the time, and little is asked again for them."""

from plimsoll.performance import TokenLengths
from plimsoll.planning import Evaluator, plan_fleet
from plimsoll.planning.planner import decide_fleet
from plimsoll.planning.snapshot import Snapshot, TrafficDemand
from tests.unit.planning import fleets

LONGER = TokenLengths(3000.0, 250.0, 6000.0, 500.0)


def facts(rate: float, current: float = 0.0, lengths: TokenLengths | None = None) -> Snapshot:
    demand = (TrafficDemand("chat", "assistant", "default", rate, current, lengths=lengths),)
    return fleets.snapshot(fleets.deployment(rate=600), fleets.pool(), nodes=fleets.nodes(4), demand=demand)


def test_choices_outlive_measured_rates_and_not_measured_lengths() -> None:
    evaluator = Evaluator()
    first = decide_fleet(facts(600.0), evaluator).choices[0]
    other = decide_fleet(facts(700.0), evaluator).choices[0]
    assert other.ways is first.ways
    assert other.classes[0].requests_per_minute == 700.0
    assert decide_fleet(facts(700.0, lengths=LONGER), evaluator).choices[0].ways is not first.ways


def test_what_is_remembered_changes_no_plan() -> None:
    evaluator = Evaluator()
    for story in (facts(600.0), facts(900.0), facts(900.0, lengths=LONGER), facts(300.0), facts(600.0)):
        assert fleets.decision(plan_fleet(story, evaluator)) == fleets.decision(plan_fleet(story))


def test_what_arrives_now_asks_for_no_new_plan() -> None:
    evaluator = Evaluator()
    assert plan_fleet(facts(600.0, 500.0), evaluator) is plan_fleet(facts(600.0, 400.0), evaluator)
