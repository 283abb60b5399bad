"""Models split over servers: where to place blocks, and through which servers to route requests.

A library of its own: values in, values out. See examples/library/chains.py.
"""

from plimsoll.chains.batch import Batch, place_batch
from plimsoll.chains.check import check
from plimsoll.chains.composition import Chain, Disjoint, compose, disjoint_chains, mean_response_bounds
from plimsoll.chains.conservative import (
    ConservativePlacement,
    block_counts,
    design_sessions,
    most_sessions,
    place_conservatively,
)
from plimsoll.chains.desk import Decision, Desk
from plimsoll.chains.exact import ExactPlan, NotSolvedError, route_all, solve_jointly
from plimsoll.chains.hardware import Server, SessionShape, chain_problem
from plimsoll.chains.ledger import Ledger, earliest_starts, retried
from plimsoll.chains.online import NoRouteError, Served, exact, penalised, router, serve
from plimsoll.chains.problem import ChainError, ChainProblem, Placement
from plimsoll.chains.promises import Promise, promised
from plimsoll.chains.queue import CentralQueue, FreeChains, FreePaths, Start
from plimsoll.chains.regions import best_for_clients, mean_client, with_servers
from plimsoll.chains.replacement import MovePolicy, Replacement, replace_servers, surviving
from plimsoll.chains.routes import Hops, Path, Route, decode_costs, hops_of, session_costs, session_seconds, shortest
from plimsoll.chains.search import Candidate, best_placement, scored
from plimsoll.chains.sets import ServerSet, server_sets

__all__ = [
    "Batch",
    "Candidate",
    "CentralQueue",
    "Chain",
    "ChainError",
    "ChainProblem",
    "ConservativePlacement",
    "Decision",
    "Desk",
    "Disjoint",
    "ExactPlan",
    "FreeChains",
    "FreePaths",
    "Hops",
    "Ledger",
    "MovePolicy",
    "NoRouteError",
    "NotSolvedError",
    "Path",
    "Placement",
    "Promise",
    "Replacement",
    "Route",
    "Served",
    "Server",
    "ServerSet",
    "SessionShape",
    "Start",
    "best_for_clients",
    "best_placement",
    "block_counts",
    "chain_problem",
    "check",
    "compose",
    "decode_costs",
    "design_sessions",
    "disjoint_chains",
    "earliest_starts",
    "exact",
    "hops_of",
    "mean_client",
    "mean_response_bounds",
    "most_sessions",
    "penalised",
    "place_batch",
    "place_conservatively",
    "promised",
    "replace_servers",
    "retried",
    "route_all",
    "router",
    "scored",
    "serve",
    "server_sets",
    "session_costs",
    "session_seconds",
    "shortest",
    "solve_jointly",
    "surviving",
    "with_servers",
]
