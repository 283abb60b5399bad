"""Dominance between options, and problems of some options only."""

from dataclasses import replace

import numpy as np
import pytest

from plimsoll.allocation import check, solve_greedy
from plimsoll.allocation.reduce import restrict, undominated
from plimsoll.allocation.useful import useful_replicas
from tests.unit.allocation.builder import Builder


def two_options(**second: float) -> Builder:
    """Two equal options of one pair; keywords change the second one."""
    b = Builder()
    pool = b.pool([8.0])
    b.option(pool, price=2.0, gpus=2, pair=0, start=0.2)
    b.option(pool, **{"price": 2.0, "gpus": 2, "pair": 0, "start": 0.2} | second)
    return b


def test_the_dearer_one_of_two_that_do_the_same_is_dropped() -> None:
    b = two_options(price=2.1)
    b.traffic({0: 0.4, 1: 0.4})
    assert undominated(b.build()).tolist() == [True, False]


def test_of_two_equal_options_the_first_stays() -> None:
    b = two_options()
    b.traffic({0: 0.4, 1: 0.4})
    assert undominated(b.build()).tolist() == [True, False]


@pytest.mark.parametrize(
    "better", [{"price": 1.9}, {"gpus": 1}, {"capacity": 1.1}, {"start": 0.1}], ids=lambda change: next(iter(change))
)
def test_an_option_that_is_better_in_one_thing_stays(better: dict[str, float]) -> None:
    b = two_options(**better)
    if "price" in better or "gpus" in better or "start" in better:
        b.traffic({0: 0.4, 1: 0.5})
    else:
        b.traffic({0: 0.4, 1: 0.4}, delays={0: 1.0, 1: 1.1})
    assert undominated(b.build()).tolist() == [True, True]


def test_an_option_that_one_class_needs_stays() -> None:
    b = two_options(price=9.0)
    b.traffic({0: 0.4, 1: 0.4})
    b.traffic({1: 0.4})
    assert undominated(b.build()).tolist() == [True, True]


def test_a_faster_or_more_exact_option_stays() -> None:
    for field in ("delays", "errors"):
        b = two_options(price=9.0)
        b.traffic({0: 0.4, 1: 0.4}, **{field: {0: 1.0, 1: 0.9}})
        assert undominated(b.build()).all()


def test_what_runs_stays_and_drops_nothing() -> None:
    b = two_options(price=3.0)
    b.traffic({0: 0.4, 1: 0.4})
    b.running.append((1, 0, 1))
    assert undominated(b.build()).all()
    b.running[0] = (0, 0, 1)
    assert undominated(b.build()).all()


@pytest.mark.parametrize(("most", "kept"), [(1, [True, True]), (2, [True, False])])
def test_an_option_that_is_limited_to_too_few_replicas_drops_nothing(most: int, kept: list[bool]) -> None:
    b = Builder()
    pool = b.pool([8.0])
    b.option(pool, price=2.0, most=most)
    b.option(pool, price=3.0)
    b.traffic({0: 1.4, 1: 1.4})
    assert undominated(b.build()).tolist() == kept


def test_pairs_are_told_apart_where_they_matter() -> None:
    b = two_options(price=3.0, pair=1)
    b.traffic({0: 0.4, 1: 0.4})
    problem = b.build()
    assert undominated(problem).tolist() == [True, False]
    assert undominated(replace(problem, one_option_per_pair=True)).all()
    assert undominated(replace(problem, option_storage_gigabytes=np.array([1.0, 1.0]))).all()


def test_options_of_other_pools_and_deployments_are_not_compared() -> None:
    b = Builder()
    b.deployment()
    b.deployment()
    first, second = b.pool([8.0]), b.pool([8.0])
    options = [b.option(first), b.option(second, price=5.0), b.option(first, price=5.0, deployment=1)]
    b.traffic({options[0]: 0.4, options[1]: 0.4})
    b.traffic({options[2]: 0.4}, deployment=1)
    assert undominated(b.build()).all()


def test_no_options() -> None:
    b = Builder()
    b.pool([8.0])
    b.traffic()
    assert undominated(b.build()).shape == (0,)


def test_useful_replicas() -> None:
    b = Builder()
    b.deployment(least=2, most=5)
    pool = b.pool([8.0])
    large, spare, other, small = b.option(pool), b.option(pool), b.option(pool), b.option(pool, most=1)
    b.traffic({large: 2.5, other: 0.0, small: 2.0})
    b.traffic({large: 1.0})
    assert useful_replicas(b.build()).tolist() == [4, 0, 2, 1]
    b.running.append((spare, 0, 3))
    assert useful_replicas(b.build()).tolist() == [4, 3, 2, 1]


def restricted() -> Builder:
    b = Builder()
    pool = b.pool([8.0, 4.0])
    b.option(pool, price=9.0, gpus=2)
    b.option(pool, price=2.0, gpus=2)
    b.option(pool, price=1.0, gpus=1)
    b.traffic({0: 0.5, 1: 1.5, 2: 6.0}, penalty=10.0)
    b.traffic({0: 0.5, 2: 1.0}, penalty=10.0)
    return b


def test_an_answer_is_lifted_and_lowered() -> None:
    problem = restricted().build()
    part = restrict(problem, np.array([False, True, True]))
    assert part.problem.pair_option.tolist() == [0, 1, 1]
    answer = solve_greedy(part.problem)
    lifted = part.lift(answer)
    assert check(problem, lifted) == ()
    assert lifted.replicas.tolist() == [0, *answer.replicas.tolist()]
    assert lifted.cost == answer.cost
    lowered = part.lower(lifted)
    assert lowered is not None
    assert lowered.packing.tolist() == answer.packing.tolist()
    assert lowered.share.tolist() == answer.share.tolist()
    assert part.lower(replace(lifted, replicas=np.array([1, 1, 1]))) is None


def test_running_options_cannot_be_left_out() -> None:
    b = restricted()
    b.running.append((0, 0, 1))
    problem = b.build()
    with pytest.raises(ValueError, match="runs"):
        restrict(problem, np.array([False, True, True]))
    part = restrict(problem, np.array([True, False, True]))
    assert part.problem.running.tolist() == [[0, 0, 1]]
