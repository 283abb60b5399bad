"""The compared methods on one small swarm: all serve it, and each as it is described."""

from dataclasses import replace

import numpy as np
import pytest

from plimsoll.chains import ChainProblem, check
from plimsoll.simulation import Request
from plimsoll.simulation.methods import METHODS, ChainSetting, Swarm
from plimsoll.simulation.sessions import Outage, simulate_sessions

SERVERS, BLOCKS = 8, 10


def setting(*, known=True, rate=0.3, setup=0.0):
    stream = np.random.default_rng(4)
    raw = stream.uniform(0.01, 0.1, (1, SERVERS))
    fast = np.arange(SERVERS) % 2 == 0
    problem = ChainProblem(
        blocks=BLOCKS,
        block_bytes=1e9,
        cache_bytes=2e7,
        memory_bytes=np.where(fast, 20e9, 9e9),
        decode_trip_seconds=raw + 0.1,
        decode_block_seconds=np.where(fast, 0.003, 0.01),
        prefill_trip_seconds=raw + 0.1,
        prefill_block_seconds=np.where(fast, 0.03, 0.1),
        output_tokens=50,
        setup_seconds=setup,
    )
    between = stream.uniform(0.01, 0.1, (SERVERS, SERVERS))
    swarm = Swarm(
        hidden_size=4096,
        forward_per_second=np.where(fast, 2000.0, 500.0),
        network_per_second=np.full(SERVERS, 900.0),
        client_round_trips=raw,
        server_round_trips=(between + between.T) / 2,
        join_order=tuple(range(SERVERS)),
    )
    return ChainSetting(problem, rate, swarm, greatest_tokens=80, lengths_known=known, load_seconds=5.0)


def requests(count=150, rate=0.3):
    stream = np.random.default_rng(9)
    lengths = stream.integers(20, 80, count).tolist()
    return [
        Request(at, "chat", 20, tokens)
        for at, tokens in zip(np.cumsum(stream.exponential(1 / rate, count)).tolist(), lengths, strict=True)
    ]


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("name", list(METHODS))
def test_every_method_serves_everyone_even_when_servers_leave_and_come_back(name, known):
    fleet = METHODS[name](setting(known=known))
    assert check(fleet.problem, fleet.placement) == []
    assert fleet.placement.covers(BLOCKS)
    outages = [Outage(50.0, 0, 120.0), Outage(100.0, 3, 200.0), Outage(100.0, 5, 110.0)]
    report = simulate_sessions(fleet, requests(), outages=outages)
    assert report.classes["chat"].completed == 150
    assert len(report.recovery_seconds) == report.interrupted


def test_sessions_never_hold_more_memory_than_there_is():
    """At any moment the routes of those that run pass the independent checker."""
    for name, method in METHODS.items():
        fleet = method(setting(rate=3.0))
        seen = []
        simulate_sessions(fleet, requests(200, 3.0), on_completed=seen.append)
        slots = fleet.cache_slots(fleet.placement)
        for moment in {session.begun_seconds for session in seen}:
            held = np.zeros(SERVERS, dtype=int)
            for session in seen:
                if session.begun_seconds <= moment < session.completed_seconds:
                    for server, blocks in zip(session.route.servers, session.route.blocks, strict=True):
                        held[server] += blocks
            assert (held <= slots).all(), name


def test_counting_every_delay_designs_for_more_sessions():
    slow = setting(setup=20.0)
    assert slow.design(slow.problem.setup_seconds) > slow.design(0.0)


def test_the_design_respects_what_memory_allows():
    busy = replace(setting(), arrivals_per_second=1e4)
    assert METHODS["CG-BP + WS-RR"](busy).placement.covers(BLOCKS)
