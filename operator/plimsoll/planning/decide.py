"""Which answer to follow: stay with what runs unless that fails the objectives or a change saves enough."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from plimsoll.allocation import Allocation, AllocationProblem, Solution, check, limited, solve_greedy, subset
from plimsoll.allocation.problem import Bools
from plimsoll.planning.beside import (
    beside,
    exchanged,
    following,
    gives_up,
    overspends,
    short_deployments,
)
from plimsoll.planning.fleet import NO_LIMIT
from plimsoll.planning.plan import Finding
from plimsoll.planning.resting import at_rest
from plimsoll.planning.search import UNPROVEN, Search, proven
from plimsoll.planning.weighing import served_better, worthwhile

ATTEMPTS = 4
"""Times that the movers are asked what they can have for the money that is left."""
LOOKAHEAD_ROUNDS = 4
"""Further rounds that are played through before a plan is applied; each must save the least saving again."""


class PlanRejectedError(Exception):
    """The independent checker found the solver's answer to break a limit. Nothing of it may be applied."""


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """The answer with what is proven about it, and which deployments are short of what their limits allow (mask, D)."""

    solution: Solution
    short: Bools
    faults: tuple[str, ...] = ()
    """What the solver broke down on."""
    notes: Mapping[str, tuple[Finding, ...]] = field(default_factory=dict)
    """What else is to be said about deployments (namespace/name)."""

    @property
    def allocation(self) -> Allocation:
        return self.solution.allocation


def decide(problem: AllocationProblem, search: Search) -> Decision:
    """Solve, prefer to stay per deployment, and check independently.

    A deployment keeps to its running replicas (or fewer of them) while they serve all its classes and no other answer
    is cheaper by the least saving. So a plan that is applied is its own plan: at rest nothing moves.

    Raises:
        PlanRejectedError: when `allocation.check` finds a violation.
    """
    if not problem.options:
        only = solve_greedy(problem)
        return Decision(Solution(only, only.cost.total), short=short_deployments(problem, only))
    turn = _Round(problem, search)
    allocation = turn.answer()
    violations = check(problem, allocation)
    if violations:
        raise PlanRejectedError("; ".join(violation.message for violation in violations[:5]))
    bound = proven(problem, turn.free, allocation)
    if bound == UNPROVEN:
        bound = search.bound(problem, allocation)
    solution = Solution(allocation, bound, turn.interrupted)
    return Decision(solution, short_deployments(problem, allocation), tuple(search.faults))


