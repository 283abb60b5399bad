"""Chain problems of servers that the catalog knows."""

from dataclasses import replace

import numpy as np
import pytest

from plimsoll.catalog import load_catalog
from plimsoll.catalog.precisions import PRECISIONS
from plimsoll.chains import (
    ChainError,
    Placement,
    Route,
    Server,
    SessionShape,
    best_placement,
    chain_problem,
    hops_of,
    session_seconds,
)
from plimsoll.performance import ANALYTIC_STEPS, Correction, Parallelism, ReplicaShape, memory_fit

CATALOG = load_catalog()
MODEL, BF16 = CATALOG.model("meta-llama/Llama-3.1-8B-Instruct"), PRECISIONS["bf16"]
LARGE = CATALOG.model("meta-llama/Llama-3.3-70B-Instruct")
FAST = 1e15
SESSIONS = SessionShape(input_tokens=500, output_tokens=101)


def server(name="H100-SXM-80GB", network=FAST, **more):
    return Server(CATALOG.gpu(name), network, **more)


def problem(servers, model=MODEL, sessions=SESSIONS, **more):
    return chain_problem(model, BF16, servers, np.zeros((1, len(servers))), sessions, **more)


def test_a_chain_of_one_server_is_as_fast_as_a_replica_on_it():
    for tensor in (1, 2):
        shape = ReplicaShape(MODEL, BF16, CATALOG.gpu("H100-SXM-80GB"), Parallelism(tensor, 1), 601)
        one, tokens = np.array(1.0), np.array(500.0)
        expected = float(ANALYTIC_STEPS.prefill_seconds(shape, tokens, one))
        expected += 100 * float(ANALYTIC_STEPS.decode_step_seconds(shape, one, np.array(550.5)))
        found = problem([server(tensor=tensor)])
        assert session_seconds(found, Route((0,), (MODEL.layers,)), 0) == pytest.approx(expected)


def test_all_layers_and_their_caches_fit_where_the_engine_finds_room_for_them():
    gpu = CATALOG.gpu("L40S")
    found = problem([server("L40S")], sessions=replace(SESSIONS, at_once=10_000))
    whole = Placement(np.array([0]), np.array([MODEL.layers]))
    sessions = int(whole.cache_slots(found)[0]) // MODEL.layers
    fit = memory_fit(ReplicaShape(MODEL, BF16, gpu, Parallelism(1, 1), 601))
    # The engine keeps embedding and head, the chain's server the larger of the two.
    spare = MODEL.vocabulary_size * MODEL.hidden_size * 2 / MODEL.kv_bytes_per_token()
    assert fit.kv_tokens <= sessions * 601 + 601 <= fit.kv_tokens + spare + 1300


def test_prompts_take_long_over_a_slow_network():
    near, far = server(), server(network=12.5e6)  # 100 Mbit/s
    found = problem([near, far])
    prompt_bytes = 2 * 2 * MODEL.hidden_size * 500
    difference = found.prefill_trip_seconds[0, 1] - found.prefill_trip_seconds[0, 0]
    assert difference == pytest.approx(prompt_bytes / 12.5e6, rel=1e-3)
    assert found.decode_trip_seconds[0, 1] - found.decode_trip_seconds[0, 0] == pytest.approx(
        difference / 500, rel=1e-3
    )


def test_slower_gpus_and_slower_observations_make_slower_servers():
    fast, slow = server(), server("L4")
    corrected = server(correction=Correction(prefill=2.0, decode=3.0))
    found = problem([fast, slow, corrected])
    assert found.decode_block_seconds[1] > 3 * found.decode_block_seconds[0]
    assert found.decode_block_seconds[2] == pytest.approx(3 * found.decode_block_seconds[0])
    assert found.memory_bytes[1] < 0.4 * found.memory_bytes[0]


def test_more_sessions_at_once_take_longer_steps_and_are_a_limit():
    few, many = (problem([server()], sessions=replace(SESSIONS, at_once=count)) for count in (1, 64))
    assert many.decode_block_seconds[0] > few.decode_block_seconds[0]
    whole = Placement(np.array([0]), np.array([MODEL.layers]))
    assert whole.cache_slots(few).tolist() == [MODEL.layers]
    assert whole.cache_slots(many).tolist() == [64 * MODEL.layers]


def test_a_model_too_large_for_any_server_is_served_by_several_kinds():
    servers = [server("A100-SXM-40GB")] * 4 + [server("L40S")] * 4
    trips = np.full((1, 8), 0.002)
    sessions = SessionShape(500, 100, at_once=8)
    found = chain_problem(LARGE, BF16, servers, trips, sessions)
    best = best_placement(found, 0.5)
    assert best.carries
    assert len(hops_of(best.placement, LARGE.layers).server) > 0
    assert max(best.placement.count) < LARGE.layers


def test_embeddings_at_the_clients_leave_room_for_layers():
    own, theirs = problem([server("L4")]), problem([server("L4")], embeddings_at_clients=True)
    assert theirs.memory_bytes[0] - own.memory_bytes[0] == MODEL.vocabulary_size * MODEL.hidden_size * 2


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ChainError, match=r"round_trip_seconds has shape \(1, 3\).* and 2 columns"):
        chain_problem(MODEL, BF16, [server()] * 2, np.zeros((1, 3)), SESSIONS)
    with pytest.raises(ChainError, match="at_once is 0; it must be at least 1"):
        SessionShape(10, 10, at_once=0)
