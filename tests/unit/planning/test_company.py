"""Classes that share replicas: what each is promised, and a word where they get in each other's way."""

import pytest

from plimsoll.performance import LatencyTarget, LatencyTargets, Stream, TokenLengths, capacity, predict
from plimsoll.planning.plan import FleetPlan, Severity
from plimsoll.planning.scenario import PlannedFleet, planned_fleet
from plimsoll.planning.snapshot import Snapshot
from plimsoll.simulation import LognormalLength, Scenario, constant_rate, merged, simulate, synthetic
from tests.unit.performance.test_performance_latency import H100_8B
from tests.unit.planning.fleets import deployment, nodes, objective, plan, pool, snapshot, traffic

TURNS = TokenLengths(300, 150, 600, 300)
DOCUMENTS = TokenLengths(12000, 300, 20000, 600)
REASON = "ClassesInEachOthersWay"


def facts(documents_per_minute: int, ttft: int = 150) -> Snapshot:
    def of(name: str, rate: int, lengths: TokenLengths, **fields: object) -> dict[str, object]:
        tokens = {
            "input": lengths.input_mean,
            "output": lengths.output_mean,
            "inputP95": lengths.input_p95,
            "outputP95": lengths.output_p95,
        }
        return traffic(name, rate, sloRef={"name": name}, **fields) | {"tokens": tokens}

    match = {"headers": [{"name": "x-class", "value": "documents"}]}
    classes = [of("turns", 600, TURNS)]
    if documents_per_minute:
        classes.append(of("documents", documents_per_minute, DOCUMENTS, match=match))
    return snapshot(
        deployment(traffic=classes, engine={"maxModelLength": 32768}),
        pool("h100", "H100-SXM-80GB", "2.50"),
        objective("turns", ttft=ttft, tpot=40),
        objective("documents", ttft=5000, tpot=100),
        nodes=nodes(4, "H100-SXM-80GB", 8),
    )


def warned(fleet: FleetPlan) -> list[str]:
    found = [item for item in fleet.deployments[0].findings if item.reason == REASON]
    assert all(item.severity is Severity.WARNING for item in found)
    return [item.message for item in found]


def test_a_class_that_another_slows_down_is_told_so_and_what_to_do() -> None:
    (message,) = warned(plan(facts(40)))
    assert "class turns shares replicas with documents: ttft is predicted at" in message
    assert "the target is 150 ms" in message
    assert "an LLMDeployment each" in message


@pytest.mark.parametrize(("documents", "ttft"), [(0, 150), (40, 2000)])
def test_nothing_is_said_where_targets_hold(documents: int, ttft: int) -> None:
    assert warned(plan(facts(documents, ttft))) == []


def test_latencies_of_classes_that_share_replicas_are_those_of_the_simulator() -> None:
    """A document of 12,000 tokens takes 0.4 s, for which turns wait: most of their 95th percentile."""
    fleet: PlannedFleet = planned_fleet(facts(40))
    (placement,) = fleet.placements.values()
    assert set(placement.shares) == set(fleet.classes)
    requests = [
        synthetic(
            key,
            constant_rate(rate / 60, 3600.0),
            LognormalLength.of_p95(lengths.input_mean, lengths.input_p95, longest=30000),
            LognormalLength.of_p95(lengths.output_mean, lengths.output_p95, longest=2000),
            seed=rate,
        )
        for (key, lengths), rate in zip(
            (("chat/assistant/turns", TURNS), ("chat/assistant/documents", DOCUMENTS)), (600, 40), strict=True
        )
    ]
    found = simulate(Scenario((placement,)), merged(*requests), warm_up_seconds=60.0).classes
    for key, planned in fleet.classes.items():
        assert planned.predicted is not None
        for name, within in (("ttft", 0.2), ("tpot", 0.35), ("end_to_end", 0.35)):
            truth = getattr(found[key], name).percentile_seconds(95)
            assert getattr(planned.predicted, name).p95 == pytest.approx(truth, rel=within), (key, name)


def test_company_that_is_alike_changes_nothing() -> None:
    targets = LatencyTargets(*(LatencyTarget(1.0, 95),) * 3)
    rate = 0.6 * capacity(H100_8B, TURNS, LatencyTargets(), max_num_seqs=64).max_rate_per_second
    whole = predict(H100_8B, TURNS, targets, rate, 64)
    half = predict(H100_8B, TURNS, targets, rate / 2, 64, beside=[Stream(TURNS, 1.0)])
    for name in ("ttft_seconds", "tpot_seconds", "end_to_end_seconds", "utilization", "concurrency"):
        assert getattr(half, name) == pytest.approx(getattr(whole, name), rel=1e-9), name