class _Round:
    """One decision in the making. The policy's search, which is dear, runs for the free answer and to look ahead."""

    def __init__(self, problem: AllocationProblem, search: Search) -> None:
        self._problem = problem
        self._search = search
        self.interrupted = False
        self.free = search.solve(problem)
        self.interrupted |= self.free.interrupted

    def answer(self) -> Allocation:
        problem = self._problem
        stay, free = at_rest(problem, self._search), self.free.allocation
        moves = self._gains(stay, free)
        # New replicas fit beside all that runs, so those of some deployments fit beside what the others keep.
        allocation = exchanged(problem, stay, free, moves)
        if overspends(problem, allocation):
            # What the others would have given up stays spent: the movers must do with what is left.
            allocation = self._with_what_is_left(stay, moves)
        if np.array_equal(allocation.replicas, problem.running_replicas()):
            return allocation
        return self._look_ahead(allocation, moves)

    def _solve(self, problem: AllocationProblem) -> Allocation:
        solution = self._search.answer(problem)
        self.interrupted |= solution.interrupted
        return solution.allocation

    def _gains(self, stay: Allocation, other: Allocation) -> Bools:
        """Deployments (D) for which the other answer is worth a move."""
        problem, saving = self._problem, self._search.minimal_saving
        worth = worthwhile(problem, problem.running_replicas(), stay, other, saving)
        gains: Bools = worth | _below_minimum(problem, stay, other)
        return gains

    def _with_what_is_left(self, stay: Allocation, moves: Bools) -> Allocation:
        """The movers' best answer beside what the others go on running; who has nothing of it stays.

        A mover that ends short keeps all that it runs. Where its plan gives some of that up, it is asked again what it
        can add to it; at last all movers are asked that, which cannot spend anything twice.
        """
        problem, adding = self._problem, np.zeros_like(moves)
        for attempt in range(ATTEMPTS):
            if not moves.any():
                break
            last = attempt + 1 == ATTEMPTS
            growth = beside(problem, stay, moves, moves if last else adding)
            found = growth.merged(self._solve(growth.problem))
            gains = moves & self._gains(stay, found)
            found = exchanged(problem, stay, found, gains)
            again = gains & gives_up(problem, found) & ~adding
            if last or (gains.sum() == moves.sum() and not again.any()):
                return found if _holds(problem, found) else stay
            # Those that gain nothing leave what was meant for them to the others.
            moves, adding = gains, adding | again
        return stay

    def _look_ahead(self, allocation: Allocation, movable: Bools) -> Allocation:
        """The answer that the next rounds would come to, as far as it fits beside what runs now.

        The search can find a better answer once its own replicas run; to move them a moment after they started would be
        waste. And shares are those that the next round finds for the same replicas: routing does not change again.
        """
        problem = self._problem
        looked_at = np.ones_like(movable)
        movable = movable & ~short_deployments(problem, allocation)
        for _ in range(LOOKAHEAD_ROUNDS):
            allocation, stuck = self._rested(allocation, looked_at)
            if not movable.any():
                break
            if self._search.time_is_up():
                self.interrupted = True  # GH, which has no guard of its own, would go on for as long as it likes
                break
            part = following(problem, allocation, movable)
            after = part.merged(self._solve(part.problem))
            now, saving = allocation.replicas, self._search.minimal_saving
            if not (movable & (worthwhile(problem, now, allocation, after, saving) | stuck)).any():
                break
            # Nothing of it runs yet, so whatever is better is taken with it.
            moves = movable & (worthwhile(problem, now, allocation, after, 0.0) | stuck)
            after = exchanged(problem, allocation, after, moves)
            if overspends(problem, after):
                part = following(problem, allocation, moves)
                after = part.merged(self._solve(part.problem))
                moves &= worthwhile(problem, now, allocation, after, 0.0) | stuck
                after = exchanged(problem, allocation, after, moves)
            if not _holds(problem, after):
                break  # it fits only once what runs now is gone: the next round's business
            allocation, looked_at = after, moves
        else:
            allocation, _ = self._rested(allocation, looked_at)
        return allocation

    def _rested(self, allocation: Allocation, chosen: Bools) -> tuple[Allocation, Bools]:
        """What the next round makes of the same replicas (or fewer) in the chosen deployments (mask, D): its shares.

        And the deployments where it does not find again how to serve as much, so that it would look for other replicas.
        """
        problem = self._problem
        part = subset(problem, allocation, chosen)
        rested = part.merged(at_rest(part.problem, self._search))
        worse, _ = served_better(problem, rested, allocation)
        rested = exchanged(problem, rested, allocation, worse)
        return (rested if _holds(problem, rested) else allocation), worse


def _holds(problem: AllocationProblem, allocation: Allocation) -> bool:
    return not check(problem, allocation) and not overspends(problem, allocation)


def without_limits(
    problem: AllocationProblem,
    *,
    budget: bool,
    storage: bool = False,
    stock: bool = False,
    replicas: bool = False,
    groups: bool = False,
) -> AllocationProblem:
    """The problem without its budget, storage, stock, replica or group limits: tells which of them binds."""
    relaxed = problem
    if groups:
        relaxed = limited(relaxed, ())
    if budget:
        relaxed = replace(relaxed, budget_per_hour=float("inf"))
    if storage:
        relaxed = replace(relaxed, storage_limit_gigabytes=float("inf"))
    if stock:
        relaxed = replace(
            relaxed,
            pool_unlimited=np.ones_like(problem.pool_unlimited),
            pool_gpu_limit=np.full_like(problem.pool_gpu_limit, np.inf),
        )
    if replicas:
        relaxed = replace(relaxed, deployment_max_replicas=np.full_like(problem.deployment_max_replicas, NO_LIMIT))
    return relaxed


def _below_minimum(problem: AllocationProblem, stay: Allocation, free: Allocation) -> Bools:
    """Deployments (D) that have fewer replicas than their minimum and could have more."""
    sums = [
        np.bincount(problem.option_deployment, allocation.replicas, minlength=len(problem.deployment_min_replicas))
        for allocation in (stay, free)
    ]
    below: Bools = (sums[0] < problem.deployment_min_replicas) & (sums[1] > sums[0])
    return below
