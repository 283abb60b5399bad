"""What a benchmark measures is compared with committed ranges."""

import json

from benchmarks import ranges, results
from benchmarks.results import Figure


def test_a_figure_above_its_limit_is_named_with_the_limit():
    known = json.loads(ranges.RANGES.read_text())
    name, limits = next((name, limits) for name, limits in known.items() if limits["limit"] > 0)
    assert not list(ranges.outside([Figure(name, limits["limit"], "s"), Figure("never measured before", 1e9, "s")]))
    (said,) = ranges.outside([Figure(name, 2 * limits["limit"], "s")])
    assert name in said
    assert results.number(limits["limit"]) in said


def test_every_limit_leaves_room_for_the_spread_of_its_own_runs():
    for name, item in json.loads(ranges.RANGES.read_text()).items():
        assert item["limit"] >= item["mean"], name


def test_every_range_is_of_a_figure_that_is_measured():
    measured = json.loads((results.RESULTS / "operator.json").read_text())["figures"]
    assert set(json.loads(ranges.RANGES.read_text())) <= {item["name"] for item in measured}
