"""Clients in several places: one placement for their mean, or one of its own for each with the servers near it."""

from dataclasses import replace

import numpy as np

from plimsoll.chains.composition import Chain
from plimsoll.chains.problem import ChainError, ChainProblem, Floats, Ints, Placement
from plimsoll.chains.routes import Route
from plimsoll.chains.search import OVERLOADED, Candidate, best_placement


def best_for_clients(problem: ChainProblem, arrivals_per_second: Floats) -> Candidate | None:
    """The better of a common placement and of one per client; None where neither hosts all blocks.

    A common one shares all servers, and is scored with the round trips of the mean request. One per client takes the
    servers that are nearest to it, and has short round trips. Its chains are those of all clients together.

    Args:
        arrivals_per_second: (C)

    Raises:
        ChainError: when the rates are not one per client, are negative or all 0.
    """
    if arrivals_per_second.shape != (problem.clients,):
        raise ChainError(
            f"arrivals_per_second has shape {arrivals_per_second.shape}; a rate for each of {problem.clients} clients "
            "is needed"
        )
    total = float(arrivals_per_second.sum())
    if float(arrivals_per_second.min()) < 0 or total <= 0:
        raise ChainError(f"arrivals_per_second is {arrivals_per_second.tolist()}; rates are at least 0, one is above 0")
    common = best_placement(mean_client(problem, arrivals_per_second / total), total)
    apart = _apart(problem, arrivals_per_second)
    if common is None or (apart is not None and apart.score < common.score):
        return apart
    return common


def mean_client(problem: ChainProblem, shares: Floats) -> ChainProblem:
    """The problem with one client in place of all, whose round trips are those of the mean request.

    Args:
        shares: (C) of the requests.
    """
    return replace(
        problem,
        decode_trip_seconds=shares[None, :] @ problem.decode_trip_seconds,
        prefill_trip_seconds=shares[None, :] @ problem.prefill_trip_seconds,
    )


def with_servers(problem: ChainProblem, servers: Ints) -> ChainProblem:
    """The problem with these servers only, in their order."""
    return replace(
        problem,
        memory_bytes=problem.memory_bytes[servers],
        decode_trip_seconds=problem.decode_trip_seconds[:, servers],
        decode_block_seconds=problem.decode_block_seconds[servers],
        prefill_trip_seconds=problem.prefill_trip_seconds[:, servers],
        prefill_block_seconds=problem.prefill_block_seconds[servers],
        block_limit=problem.block_limit[servers] if len(problem.block_limit) else problem.block_limit,
    )


def _apart(problem: ChainProblem, arrivals_per_second: Floats) -> Candidate | None:
    asking = np.flatnonzero(arrivals_per_second > 0)
    nearest = asking[problem.session_trip_seconds[asking].argmin(axis=0)]
    first = np.zeros(problem.servers, dtype=np.int64)
    count = np.zeros(problem.servers, dtype=np.int64)
    chains: list[Chain] = []
    seconds = missing = 0.0
    for client in asking.tolist():
        servers = np.flatnonzero(nearest == client)
        rate = float(arrivals_per_second[client])
        own = best_placement(with_servers(problem, servers), rate, client) if len(servers) else None
        if own is None:
            return None
        first[servers], count[servers] = own.placement.first, own.placement.count
        numbers = servers.tolist()
        for chain in own.chains:
            route = Route(tuple(numbers[server] for server in chain.route.servers), chain.route.blocks)
            chains.append(replace(chain, route=route))
        if own.carries:
            seconds += rate * own.score
        else:
            missing += own.score - OVERLOADED
    score = OVERLOADED + missing if missing > 0 else seconds / float(arrivals_per_second.sum())
    return Candidate(f"apart for {len(asking)} clients", Placement(first, count), score, tuple(chains))
