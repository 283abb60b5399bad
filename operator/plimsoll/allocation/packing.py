"""Where replicas lie: the proof that they fit the nodes, and answers priced and proven from bare numbers."""

import numpy as np

from plimsoll.allocation.evaluate import cost_of
from plimsoll.allocation.problem import CPU, GPU, MEMORY, Allocation, AllocationProblem, Floats, Ints
from plimsoll.allocation.stock import Places, Stock


def pack(problem: AllocationProblem, replicas: Ints) -> Ints | None:
    """Rows (Q, 3) of option, node, pieces that prove that these replicas (N,) fit; None where no place was found.

    Running replicas that are kept stay on their nodes; new ones go to the fullest node that can take them, the largest
    options first. Without `keep_running` everything may move where it does not fit otherwise.
    """
    if problem.pool_unlimited.all():
        return np.zeros((0, 3), dtype=np.int64)
    places = _places(problem, replicas, staying=True)
    if places is None and not problem.keep_running:
        places = _places(problem, replicas, staying=False)
    return None if places is None else proof(problem, replicas, places)


def answer(problem: AllocationProblem, replicas: Ints, share: Floats, unserved: Floats) -> Allocation | None:
    """The allocation of these replicas (N,) and shares (P,), packed and priced; None where the replicas do not fit."""
    packing = pack(problem, replicas)
    if packing is None:
        return None
    return Allocation(replicas, share, unserved, packing, cost_of(problem, replicas, share, unserved))


def need_no_place(problem: AllocationProblem) -> Ints:
    """Replicas per option (N,) that running ones cover: all of them, or those at unknown places where they may move."""
    if problem.keep_running:
        return problem.running_replicas()
    unknown = problem.running[problem.running[:, 1] < 0]
    held = np.zeros(problem.options, dtype=np.int64)
    np.add.at(held, unknown[:, 0], unknown[:, 2])
    return held // problem.option_nodes


def proof(problem: AllocationProblem, replicas: Ints, places: dict[int, Places]) -> Ints:
    """Packing rows: kept replicas where they run (those at unknown places are left out), new ones as in `places`."""
    counts: dict[tuple[int, int], int] = {}
    if problem.keep_running:
        kept = np.minimum(replicas, problem.running_replicas()) * problem.option_nodes
        unknown = problem.running[:, 1] < 0
        np.subtract.at(kept, problem.running[unknown, 0], problem.running[unknown, 2])
        for option, node, count in problem.running[~unknown].tolist():
            take = min(count, int(kept[option]))
            if take > 0 and not problem.pool_unlimited[problem.option_pool[option]]:
                counts[option, node] = counts.get((option, node), 0) + take
                kept[option] -= take
    for option, by_node in places.items():
        for node, count in by_node.items():
            counts[option, node] = counts.get((option, node), 0) + count
    rows = [(option, node, count) for (option, node), count in sorted(counts.items())]
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


def _places(problem: AllocationProblem, replicas: Ints, *, staying: bool) -> dict[int, Places] | None:
    stock = Stock(problem, staying=staying)
    wanted = np.maximum(replicas - need_no_place(problem), 0) * problem.option_nodes
    wanted[problem.pool_unlimited[problem.option_pool]] = 0
    for option in np.flatnonzero(wanted).tolist():
        wanted[option] -= stock.place_where_running(option, int(wanted[option]))
    options = np.flatnonzero(wanted)
    demand = problem.option_demand[options]
    for option in options[np.lexsort((options, -demand[:, MEMORY], -demand[:, CPU], -demand[:, GPU]))].tolist():
        if stock.place_best_fit(option, int(wanted[option])):
            return None
    return stock.places
