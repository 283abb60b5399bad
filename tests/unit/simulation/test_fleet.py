"""A fleet over time: shares, changes, start-up, failures, cost, and the report about them."""

import math

import pytest

from plimsoll.performance import LatencyTarget, LatencyTargets
from plimsoll.simulation import FleetChange, Placement, ReplicaFailure, Scenario, simulate
from tests.unit.simulation.times import Times, engine, placement, requests


def arrivals(rate: float, seconds: float) -> list[float]:
    return [number / rate for number in range(round(rate * seconds))]


@pytest.mark.parametrize(("choice", "off_by"), [("even", 1), ("random", 150)])
def test_traffic_follows_the_shares_and_the_rest_is_refused(choice: str, off_by: int) -> None:
    fleet = Scenario((placement("a", shares={"c": 0.5}), placement("b", 3, shares={"c": 0.2})), placement_choice=choice)
    report = simulate(fleet, requests(arrivals(100, 100)))
    found = report.classes["c"]
    assert found.refused == pytest.approx(3000, abs=off_by)
    assert report.placements["a"].requests == pytest.approx(5000, abs=off_by)
    assert report.placements["b"].requests == pytest.approx(2000, abs=off_by)
    assert found.completed + found.refused == found.arrived == 10_000


def test_another_seed_routes_differently_and_the_same_seed_equally() -> None:
    fleet = Scenario((placement("a", shares={"c": 0.5}), placement("b", shares={"c": 0.5})))
    counts = [simulate(fleet, requests(arrivals(10, 30)), seed=seed).placements["a"].requests for seed in (1, 1, 2)]
    assert counts[0] == counts[1] != counts[2]


def test_a_new_replica_costs_from_its_creation_and_serves_after_its_start_up() -> None:
    def grown(replicas: int) -> Placement:
        return placement(replicas=replicas, replica_cost_per_hour=36.0, startup_seconds=30.0)

    fleet = Scenario((grown(1),), changes=(FleetChange(60.0, (grown(3),)),), replica_choice="round-robin")
    report = simulate(fleet, requests(arrivals(2, 120)), until_seconds=120.0, interval_seconds=30.0)
    assert [interval.placements["p"].replicas for interval in report.intervals] == pytest.approx([1, 1, 3, 3])
    assert [interval.placements["p"].ready_replicas for interval in report.intervals] == pytest.approx([1, 1, 1, 3])
    assert report.cost == pytest.approx(36.0 / 3600 * (60 + 3 * 60))
    assert report.placements["p"].replica_hours == pytest.approx(240 / 3600)


def test_a_removed_replica_finishes_its_requests_and_takes_no_new_ones() -> None:
    """Answers take 10 s; from 5 s on the placement is gone, and its last requests are done by 15 s."""
    old = placement("old", 2, replica_cost_per_hour=36.0)
    new = placement("new", 1)
    fleet = Scenario((old,), changes=(FleetChange(5.0, (new,)),))
    report = simulate(fleet, requests(arrivals(1, 30), outputs=1000))
    found = report.classes["c"]
    assert found.completed == found.arrived == 30
    assert report.placements["old"].requests == 5
    assert 5.0 < report.cost / 36.0 * 3600 / 2 < 15.0


def test_shares_of_a_placement_that_is_not_ready_go_to_the_others() -> None:
    slow = placement("slow", 1, shares={"c": 0.6}, startup_seconds=50.0)
    fast = placement("fast", 1, shares={"c": 0.3})
    alone = placement("fast", 1, shares={"c": 0.9})
    fleet = Scenario((alone,), changes=(FleetChange(10.0, (fast, slow)),), placement_choice="even")
    report = simulate(fleet, requests(arrivals(10, 110)), until_seconds=110.0)
    assert report.placements["fast"].requests == pytest.approx(0.9 * 600 + 0.3 * 500, abs=3)
    assert report.classes["c"].refused == pytest.approx(110, abs=3)
    assert report.classes["c"].unroutable == 0


