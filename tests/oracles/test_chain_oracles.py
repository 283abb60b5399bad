"""Chains against worked examples and independently computed instances. Times there are in ms, memory in GB."""

import json
from pathlib import Path

import numpy as np
import pytest

from plimsoll.chains import (
    ChainProblem,
    Placement,
    Route,
    block_counts,
    check,
    compose,
    decode_costs,
    design_sessions,
    disjoint_chains,
    earliest_starts,
    exact,
    hops_of,
    mean_response_bounds,
    most_sessions,
    penalised,
    petals,
    place_conservatively,
    retried,
    router,
    serve,
    session_costs,
    session_seconds,
    shortest,
    solve_jointly,
)

FOLDER = Path(__file__).with_name("chains")
SMALL = json.loads((FOLDER / "oracle_small.json").read_text())
BLOOM = json.loads((FOLDER / "oracle_bloom.json").read_text())
COMPOSITION = json.loads((FOLDER / "oracle_successor_chain.json").read_text())
HIDDEN_SIZE = 14336


def seconds(milliseconds):
    return np.asarray(milliseconds, dtype=float) / 1000


def problem_of(given, **more):
    """A problem where only decoding counts."""
    trip, block = np.atleast_2d(seconds(given["RTT"])), seconds(given["tau"])
    values = {
        "blocks": given["L"],
        "block_bytes": given["sm"],
        "cache_bytes": given["sc"],
        "memory_bytes": np.asarray(given["M"], dtype=float),
        "decode_trip_seconds": trip,
        "decode_block_seconds": block,
        "prefill_trip_seconds": trip,
        "prefill_block_seconds": block,
        "output_tokens": 1,
    }
    return ChainProblem(**values | more)


def one_based(values):
    return [int(value) + 1 for value in values]


@pytest.mark.parametrize("name", ["A_cg_bp_basic", "B_two_clients_overlap"])
def test_conservative_placement(name):
    given, expected = SMALL[name]["input"], SMALL[name]["expected"]["placement"]
    problem = problem_of(given)
    found = place_conservatively(problem, given["R"])
    hosts = [server for server, first in enumerate(expected["first_block"]) if first is not None]
    assert [int(found.placement.first[server]) + 1 for server in hosts] == [expected["first_block"][j] for j in hosts]
    assert found.placement.count.tolist() == expected["num_blocks"]
    assert one_based(found.order) == expected["order"]
    assert (found.covering, found.feasible) == (expected["K"], True)
    assert found.decode_bound_seconds(problem) == pytest.approx(expected["per_token_bound"] / 1000)
    assert [int(found.carried[server]) for server in hosts] == [expected["sessions_lower_bound"][j] for j in hosts]
    hops = hops_of(found.placement, problem.blocks)
    whole = SMALL[name]["expected"]
    for route in whole.get("routes", [whole | {"client": 1}]):
        path = shortest(hops, decode_costs(problem, hops, route["client"] - 1))
        assert path.cost == pytest.approx(route["per_token_time"] / 1000)
        assert one_based(hops.route(path.hops).servers) == route["path"]
        assert list(hops.route(path.hops).blocks) == route["blocks"]


def test_an_infeasible_number_of_sessions_is_said_to_be_so():
    given, expected = SMALL["C_infeasible_R"]["input"], SMALL["C_infeasible_R"]["expected"]
    problem = problem_of(given)
    assert block_counts(problem, given["R"]).tolist() == expected["num_blocks"]
    assert not place_conservatively(problem, given["R"]).feasible
    assert most_sessions(problem) == expected["R_upper_bound"]
    largest = expected["largest_feasible_R"]
    assert place_conservatively(problem, largest).feasible
    assert not place_conservatively(problem, largest + 1).feasible


