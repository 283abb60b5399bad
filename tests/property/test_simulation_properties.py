"""The simulator's laws: it equals the plain step-by-step engine, loses nothing, and never acts before its time."""

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.simulation import (
    EngineSpec,
    FleetChange,
    Generation,
    Placement,
    Replica,
    ReplicaFailure,
    Request,
    Scenario,
    SimulationReport,
    simulate,
)
from tests.property.stepwise_engine import StepwiseEngine


@dataclass(frozen=True)
class Times:
    """Linear step times in round figures."""

    fixed: float = 0.01
    per_sequence: float = 0.0007
    per_context_token: float = 3e-6
    per_prompt_token: float = 1.3e-4
    per_pair: float = 2e-8

    def decode(self, running: int) -> tuple[float, float]:
        return self.fixed + self.per_sequence * running, self.per_context_token

    def mixed(self, running: int, context_tokens: float, chunk_tokens: float, chunk_pairs: float) -> float:
        fixed, slope = self.decode(running)
        prompts = self.per_prompt_token * chunk_tokens + self.per_pair * chunk_pairs
        return fixed + slope * context_tokens + prompts


engines = st.builds(
    lambda blocks, seqs, tokens, stages: EngineSpec(Times(), 16 * blocks, seqs, max(seqs, tokens), stages=stages),
    blocks=st.integers(8, 20),
    seqs=st.integers(1, 12),
    tokens=st.integers(16, 120),
    stages=st.sampled_from([1, 1, 2, 3]),
)
# Arrivals at odd multiples of a number that no sum of step times hits: a tie would be decided by rounding.
streams = st.lists(
    st.tuples(st.floats(0.0, 0.15), st.integers(1, 70), st.integers(1, 58)), min_size=1, max_size=25
).map(
    lambda rows: [
        Request(sum(gap for gap, _, _ in rows[: i + 1]) + 0.000317 * (i + 1), f"class{i % 2}", inputs, outputs)
        for i, (_, inputs, outputs) in enumerate(rows)
    ]
)


def alone(spec: EngineSpec, requests: list[Request]) -> tuple[Replica, list[Generation]]:
    replica, generations = Replica(spec), []
    for request in requests:
        replica.advance(request.arrival_seconds)
        generations.append(replica.submit(request))
        used = replica.counters().kv_usage
        assert 0.0 <= used <= 1.0
    replica.advance(1e6)
    return replica, generations


@settings(max_examples=80, deadline=None)
@given(engines, streams)
def test_jumping_over_steps_equals_taking_each(spec: EngineSpec, requests: list[Request]) -> None:
    """Also under preemption: the KV cache holds 2 sequences of the longest at its smallest."""
    expected = StepwiseEngine(spec)
    sequences = expected.serve(requests)
    replica, generations = alone(spec, requests)
    for sequence, generation in zip(sequences, generations, strict=True):
        assert generation.first_token_seconds == pytest.approx(sequence.first_token, abs=1e-7)
        assert generation.completed_seconds == pytest.approx(sequence.completed, abs=1e-7)
        assert generation.preemptions == sequence.preemptions
    assert expected.most_blocks <= spec.kv_blocks
    counters = replica.counters()
    assert (counters.running, counters.waiting, counters.kv_usage) == (0, 0, 0.0)
    assert counters.generated_tokens == sum(request.output_tokens for request in requests)
    assert counters.preemptions == sum(sequence.preemptions for sequence in sequences)


@settings(max_examples=60, deadline=None)
@given(engines, streams, st.floats(0.001, 0.2))
def test_the_pace_of_the_clock_changes_nothing(spec: EngineSpec, requests: list[Request], tick: float) -> None:
    """A replica driven in real time, in small ticks with questions in between, ends where a jumping one does."""
    _, expected = alone(spec, requests)
    replica, generations, completed = Replica(spec), [], []
    for request in requests:
        while replica.clock_seconds + tick < request.arrival_seconds:
            completed += replica.advance(replica.clock_seconds + tick)
            tokens = [replica.generated_tokens(generation) for generation in generations]
            assert all(count <= g.request.output_tokens for count, g in zip(tokens, generations, strict=True))
            assert sum(tokens) == replica.counters().generated_tokens
        completed += replica.advance(request.arrival_seconds)
        generations.append(replica.submit(request))
    while replica.outstanding:
        due = replica.next_event_seconds()
        assert replica.next_token_seconds() <= due
        completed += replica.advance(due)
        assert replica.clock_seconds == due
    assert sorted(map(id, completed)) == sorted(map(id, generations))
    for ours, theirs in zip(generations, expected, strict=True):
        assert ours.first_token_seconds == pytest.approx(theirs.first_token_seconds, abs=1e-7)
        assert ours.completed_seconds == pytest.approx(theirs.completed_seconds, abs=1e-7)


