"""Numbers that no solver can take are refused with the array, the entry and what is accepted."""

from dataclasses import replace

import numpy as np
import pytest

from plimsoll.allocation import AllocationProblem, ProblemBuilder, validate


def _builder(load: float = 1.0, capacity: float = 0.85, price: float = 2.0) -> ProblemBuilder:
    b = ProblemBuilder()
    option = b.add_option(b.pool(nodes=[8]), price_per_hour=price, gpus=1, deployment=b.deployment(), capacity=capacity)
    b.add_class({option: load}, rate_per_hour=100.0)
    return b


def _problem() -> AllocationProblem:
    return _builder().build()


def test_what_solvers_take_is_accepted() -> None:
    validate(_problem())


@pytest.mark.parametrize(
    ("b", "says"),
    [
        (_builder(load=float("nan")), r"pair_load\[0, 0\] is nan: expected a finite number from 0 on"),
        (_builder(load=float("inf")), r"pair_load\[0, 0\] is inf"),
        (_builder(capacity=0.0), r"option_capacity\[0, 0\] is 0.0: expected a finite number above 0"),
        (_builder(price=float("inf")), r"option_price_per_hour\[0\] is inf"),
        (_builder(price=-1.0), r"option_price_per_hour\[0\] is -1.0"),
    ],
)
def test_a_builder_refuses(b: ProblemBuilder, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        b.build()


def test_all_that_is_wrong_is_named() -> None:
    problem = replace(_problem(), class_unserved_limit=np.array([1.5]), pair_option=np.array([7]))
    with pytest.raises(ValueError, match=r"class_unserved_limit\[0\] is 1.5: .*; pair_option\[0\] is 7: .* 0 to 0"):
        validate(problem)
