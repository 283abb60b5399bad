"""Token lengths by what engines counted: longer at once, shorter slowly, and not for noise."""

from importlib import util
from math import inf
from pathlib import Path

import pytest

from plimsoll.performance import TokenLengths
from plimsoll.planning.attainment import Histogram
from plimsoll.planning.observed_lengths import HeldLengths, held, seen_lengths

_spec = util.spec_from_file_location("attainment_tests", Path(__file__).with_name("test_attainment.py"))
made = util.module_from_spec(_spec)
_spec.loader.exec_module(made)

DECLARED = TokenLengths(1000.0, 250.0, 2000.0, 500.0)
COOL_DOWN = 600.0


def tokens(count, mean, bounds=(100.0, 500.0, 1000.0, 5000.0)):
    buckets = {bound: float(count if bound >= mean else 0) for bound in (*bounds, inf)}
    return Histogram.of(buckets, count * mean)


def test_lengths_are_of_classes_that_have_placements_of_their_own():
    plan = made.fleet({"p": {"a": 1.0}, "q": {"b": 0.5, "c": 1.0}, "r": {"b": 0.5}}, a=(), b=(), c=())
    counted = {("chat", name): {"input": tokens(2000, 800), "output": tokens(2000, 90)} for name in "pqr"}
    found = seen_lengths(plan, counted)
    assert list(found) == [("chat", "assistant", "a")]
    lengths = found["chat", "assistant", "a"]
    assert (lengths.input_mean, lengths.output_mean) == (800, 90)
    assert 800 <= lengths.input_p95 <= 1000
    assert 90 <= lengths.output_p95 <= 100


def test_few_requests_say_nothing():
    counted = {("chat", "p"): {"input": tokens(999, 800), "output": tokens(999, 90)}}
    assert seen_lengths(made.fleet({"p": {"a": 1.0}}, a=()), counted) == {}


def test_noise_leaves_what_is_declared():
    assert held(None, DECLARED, TokenLengths(1100.0, 230.0, 1900.0, 550.0), 0.0, COOL_DOWN) is None


def test_longer_at_once_and_shorter_slowly():
    longer = held(None, DECLARED, TokenLengths(3000.0, 250.0, 6000.0, 500.0), 0.0, COOL_DOWN)
    assert longer.lengths == TokenLengths(3000.0, 250.0, 6000.0, 500.0)
    short = TokenLengths(1000.0, 250.0, 2000.0, 500.0)
    assert held(longer, DECLARED, short, 599.0, COOL_DOWN) == longer
    assert held(longer, DECLARED, short, 600.0, COOL_DOWN) == HeldLengths(
        TokenLengths(2550.0, 250.0, 5100.0, 500.0), 600.0
    )


@pytest.mark.parametrize("factor", [0.3, 0.9, 1.0, 1.3, 4.0])
def test_what_lasts_is_reached_and_then_stays(factor):
    seen, known = TokenLengths(*(factor * value for value in (1000.0, 250.0, 2000.0, 500.0))), None
    for number in range(30):
        known = held(known, DECLARED, seen, number * COOL_DOWN, COOL_DOWN)
    now = DECLARED if known is None else known.lengths
    assert now.input_mean == pytest.approx(seen.input_mean, rel=0.18)
    assert held(known, DECLARED, seen, 1e6, COOL_DOWN) == known