@pytest.mark.parametrize("case", SMALL["D_unbounded_ratio_family"], ids=lambda case: f"L{case['L']}")
def test_conservative_placement_can_be_arbitrarily_worse_than_the_best(case):
    size = case["servers"]
    given = {
        "L": case["L"],
        "sm": case["sm"],
        "sc": case["sc"],
        "M": [case["L"] + 1 + 1e-6] * size,
        "RTT": [[case["rtt"]] * size],
        "tau": [case["tau"]] * size,
    }
    problem = problem_of(given)
    found = place_conservatively(problem, case["R"])
    hops = hops_of(found.placement, problem.blocks)
    assert shortest(hops, decode_costs(problem, hops, 0)).cost == pytest.approx(case["cg_per_token"] / 1000)
    whole = Placement(np.zeros(size, dtype=np.int64), np.full(size, case["L"]))
    routes = [Route((server,), (case["L"],)) for server in range(size)]
    assert check(problem, whole, routes) == []
    hops = hops_of(whole, problem.blocks)
    assert shortest(hops, decode_costs(problem, hops, 0)).cost == pytest.approx(case["opt_per_token"] / 1000)


@pytest.mark.parametrize("case", SMALL["E_milp_optimum_small"], ids=lambda case: f"{case['expected']['optimal_total']}")
def test_the_exact_optimum(case):
    given, expected = case["input"], case["expected"]
    clients = [client - 1 for client in given["requests_client"]]
    problem = problem_of(given, output_tokens=given["l_max"])
    best = solve_jointly(problem, clients)
    assert best.total_seconds == pytest.approx(expected["optimal_total"] / 1000)
    assert check(problem, best.placement, best.routes) == []
    hops = hops_of(best.placement, problem.blocks)
    per_token = [
        dict(
            zip(
                zip(hops.server.tolist(), hops.start.tolist(), strict=True), decode_costs(problem, hops, c), strict=True
            )
        )
        for c in range(problem.clients)
    ]
    total = 0.0
    for client, route in zip(clients, best.routes, strict=True):
        position = 0
        for server, blocks in zip(route.servers, route.blocks, strict=True):
            total += given["l_max"] * per_token[client][server, position]
            position += blocks
    assert total == pytest.approx(best.total_seconds)
    greedy = place_conservatively(problem, len(clients))
    hops = hops_of(greedy.placement, problem.blocks)
    cost = sum(given["l_max"] * shortest(hops, decode_costs(problem, hops, client)).cost for client in clients)
    assert cost == pytest.approx(expected["cg_total"] / 1000)


def waiting_problem(given):
    return ChainProblem(
        blocks=given["L"],
        block_bytes=1.0,
        cache_bytes=1.0,
        memory_bytes=np.ones(len(given["tau"])),
        decode_trip_seconds=seconds(given["RTT"]),
        decode_block_seconds=seconds(given["tau"]),
        prefill_trip_seconds=seconds(given["RTT_input"]),
        prefill_block_seconds=seconds(given["tau_input"]),
        output_tokens=given["l_out"],
        setup_seconds=(given["initial_delay"] + given["alloc_delay"]) / 1000,
    )


def same(served, expected):
    assert len(served) == len(expected)
    for one, other in zip(served, expected, strict=True):
        assert one_based(one.route.servers) == other["path"]
        assert list(one.route.blocks) == other["blocks"]
        for value, name in (
            (one.raw_wait_seconds, "raw_wait"),
            (one.wait_seconds, "wait"),
            (one.ttft_seconds, "ttft"),
            (one.total_seconds, "total"),
        ):
            assert value == pytest.approx(other[name] / 1000, abs=1e-9), name
        assert one.concurrent == other["concurrent"]


@pytest.mark.parametrize("retry", [True, False])
def test_penalised_routes_under_waiting(retry):
    oracle = SMALL["F_ws_rr_waiting"]
    given = oracle["input"]
    problem = waiting_problem(given)
    placement = Placement(np.array(given["first_block"]) - 1, np.array(given["num_blocks"]))
    hops = hops_of(placement, problem.blocks)
    choose = router(hops, session_costs(problem, hops, 0), penalised)
    served = serve(problem, np.array(given["slots"]), seconds(given["inter_arrival"]), choose, retry=retry)
    same(served, oracle["expected_with_backoff" if retry else "expected_without_backoff"])


