"""AGH (arXiv 2604.07472): GH from several orders of the classes, then relocation and consolidation.

Every accepted step is feasible and better than the one before, in requests served first and cost second, so the search
may be stopped at any time.
"""

from collections.abc import Iterator

import numpy as np

from plimsoll.allocation.covering import shrink
from plimsoll.allocation.fleet import Checkpoint, Fleet
from plimsoll.allocation.greedy import answer_of, attach_idle_classes, complete, run
from plimsoll.allocation.guard import RemainingSeconds, endless
from plimsoll.allocation.mechanisms import ALL, Mechanisms
from plimsoll.allocation.moves import trim
from plimsoll.allocation.problem import Allocation, AllocationProblem, Ints
from plimsoll.allocation.workload import ROUNDING, Workload

RANDOM_ORDERS = 5
FEW_DEPLOYMENTS = 12
"""Beyond them the order matters little, since a deployment has few of the classes, and GH starts once."""
ACCEPTED_MOVES = 40
SCANS = 6
"""Relocation tries each piece of traffic at most this often, on average."""

Value = tuple[float, ...]


def solve_agh(
    problem: AllocationProblem,
    *,
    seed: int = 0,
    remaining_seconds: RemainingSeconds = endless,
    mechanisms: Mechanisms = ALL,
) -> Allocation:
    """A feasible allocation, never worse than GH from any of the orders. Same problem and seed, same answer.

    Args:
        problem: the fleet at one moment.
        seed: of the random orders.
        remaining_seconds: guard of wall-clock time; the search ends by itself after a fixed amount of work.
        mechanisms: for experiments only.
    """
    fleet = Fleet(problem)
    _best_start(fleet, _orders(problem, seed), remaining_seconds, mechanisms)
    for workload in fleet.workloads:
        search = _LocalSearch(fleet, workload, mechanisms, remaining_seconds)
        if search.worthwhile():
            search.run()
    return answer_of(fleet)


def _orders(problem: AllocationProblem, seed: int) -> Iterator[Ints]:
    """Orders of the classes that differ, GH's own first."""
    footprint = np.zeros(problem.classes)
    np.maximum.at(footprint, problem.pair_class, problem.pair_storage_cost_per_hour)
    keys = (problem.class_rate_per_hour, problem.class_mean_error_limit, footprint)
    orders = [np.argsort(sign * key, kind="stable") for key in keys for sign in (-1.0, 1.0)]
    random = np.random.default_rng(seed)
    orders += [random.permutation(problem.classes) for _ in range(RANDOM_ORDERS)]
    seen = set()
    for order in orders if len(problem.deployment_max_replicas) <= FEW_DEPLOYMENTS else orders[:1]:
        # What counts is the order within a priority.
        effective = tuple(order[np.argsort(-problem.class_priority[order], kind="stable")].tolist())
        if effective not in seen:
            seen.add(effective)
            yield order


def _best_start(
    fleet: Fleet, orders: Iterator[Ints], remaining_seconds: RemainingSeconds, mechanisms: Mechanisms
) -> None:
    """Leave the fleet in the best state that GH reaches from the orders."""
    best: tuple[Value, list[Checkpoint]] | None = None
    for order in orders:
        if best and remaining_seconds() <= 0:
            break
        fleet.clear()
        run(fleet, order, mechanisms)
        value = fleet.objective()
        if best is None or value < best[0]:
            best = value, [fleet.checkpoint(workload) for workload in fleet.workloads]
    if best is not None:
        for workload, checkpoint in zip(fleet.workloads, best[1], strict=True):
            fleet.restore(workload, checkpoint)


