"""Linear and mixed-integer programs in numpy arrays, solved by HiGHS on one thread with a fixed seed.

The normal end of a solve is a fixed amount of work, so that the same model gives the same bytes on every machine; a
limit in seconds is only a guard, and a result says when it fired.
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import highspy
import numpy as np
from highspy.highs import HighsCallbackEvent
from numpy.typing import ArrayLike, NDArray

from plimsoll.allocation.problem import Bools, Floats, Ints

INFINITY = float("inf")
SEED = 1
FEASIBILITY = 1e-9
"""Largest violation of a row or bound in an answer; rows should be scaled so that their largest entries are near 1."""

SMALL = 1000
"""Columns below which presolving a linear program takes longer than it saves."""


class Status(StrEnum):
    OPTIMAL = "optimal"
    """Within the relative gap that was asked for."""
    INFEASIBLE = "infeasible"
    UNBOUNDED = "unbounded"
    LIMIT = "limit"
    """Nodes, work, iterations or seconds were used up first."""


class SolverError(RuntimeError):
    """HiGHS refused a model or broke down on it."""


class Model:
    """A program to minimise, built in bulk: columns, rows, then entries. Adding returns the new numbers."""

    def __init__(self) -> None:
        self._columns: list[tuple[Floats, Floats, Floats, Bools]] = []
        self._rows: list[tuple[Floats, Floats]] = []
        self._entries: list[tuple[Ints, Ints, Floats]] = []
        self._costs: list[tuple[Ints, Floats]] = []
        self.columns = 0
        self.rows = 0
        self.offset = 0.0
        """Added to the objective."""

    def add_columns(
        self,
        cost: ArrayLike,
        lower: ArrayLike = 0.0,
        upper: ArrayLike = INFINITY,
        *,
        integer: bool = False,
        count: int | None = None,
    ) -> Ints:
        """Variables; `count` is needed only where cost, lower and upper are all single numbers."""
        cost, lower, upper = _same_length(count, cost, lower, upper)
        self._columns.append((cost, lower, upper, np.full(len(cost), integer)))
        self.columns += len(cost)
        return np.arange(self.columns - len(cost), self.columns)

    def add_rows(self, lower: ArrayLike = -INFINITY, upper: ArrayLike = INFINITY, *, count: int | None = None) -> Ints:
        """Rows `lower <= entries . columns <= upper`, without entries yet."""
        lower, upper = _same_length(count, lower, upper)
        self._rows.append((lower, upper))
        self.rows += len(lower)
        return np.arange(self.rows - len(lower), self.rows)

    def add_entries(self, rows: ArrayLike, columns: ArrayLike, values: ArrayLike) -> None:
        """Matrix entries; the three are broadcast to one shape. An entry that is named twice counts its sum."""
        numbers, names, entries = np.broadcast_arrays(np.atleast_1d(rows), columns, values)
        self._entries.append(
            (numbers.ravel().astype(np.int64), names.ravel().astype(np.int64), entries.ravel().astype(np.float64))
        )

    def add_row(self, columns: ArrayLike, values: ArrayLike, lower: float = -INFINITY, upper: float = INFINITY) -> int:
        """One row with its entries."""
        row = int(self.add_rows(lower, upper)[0])
        self.add_entries(row, columns, values)
        return row

    def add_cost(self, columns: ArrayLike, cost: ArrayLike) -> None:
        """Raise the cost of columns that are there already; each column is named once."""
        names, more = np.broadcast_arrays(np.atleast_1d(columns), np.asarray(cost, dtype=np.float64))
        self._costs.append((names.astype(np.int64), more))

    def column_arrays(self) -> tuple[Floats, Floats, Floats, Bools]:
        """Cost, lower, upper and whether integer, each (columns,)."""
        if not self._columns:
            return np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0, dtype=bool)
        cost, lower, upper, integer = (np.concatenate(part) for part in zip(*self._columns, strict=True))
        for columns, more in self._costs:
            cost[columns] += more
        return cost, lower, upper, integer

    def row_arrays(self) -> tuple[Floats, Floats]:
        """Lower and upper, each (rows,)."""
        if not self._rows:
            return np.zeros(0), np.zeros(0)
        lower, upper = zip(*self._rows, strict=True)
        return np.concatenate(lower), np.concatenate(upper)

    def matrix(self) -> tuple[NDArray[np.int32], NDArray[np.int32], Floats]:
        """By column: where each column starts (columns + 1), then row and value of the entries that are not 0."""
        if not self._entries:
            return np.zeros(self.columns + 1, dtype=np.int32), np.zeros(0, dtype=np.int32), np.zeros(0)
        rows, columns, values = (np.concatenate(part) for part in zip(*self._entries, strict=True))
        return _by_column(self.columns, rows, columns, values)


def _same_length(count: int | None, *values: ArrayLike) -> tuple[Floats, ...]:
    arrays = [np.asarray(value, dtype=np.float64) for value in values]
    shape = np.broadcast_shapes((1,) if count is None else (count,), *(array.shape for array in arrays))
    return tuple(np.broadcast_to(array, shape) for array in arrays)


def _by_column(
    count: int, rows: Ints, columns: Ints, values: Floats
) -> tuple[NDArray[np.int32], NDArray[np.int32], Floats]:
    order = np.lexsort((rows, columns))
    rows, columns, values = rows[order], columns[order], values[order]
    if len(rows):
        new = np.ones(len(rows), dtype=bool)
        new[1:] = (rows[1:] != rows[:-1]) | (columns[1:] != columns[:-1])
        if not new.all():
            first = np.flatnonzero(new)
            rows, columns, values = rows[first], columns[first], np.add.reduceat(values, first)
        used = values != 0
        if not used.all():
            rows, columns, values = rows[used], columns[used], values[used]
    starts = np.concatenate(([0], np.cumsum(np.bincount(columns, minlength=count))))
    return starts.astype(np.int32), rows.astype(np.int32), values


@dataclass(frozen=True, slots=True, eq=False)
class LinearResult:
    """What a linear program came to; only with status OPTIMAL do the arrays and the objective mean anything."""

    values: Floats
    objective: float
    row_duals: Floats
    """Change of the objective per unit that a row's binding side moves up; at least 0 where that is the lower side."""
    reduced_costs: Floats
    """Cost less what the rows pay for the column: `cost - row_duals @ matrix`."""
    status: Status