def test_the_exact_route_sees_that_waits_pass_together():
    """The last request of that example: two waits end at the same time, and their sum misleads."""
    given = SMALL["F_ws_rr_waiting"]["input"]
    problem = waiting_problem(given)
    placement = Placement(np.array(given["first_block"]) - 1, np.array(given["num_blocks"]))
    hops = hops_of(placement, problem.blocks)
    cost = session_costs(problem, hops, 0)
    waits = np.where((hops.server == 0) | (hops.server == 2), 0.753, np.where(hops.server == 1, 1.2, 0.0))
    assert hops.route(penalised(hops, cost, waits).hops).servers == (0, 3)
    assert hops.route(exact(hops, cost, waits).hops).servers == (0, 2)


@pytest.mark.parametrize("case", SMALL["G_backoff_ms"], ids=lambda case: str(case["raw"]))
def test_retries(case):
    assert retried(case["raw"] / 1000) == pytest.approx(case["wait"] / 1000)


def test_petals_windows():
    oracle = SMALL["H_petals_placement"]
    hosted = np.zeros(oracle["L"])
    for join in oracle["join_sequence"]:
        start = petals.worst_window(hosted, join["num_blocks"])
        assert start + 1 == join["first_block"]
        hosted[start : start + join["num_blocks"]] += join["throughput"]
        assert hosted.tolist() == join["block_throughput_after"]


@pytest.mark.parametrize("case", SMALL["I_petals_num_blocks"], ids=lambda case: f"{case['M_GB']}GB")
def test_petals_blocks(case):
    one = np.ones(1)
    problem = ChainProblem(
        blocks=case["L"],
        block_bytes=case["block_GB"] * 1e9,
        cache_bytes=1.0,
        memory_bytes=one * case["M_GB"] * 1e9,
        decode_trip_seconds=np.ones((1, 1)),
        decode_block_seconds=one,
        prefill_trip_seconds=np.ones((1, 1)),
        prefill_block_seconds=one,
        output_tokens=1,
    )
    assert petals.block_counts(problem, case["d_model"], case["kv_groups"]).tolist() == [case["num_blocks"]]


@pytest.mark.parametrize("quirk", [True, False])
def test_petals_routes(quirk):
    oracle = SMALL["J_petals_online_routing"]
    given = oracle["input"]
    problem = waiting_problem(given)
    placement = Placement(np.array(given["first_block"]) - 1, np.array(given["num_blocks"]))
    raw = seconds(given["raw_rtt"])
    network = petals.Network(raw[0, 1:], raw[1:, 1:])
    choose = petals.router(problem, placement, network, np.array(given["session_cap"]), full_when_equal=quirk)
    served = serve(problem, np.array(given["slots"]), seconds(given["inter_arrival"]), choose, retry=True)
    name = "exact_equality_test_as_in_authors_code" if quirk else "saturated_test_le_zero"
    same(served, oracle["expected"][name])


def test_sizes():
    oracle = SMALL["K_sizes"]
    assert pytest.approx(oracle["block_bytes"]) == 2466437120 * 4.25 / 8 * 1.01
    reserved = petals.reserved_cache_bytes(HIDDEN_SIZE)
    assert reserved == oracle["petals_cache_bytes_per_block"]
    for length, cache in oracle["cache_bytes_per_block_per_session"].items():
        assert 2 * HIDDEN_SIZE * (20 + int(length)) * 2 == cache
        assert reserved // cache == oracle["petals_session_capacity"][length]


def test_a_batch_starts_in_order_where_memory_is():
    route = Route((0,), (2,))
    assert earliest_starts(np.array([3]), [(route, 10.0)] * 3) == [0, 10, 20]


# --- BLOOM-176B -------------------------------------------------------------------------------------------------------


