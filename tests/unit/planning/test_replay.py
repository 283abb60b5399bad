"""Planner and simulator together: what the operator would have done with a stream of requests."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from plimsoll.performance import TokenLengths
from plimsoll.planning.demand import ClassDemand, Observer, Tally, survey, with_demand
from plimsoll.planning.replay import Replay, replay, static_fleet
from plimsoll.planning.scenario import placement_key, planned_fleet
from plimsoll.planning.snapshot import Snapshot
from plimsoll.simulation import (
    ConstantLength,
    RateCurve,
    Request,
    Scenario,
    constant_rate,
    simulate,
    stepwise,
    synthetic,
)
from tests.unit.planning import fleets

CLASS = "chat/assistant/default"
STEP = 600.0


def facts(rate: int = 60, **pool: object) -> Snapshot:
    return fleets.snapshot(fleets.pool(**pool), fleets.deployment(rate=rate), nodes=None)


def stream(curve: RateCurve, key: str = CLASS) -> Iterator[Request]:
    return synthetic(key, curve, ConstantLength(1000), ConstantLength(250), seed=4)


def replayed(curve: RateCurve, snapshot: Snapshot | None = None, interval: float = STEP) -> Replay:
    duration = curve.seconds[-1]
    return replay(
        snapshot or facts(),
        lambda: stream(curve),
        survey(stream(curve), duration, interval),
        duration_seconds=duration,
        replan_seconds=interval,
        evaluator=fleets.EVALUATOR,
    )


def gpus(result: Replay) -> list[int]:
    return [sum(plan.gpus for plan in item.plan.deployments) for item in result.rounds]


def test_a_plan_as_a_scenario_is_what_was_planned() -> None:
    fleet = planned_fleet(facts(rate=600), fleets.EVALUATOR)
    plan = fleet.plan.deployments[0]
    simulated = {
        placement_key("chat", item.name): (item.replicas, item.price_per_hour / item.replicas)
        for item in plan.placements
    }
    assert {key: (item.replicas, item.replica_cost_per_hour) for key, item in fleet.placements.items()} == simulated
    assert sum(item.shares[CLASS] for item in fleet.placements.values()) == pytest.approx(1.0)
    predicted = fleet.classes[CLASS].predicted
    assert predicted is not None
    shown = next(figure for figure in fleet.classes[CLASS].plan.latency if figure.metric == "ttft")
    assert shown.percentile == 95
    assert predicted.ttft.p50 < predicted.ttft.p95 < predicted.ttft.p99
    assert predicted.ttft.p95 * 1000 == pytest.approx(shown.predicted_milliseconds, abs=0.1)


def test_more_demand_brings_replicas_after_the_interval_and_their_load_time_and_less_takes_them() -> None:
    rates = [1.0, 12.0, 12.0, 12.0, 1.0, 1.0, 1.0]
    result = replayed(stepwise(rates, STEP))
    planned = gpus(result)
    # The plan at the end of an interval is the first that knows of it.
    assert planned[0] == planned[1] < planned[2] == planned[4] > planned[5] == planned[6] == planned[0]
    ready = [sum(item.ready_replicas for item in part.placements.values()) for part in result.report.intervals]
    serving = next(number for number, count in enumerate(ready) if count > ready[0])
    load = min(item.startup_seconds for item in planned_fleet(facts(rate=720), fleets.EVALUATOR).placements.values())
    assert result.report.intervals[serving].end_seconds > 2 * STEP + load
    assert ready[-1] < max(ready)


def test_every_request_is_counted_and_steady_demand_moves_nothing() -> None:
    curve = constant_rate(4.0, 6 * STEP)
    result = replayed(curve)
    report = result.report.classes[CLASS]
    assert report.arrived == result.survey.requests == sum(1 for _ in stream(curve))
    assert report.completed == report.arrived
    assert len(result.rounds) == 6
    assert not any(item.moves for item in result.rounds[1:])
    static = static_fleet(facts(), result.survey.first, lambda: stream(curve), evaluator=fleets.EVALUATOR)
    assert static.report.classes[CLASS].completed == report.completed
    assert static.cost == pytest.approx(result.cost)


def test_a_replay_costs_less_than_a_fleet_for_the_peak_and_keeps_more_than_one_for_the_mean() -> None:
    curve = stepwise([1.0] * 6 + [6.0, 10.0, 10.0, 6.0] + [1.0] * 6, STEP)
    result = replayed(curve, interval=300.0)
    peak, mean = (
        static_fleet(facts(), demand, lambda: stream(curve), evaluator=fleets.EVALUATOR)
        for demand in (result.survey.peak, result.survey.mean)
    )
    assert result.cost < peak.cost
    attained = [item.classes[CLASS].attainment for item in (mean.report, result.report, peak.report)]
    assert attained[0] < attained[1] <= attained[2]


def test_equal_arguments_give_equal_replays_and_what_runs_now_does_not_matter() -> None:
    curve = stepwise([2.0, 8.0, 2.0], STEP)
    one = replayed(curve)
    busy = fleets.applied(facts(), fleets.plan(facts()))
    other = replayed(curve, busy)
    assert one.rounds == other.rounds
    assert one.report.cost == other.report.cost
    assert one.report.classes[CLASS].within_targets == other.report.classes[CLASS].within_targets


def test_stock_that_is_declared_limits_the_fleet_and_running_replicas_keep_their_place() -> None:
    small = {"nodes": {"max": 2}, "gpusPerNode": 1}
    result = replayed(stepwise([1.0, 30.0, 30.0, 30.0], STEP), facts(**small))
    assert max(gpus(result)) == 2
    assert max(sum(item.replicas for item in part.placements.values()) for part in result.report.intervals) <= 2 + 1e-9
    report = result.report.classes[CLASS]
    assert report.refused > 0
    assert report.arrived == report.completed + report.refused + report.unroutable


@pytest.mark.parametrize("pool", [{}, {"nodes": {"max": 3}, "gpusPerNode": 4}])
def test_what_runs_is_seen_where_the_stock_is_only_declared_or_unlimited(pool: dict[str, object]) -> None:
    idle = facts(**pool)
    first = fleets.plan(idle)
    running = replace(idle, workloads=fleets.applied(idle, first).workloads)
    again = fleets.plan(running)
    assert fleets.replicas(again) == fleets.replicas(first)
    assert all(item.reason.startswith("runs already") for item in again.deployments[0].placements)


def test_a_scenario_of_the_plan_keeps_its_targets_at_the_declared_rate() -> None:
    fleet = planned_fleet(facts(rate=300), fleets.EVALUATOR)
    found = simulate(
        Scenario(tuple(fleet.placements.values())), stream(constant_rate(5.0, 1200.0)), targets=fleet.targets
    )
    assert all(result.met for result in found.classes[CLASS].targets)


def requests(lengths: list[int], at: float = 0.0) -> list[Request]:
    return [Request(at, CLASS, length, 10) for length in lengths]


def test_a_survey_knows_first_peak_and_mean() -> None:
    seen = survey([*requests([100] * 20, 5.0), *requests([100] * 60, 65.0), *requests([100] * 10, 125.0)], 180.0, 60.0)
    assert seen.requests == 90
    rates = [part[CLASS].requests_per_minute for part in (seen.first, seen.peak, seen.mean)]
    assert rates == [20.0, 60.0, pytest.approx(30.0)]


def test_a_short_rest_of_the_last_window_is_no_peak() -> None:
    seen = survey([*requests([100] * 20, 5.0), *requests([100] * 5, 60.5)], 61.0, 60.0)
    assert seen.peak[CLASS].requests_per_minute == 20.0


@pytest.mark.parametrize(
    ("seen", "taken"),
    [
        (TokenLengths(1100, 260, 2100, 520), (1000, 250, None, None)),
        (TokenLengths(1300, 260, 2100, 520), (1300, 260, 2100, 520)),
        (TokenLengths(1000, 250, 2000, 800), (1000, 250, 2000, 800)),
    ],
)
def test_lengths_are_taken_over_when_they_moved_and_not_for_noise(
    seen: TokenLengths, taken: tuple[int | None, ...]
) -> None:
    declared = with_demand(facts(), {CLASS: ClassDemand(12.4, seen)}).deployments[0].spec.traffic[0]
    assert declared.requests_per_minute == 12
    tokens = declared.tokens
    assert (tokens.input, tokens.output, tokens.input_p95, tokens.output_p95) == taken


def test_lengths_count_from_a_thousand_requests_on_over_as_many_windows_as_that_takes() -> None:
    observer = Observer()
    window = Tally()
    for request in requests([950] * 540 + [2100] * 60):
        window.add(request)
    first, second, third = (observer.demand({CLASS: window}, 60.0)[CLASS] for _ in range(3))
    assert first.lengths is None
    assert second.lengths is not None
    assert (second.lengths.input_mean, second.lengths.input_p95) == (pytest.approx(1065.0), 2100.0)
    assert third.lengths is None
    assert first.requests_per_minute == third.requests_per_minute == 600.0


def test_a_class_without_requests_keeps_only_what_the_deployment_must_have() -> None:
    fleet = planned_fleet(with_demand(facts(rate=600), {}), fleets.EVALUATOR)
    assert fleet.classes[CLASS].plan.requests_per_minute == 0
    assert fleet.plan.deployments[0].gpus == 1
