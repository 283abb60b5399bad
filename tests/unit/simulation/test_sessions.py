"""Sessions over chains: who waits for whom, and what losses do."""

import numpy as np
import pytest

from plimsoll.chains import (
    ChainProblem,
    Desk,
    Placement,
    Route,
    compose,
    exact,
    hops_of,
    penalised,
    router,
    serve,
    session_costs,
    session_seconds,
)
from plimsoll.chains.queue import FreePaths
from plimsoll.simulation import Request
from plimsoll.simulation.dispatch import Committed, ComposedChains, DeskBooks, LedgerBooks, Queued
from plimsoll.simulation.sessions import ChainFleet, Outage, simulate_sessions


def problem_of(memory, trip, *, blocks=4, setup=0.0, tokens=11):
    servers = len(memory)
    trips = np.atleast_2d(np.asarray(trip, dtype=float))
    return ChainProblem(
        blocks=blocks,
        block_bytes=1.0,
        cache_bytes=1.0,
        memory_bytes=np.asarray(memory, dtype=float),
        decode_trip_seconds=trips,
        decode_block_seconds=np.full(servers, 0.01),
        prefill_trip_seconds=2 * trips,
        prefill_block_seconds=np.full(servers, 0.04),
        output_tokens=tokens,
        setup_seconds=setup,
    )


def committed(problem, rule=exact, *, retry=False, assumed=None):
    def build(placement, slots):
        hops = hops_of(placement, problem.blocks)
        routers = [router(hops, session_costs(problem, hops, client), rule) for client in range(problem.clients)]

        def exactly(session, route):
            return problem.setup_seconds + session_seconds(problem, route, session.client)

        return Committed(slots, LedgerBooks(slots, routers), assumed or exactly, retry=retry)

    return build


def queue(problem):
    return lambda placement, slots: Queued(slots, lambda free: FreePaths(problem, placement, free), problem.clients)


def stream(gaps, tokens=11):
    return [Request(float(at), "chat", 20, tokens) for at in np.cumsum(gaps)]


def placement(*intervals):
    first, count = zip(*intervals, strict=True)
    return Placement(np.array(first), np.array(count))


HALVES = placement((0, 2), (0, 4), (2, 2), (2, 2))


@pytest.mark.parametrize("retry", [False, True])
@pytest.mark.parametrize("rule", [exact, penalised])
def test_known_lengths_give_what_serving_one_by_one_gives(rule, retry):
    problem = problem_of([6, 8, 4, 8], [0.005, 0.3, 0.005, 0.4], setup=0.5)
    gaps = np.random.default_rng(3).exponential(0.4, 60)
    hops = hops_of(HALVES, problem.blocks)
    choose = router(hops, session_costs(problem, hops, 0), rule)
    served = serve(problem, HALVES.cache_slots(problem), gaps, choose, retry=retry)
    fleet = ChainFleet(problem, HALVES, committed(problem, rule, retry=retry), retry=retry)
    seen = []
    report = simulate_sessions(fleet, stream(gaps), on_completed=seen.append)
    by_arrival = {one.arrival_seconds: one for one in served}
    assert max(one.wait_seconds for one in served) > 1
    assert len(seen) == len(served)
    for session in seen:
        one = by_arrival[session.request.arrival_seconds]
        assert session.route == one.route
        assert session.end_to_end_seconds == pytest.approx(one.total_seconds, abs=1e-6)
        assert session.ttft_seconds == pytest.approx(one.ttft_seconds, abs=1e-6)
    assert report.classes["chat"].completed == 60
    assert report.response.mean_seconds == pytest.approx(np.mean([one.total_seconds for one in served]))


def test_a_desk_books_what_happens():
    """Weighing a wait as much as service, it finds what exact routes give."""
    problem = problem_of([6, 8, 4, 8], [0.005, 0.3, 0.005, 0.4], setup=0.5)
    gaps = np.random.default_rng(3).exponential(0.4, 60)

    def desk(placement, slots):
        return Committed(
            slots,
            DeskBooks(Desk(problem, placement, slots, wait_weight=1.0)),
            lambda session, route: problem.setup_seconds + session_seconds(problem, route, session.client),
        )

    reports = [
        simulate_sessions(ChainFleet(problem, HALVES, build), stream(gaps)) for build in (desk, committed(problem))
    ]
    assert reports[0].response.mean_seconds == pytest.approx(reports[1].response.mean_seconds, rel=1e-6)


