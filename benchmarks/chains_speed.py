"""How long placement and routing decisions take as servers become many, and how far from the optimum few are."""

from __future__ import annotations

import math
import time

import numpy as np

from benchmarks.results import Figure, Table
from plimsoll.catalog import load_catalog
from plimsoll.chains import ChainProblem, Desk, NotSolvedError, check, solve_jointly
from plimsoll.chains.batch import place_batch
from plimsoll.chains.hardware import Server, SessionShape, chain_problem
from plimsoll.chains.search import best_placement
from plimsoll.simulation.topologies import scattered, synthetic_topology

SIZES = (10, 30, 100, 300, 1000, 3000)
MODEL, PRECISION = "meta-llama/Llama-3.1-70B-Instruct", "int4"
GPUS = ("A100-SXM-80GB", "A100-SXM-40GB", "L40S", "L4")
GIGABITS = 10.0
SESSIONS = SessionShape(input_tokens=500, output_tokens=250, at_once=8)
PROMISED = 1000
"""Servers for which there are targets."""
PLACEMENT_SECONDS, MEDIAN_MS, P99_MS = 1.0, 1.0, 3.0
LOAD = 0.9
DECISIONS = 3000
SMALL_INSTANCES = 20


def problem_of(servers: int, seed: int = 0) -> ChainProblem:
    """Servers of four GPU types, one GPU each, anywhere."""
    catalog = load_catalog()
    stream = np.random.default_rng([seed, 4])
    topology = synthetic_topology(servers + 1, seed)
    trips = scattered(topology, servers, stream).client_round_trips(topology)
    kinds = [Server(catalog.gpu(name), GIGABITS * 1e9 / 8) for name in GPUS]
    chosen = [kinds[number] for number in stream.integers(len(kinds), size=servers).tolist()]
    return chain_problem(catalog.model(MODEL), catalog.precision(PRECISION), chosen, trips[None, :], SESSIONS)


def decisions() -> tuple[list[Figure], list[str], list[Table]]:
    """Processor time over the number of servers."""
    rows: list[tuple[str, ...]] = []
    figures: list[Figure] = []
    for servers in SIZES:
        problem = problem_of(servers)
        most = best_placement(problem, 1e6)
        if most is None:
            raise RuntimeError(f"no placement on {servers} servers")
        rate = LOAD * sum(chain.rate_per_second for chain in most.chains)
        began = time.process_time()
        found = best_placement(problem, rate)
        seconds = time.process_time() - began
        if found is None:
            raise RuntimeError(f"no placement on {servers} servers at {rate} requests/s")
        median, p99 = _routing(Desk(problem, found.placement), problem, rate)
        rows.append((f"{servers:,}", f"{rate:.2f}", found.name, f"{seconds:.3f}", f"{median:.2f}", f"{p99:.2f}"))
        if servers == PROMISED:
            name = f"{servers:,} servers of {len(GPUS)} GPU types, {problem.blocks} blocks"
            figures += [
                Figure(f"placement for {name}", seconds, "s", PLACEMENT_SECONDS),
                Figure(f"routing decision with upkeep, {name}, median", median, "ms", MEDIAN_MS),
                Figure("the same, 99th percentile", p99, "ms", P99_MS),
            ]
    note = (
        f"Decisions: {MODEL} at {PRECISION} on servers of one GPU each ({', '.join(GPUS)}) around eight places in the "
        f"world, at {LOAD:.0%} of what they carry; processor time of one core. A decision is a route with its booking."
    )
    columns = ("servers", "requests/s", "placement", "placement s", "decision median ms", "decision p99 ms")
    return figures, [note], [Table("Time of decisions over the number of servers", columns, rows)]


def _routing(desk: Desk, problem: ChainProblem, rate: float) -> tuple[float, float]:
    """Median and 99th percentile in milliseconds, once as many sessions run as will."""
    stream = np.random.default_rng(5)
    now, times = 0.0, []
    filled = 0.0
    taken = 0
    while taken < DECISIONS:
        now += stream.exponential(1 / rate)
        began = time.thread_time()
        found = desk.decide(now)
        if found is None:
            raise RuntimeError("the placement has no route")
        end = now + problem.setup_seconds + found.wait_seconds + found.service_seconds
        desk.admit(found.route, end, now)
        took = time.thread_time() - began
        filled = filled or found.service_seconds
        if now > filled or taken:
            times.append(1000 * took)
            taken += 1
    return float(np.median(times)), float(np.quantile(times, 0.99))


def optimum() -> tuple[list[Figure], list[str], list[Table]]:
    """Small batches beside the exact program."""
    gaps = []
    for seed in range(SMALL_INSTANCES):
        stream = np.random.default_rng([seed, 6])
        servers, blocks, requests = 3, int(stream.integers(3, 6)), 2
        trips = stream.uniform(0.005, 0.1, (2, servers))
        problem = ChainProblem(
            blocks=blocks,
            block_bytes=1.0,
            cache_bytes=float(stream.uniform(0.05, 0.4)),
            memory_bytes=stream.uniform(1.5, blocks + 2.0, servers),
            decode_trip_seconds=trips,
            decode_block_seconds=stream.uniform(0.002, 0.03, servers),
            prefill_trip_seconds=trips,
            prefill_block_seconds=stream.uniform(0.002, 0.03, servers),
            output_tokens=10,
        )
        clients = [0, 1][:requests]
        found = place_batch(problem, clients)
        try:
            best = solve_jointly(problem, clients)
        except NotSolvedError:
            continue
        if found is None:
            gaps.append(math.inf)
            continue
        if wrong := check(problem, found.placement, found.routes):
            raise RuntimeError(f"instance {seed}: {wrong[0]}")
        gaps.append(100 * (found.total_seconds / best.total_seconds - 1))
    figures = [
        Figure(f"gap to the joint optimum, worst of {len(gaps)} small instances", max(gaps), "%", 5.0),
        Figure("the same, mean", float(np.mean(gaps)), "%"),
    ]
    return figures, [], []