def test_without_a_ready_replica_requests_are_unroutable_and_not_refused() -> None:
    fleet = Scenario((placement(),), failures=(ReplicaFailure(10.0, "p"),), retry_lost=False)
    report = simulate(fleet, requests(arrivals(10, 20)))
    found = report.classes["c"]
    assert found.unroutable == 0  # a start-up time of 0: it is back at once
    slow = Scenario((placement(startup_seconds=5.0),), failures=(ReplicaFailure(10.0, "p"),), retry_lost=False)
    found = simulate(slow, requests(arrivals(10, 20))).classes["c"]
    assert found.unroutable == 50
    assert found.lost > 0
    assert found.refused == 0
    assert found.completed + found.unroutable + found.lost == found.arrived


@pytest.mark.parametrize("retry", [True, False])
def test_requests_of_a_failed_replica_start_anew_elsewhere_or_are_lost(retry: bool) -> None:
    fleet = Scenario(
        (placement(replicas=2, engine=engine(Times(fixed=0.1))),),
        failures=(ReplicaFailure(5.05, "p", restarts=False),),
        retry_lost=retry,
        replica_choice="round-robin",
    )
    attempts = []
    report = simulate(
        fleet,
        requests(arrivals(1, 10), outputs=50),
        on_completed=lambda generation: attempts.append(generation.attempts),
    )
    found = report.classes["c"]
    assert (found.retried > 0, found.lost > 0) == (retry, not retry)
    assert found.completed + found.lost == 10
    assert attempts.count(2) == found.retried
    if retry:  # the time until the failure counts
        assert found.end_to_end.most_seconds > 5.0 + 2.0


def test_attainment_is_the_part_that_keeps_every_target() -> None:
    """One of two requests that arrive together waits for the other's whole answer."""
    stream = requests([10.0 * pair for pair in range(50) for _ in range(2)])
    fleet = Scenario((placement(engine=engine(seqs=1)),))
    targets = {"c": LatencyTargets(ttft=LatencyTarget(0.05, 95), end_to_end=LatencyTarget(1.0, None))}
    report = simulate(fleet, stream, targets=targets, warm_up_seconds=100.0)
    found = report.classes["c"]
    assert (found.completed, found.measured, found.within_targets) == (100, 80, 40)
    assert found.attainment == 0.5
    ttft, end_to_end = found.targets
    assert (ttft.name, ttft.met, ttft.attainment) == ("ttft", False, 0.5)
    assert ttft.observed_seconds == pytest.approx(0.13, rel=0.01)
    assert (end_to_end.name, end_to_end.met, end_to_end.attainment) == ("end_to_end", True, 1.0)


def test_requests_longer_than_the_engine_takes_are_counted() -> None:
    fleet = Scenario((placement(engine=engine(kv_tokens=1600)),))
    found = simulate(fleet, [*requests([0.0], 1595, 6), *requests([0.0], 1594, 6)]).classes["c"]
    assert (found.completed, found.too_long) == (1, 1)


def test_progress_is_told_after_each_interval() -> None:
    told: list[tuple[float, int]] = []
    simulate(
        Scenario((placement(),)),
        requests(arrivals(1, 100)),
        interval_seconds=25.0,
        on_progress=lambda seconds, count: told.append((seconds, count)),
    )
    assert told[:3] == [(25.0, 25), (50.0, 50), (75.0, 75)]
    assert told[-1][1] == 100


def test_a_class_without_placements_is_refused_and_has_no_latencies() -> None:
    report = simulate(Scenario((placement(),)), requests([0.0, 1.0], name="other"))
    found = report.classes["other"]
    assert (found.refused, found.completed) == (2, 0)
    assert math.isnan(found.attainment)
    assert math.isnan(found.ttft.mean_seconds)


def test_nothing_at_all_gives_an_empty_report() -> None:
    report = simulate(Scenario((placement(replica_cost_per_hour=1.0),)), [])
    assert report.classes == {}
    assert report.cost == report.cost_per_hour == 0.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Scenario((placement(), placement())), "p occurs twice"),
        (lambda: Scenario((placement("a"), placement("b"))), "shares of class c add up to 2"),
        (lambda: placement(replicas=-1), "replicas is -1"),
        (lambda: placement(shares={"c": -0.1}), r"shares\[c\] is -0.1"),
        (lambda: Scenario((), (FleetChange(2.0, ()), FleetChange(1.0, ()))), "order of time"),
        (
            lambda: Scenario((placement(),), (FleetChange(2.0, (placement(engine=engine(seqs=1)),)),)),
            "another engine is another placement",
        ),
    ],
)
def test_impossible_scenarios_are_refused_by_name(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
