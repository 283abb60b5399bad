"""The ways to allocate that the experiments compare, by one name each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from plimsoll.allocation import (
    Allocation,
    AllocationProblem,
    solve_adaptive,
    solve_agh,
    solve_exact,
    solve_greedy,
)


@dataclass(frozen=True, slots=True)
class Method:
    """A name for tables and what answers a problem."""

    name: str
    solve: Callable[[AllocationProblem], Allocation]


def _exact(problem: AllocationProblem) -> Allocation:
    return solve_exact(problem, start=solve_agh(problem), time_limit_seconds=60.0).allocation


GH = Method("GH", solve_greedy)
AGH = Method("AGH", solve_agh)
DEFAULT = Method("default", lambda problem: solve_adaptive(problem).allocation)
EXACT = Method("exact", _exact)
