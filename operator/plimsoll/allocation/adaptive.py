"""The production default: heuristics first, then a search with exact parts, and a lower bound beside the answer.

Few deployments are searched by mixed-integer programs over parts of their options (neighbourhood.py); a fleet of many
is decomposed, since only stock, storage and budget couple its deployments (decomposition.py). What runs now is one of
the starts, so an answer is never worse than staying.
"""

from dataclasses import replace

import numpy as np

from plimsoll.allocation.decomposition import DecomposedSolution, Memory, objective, solve_decomposed
from plimsoll.allocation.decomposition_stay import stay
from plimsoll.allocation.greedy import solve as solve_greedy
from plimsoll.allocation.guard import RemainingSeconds, endless
from plimsoll.allocation.neighbourhood import finish
from plimsoll.allocation.problem import Allocation, AllocationProblem, Solution
from plimsoll.allocation.routing import route
from plimsoll.allocation.search import solve_agh

FEW_DEPLOYMENTS = 12
"""Up to here the deployments' options are searched together."""
GREEDY_PAIRS = 50_000
"""Up to so many pairs of class and option GH takes less than a second, and its answer is one more start."""
WIDE_GAP = 0.05
"""Above this gap the first answer for a larger fleet is compared with GH's."""


def solve_adaptive(
    problem: AllocationProblem,
    *,
    seed: int = 0,
    memory: Memory | None = None,
    remaining_seconds: RemainingSeconds = endless,
    prove: bool = True,
) -> Solution:
    """A good answer with its lower bound. Same problem and seed, same answer, unless the guard fired.

    Args:
        problem: what to decide; tighten it by `with_headroom` where an answer must stand disturbance.
        seed: of the random orders and neighbourhoods.
        memory: keeps what depends on one deployment alone from call to call; it saves time and never changes an answer.
        remaining_seconds: guard of wall-clock time, asked between steps; `Solution.interrupted` tells that it fired.
        prove: False leaves out work that only raises the bound; the allocation is the same.
    """
    starts = _staying(problem)
    if _decomposes(problem):
        return _decomposed(problem, starts, memory, remaining_seconds)
    starts.append(solve_agh(problem, seed=seed, remaining_seconds=remaining_seconds))
    if len(starts) > 1:
        starts += _afresh(problem, seed, remaining_seconds)
    return finish(problem, starts, seed=seed, remaining_seconds=remaining_seconds, prove=prove)


def _decomposes(problem: AllocationProblem) -> bool:
    papers_form = problem.resources != 1 or problem.one_option_per_pair or problem.means_over_all
    return not papers_form and len(np.unique(problem.option_deployment)) > FEW_DEPLOYMENTS


def _decomposed(
    problem: AllocationProblem, starts: list[Allocation], memory: Memory | None, remaining_seconds: RemainingSeconds
) -> Solution:
    if problem.pairs <= GREEDY_PAIRS:
        starts.append(solve_greedy(problem))
        return solve_decomposed(problem, starts, memory=memory, remaining_seconds=remaining_seconds)
    solution = solve_decomposed(problem, starts, memory=memory, remaining_seconds=remaining_seconds)
    if solution.interrupted or _suffices(problem, starts, solution):
        return solution
    second = solve_greedy(problem)
    if objective(problem, second) >= objective(problem, solution.allocation):
        return solution
    return solve_decomposed(problem, [*starts, second], memory=memory, remaining_seconds=remaining_seconds)


def _suffices(problem: AllocationProblem, starts: list[Allocation], solution: DecomposedSolution) -> bool:
    """GH, which takes longer than all else here, has little to add.

    Either the gap is narrow; or nobody is short, and what runs, which was found with GH's help, was a start.
    """
    *lacking, _ = objective(problem, solution.allocation)
    return solution.gap_as_served <= WIDE_GAP or (bool(starts) and not any(lacking))


def _staying(problem: AllocationProblem) -> list[Allocation]:
    """What runs now with its best shares, if it is allowed."""
    staying = stay(problem) if len(problem.running) else None
    return [] if staying is None else [staying]


def _afresh(problem: AllocationProblem, seed: int, remaining_seconds: RemainingSeconds) -> list[Allocation]:
    """What would be best if nothing ran, where it keeps all limits beside what does."""
    fresh = solve_agh(replace(problem, running=problem.running[:0]), seed=seed, remaining_seconds=remaining_seconds)
    fitting = route(problem, fresh.replicas)
    return [] if fitting is None else [fitting]
