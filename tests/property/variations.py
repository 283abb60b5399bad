"""Random problems made richer: replicas of several pieces, limits of groups, spare replicas and limits per node."""

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from plimsoll.allocation import AllocationProblem, Limit, limited
from plimsoll.allocation.problem import ANY_NUMBER


@st.composite
def in_pieces(draw: st.DrawFn, problems: st.SearchStrategy[AllocationProblem], most: int = 3) -> AllocationProblem:
    """Some options need several pieces per replica; the pieces that run lie anywhere in their pool."""
    problem = draw(problems)
    pieces = np.array([draw(st.integers(1, most)) for _ in range(problem.options)], dtype=np.int64)
    running: list[tuple[int, int, int]] = []
    for option, node, count in problem.running.tolist():
        nodes = np.flatnonzero(problem.node_pool == problem.option_pool[option]).tolist() if node >= 0 else [node]
        places = [node] + [draw(st.sampled_from(nodes)) for _ in range(count * int(pieces[option]) - 1)]
        running += [(option, place, places.count(place)) for place in sorted(set(places))]
    return replace(problem, option_nodes=pieces, running=np.array(running, dtype=np.int64).reshape(-1, 3))


@st.composite
def in_groups(draw: st.DrawFn, problems: st.SearchStrategy[AllocationProblem]) -> AllocationProblem:
    """Up to two limits of some of the options: of their number, GPUs or money."""
    problem = draw(problems)
    amounts = (np.ones(problem.options), problem.replica_gpus(), problem.option_price_per_hour)
    limits = []
    for _ in range(draw(st.integers(0, 2))):
        amount = draw(st.sampled_from(amounts))
        members = [option for option in range(problem.options) if draw(st.booleans()) and amount[option] > 0]
        capacity = draw(st.sampled_from([0.0, 1.0, 2.5, 4.0, 9.0]))
        limits.append(Limit(capacity, {option: float(amount[option]) for option in members}, draw(st.booleans())))
    return limited(problem, limits)


@st.composite
def with_spare(draw: st.DrawFn, problems: st.SearchStrategy[AllocationProblem]) -> AllocationProblem:
    """Some options keep replicas free, or may not put more than so many pieces on a node."""
    problem = draw(problems)
    spare = [0 if problem.one_option_per_pair else draw(st.integers(0, 2)) for _ in range(problem.options)]
    most = [draw(st.sampled_from([1, 2, 3, ANY_NUMBER])) for _ in range(problem.options)]
    return replace(
        problem,
        option_spare=np.array(spare, dtype=np.int64),
        option_per_node=np.array(most, dtype=np.int64),
    )
