"""A 70B model over GPUs that are too small for it, in another program: place its layers, route requests, lose a server,
and ask what the load needs. Run: `python chains.py`."""

import numpy as np

from plimsoll.catalog import load_catalog
from plimsoll.catalog.precisions import PRECISIONS
from plimsoll.chains import (
    Desk,
    MovePolicy,
    Server,
    SessionShape,
    best_for_clients,
    chain_problem,
    check,
    replace_servers,
    server_sets,
    surviving,
    with_servers,
)
from plimsoll.performance import LatencyTarget, LatencyTargets

catalog = load_catalog()
model, bf16 = catalog.model("meta-llama/Llama-3.3-70B-Instruct"), PRECISIONS["bf16"]
# Twelve L40S near the clients, eight L4 far away, over 10 and 1 Gbit/s.
near, far = Server(catalog.gpu("L40S"), 1.25e9), Server(catalog.gpu("L4"), 0.125e9)
servers = [near] * 12 + [far] * 8
round_trip_seconds = np.array([[0.002] * 12 + [0.03] * 8])
sessions = SessionShape(input_tokens=500, output_tokens=200, at_once=16)
problem = chain_problem(model, bf16, servers, round_trip_seconds, sessions)

placed = best_for_clients(problem, np.array([0.5]))  # requests per second of each client
assert placed is not None
assert not check(problem, placed.placement)
print(f"{placed.name}: mean response {placed.score:.1f} s")
for chain in placed.chains:
    print(f"  {chain.places} sessions at once, {chain.service_seconds:.1f} s each, servers {list(chain.route.servers)}")

desk = Desk(problem, placed.placement)
for number in range(3):
    now = 0.5 * number
    decision = desk.decide(now)
    assert decision is not None
    desk.admit(decision.route, now + decision.wait_seconds + decision.service_seconds, now)
    print(f"request {number}: servers {decision.route.servers}, waits {decision.wait_seconds:.1f} s")

lost = [0, 4, 8]  # all that host the first layers, but for the slow ones
kept = np.setdiff1d(np.arange(problem.servers), lost)
left, running = with_servers(problem, kept), surviving(placed.placement, kept)
repaired = replace_servers(left, running, 0.5, MovePolicy(quality=0.9))
assert repaired is not None
assert not check(left, repaired.placement)
print(f"without {lost}: {repaired.name}; {repaired.moved} move in {len(repaired.waves)} waves, {repaired.score:.1f} s")

pools = np.array([0] * 12 + [1] * 8)
price_per_hour = np.where(pools == 0, 1.1, 0.8)
targets = LatencyTargets(ttft=LatencyTarget(6.0, 95), tpot=LatencyTarget(0.4, None))
for option in server_sets(problem, pools, price_per_hour, targets, [0.3, 0.6, 0.9]):
    count = np.bincount(pools[list(option.servers)], minlength=2).tolist()
    print(f"{option.price_per_hour:.2f} per hour: {count} servers, {option.rate_per_second:.2f} requests/s in time")
