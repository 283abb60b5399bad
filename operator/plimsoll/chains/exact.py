"""The optimum for a batch of requests: placement and routes together, or routes through a given placement.

Mixed-integer programs for HiGHS. The joint one is NP-hard and grows with requests times servers squared: for instances
of a few servers, to measure heuristics against. Decoding only, as in BPRR: a session costs `output_tokens` times its
time per token, the prompt counting as one more token.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import highspy
import numpy as np

from plimsoll.chains.problem import ChainProblem, Ints, Placement
from plimsoll.chains.routes import Hops, Route, decode_costs, hops_of

Links = dict[tuple[int, int], highspy.highs.highs_var]
"""Variables by link (tail, head)."""


class NotSolvedError(Exception):
    """HiGHS found no optimum: the instance is infeasible, or the time was up."""


@dataclass(frozen=True, slots=True, eq=False)
class ExactPlan:
    """Optimal placement, a route per request, and the sum of their times."""

    placement: Placement
    routes: tuple[Route, ...]
    total_seconds: float


def solve_jointly(problem: ChainProblem, clients: Sequence[int], *, time_limit_seconds: float = 60.0) -> ExactPlan:
    """Place blocks and route one request for each entry of `clients`, all of them at once.

    As in the paper every server hosts at least one block.

    Raises:
        NotSolvedError: infeasible, or not proven within the time.
    """
    return _Joint(problem, clients).solve(time_limit_seconds)


class _Joint:
    """Link variables f, and the products of f with the interval variables that make cost and memory linear.

    The entrance of a link is the next needed block (`first + count` of its tail), its exit that of its head; k, the
    difference, is what the head processes.
    """

    def __init__(self, problem: ChainProblem, clients: Sequence[int]) -> None:
        self._problem, self._clients = problem, clients
        self._highs = _solver()
        self._highs.setOptionValue("mip_rel_gap", 1e-9)
        size, integer = problem.servers, highspy.HighsVarType.kInteger
        self._first = [self._highs.addVariable(0, problem.blocks - 1, type=integer) for _ in range(size)]
        self._count = [self._highs.addVariable(1, int(most), type=integer) for most in problem.most_blocks]
        self._links = [self._request() for _ in clients]
        self._processed = [self._entrances(links) for links in self._links]

    def _request(self) -> Links:
        """Link variables (tail, head) of one request; -1 is its source, `servers` its sink."""
        highs, size = self._highs, self._problem.servers
        links = {
            (tail, head): highs.addVariable(0, 1, type=highspy.HighsVarType.kInteger)
            for tail in range(-1, size)
            for head in range(size + 1)
            if tail != head and not (tail == -1 and head == size)
        }
        for server in range(size):
            entering = sum(var for (_, head), var in links.items() if head == server)
            leaving = sum(var for (tail, _), var in links.items() if tail == server)
            highs.addConstr(entering - leaving == 0)
        highs.addConstr(sum(var for (tail, _), var in links.items() if tail == -1) == 1)
        return links

    def _entrances(self, links: Links) -> Links:
        """Blocks that the head of each link processes, 0 where it is not used; and what makes links feasible."""
        highs, blocks, size = self._highs, self._problem.blocks, self._problem.servers
        processed: Links = {}
        for (tail, head), used in links.items():
            position = 0 if tail == -1 else self._first[tail] + self._count[tail]
            if head == size:
                highs.addConstr(position - blocks * used >= 0)  # only who ends at the last block leads to the sink
                continue
            exit_ = self._first[head] + self._count[head]
            slack = blocks * (1 - used)
            highs.addConstr(self._first[head] - position - slack <= 0)
            highs.addConstr(exit_ - position - 1 + slack >= 0)
            amount = highs.addVariable(0, blocks)
            highs.addConstr(amount - blocks * used <= 0)
            highs.addConstr(amount - (exit_ - position) + slack >= 0)
            processed[tail, head] = amount
        return processed

    def solve(self, time_limit_seconds: float) -> ExactPlan:
        problem, highs = self._problem, self._highs
        for server in range(problem.servers):
            highs.addConstr(self._first[server] + self._count[server] <= problem.blocks)
            held = highspy.Highs.qsum(
                problem.cache_bytes * amount
                for processed in self._processed
                for (_, head), amount in processed.items()
                if head == server
            )
            if problem.sessions_at_once:
                slots = problem.cache_bytes * problem.sessions_at_once
                highs.addConstr(held - slots * self._count[server] <= 0)
            highs.addConstr(problem.block_bytes * self._count[server] + held <= float(problem.memory_bytes[server]))
        cost = highspy.Highs.qsum(
            float(problem.decode_trip_seconds[client, head]) * links[tail, head]
            + float(problem.decode_block_seconds[head]) * amount
            for client, links, processed in zip(self._clients, self._links, self._processed, strict=True)
            for (tail, head), amount in processed.items()
        )
        highs.setOptionValue("time_limit", time_limit_seconds)
        highs.minimize(cost)
        _optimal(highs)
        first = np.array([round(highs.val(var)) for var in self._first], dtype=np.int64)
        count = np.array([round(highs.val(var)) for var in self._count], dtype=np.int64)
        placement = Placement(first, count)
        routes = tuple(self._route(links, placement) for links in self._links)
        return ExactPlan(placement, routes, problem.output_tokens * float(highs.getInfo().objective_function_value))

    def _route(self, links: Links, placement: Placement) -> Route:
        following = {tail: head for (tail, head), var in links.items() if self._highs.val(var) > 0.5}
        servers, blocks, position, server = [], [], 0, following[-1]
        while server < self._problem.servers:
            servers.append(server)
            blocks.append(int(placement.end[server]) - position)
            position, server = int(placement.end[server]), following[server]
        return Route(tuple(servers), tuple(blocks))


def route_all(
    problem: ChainProblem, placement: Placement, requests: Ints, *, time_limit_seconds: float = 60.0
) -> tuple[list[list[Route]], float]:
    """The best routes for all requests at once through a given placement, within memory.

    Args:
        requests: (C) requests of each client.

    Returns:
        Routes per client, one for each request, and the sum of their times.

    Raises:
        NotSolvedError: memory does not suffice, or not proven within the time.
    """
    hops = hops_of(placement, problem.blocks)
    highs = _solver()
    highs.setOptionValue("time_limit", time_limit_seconds)
    integer = highspy.HighsVarType.kInteger
    flow = [[highs.addVariable(0, int(wanted), type=integer) for _ in hops.server] for wanted in requests]
    for wanted, own in zip(requests.tolist(), flow, strict=True):
        for position in range(problem.blocks):
            entering = sum(own[number] for number in np.flatnonzero(hops.stop == position).tolist())
            leaving = sum(own[number] for number in np.flatnonzero(hops.start == position).tolist())
            if position == 0:
                highs.addConstr(leaving == int(wanted))
            elif not isinstance(entering, int) or not isinstance(leaving, int):
                highs.addConstr(leaving - entering == 0)
    slots = placement.cache_slots(problem)
    for server in np.unique(hops.server).tolist():
        numbers = np.flatnonzero(hops.server == server).tolist()
        held = sum(int(hops.processed[number]) * own[number] for own in flow for number in numbers)
        highs.addConstr(held <= int(slots[server]))
    costs = [decode_costs(problem, hops, client) for client in range(problem.clients)]
    highs.minimize(
        sum(
            float(cost[number]) * own[number]
            for cost, own in zip(costs, flow, strict=True)
            for number in range(len(own))
        )
    )
    _optimal(highs)
    routes = [_peel(hops, np.array([round(highs.val(var)) for var in own]), problem.blocks) for own in flow]
    return routes, problem.output_tokens * float(highs.getInfo().objective_function_value)


def _peel(hops: Hops, flow: Ints, blocks: int) -> list[Route]:
    """Single routes out of an integer flow."""
    routes: list[Route] = []
    while flow[hops.start == 0].any():
        position, chosen = 0, []
        while position < blocks:
            number = int(np.flatnonzero((hops.start == position) & (flow > 0))[0])
            chosen.append(number)
            position = int(hops.stop[number])
        flow[chosen] -= 1
        routes.append(hops.route(chosen))
    return routes


def _solver() -> highspy.Highs:
    highs = highspy.Highs()  # type: ignore[no-untyped-call]
    highs.setOptionValue("output_flag", False)
    return highs


def _optimal(highs: highspy.Highs) -> None:
    status = highs.getModelStatus()
    if status != highspy.HighsModelStatus.kOptimal:
        raise NotSolvedError(f"HiGHS: {highs.modelStatusToString(status)}")
