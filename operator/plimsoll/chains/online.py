"""Requests one after the other: each is routed when it arrives and holds its memory to its end.

Two rules for the route: the penalised one of BPRR (WS-RR: shortest path where each hop costs its service and its wait),
and the exact one (least of service and the longest wait on the path, since all servers must have room at once).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from plimsoll.chains.ledger import Ledger, retried
from plimsoll.chains.problem import SLACK, ChainProblem, Floats, Ints
from plimsoll.chains.routes import Hops, Path, Route, prefill_seconds, session_seconds, shortest

Router = Callable[[Ledger, float], Route | None]
"""Books and the time of arrival in, the route out; None when no route exists."""


class NoRouteError(Exception):
    """No route exists through the placement: a block is hosted nowhere, or no server has the memory for a session."""


@dataclass(frozen=True, slots=True)
class Served:
    """What became of one request. Times in seconds from its arrival."""

    arrival_seconds: float
    route: Route
    raw_wait_seconds: float
    """Until all servers of the route have room."""
    wait_seconds: float
    """The same as its client finds it."""
    ttft_seconds: float
    total_seconds: float
    concurrent: int
    """Sessions that hold memory when it has come, itself among them."""

    @property
    def end_seconds(self) -> float:
        return self.arrival_seconds + self.total_seconds


def penalised(hops: Hops, cost: Floats, waits: Floats) -> Path | None:
    """WS-RR: the path with the least sum of service and waits."""
    return shortest(hops, cost + waits)


def exact(hops: Hops, cost: Floats, waits: Floats) -> Path | None:
    """The path with the least sum of service and longest wait.

    Solved by thresholds: close every hop that waits as long as the path found, and look again, until nothing that is
    left can be better.
    """
    best: Path | None = None
    best_total = np.inf
    open_cost = np.where(np.isfinite(waits), cost, np.inf)
    while (path := shortest(hops, open_cost)) is not None:
        longest = float(waits[list(path.hops)].max())
        total = path.cost + longest
        if best is None or total < best_total - SLACK * max(1.0, best_total):
            best, best_total = path, total
        if longest <= 0 or path.cost >= best_total:
            break
        # What waits longer than the best answer leaves time for cannot be part of a better one.
        open_cost = np.where(waits < min(longest, best_total - path.cost), open_cost, np.inf)
    return best


def router(hops: Hops, cost: Floats, rule: Callable[[Hops, Floats, Floats], Path | None] = exact) -> Router:
    """Routes by a rule over the hops of one placement; `cost` (H) is the service of a session."""

    def route(ledger: Ledger, now_seconds: float) -> Route | None:
        path = rule(hops, cost, ledger.waits(hops, now_seconds))
        return None if path is None else hops.route(path.hops)

    return route


def serve(
    problem: ChainProblem,
    slots: Ints,
    gaps_seconds: Iterable[float],
    choose: Router,
    *,
    clients: Sequence[int] | None = None,
    retry: bool = False,
) -> list[Served]:
    """Serve requests that arrive one after the other.

    Args:
        slots: (S) cache slots of each server.
        gaps_seconds: time from each request to the one before.
        clients: who asks, by request; the first client when left out.
        retry: clients notice that a wait is over only when they try again (1, 3, 7, … seconds after arrival).

    Raises:
        NoRouteError: at the first request without a route.
    """
    ledger, now, served = Ledger(slots), 0.0, list[Served]()
    ends: list[float] = []
    for number, gap in enumerate(gaps_seconds):
        now += gap
        client = 0 if clients is None else clients[number]
        ledger.release_until(now)
        ends = [end for end in ends if end > now]
        route = choose(ledger, now)
        if route is None:
            raise NoRouteError(f"request {number} of client {client}: the placement has no route")
        raw = ledger.route_wait(route, now)
        wait = retried(raw) if retry else raw
        before = problem.setup_seconds + wait
        found = Served(
            arrival_seconds=now,
            route=route,
            raw_wait_seconds=raw,
            wait_seconds=wait,
            ttft_seconds=before + prefill_seconds(problem, route, client),
            total_seconds=before + session_seconds(problem, route, client),
            concurrent=len(ends) + 1,
        )
        ledger.admit(route, found.end_seconds)
        ends.append(found.end_seconds)
        served.append(found)
    return served
