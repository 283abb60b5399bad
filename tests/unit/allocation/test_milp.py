"""The thin layer over the solver: models, linear programs that grow, limits."""

import numpy as np
import pytest

from plimsoll.allocation.milp import INFINITY, LinearProgram, Model, SolverError, Status, solve_lp, solve_milp


def covering(*, integer: bool = True) -> Model:
    """Least cost of three things that must weigh 4 together."""
    model = Model()
    columns = model.add_columns([3.0, 5.0, 10.0], 0.0, 3.0, integer=integer)
    model.add_row(columns, [1.0, 2.0, 3.0], lower=4.0)
    return model


def hard() -> Model:
    """A covering program that takes many nodes."""
    generator = np.random.default_rng(0)
    entries = generator.integers(0, 50, size=(15, 30)) * (generator.random((15, 30)) < 0.5)
    model = Model()
    columns = model.add_columns(generator.integers(10, 60, 30), 0.0, 5.0, integer=True)
    rows = model.add_rows(entries.sum(axis=1) * 1.37)
    model.add_entries(rows[:, None], columns, entries)
    return model


def test_a_linear_program() -> None:
    result = solve_lp(covering(integer=False))
    assert result.status is Status.OPTIMAL
    assert result.objective == pytest.approx(10.0)
    assert result.values == pytest.approx([0.0, 2.0, 0.0])
    assert result.row_duals == pytest.approx([2.5])
    assert result.reduced_costs == pytest.approx([0.5, 0.0, 2.5])


def test_integrality_counts_in_a_mixed_integer_program_only() -> None:
    model = Model()
    columns = model.add_columns(1.0, integer=True, count=2)
    model.add_row(columns, 1.0, lower=1.5)
    assert solve_lp(model).objective == pytest.approx(1.5)
    result = solve_milp(model)
    assert (result.objective, result.bound, result.status) == (2.0, 2.0, Status.OPTIMAL)


def test_entries_that_are_named_twice_add_up_and_costs_too() -> None:
    model = Model()
    column = model.add_columns(1.0)
    row = model.add_row([0, 0], [1.0, 1.0], lower=4.0)
    model.add_entries(row, column, 2.0)
    model.add_cost(column, 2.0)
    model.offset = 7.0
    assert solve_lp(model).objective == pytest.approx(10.0)


def test_a_model_without_solution() -> None:
    model = covering()
    model.add_row([0, 1, 2], 1.0, lower=100.0)
    result = solve_milp(model)
    assert (result.values, result.objective, result.bound) == (None, INFINITY, INFINITY)
    assert result.status is Status.INFEASIBLE
    assert solve_lp(model).status is Status.INFEASIBLE


def test_a_program_without_integers_has_its_optimum_as_bound() -> None:
    result = solve_milp(covering(integer=False))
    assert result.bound == result.objective == pytest.approx(10.0)


def test_a_model_without_limits_below() -> None:
    model = Model()
    model.add_columns([-1.0])
    assert solve_lp(model).status is Status.UNBOUNDED


def test_what_cannot_be_solved_is_refused() -> None:
    with pytest.raises(ValueError, match="without columns"):
        solve_lp(Model())
    model = covering()
    model.add_entries(0, 0, INFINITY)
    with pytest.raises(SolverError):
        solve_lp(model)


def test_new_columns_join_where_the_last_solve_ended() -> None:
    program = LinearProgram(covering(integer=False))
    assert program.solve().objective == pytest.approx(10.0)
    program.add_columns(np.array([1.0, 9.0]), 0.0, 2.0, np.array([0, 0]), np.array([0, 1]), np.array([1.0, 1.0]))
    assert program.solve().values == pytest.approx([0.0, 1.0, 0.0, 2.0, 0.0])
    program.set_column_bounds(np.array([3]), 0.0, 0.0)
    assert program.solve().objective == pytest.approx(10.0)
    program.set_row_bounds(np.array([0]), 2.0, INFINITY)
    assert program.solve().objective == pytest.approx(5.0)
    program.set_costs(np.array([4]), 1.0)
    assert program.solve().objective == pytest.approx(2.0)


def test_work_and_nodes_end_a_search_and_the_same_work_gives_the_same_answer() -> None:
    first, second = solve_milp(hard(), work=100), solve_milp(hard(), work=100)
    assert first.status is Status.LIMIT
    assert not first.interrupted
    assert first.values is not None
    assert second.values is not None
    assert first.values.tobytes() == second.values.tobytes()
    assert first.bound == second.bound < first.objective == second.objective
    by_nodes = solve_milp(hard(), nodes=1)
    assert by_nodes.status is Status.LIMIT
    assert by_nodes.bound <= by_nodes.objective


def test_the_guard_of_seconds_is_told() -> None:
    result = solve_milp(hard(), seconds=0.0)
    assert result.interrupted
    assert result.status is Status.LIMIT


def test_a_start_is_taken() -> None:
    start = solve_milp(hard(), work=100)
    assert start.values is not None
    again = solve_milp(hard(), start=start.values, work=1)
    assert again.objective <= start.objective


def test_a_wide_gap_ends_early() -> None:
    result = solve_milp(hard(), relative_gap=0.1)
    assert result.status is Status.OPTIMAL
    assert result.objective - result.bound <= 0.1 * result.objective
