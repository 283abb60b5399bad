"""Chains: what is proven of placements and routes holds on random instances."""

import itertools

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from plimsoll.chains import (
    CentralQueue,
    ChainProblem,
    Desk,
    FreeChains,
    FreePaths,
    Ledger,
    Route,
    check,
    compose,
    decode_costs,
    exact,
    hops_of,
    penalised,
    place_conservatively,
    router,
    serve,
    session_costs,
    shortest,
    solve_jointly,
)


@st.composite
def problems(draw, most_servers=8, most_blocks=10, clients=2):
    servers, blocks = draw(st.integers(1, most_servers)), draw(st.integers(1, most_blocks))

    def row(low, high, count=servers):
        return np.array(draw(st.lists(st.floats(low, high), min_size=count, max_size=count)))

    decode = np.array([row(0.001, 0.2) for _ in range(clients)])
    return ChainProblem(
        blocks=blocks,
        block_bytes=1.0,
        cache_bytes=draw(st.floats(0.01, 0.5)),
        memory_bytes=row(0.5, 12),
        decode_trip_seconds=decode,
        decode_block_seconds=row(0.001, 0.02),
        prefill_trip_seconds=decode + 0.05,
        prefill_block_seconds=row(0.01, 0.3),
        output_tokens=draw(st.integers(1, 50)),
        setup_seconds=draw(st.sampled_from([0.0, 5.0])),
    )


def every_route(problem, placement):
    """All routes, as lists of (server, blocks), by trying every server at every position."""

    def onwards(position):
        if position == problem.blocks:
            yield []
            return
        for server in range(problem.servers):
            first, end = int(placement.first[server]), int(placement.end[server])
            if first <= position < end:
                for rest in onwards(end):
                    yield [(server, end - position), *rest]

    return list(onwards(0))


@given(problems(), st.integers(1, 6))
def test_feasible_exactly_when_the_blocks_suffice(problem, sessions):
    found = place_conservatively(problem, sessions)
    assert found.feasible == (int(found.placement.count.sum()) >= problem.blocks)
    if found.feasible:
        assert found.placement.covers(problem.blocks)
        assert check(problem, found.placement) == []


@given(problems(), st.integers(1, 6))
def test_the_fastest_servers_tile_the_model_in_order(problem, sessions):
    found = place_conservatively(problem, sessions)
    assume(found.feasible)
    first = list(found.order[: found.covering])
    starts = np.concatenate(([0], np.cumsum(found.placement.count[first])))[:-1]
    starts[-1] = problem.blocks - found.placement.count[first[-1]]
    assert found.placement.first[first].tolist() == starts.tolist()


@given(problems(), st.integers(1, 6))
def test_no_shortest_route_exceeds_the_bound(problem, sessions):
    found = place_conservatively(problem, sessions)
    assume(found.feasible)
    hops = hops_of(found.placement, problem.blocks)
    for client in range(problem.clients):
        path = shortest(hops, decode_costs(problem, hops, client))
        assert path.cost <= found.decode_bound_seconds(problem) * (1 + 1e-9)


@given(problems(), st.integers(1, 5), st.lists(st.floats(0, 1), min_size=5, max_size=5), st.data())
def test_no_session_waits_while_no_more_run_than_designed_for(problem, sessions, gaps, data):
    found = place_conservatively(problem, sessions)
    assume(found.feasible)
    hops = hops_of(found.placement, problem.blocks)
    client = data.draw(st.integers(0, problem.clients - 1))
    choose = router(hops, session_costs(problem, hops, client), penalised)
    slots = found.placement.cache_slots(problem)
    served = serve(problem, slots, gaps[:sessions], choose, clients=[client] * sessions)
    assert all(one.wait_seconds == 0 for one in served)
    assert all(one.total_seconds <= found.session_bound_seconds(problem) * (1 + 1e-9) for one in served)
    assert check(problem, found.placement, [one.route for one in served]) == []