@settings(max_examples=60, deadline=None)
@given(engines, streams, st.data())
def test_cancelled_requests_leave_no_trace_in_the_kv_cache(
    spec: EngineSpec, requests: list[Request], data: st.DataObject
) -> None:
    replica, generations = Replica(spec), []
    for request in requests:
        replica.advance(request.arrival_seconds)
        generations.append(replica.submit(request))
        replica.cancel(data.draw(st.sampled_from(generations)))
    replica.advance(1e6)
    assert replica.counters().kv_usage == 0.0
    assert replica.outstanding == 0


def fleet(engine: EngineSpec, data: st.DataObject) -> Scenario:
    share = data.draw(st.floats(0.0, 0.5))
    first = Placement("first", engine, data.draw(st.integers(1, 3)), {"class0": share, "class1": 0.5}, 1.0, 0.3)
    second = Placement("second", engine, data.draw(st.integers(0, 2)), {"class0": 0.4}, 2.0, 0.1)
    moments = st.floats(0.0, 5.0)
    return Scenario(
        (first, second),
        changes=(
            FleetChange(
                data.draw(moments),
                (
                    Placement("second", engine, data.draw(st.integers(0, 3)), {"class0": 1.0}, 2.0, 0.1),
                    Placement("third", engine, 1, {"class1": 0.9}, 1.0, 0.5),
                ),
            ),
        ),
        failures=tuple(
            ReplicaFailure(data.draw(moments), data.draw(st.sampled_from(["first", "second", "third"])), restarts)
            for restarts in (True, False)
        ),
        placement_choice=data.draw(st.sampled_from(["random", "even"])),
        replica_choice=data.draw(st.sampled_from(["random", "round-robin", "least-outstanding"])),
        retry_lost=data.draw(st.booleans()),
    )


def run(scenario: Scenario, requests: list[Request], until: float | None) -> tuple[SimulationReport, list[Generation]]:
    completed: list[Generation] = []
    report = simulate(
        scenario, requests, seed=3, interval_seconds=0.7, until_seconds=until, on_completed=completed.append
    )
    return report, completed


@settings(max_examples=100, deadline=None)
@given(engines, streams, st.none() | st.floats(0.1, 8.0), st.data())
def test_every_request_is_counted_once_and_served_in_its_time(
    spec: EngineSpec, requests: list[Request], until: float | None, data: st.DataObject
) -> None:
    """Under changes, drains, failures and retries."""
    scenario = fleet(spec, data)
    report, completed = run(scenario, requests, until)
    arrived = [request for request in requests if until is None or request.arrival_seconds < until]
    assert sum(found.arrived for found in report.classes.values()) == len(arrived)
    for found in report.classes.values():
        ends = (found.completed, found.refused, found.too_long, found.unroutable, found.lost, found.in_flight)
        assert sum(ends) == found.arrived
        assert until is not None or not found.in_flight
        assert sum(
            interval.classes[name].completed for interval in report.intervals for name in interval.classes
        ) == len(completed)
    assert sum(interval.end_seconds - interval.begin_seconds for interval in report.intervals) == pytest.approx(
        report.simulated_seconds
    )
    assert report.cost == pytest.approx(
        sum(placement.cost for interval in report.intervals for placement in interval.placements.values())
    )
    for generation in completed:
        request, times = generation.request, spec.times
        assert generation.submitted_seconds >= request.arrival_seconds
        assert generation.admitted_seconds is not None
        assert generation.admitted_seconds >= generation.submitted_seconds
        prefill = times.mixed(0, 0.0, request.input_tokens, request.input_tokens**2 / 2)
        # Chunks of one prompt may be in different stages at once.
        assert generation.ttft_seconds >= prefill / spec.stages - 1e-9
        least = (request.output_tokens - 1) * (times.decode(1)[0] + times.decode(1)[1] * request.input_tokens)
        assert generation.end_to_end_seconds - generation.ttft_seconds >= least - 1e-9


@settings(max_examples=40, deadline=None)
@given(engines, streams, st.data())
def test_equal_seeds_give_equal_reports(spec: EngineSpec, requests: list[Request], data: st.DataObject) -> None:
    scenario = fleet(spec, data)
    first, second = (run(scenario, requests, None) for _ in range(2))
    assert [(g.request, g.completed_seconds) for g in first[1]] == [(g.request, g.completed_seconds) for g in second[1]]
    assert repr(first[0]) == repr(second[0])