def test_a_session_that_ends_early_lets_the_next_one_begin():
    """One place; the books take ten times as long as it takes."""
    problem = problem_of([8], [0.1])
    whole = placement((0, 4))
    fleet = ChainFleet(problem, whole, committed(problem, assumed=lambda *_: 1000.0))
    report = simulate_sessions(fleet, stream([0, 1, 1]))
    time = session_seconds(problem, Route((0,), (4,)), 0)
    assert time > 1
    assert report.wait.mean_seconds == pytest.approx((0 + (time - 1) + (2 * time - 2)) / 3)


def test_the_central_queue_is_served_in_order_by_the_fastest_free_route():
    problem = problem_of([8, 8], [0.1, 0.5])
    two = placement((0, 4), (0, 4))
    seen = []
    simulate_sessions(ChainFleet(problem, two, queue(problem)), stream([0, 0.1, 0.1, 0.1]), on_completed=seen.append)
    order = sorted(seen, key=lambda session: session.request.arrival_seconds)
    times = [session_seconds(problem, Route((server,), (4,)), 0) for server in (0, 1)]
    assert [session.route.servers[0] for session in order] == [0, 1, 0, 0 if 2 * times[0] < times[1] + 0.1 else 1]
    assert order[2].begun_seconds == pytest.approx(times[0])


def test_composed_chains_take_no_more_than_their_places():
    problem = problem_of([6, 8, 4, 8], [0.005, 0.3, 0.005, 0.4])
    chains = compose(problem, HALVES)

    def composed(placement, slots):
        return Queued(slots, lambda free: ComposedChains(compose(problem, placement), free), 1)

    places = sum(chain.places for chain in chains)
    fleet = ChainFleet(problem, HALVES, composed)
    seen = []
    simulate_sessions(fleet, stream([0] * (places + 1)), on_completed=seen.append)
    assert sum(session.begun_seconds == 0 for session in seen) == places
    ends = min(session.completed_seconds for session in seen)
    assert max(session.begun_seconds for session in seen) == pytest.approx(ends)


@pytest.mark.parametrize("build", [committed, queue])
def test_a_lost_server_interrupts_its_sessions_and_they_begin_again_elsewhere(build):
    problem = problem_of([8, 8], [0.1, 0.5])
    two = placement((0, 4), (0, 4))
    seen = []
    fleet = ChainFleet(problem, two, build(problem))
    report = simulate_sessions(fleet, stream([0]), outages=[Outage(1.0, 0)], on_completed=seen.append)
    slow = session_seconds(problem, Route((1,), (4,)), 0)
    assert seen[0].end_to_end_seconds == pytest.approx(1.0 + slow)
    assert report.interrupted == report.classes["chat"].retried == 1
    assert report.recovery_seconds == (0.0,)


def test_without_a_route_sessions_wait_until_the_server_is_back_and_loaded():
    problem = problem_of([8], [0.1])
    fleet = ChainFleet(problem, placement((0, 4)), queue(problem), load_seconds=5.0)
    report = simulate_sessions(fleet, stream([0, 1.2]), outages=[Outage(1.0, 0, 3.0)])
    time = session_seconds(problem, Route((0,), (4,)), 0)
    assert report.recovery_seconds == (7.0,)
    assert report.response.most_seconds == pytest.approx(8.0 + 2 * time - 1.2)
    assert report.classes["chat"].completed == 2


def test_without_a_route_for_ever_sessions_count_as_unroutable():
    problem = problem_of([8], [0.1])
    report = simulate_sessions(
        ChainFleet(problem, placement((0, 4)), queue(problem)), stream([0]), outages=[Outage(0.5, 0)]
    )
    assert (report.classes["chat"].unroutable, report.classes["chat"].completed) == (1, 0)