@dataclass(frozen=True, slots=True, eq=False)
class MilpResult:
    values: Floats | None
    """The best solution found; None where there is none."""
    objective: float
    """inf where there is no solution."""
    bound: float
    """No solution has a lower objective; inf where the model is infeasible."""
    status: Status
    interrupted: bool
    """The seconds ran out before the fixed amount of work was done."""
    seconds: float
    """Wall-clock time that it took."""


class LinearProgram:
    """A linear program that grows columns and is solved again from where the last solve ended."""

    def __init__(self, model: Model) -> None:
        self._highs = _solver()
        if model.columns < SMALL:
            self._highs.setOptionValue("presolve", "off")
        _pass(self._highs, model, relaxed=True)

    def add_columns(
        self, cost: Floats, lower: ArrayLike, upper: ArrayLike, rows: Ints, columns: Ints, values: Floats
    ) -> None:
        """Append variables; `columns` numbers the new ones from 0, entry for entry with `rows` and `values`."""
        count = len(cost)
        cost, low, high = _same_length(count, cost, lower, upper)
        starts, index, entries = _by_column(count, rows, columns, values)
        _succeed(self._highs.addCols(count, cost, low, high, len(index), starts[:-1], index, entries))

    def set_column_bounds(self, columns: Ints, lower: ArrayLike, upper: ArrayLike) -> None:
        low, high = _same_length(len(columns), lower, upper)
        _succeed(self._highs.changeColsBounds(len(columns), columns.astype(np.int32), low, high))

    def set_row_bounds(self, rows: Ints, lower: ArrayLike, upper: ArrayLike) -> None:
        low, high = _same_length(len(rows), lower, upper)
        for row, least, most in zip(rows.tolist(), low.tolist(), high.tolist(), strict=True):
            _succeed(self._highs.changeRowBounds(row, least, most))

    def set_costs(self, columns: Ints, cost: ArrayLike) -> None:
        (price,) = _same_length(len(columns), cost)
        _succeed(self._highs.changeColsCost(len(columns), columns.astype(np.int32), price))

    def solve(self) -> LinearResult:
        """Raises SolverError where HiGHS breaks down."""
        _succeed(self._highs.run())
        solution = self._highs.getSolution()
        return LinearResult(
            values=np.array(solution.col_value),
            objective=float(self._highs.getInfo().objective_function_value),
            row_duals=np.array(solution.row_dual),
            reduced_costs=np.array(solution.col_dual),
            status=_status(self._highs),
        )


def solve_lp(model: Model) -> LinearResult:
    """Solve the model without its integrality. Raises SolverError where HiGHS breaks down."""
    return LinearProgram(model).solve()