class Bloom:
    """One of the large instances."""

    def __init__(self, oracle):
        given = self.given = oracle["input"]
        self.expected, self.ties = oracle["expected"], oracle["tie_sensitivity"]
        raw = np.array(given["raw_rtt_ms"])
        self.network = petals.Network(seconds(raw[0, 1:]), seconds(raw[1:, 1:]))
        slices = np.array([kind == "MIG" for kind in given["server_types"]])
        self.limit = np.where(slices, given["mig_block_cap"], given["L"])
        self.gaps = seconds(given["inter_arrival_ms"])
        self.counts = petals.block_counts(self.problem("petals"), HIDDEN_SIZE)
        pairs = np.array([given["throughput"][kind] for kind in given["server_types"]])
        self.rates = pairs[:, 0], pairs[:, 1]

    def problem(self, method, *, capped=True):
        given = self.given
        raw = np.array(given["raw_rtt_ms"])[:1, 1:]
        allocation = given["alloc_delay_proposed_ms" if method == "proposed" else "alloc_delay_petals_ms"]
        return ChainProblem(
            blocks=given["L"],
            block_bytes=given["block_GB"] * 1e9,
            cache_bytes=given["cache_GB"] * 1e9,
            memory_bytes=np.array(given["memory_GB"]) * 1e9,
            decode_trip_seconds=seconds(raw + given["per_token_overhead_ms"]),
            decode_block_seconds=seconds(given["tau_ms"]),
            prefill_trip_seconds=seconds(raw + given["prefill_overhead_ms"]),
            prefill_block_seconds=seconds(given["tau_prefill_ms"]),
            output_tokens=given["l_out"],
            setup_seconds=(given["initial_delay_ms"] + allocation) / 1000,
            block_limit=self.limit if capped else np.zeros(0, dtype=np.int64),
        )

    def join(self, counts, order):
        return petals.place(self.given["L"], counts, petals.throughput(counts, *self.rates), order)

    def served(self, method):
        """As the named method would serve the requests."""
        problem, proposed = self.problem(method), self.problem("proposed")
        reserved = petals.reserved_cache_bytes(HIDDEN_SIZE)
        cg = place_conservatively(proposed, self.expected["R"])
        order = [server - 1 for server in self.given["petals_join_order"]]
        slots = petals.cache_slots(problem, self.counts, reserved)
        per_server = int(reserved // problem.cache_bytes)
        limit = np.full(problem.servers, per_server)
        if method == "proposed":
            hops = hops_of(cg.placement, problem.blocks)
            choose = router(hops, session_costs(problem, hops, 0), penalised)
            return serve(problem, cg.placement.cache_slots(problem), self.gaps, choose, retry=True)
        placement = self.join(self.counts, cg.order if method == "opt_order" else order)
        if method == "opt_number":
            counts = cg.placement.count
            placement = self.join(counts, order)
            slots = placement.cache_slots(problem)
            limit = slots // np.maximum(counts, 1)
        if method == "opt_rr":
            hops = hops_of(placement, problem.blocks)
            choose = router(hops, session_costs(problem, hops, 0), exact)
        else:
            choose = petals.router(problem, placement, self.network, limit, full_when_equal=True)
        return serve(problem, slots, self.gaps, choose, retry=True)


@pytest.fixture(params=BLOOM, ids=lambda oracle: oracle["name"])
def bloom(request):
    return Bloom(request.param)


def test_design_sessions_and_placement(bloom):
    problem, expected = bloom.problem("proposed"), bloom.expected
    alone = bloom.problem("proposed", capped=False)
    single = place_conservatively(alone, 1)
    hops = hops_of(single.placement, alone.blocks)
    route = hops.route(shortest(hops, decode_costs(alone, hops, 0)).hops)
    time = bloom.given["initial_delay_ms"] / 1000 + session_seconds(alone, route, 0)
    assert time == pytest.approx(expected["T1_ms"] / 1000, abs=1e-6)
    assert one_based(route.servers) == expected["T1_path"]
    most = most_sessions(problem)
    assert most == expected["R_max"]
    sessions = design_sessions(bloom.given["arrival_rate_per_ms"] * 1000, time, most)
    assert sessions == expected["R"]
    found = place_conservatively(problem, sessions)
    assert (found.placement.first + 1).tolist() == expected["cg_bp"]["first_block"]
    assert found.placement.count.tolist() == expected["cg_bp"]["num_blocks"]
    assert one_based(found.order) == expected["cg_bp"]["order"]
    assert found.covering == expected["cg_bp"]["K"]
    assert found.carried.tolist() == expected["cg_bp"]["sessions"]
    assert found.placement.cache_slots(problem).tolist() == expected["slots"]
    assert found.decode_bound_seconds(problem) == pytest.approx(expected["cg_bp"]["per_token_bound_ms"] / 1000)


@pytest.mark.parametrize("method", ["proposed", "petals", "opt_order", "opt_number", "opt_rr"])
def test_every_request_of_every_method(bloom, method):
    expected, ties = bloom.expected[method], bloom.ties[method]
    served = bloom.served(method)
    if not ties["totals_depend_on_tie_rule"]:
        tokens = bloom.given["l_out"] * len(served)
        mean = sum(one.total_seconds for one in served) / tokens
        assert mean == pytest.approx(expected["avg_per_token_ms"] / 1000, rel=1e-7)
    for one, other in zip(served, expected["requests"], strict=True):
        if not ties["totals_depend_on_tie_rule"]:
            assert one.raw_wait_seconds == pytest.approx(other["raw_wait"] / 1000, abs=1e-6)
            assert one.wait_seconds == pytest.approx(other["wait"] / 1000)
            assert one.total_seconds == pytest.approx(other["total"] / 1000, rel=1e-8)
        if not ties["paths_depend_on_tie_rule"]:
            assert one_based(one.route.servers) == other["path"]


# --- Composition ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", COMPOSITION, ids=lambda case: case["name"])
def test_chain_composition(case):
    given, expected = case["input"], case["expected"]
    trip, block = np.array([given["tau_c"]], dtype=float), np.array(given["tau_p"], dtype=float)
    problem = ChainProblem(
        blocks=given["L"],
        block_bytes=given["sm"],
        cache_bytes=given["sc"],
        memory_bytes=np.array(given["M"], dtype=float),
        decode_trip_seconds=trip * 0,
        decode_block_seconds=block * 0,
        prefill_trip_seconds=trip,
        prefill_block_seconds=block,
        output_tokens=1,
    )
    found = disjoint_chains(problem, given["c"], given["lam"], given["rho_bar"])
    named = [tuple(f"s{server + 1}" for server in chain) for chain in found.chains]
    assert named == [tuple(chain["servers"]) for chain in expected["disjoint_chains"]]
    assert found.service_seconds == pytest.approx([chain["service_time"] for chain in expected["disjoint_chains"]])
    placed = {
        f"s{server + 1}": (int(found.placement.first[server]) + 1, int(found.placement.count[server]))
        for server in range(problem.servers)
        if found.placement.count[server]
    }
    assert placed == {name: (at["first_block"], at["num_blocks"]) for name, at in expected["placement"].items()}
    chains = compose(problem, found.placement)
    assert [tuple(f"s{server + 1}" for server in chain.route.servers) for chain in chains] == [
        tuple(chain["servers"]) for chain in expected["gca_chains"]
    ]
    assert [chain.places for chain in chains] == [chain["capacity"] for chain in expected["gca_chains"]]
    assert [chain.service_seconds for chain in chains] == pytest.approx(
        [chain["service_time"] for chain in expected["gca_chains"]]
    )
    assert sum(chain.rate_per_second for chain in chains) == pytest.approx(expected["total_rate"])
    assert mean_response_bounds(chains, given["lam"]) == pytest.approx(expected["mean_response_bounds"])
