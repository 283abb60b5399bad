"""Whether a placement and routes keep the rules, decided without any code of the solvers."""

from collections.abc import Sequence

from plimsoll.chains.problem import SLACK, ChainProblem, Placement
from plimsoll.chains.routes import Route


def check(problem: ChainProblem, placement: Placement, concurrent: Sequence[Route] = ()) -> list[str]:
    """What is wrong, as sentences; empty when nothing is.

    Args:
        concurrent: routes of sessions that hold memory at the same time.
    """
    wrong: list[str] = []
    first = [int(value) for value in placement.first]
    count = [int(value) for value in placement.count]
    if len(first) != problem.servers or len(count) != problem.servers:
        return [f"the placement is for {len(first)} servers and not for {problem.servers}"]
    for server in range(problem.servers):
        if count[server] < 0 or first[server] < 0 or first[server] + count[server] > problem.blocks:
            wrong.append(f"server {server} hosts blocks {first[server]} to {first[server] + count[server] - 1}")
        if count[server] > problem.most_blocks[server]:
            wrong.append(f"server {server} hosts {count[server]} blocks; it may host {problem.most_blocks[server]}")
    held = [problem.block_bytes * value for value in count]
    processing = [0] * problem.servers
    for number, route in enumerate(concurrent):
        needed = 0
        for server, processed in zip(route.servers, route.blocks, strict=True):
            end = first[server] + count[server]
            if not first[server] <= needed < end:
                wrong.append(f"route {number} comes to server {server} for block {needed}, which it does not host")
            if processed != end - needed:
                wrong.append(f"route {number} has server {server} process {processed} blocks and not {end - needed}")
            needed = end
            held[server] += problem.cache_bytes * processed
            processing[server] += processed
        if needed != problem.blocks:
            wrong.append(f"route {number} ends before block {needed} of {problem.blocks}")
    for server, pairs in enumerate(processing):
        limit = problem.sessions_at_once * count[server]
        if problem.sessions_at_once and pairs > limit:
            wrong.append(f"server {server} processes {pairs} blocks of sessions at once; it may process {limit}")
    for server, used in enumerate(held):
        if used > float(problem.memory_bytes[server]) * (1 + SLACK):
            wrong.append(f"server {server} holds {used:.6g} bytes of {float(problem.memory_bytes[server]):.6g}")
    return wrong