class _LocalSearch:
    """Relocation and consolidation within one deployment, beside all others as they are."""

    def __init__(
        self, fleet: Fleet, workload: Workload, mechanisms: Mechanisms, remaining_seconds: RemainingSeconds
    ) -> None:
        self._fleet = fleet
        self._workload = workload
        self._mechanisms = mechanisms
        self._remaining_seconds = remaining_seconds
        self._value = self._current_value()

    def worthwhile(self) -> bool:
        """The clean-up has looked at everything where all traffic of one class goes to one option."""
        return len(self._pieces()) > 1

    def run(self) -> None:
        workload = self._workload
        for row in np.flatnonzero(workload.rate_per_hour <= 0).tolist():
            for option in np.flatnonzero(workload.share[row]).tolist():
                workload.withdraw(row, option)
        self._relocate(SCANS)
        self._consolidate()
        self._relocate(1)
        attach_idle_classes(workload)

    def _relocate(self, scans: int) -> None:
        """Move a class from one pair to the best others, the dearest pieces first, until nothing moves."""
        accepted = failed = position = 0
        pieces = self._pieces()
        for _ in range(scans * len(pieces)):
            if failed >= len(pieces) or accepted >= ACCEPTED_MOVES or self._remaining_seconds() <= 0:
                return
            row, option = pieces[position % len(pieces)]
            if self._try([row], option):
                pieces, failed, accepted = self._pieces(), 0, accepted + 1
            else:
                failed += 1
                position += 1

    def _consolidate(self) -> None:
        """Close an option and serve its classes by the others, the least used first, until nothing is closed."""
        for _ in range(ACCEPTED_MOVES):
            for option in self._least_used():
                if self._remaining_seconds() <= 0:
                    return
                rows = np.flatnonzero(self._workload.share[:, option])
                rows = rows[np.argsort(-self._workload.rate_per_hour[rows], kind="stable")]
                if self._try(rows.tolist(), option):
                    break
            else:
                return

    def _try(self, rows: list[int], option: int) -> bool:
        """Take classes off an option; keep that if it makes the deployment better."""
        before = self._fleet.checkpoint(self._workload)
        self._take_off(rows, option)
        if self._promising():
            self._serve_elsewhere(rows, option)
            value = self._current_value()
            # What a class still has may have counted on what was taken off it.
            if value < self._value and self._workload.keeps_means():
                self._value = value
                return True
        self._fleet.restore(self._workload, before)
        return False

    def _take_off(self, rows: list[int], option: int) -> None:
        fleet, workload = self._fleet, self._workload
        for row in rows:
            workload.withdraw(row, option)
        trim(fleet, workload)
        if workload.piecewise and self._mechanisms.clean_up and workload.replicas[option]:
            shrink(fleet, workload, option)

    def _promising(self) -> bool:
        """What was freed is worth more than the least that serving everything again can cost, or demand is unserved."""
        workload = self._workload
        if any(self._value[:-1]):
            return True
        dearer = np.minimum(workload.least_traffic_cost, workload.unserved_cost) - workload.unserved_cost
        least = workload.cost() + float(dearer @ workload.unserved())
        return least < self._value[-1] - ROUNDING

    def _serve_elsewhere(self, rows: list[int], option: int) -> None:
        fleet, workload = self._fleet, self._workload
        workload.barred_pair = int(workload.pair[option])
        complete(fleet, workload, rows, self._mechanisms)
        workload.barred_pair = -1
        others = np.flatnonzero((workload.unserved() > ROUNDING) & (workload.rate_per_hour > 0))
        others = others[np.argsort(-workload.unserved_cost[others], kind="stable")]
        complete(fleet, workload, others.tolist(), self._mechanisms)

    def _current_value(self) -> Value:
        """The objective, and before cost the replicas below the least number."""
        *levels, cost = self._workload.objective()
        return (*levels, float(self._workload.missing_replicas()), cost)

    def _pieces(self) -> list[tuple[int, int]]:
        """Classes on options, the dearest first."""
        workload = self._workload
        active = workload.active()
        rows, columns = np.nonzero(workload.share[:, active])
        options = active[columns]
        share = workload.share[rows, options]
        part = (workload.work[:, rows, options] * share / np.maximum(workload.used[:, options], 1e-300)).max(axis=0)
        cost = part * (workload.price * workload.replicas)[options] + share * workload.traffic_cost[rows, options]
        order = np.lexsort((options, rows, -np.round(cost, 9)))
        return list(zip(rows[order].tolist(), options[order].tolist(), strict=True))

    def _least_used(self) -> list[int]:
        workload = self._workload
        used = np.array(workload.used_options(), dtype=np.int64)
        part = (workload.used[:, used] / workload.replicas[used]).max(axis=0)
        least: list[int] = used[np.argsort(part, kind="stable")].tolist()
        return least
