"""A run that is stopped, looked at and changed on its way."""

import pytest

from plimsoll.simulation import (
    FleetChange,
    Generation,
    LognormalLength,
    ReplicaFailure,
    Scenario,
    Simulation,
    constant_rate,
    simulate,
    synthetic,
)
from tests.unit.simulation.times import engine, placement, requests

LENGTHS = LognormalLength.of_p95(300, 800), LognormalLength.of_p95(40, 120)


def test_stopping_on_the_way_changes_nothing() -> None:
    """Also across failures; the series has the same intervals."""
    fleet = Scenario((placement(replicas=3, startup_seconds=9.0),), failures=(ReplicaFailure(33.3, "p"),))
    whole: list[Generation] = []
    parts: list[Generation] = []
    stream = list(synthetic("c", constant_rate(20.0, 100.0), *LENGTHS, seed=1))
    expected = simulate(fleet, stream, interval_seconds=10.0, on_completed=whole.append)
    run = Simulation(fleet, stream, interval_seconds=10.0, on_completed=parts.append)
    for step in range(1, 30):
        run.run_until(3.7 * step)
        assert run.seconds == 3.7 * step
        assert len(run.intervals) == int(3.7 * step / 10.0 + 1e-9)
    run.run_to_end()
    found = run.report()

    def facts(generations: list[Generation]) -> list[tuple[object, ...]]:
        return sorted((g.request, g.first_token_seconds, g.completed_seconds, g.attempts) for g in generations)

    assert facts(parts) == facts(whole)
    assert found.classes["c"].arrived == expected.classes["c"].arrived == len(stream)
    assert [i.classes["c"].completed for i in found.intervals[:9]] == [
        i.classes["c"].completed for i in expected.intervals[:9]
    ]


def test_what_is_seen_on_the_way_can_decide_about_the_future() -> None:
    """A planner that sees the rate of the last minute and sizes the fleet for the next one."""
    slow = list(synthetic("c", constant_rate(2.0, 60.0), *LENGTHS, seed=1))
    fast = [
        request._replace(arrival_seconds=60.0 + request.arrival_seconds)
        for request in synthetic("c", constant_rate(20.0, 180.0), *LENGTHS, seed=2)
    ]
    run = Simulation(Scenario((placement(),)), [*slow, *fast], interval_seconds=60.0)
    sizes = []
    for minute in (1, 2, 3):
        run.run_until(60.0 * minute)
        seen = run.intervals[-1].classes["c"]
        assert seen.input_tokens == pytest.approx(300 * seen.arrived, rel=0.2)
        wanted = max(1, round(seen.arrived / 60.0 / 5.0))
        run.change(FleetChange(60.0 * minute, (placement(replicas=wanted),)))
        sizes.append(wanted)
    run.run_until(240.0)
    assert sizes == [1, 4, 4]
    ready = [interval.placements["p"].ready_replicas for interval in run.report().intervals]
    assert ready == pytest.approx([1, 1, 4, 4])


def test_the_past_cannot_be_changed_nor_an_engine_under_its_name() -> None:
    run = Simulation(Scenario((placement(),)), requests([1.0, 2.0]))
    run.run_until(10.0)
    with pytest.raises(ValueError, match="in the past"):
        run.change(FleetChange(9.0, ()))
    with pytest.raises(ValueError, match="another engine is another placement"):
        run.change(FleetChange(11.0, (placement(engine=engine(seqs=3)),)))
    with pytest.raises(ValueError, match="cannot go back"):
        run.run_until(9.0)


def test_an_interval_tells_its_own_percentiles() -> None:
    """The second minute's requests come in pairs, for one slot."""
    alone = requests([float(second) for second in range(60)])
    pairs = requests([60.0 + second for second in range(60) for _ in range(2)])
    report = simulate(Scenario((placement(engine=engine(seqs=1)),)), [*alone, *pairs], until_seconds=120.0)
    first, second = (interval.classes["c"].ttft for interval in report.intervals)
    assert (first.count, second.count) == (60, 120)
    assert first.p99_seconds == pytest.approx(0.02, rel=0.005)
    assert second.p50_seconds == pytest.approx(0.02, rel=0.005)
    assert second.p95_seconds == pytest.approx(0.13, rel=0.005)
    assert second.mean_seconds == pytest.approx(0.075)
