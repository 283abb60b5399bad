"""The simulator against what queueing theory knows."""

import numpy as np
import pytest

from plimsoll.catalog import load_catalog
from plimsoll.performance import Parallelism, ReplicaShape
from plimsoll.performance.steps import ANALYTIC_STEPS
from plimsoll.simulation import (
    ConstantLength,
    Generation,
    LognormalLength,
    Request,
    Scenario,
    constant_rate,
    engine_of,
    simulate,
    synthetic,
)
from tests.unit.simulation.times import Times, engine, placement

CATALOG = load_catalog()
SHAPE = ReplicaShape(
    CATALOG.model("meta-llama/Llama-3.1-8B-Instruct"),
    CATALOG.precision("bf16"),
    CATALOG.gpu("H100-SXM-80GB"),
    Parallelism(1, 1),
    max_model_length=16384,
)
SPEC = engine_of(SHAPE, max_num_seqs=32)


@pytest.mark.parametrize("load", [0.3, 0.7, 0.85])
def test_a_batch_of_one_is_a_queue_with_constant_service(load: float) -> None:
    """Pollaczek and Khinchine: the mean wait of M/D/1 is load / (2 (1 - load)) services."""
    service = 0.01 + 1e-4 * 100 + 9 * 0.01
    stream = synthetic("c", constant_rate(load / service, 3000.0), ConstantLength(100), ConstantLength(10), seed=4)
    fleet = Scenario((placement(engine=engine(seqs=1)),))
    found = simulate(fleet, stream, interval_seconds=150.0).classes["c"]
    expected = service * load / (2.0 * (1.0 - load))
    wait = found.ttft.mean_seconds - 0.02
    assert wait == pytest.approx(expected, abs=1.5 * found.ttft.mean_half_width())
    assert found.ttft.mean_half_width() < 0.25 * expected
    assert found.end_to_end.mean_seconds - found.ttft.mean_seconds == pytest.approx(0.09)


def test_unloaded_latencies_are_those_of_the_step_model() -> None:
    stream = synthetic("c", constant_rate(0.02, 20_000.0), ConstantLength(2000), ConstantLength(100), burstiness=0.0)
    found = simulate(Scenario((placement(engine=SPEC),)), stream).classes["c"]
    prefill = float(ANALYTIC_STEPS.prefill_seconds(SHAPE, np.array([2000.0]), np.array([1.0]))[0])
    contexts = 2000.0 + np.arange(1.0, 100.0)
    decode = float(ANALYTIC_STEPS.decode_step_seconds(SHAPE, np.ones(99), contexts).sum())
    assert found.ttft.mean_seconds == pytest.approx(prefill, rel=1e-6)
    assert found.end_to_end.mean_seconds == pytest.approx(prefill + decode, rel=1e-6)


def test_under_overload_a_full_batch_leaves_at_the_saturated_rate() -> None:
    """All 32 run all the time: per token of the batch one step, and each prompt prolongs a step by its prefill."""
    inputs, outputs, seconds = 500, 200, 600.0
    stream = synthetic("c", constant_rate(60.0, seconds), ConstantLength(inputs), ConstantLength(outputs))
    report = simulate(Scenario((placement(engine=SPEC),)), stream, until_seconds=seconds)
    fixed, slope = SPEC.times.decode(32)
    step = fixed + slope * 32 * (inputs + outputs / 2)
    prompt = SPEC.times.mixed(31, 31.0 * 600, inputs, inputs**2 / 2) - step
    saturated = 32 / (outputs * step + 32 * prompt)
    assert report.classes["c"].completed / seconds == pytest.approx(saturated, rel=0.03)
    assert report.placements["p"].utilisation == pytest.approx(1.0, abs=1e-3)
    assert report.placements["p"].running == pytest.approx(32.0, rel=0.01)
    assert report.classes["c"].in_flight > 1000


def test_littles_law() -> None:
    """Requests in the system are the rate times the time that each spends there; and so for those that wait."""
    completed: list[Generation] = []
    lengths = LognormalLength.of_p95(800, 2400, longest=8000), LognormalLength.of_p95(150, 450, longest=4000)
    stream = list(synthetic("c", constant_rate(20.0, 1500.0), *lengths, burstiness=2.0, seed=8))
    spec = engine_of(SHAPE, max_num_seqs=16)
    report = simulate(Scenario((placement(engine=spec, replicas=3),)), stream, on_completed=completed.append)
    found = report.placements["p"]
    present = sum(generation.end_to_end_seconds for generation in completed) / report.simulated_seconds
    assert found.running + found.waiting == pytest.approx(present, rel=1e-9)
    waits = [g.admitted_seconds - g.submitted_seconds for g in completed if g.admitted_seconds is not None]
    assert found.waiting == pytest.approx(sum(waits) / report.simulated_seconds, rel=1e-9)
    assert found.waiting > 0.1
    assert found.generated_tokens == sum(request.output_tokens for request in stream)
    assert found.prompt_tokens == sum(request.input_tokens for request in stream)


def test_spreading_by_least_outstanding_waits_less_than_by_chance() -> None:
    def wait(choice: str) -> float:
        fleet = Scenario((placement(engine=engine(seqs=4), replicas=4),), replica_choice=choice)
        answers = LognormalLength.of_p95(15, 55)
        stream = synthetic("c", constant_rate(60.0, 200.0), ConstantLength(100), answers, seed=2)
        return simulate(fleet, stream).classes["c"].ttft.mean_seconds

    assert wait("least-outstanding") < wait("round-robin") < wait("random")


def test_bursts_wait_longer_at_the_same_load() -> None:
    def wait(burstiness: float) -> float:
        stream = synthetic(
            "c", constant_rate(6.0, 800.0), ConstantLength(100), ConstantLength(10), burstiness=burstiness, seed=2
        )
        return simulate(Scenario((placement(engine=engine(seqs=1)),)), stream).classes["c"].ttft.mean_seconds

    assert wait(0.0) < wait(1.0) < wait(3.0)


def test_preemption_under_a_small_kv_cache_loses_nothing() -> None:
    lengths = LognormalLength.of_p95(300, 900, longest=1500), LognormalLength.of_p95(300, 900, longest=1500)
    stream = synthetic("c", constant_rate(3.0, 300.0), *lengths, seed=5)
    usage: list[float] = []
    times = Times(0.01, 0.0005, 1e-7)
    report = simulate(
        Scenario((placement(engine=engine(times, kv_tokens=6400)),)),
        stream,
        interval_seconds=1.0,
        on_completed=lambda generation: usage.append(generation.preemptions),
    )
    found = report.classes["c"]
    assert found.completed == found.arrived
    assert found.preemptions == report.placements["p"].preemptions > 20
    assert max(interval.placements["p"].kv_usage for interval in report.intervals) <= 1.01
    assert found.preemptions == sum(usage)


def test_a_requests_order_is_checked() -> None:
    with pytest.raises(ValueError, match=r"arrives at 1\.0 s after one at 2\.0 s"):
        simulate(Scenario((placement(),)), [Request(2.0, "c", 1, 1), Request(1.0, "c", 1, 1)])