@given(problems(most_servers=5, most_blocks=6), st.integers(1, 4), st.data())
def test_the_exact_route_is_the_best_of_all_routes(problem, sessions, data):
    placement = place_conservatively(problem, sessions).placement
    assume(placement.covers(problem.blocks))
    hops = hops_of(placement, problem.blocks)
    cost = session_costs(problem, hops, 0)
    values = st.sampled_from([0.0, 0.0, 0.5, 1.0, 3.0, np.inf])
    waits = np.array(data.draw(st.lists(values, min_size=len(cost), max_size=len(cost))))
    starts = list(zip(hops.server.tolist(), hops.start.tolist(), strict=True))

    def total(route):
        position, numbers = 0, []
        for server, blocks in route:
            numbers.append(starts.index((server, position)))
            position += blocks
        return float(cost[numbers].sum() + waits[numbers].max()), numbers

    best = min((total(route)[0] for route in every_route(problem, placement)), default=np.inf)
    path = exact(hops, cost, waits)
    if np.isinf(best):
        assert path is None
    else:
        assert path.cost + waits[list(path.hops)].max() <= best * (1 + 1e-9) + 1e-9
        summed = penalised(hops, cost, waits)
        assert best <= summed.cost + 1e-9


@given(problems(), st.integers(1, 4))
def test_composed_chains_share_no_memory(problem, places):
    placement = place_conservatively(problem, places).placement
    chains = compose(problem, placement)
    routes = list(itertools.chain.from_iterable([chain.route] * chain.places for chain in chains))
    assert check(problem, placement, routes) == []
    assert [chain.service_seconds for chain in chains] == sorted(chain.service_seconds for chain in chains)


@given(problems(most_servers=3, most_blocks=4), st.integers(1, 2))
def test_the_exact_optimum_is_never_above_the_greedy_one(problem, requests):
    found = place_conservatively(problem, requests)
    assume(found.feasible and bool((found.placement.count > 0).all()))
    hops = hops_of(found.placement, problem.blocks)
    clients = list(range(requests))
    greedy = sum(shortest(hops, decode_costs(problem, hops, client)).cost for client in clients)
    best = solve_jointly(problem, clients)
    assert check(problem, best.placement, best.routes) == []
    assert best.total_seconds <= problem.output_tokens * greedy * (1 + 1e-6) + 1e-6


@given(st.lists(st.tuples(st.floats(0.1, 9), st.integers(1, 3)), max_size=8), st.integers(1, 5))
def test_a_wait_ends_when_there_is_room_and_not_before(booked, need):
    ledger = Ledger(np.array([6]))
    for end, slots in booked:
        ledger.admit(Route((0,), (slots,)), end)
    wait = ledger.wait_seconds(0, need, 0.0)

    def free(moment):
        return 6 - sum(slots for end, slots in booked if end > moment)

    assert free(wait) >= need
    if wait > 0:
        assert free(wait - 1e-6) < need


@given(problems(most_servers=6, most_blocks=6), st.integers(1, 4), st.data())
def test_the_desk_decides_like_the_exact_rule_over_a_ledger(problem, sessions, data):
    placement = place_conservatively(problem, sessions).placement
    assume(placement.covers(problem.blocks))
    slots = placement.cache_slots(problem)
    desk, ledger = Desk(problem, placement, wait_weight=1.0), Ledger(slots)
    hops = hops_of(placement, problem.blocks)
    now = 0.0
    for gap in data.draw(st.lists(st.floats(0, 1), max_size=12)):
        now += gap
        client = data.draw(st.integers(0, problem.clients - 1))
        waits = ledger.waits(hops, now)
        path = exact(hops, session_costs(problem, hops, client), waits)
        found = desk.decide(now, client)
        if path is None:
            assert found is None
            return
        longest = waits[list(path.hops)].max()
        assert abs(found.wait_seconds + found.service_seconds - path.cost - longest) <= 1e-6
        assert abs(ledger.route_wait(found.route, now) - found.wait_seconds) <= 1e-9
        assert check(problem, placement, [found.route]) == []
        end = now + found.wait_seconds + found.service_seconds * data.draw(st.floats(0.1, 1))
        desk.admit(found.route, end, now)
        ledger.admit(found.route, end)


@settings(max_examples=30)
@given(problems(), st.integers(1, 3), st.data())
def test_a_central_queue_starts_in_order_within_memory(problem, sessions, data):
    placement = place_conservatively(problem, sessions).placement
    chains = compose(problem, placement)
    assume(chains)
    for places in (FreePaths(problem, placement), FreeChains(chains)):
        queue, running, order = CentralQueue(places), {}, []
        for request in range(12):
            started = [queue.arrive(request)]
            if running and data.draw(st.booleans()):
                done = data.draw(st.sampled_from(sorted(running)))
                del running[done]
                started += queue.finish(done)
            for start in filter(None, started):
                running[start.request] = start.route
                order.append(start.request)
            assert check(problem, placement, list(running.values())) == []
            assert queue.waiting == 0 or running
        assert order == sorted(order)
