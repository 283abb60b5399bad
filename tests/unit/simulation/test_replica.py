"""One replica: what a request's life looks like, and what the engine's limits do to it."""

import pytest

from plimsoll.simulation import EngineSpec, Generation, Replica, Request
from tests.unit.simulation.times import Times, engine, requests


def served(spec: EngineSpec, stream: list[Request]) -> list[Generation]:
    replica, generations = Replica(spec), []
    for request in stream:
        replica.advance(request.arrival_seconds)
        generations.append(replica.submit(request))
    replica.advance(1e9)
    return generations


def test_without_load_a_request_takes_its_prefill_and_its_steps() -> None:
    (only,) = served(engine(Times(0.01, 0.001, 1e-6)), [Request(5.0, "c", 1000, 101)])
    assert only.ttft_seconds == pytest.approx(0.01 + 1e-4 * 1000)
    contexts = sum(1000 + done for done in range(1, 101))
    assert only.end_to_end_seconds - only.ttft_seconds == pytest.approx(100 * 0.011 + 1e-6 * contexts)
    assert only.tpot_seconds == pytest.approx(0.011 + 1e-6 * contexts / 100)


def test_an_answer_of_one_token_comes_with_the_prefill_and_has_no_time_per_token() -> None:
    (only,) = served(engine(), [Request(0.0, "c", 100, 1)])
    assert only.end_to_end_seconds == only.ttft_seconds == pytest.approx(0.02)
    assert only.tpot_seconds is None


def test_long_prompts_are_computed_in_chunks_beside_the_decoding_sequences() -> None:
    """A budget of 257 tokens leaves 256 beside one decoding sequence: a prompt of 1,000 takes 4 steps."""
    first, second = served(engine(tokens=257), [Request(0.0, "c", 16, 100), Request(0.05, "c", 1000, 2)])
    seen = 0.0116 + 4 * 0.01  # the end of the first one's step in progress at 0.05
    assert second.admitted_seconds == pytest.approx(seen)
    assert second.first_token_seconds == pytest.approx(seen + 4 * 0.01 + 1e-4 * 1000)
    assert first.completed_seconds == pytest.approx(0.0116 + 99 * 0.01 + 1e-4 * 1000)


def test_a_full_batch_makes_later_requests_wait() -> None:
    first, second, third = served(engine(seqs=2), requests([0.0, 0.0, 0.0]))
    assert first.admitted_seconds == second.admitted_seconds == 0.0
    assert third.admitted_seconds == first.completed_seconds


def test_a_full_kv_cache_makes_the_head_of_the_queue_wait_and_all_behind_it() -> None:
    stream = [*requests([0.0], inputs=96), *requests([0.0], inputs=112), *requests([0.01], inputs=16)]
    _, second, third = served(engine(kv_tokens=192), stream)
    assert second.admitted_seconds == pytest.approx(0.0096 + 0.01 + 9 * 0.01)
    assert third.admitted_seconds >= second.admitted_seconds


def test_preempted_requests_start_over_and_complete() -> None:
    """Two sequences grow from 6 blocks each to 9; the cache holds 14. The later one gives way."""
    first, second = served(engine(kv_tokens=14 * 16), requests([0.0, 0.0], inputs=96, outputs=48))
    assert (first.preemptions, second.preemptions) == (0, 1)
    assert first.end_to_end_seconds == pytest.approx(0.01 + 1e-4 * 192 + 47 * 0.01)
    assert second.first_token_seconds == first.first_token_seconds
    # 16 tokens at the first need of an eighth block, 1 with the recomputed prefill, 30 or so after it.
    assert second.completed_seconds > first.completed_seconds + 0.2


def test_counters_show_the_engine_in_the_middle_of_a_run_of_steps() -> None:
    replica = Replica(engine(kv_tokens=1600))
    generation = replica.submit(Request(0.0, "c", 96, 1000))
    replica.advance(0.0196 + 0.1650001)
    counters = replica.counters()
    assert (counters.running, counters.waiting, counters.prompt_tokens) == (1, 0, 96)
    assert counters.generated_tokens == replica.generated_tokens(generation) == 17
    assert counters.kv_usage == pytest.approx(7 / 100)
    assert counters.busy_seconds == counters.running_seconds == pytest.approx(0.1846, abs=1e-6)
    assert replica.next_token_seconds() == pytest.approx(0.0196 + 0.17)
    assert replica.next_event_seconds() == pytest.approx(0.0196 + 9.99)


def test_requests_that_no_engine_would_take_are_refused_with_the_limit() -> None:
    replica = Replica(EngineSpec(Times(), 1600, 4, 2048, max_model_length=500))
    with pytest.raises(ValueError, match="at most 500 together"):
        replica.submit(Request(0.0, "c", 400, 101))
    with pytest.raises(ValueError, match="at least 1 of each"):
        replica.submit(Request(0.0, "c", 400, 0))
    assert replica.accepts(Request(0.0, "c", 400, 100))


def test_the_clock_does_not_go_back() -> None:
    replica = Replica(engine())
    replica.advance(2.0)
    with pytest.raises(ValueError, match="cannot go back"):
        replica.advance(1.0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kv_tokens": 15}, "kv_tokens is 15"),
        ({"seqs": 0}, "max_num_seqs is 0"),
        ({"seqs": 64, "tokens": 63}, "at least max_num_seqs = 64"),
    ],
)
def test_engine_limits_out_of_range_are_named(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        engine(**wrong)


def test_a_failed_replica_gives_back_what_it_had_not_finished() -> None:
    replica = Replica(engine(seqs=1))
    first, second = (replica.submit(request) for request in requests([0.0, 0.0]))
    replica.advance(0.05)
    assert replica.fail() == [first, second]
    assert replica.advance(100.0) == []
    assert replica.counters().kv_usage == 0.0


def test_a_cancelled_request_makes_room_at_the_end_of_the_step() -> None:
    replica = Replica(engine(seqs=1))
    first, second = (replica.submit(request) for request in requests([0.0, 0.0], inputs=100, outputs=1000))
    replica.advance(0.055)
    replica.cancel(first)
    replica.advance(1.0)
    assert second.admitted_seconds == pytest.approx(0.06)
    assert first.completed_seconds is None