def test_another_placement_after_a_loss_is_loaded_first():
    """Server 1 hosts the second half; when server 0 is lost it takes the whole model."""
    problem = problem_of([8, 8], [0.1, 0.1])
    halves, whole = placement((0, 2), (2, 2)), placement((0, 0), (0, 4))
    fleet = ChainFleet(
        problem,
        halves,
        queue(problem),
        replace=lambda wanted, exists: [wanted if exists.all() else whole],
        load_seconds=4,
    )
    seen = []
    report = simulate_sessions(fleet, stream([0, 0.5, 3]), outages=[Outage(2.0, 0)], on_completed=seen.append)
    assert report.interrupted == 2
    assert [session.route.servers for session in seen] == [(1,)] * 3
    assert min(session.begun_seconds for session in seen) == 6.0


def test_a_second_wave_loads_once_the_first_has():
    """Servers 1 and 2 take the whole model one after the other; one of them always serves."""
    problem = problem_of([8, 8, 8], [0.1, 0.1, 0.1])
    halves = placement((0, 4), (0, 2), (2, 2))
    waves = [placement((0, 0), (0, 4), (2, 2)), placement((0, 0), (0, 4), (0, 4))]
    fleet = ChainFleet(problem, halves, queue(problem), replace=lambda *_: waves, load_seconds=4.0)
    seen = []
    simulate_sessions(
        fleet, stream([0.0] * 9), outages=[Outage(1.0, 0)], interval_seconds=1.0, on_completed=seen.append
    )
    begun = {session.begun_seconds for session in seen if session.route.servers == (2,)}
    assert min(session.begun_seconds for session in seen) == 5.0
    assert min(begun) >= 9.0


def test_own_lengths_and_clients_decide_how_long_a_session_takes():
    problem = problem_of([100], [[0.1], [0.2]])
    requests = [Request(0.0, "near", 20, 1), Request(0.0, "near", 20, 21), Request(0.0, "far", 20, 21)]
    report = simulate_sessions(ChainFleet(problem, placement((0, 4)), queue(problem)), requests, clients={"far": 1})
    near, far = report.classes["near"], report.classes["far"]
    assert near.ttft.mean_seconds == pytest.approx(0.2 + 0.16)
    assert near.end_to_end.most_seconds == pytest.approx(0.36 + 20 * (0.1 + 0.04))
    assert far.end_to_end.most_seconds == pytest.approx(0.56 + 20 * (0.2 + 0.04))


def test_the_series_adds_up_to_the_whole():
    problem = problem_of([16, 8], [0.1, 0.5])
    fleet = ChainFleet(problem, placement((0, 4), (0, 4)), queue(problem))
    report = simulate_sessions(fleet, stream([1.0] * 40), interval_seconds=7.0)
    spans = [each.end_seconds - each.begin_seconds for each in report.intervals]
    assert sum(spans) == pytest.approx(report.simulated_seconds)
    assert sum(each.classes["chat"].completed for each in report.intervals if each.classes) == 40
    mean = sum(each.running * span for each, span in zip(report.intervals, spans, strict=True)) / sum(spans)
    assert report.running == pytest.approx(mean)
    held = sum(use.cache_usage * slots for use, slots in zip(report.servers, [12, 4], strict=True))
    assert held == pytest.approx(4 * report.running)


def test_equal_arguments_give_equal_reports():
    problem = problem_of([6, 8, 4, 8], [0.005, 0.3, 0.005, 0.4])
    gaps = np.random.default_rng(5).exponential(0.5, 100)
    outages = [Outage(10.0, 2, 20.0), Outage(15.0, 0, 30.0)]
    fleet = ChainFleet(problem, HALVES, committed(problem), load_seconds=3.0)
    one, other = (simulate_sessions(fleet, stream(gaps), outages=outages) for _ in range(2))
    assert one.recovery_seconds == other.recovery_seconds
    assert one.response.mean_seconds == other.response.mean_seconds
    assert one.routes == other.routes


def test_bad_arguments_are_refused():
    problem = problem_of([8], [0.1])
    fleet = ChainFleet(problem, placement((0, 4)), queue(problem))
    with pytest.raises(ValueError, match="times rise"):
        simulate_sessions(fleet, [Request(5.0, "chat", 1, 1), Request(1.0, "chat", 1, 1)])
    with pytest.raises(ValueError, match="above 0"):
        simulate_sessions(fleet, [], interval_seconds=0)