def solve_milp(
    model: Model,
    *,
    start: Floats | None = None,
    nodes: int | None = None,
    work: int | None = None,
    relative_gap: float = 1e-4,
    seconds: float = INFINITY,
    sub_programs: bool = True,
) -> MilpResult:
    """Solve the model. Raises SolverError where HiGHS breaks down.

    Args:
        model: what to minimise.
        start: a solution to begin with, (columns,); one that is not feasible is repaired or ignored by HiGHS.
        nodes: limit on branch-and-bound nodes.
        work: limit on the solver's own checks of its limits, which come with every node, round of cuts and step of a
            heuristic. It ends long root phases that a limit on nodes does not; both are repeatable.
        relative_gap: part of the objective by which the answer may be above the bound.
        seconds: guard of wall-clock time.
        sub_programs: False leaves out the heuristics that solve parts of the model as programs of their own. They take
            most of the time on a model with some dozens of integer columns, and a good start makes them needless.
    """
    highs = _solver()
    if not sub_programs:
        for heuristic in ("rins", "rens", "root_reduced_cost"):
            highs.setOptionValue(f"mip_heuristic_run_{heuristic}", False)
    highs.setOptionValue("mip_rel_gap", relative_gap)
    highs.setOptionValue("mip_abs_gap", 1e-9)
    highs.setOptionValue("mip_feasibility_tolerance", FEASIBILITY)
    if nodes is not None:
        highs.setOptionValue("mip_max_nodes", nodes)
    if seconds < INFINITY:
        highs.setOptionValue("time_limit", max(0.0, seconds))
    if work is not None:
        highs.cbMipInterrupt += _Checks(work)
    _pass(highs, model, relaxed=False)
    if start is not None:
        solution = highspy.HighsSolution()
        solution.col_value = start.tolist()
        _succeed(highs.setSolution(solution))
    _succeed(highs.run())
    status, info = _status(highs), highs.getInfo()
    found = info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
    bound = float(info.mip_dual_bound)
    if status is Status.INFEASIBLE:
        bound = INFINITY
    elif status is Status.OPTIMAL and not model.column_arrays()[3].any():
        bound = float(info.objective_function_value)  # HiGHS has no bound of its own for a linear program
    elif not np.isfinite(bound):
        bound = -INFINITY
    return MilpResult(
        values=np.array(highs.getSolution().col_value) if found else None,
        objective=float(info.objective_function_value) if found else INFINITY,
        bound=bound,
        status=status,
        interrupted=highs.getModelStatus() == highspy.HighsModelStatus.kTimeLimit,
        seconds=float(highs.getRunTime()),
    )


def write_mps(model: Model, path: Path) -> None:
    """Write the model as an MPS file, for other solvers. Raises SolverError where HiGHS cannot."""
    highs = _solver()
    _pass(highs, model, relaxed=False)
    _succeed(highs.writeModel(str(path)))


class _Checks:
    """Counts the solver's checks of its limits and stops it after so many."""

    def __init__(self, most: int) -> None:
        self._left = most

    def __call__(self, event: HighsCallbackEvent) -> None:
        self._left -= 1
        if self._left <= 0:
            event.interrupt()


def _solver() -> highspy.Highs:
    highs: highspy.Highs = highspy.Highs()  # type: ignore[no-untyped-call]
    highs.setOptionValue("output_flag", False)
    highs.setOptionValue("threads", 1)
    highs.setOptionValue("parallel", "off")
    highs.setOptionValue("random_seed", SEED)
    highs.setOptionValue("primal_feasibility_tolerance", FEASIBILITY)
    highs.setOptionValue("dual_feasibility_tolerance", FEASIBILITY)
    return highs


def _pass(highs: highspy.Highs, model: Model, *, relaxed: bool) -> None:
    if not model.columns:
        raise ValueError("a model without columns")
    cost, lower, upper, integer = model.column_arrays()
    row_lower, row_upper = model.row_arrays()
    starts, index, values = model.matrix()
    kinds = np.where(integer & (not relaxed), int(highspy.HighsVarType.kInteger), int(highspy.HighsVarType.kContinuous))
    _succeed(
        highs.passModel(
            model.columns,
            model.rows,
            len(index),
            int(highspy.MatrixFormat.kColwise),
            int(highspy.ObjSense.kMinimize),
            model.offset,
            cost,
            lower,
            upper,
            row_lower,
            row_upper,
            starts,
            index,
            values,
            kinds.astype(np.int32),
        )
    )


def _succeed(status: highspy.HighsStatus) -> None:
    """A warning is no failure: HiGHS warns when it reaches a limit."""
    if status == highspy.HighsStatus.kError:
        raise SolverError("HiGHS refused the model or broke down on it")


_STATUS = {
    highspy.HighsModelStatus.kOptimal: Status.OPTIMAL,
    highspy.HighsModelStatus.kInfeasible: Status.INFEASIBLE,
    highspy.HighsModelStatus.kUnbounded: Status.UNBOUNDED,
    highspy.HighsModelStatus.kTimeLimit: Status.LIMIT,
    highspy.HighsModelStatus.kIterationLimit: Status.LIMIT,
    highspy.HighsModelStatus.kSolutionLimit: Status.LIMIT,
    highspy.HighsModelStatus.kInterrupt: Status.LIMIT,
}


def _status(highs: highspy.Highs) -> Status:
    status = highs.getModelStatus()
    if status not in _STATUS:
        raise SolverError(f"HiGHS ended with status {highs.modelStatusToString(status)}")
    return _STATUS[status]
