"""Attainment and burn rates from histograms."""

from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.api.parse import parse
from plimsoll.performance import Parallelism
from plimsoll.planning.attainment import Histogram, attainments
from plimsoll.planning.plan import (
    ClassPlan,
    DeploymentPlan,
    DeploymentState,
    FleetPlan,
    HostDemand,
    LatencyFigure,
    Option,
    Placement,
    Share,
)
from plimsoll.planning.snapshot import Snapshot, Workload

BUCKETS = {0.1: 100.0, 0.5: 900.0, 1.0: 990.0, inf: 1000.0}
OPTION = Option(
    *("m", "bf16", "m", "l40s", Parallelism(1, 1), 64, 4096),
    image="",
    gpu_resource="",
    engine_args=(),
    host=HostDemand(1, 1, 1),
    load_seconds=76.0,
    gated=False,
)
TTFT = LatencyFigure("ttft", 95, 500.0, 400.0)
TPOT = LatencyFigure("tpot", None, 40.0, 30.0)
E2E = LatencyFigure("endToEnd", 99, 1000.0, 900.0)


def fleet(shares, **latency):
    """One LLMDeployment; `shares` by placement and class, `latency` by class."""
    traffic = [
        {"name": name, "requestsPerMinute": 60, "tokens": {"input": 10, "output": 10}}
        | ({} if not number else {"match": {"headers": [{"name": "x", "value": name}]}})
        for number, name in enumerate(latency)
    ]
    metadata = {"name": "assistant", "namespace": "chat"}
    kind = {"apiVersion": "plimsoll.dev/v1alpha1", "kind": "LLMDeployment", "metadata": metadata}
    resource = parse({**kind, "spec": {"models": [{"name": "org/m"}], "traffic": traffic}})
    classes = tuple(ClassPlan(name, 60.0, 0.0, figures, ()) for name, figures in latency.items())
    placements = tuple(
        Placement(name, OPTION, 1, tuple(Share(key, value) for key, value in parts.items()), 1.0, 0.5, "")
        for name, parts in shares.items()
    )
    plan = DeploymentPlan(resource, DeploymentState.PLANNED, placements, classes, ())
    return FleetPlan("", (plan,), (), (), 0.0)


def test_shares_and_percentiles_by_straight_lines():
    histogram = Histogram.of(BUCKETS, 350.0)
    assert histogram.share_within(0.5) == 0.9
    assert histogram.share_within(0.3) == pytest.approx(0.5)
    assert histogram.share_within(5.0) == 0.99, "beyond the last bound nothing is known"
    assert histogram.percentile(95) == pytest.approx(0.5 + 0.5 * 50 / 90)
    assert histogram.percentile(99.9) == 1.0
    assert histogram.mean == 0.35


@pytest.mark.parametrize("buckets", [{}, {inf: 5.0}, {0.1: 1.0, 1.0: 2.0}, {0.1: 0.0, inf: 0.0}, {0.1: 1.0, inf: inf}])
def test_what_is_no_histogram_is_none(buckets):
    assert Histogram.of(buckets) is None


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.floats(min_value=0.01, max_value=9.9), min_size=1, max_size=60),
    st.lists(st.floats(min_value=0.01, max_value=9.9), min_size=1, max_size=60),
    st.floats(min_value=0.1, max_value=9.0),
)
def test_histograms_with_the_same_bounds_add_up(one, other, target):
    def histogram(values):
        return Histogram.of({bound: sum(v <= bound for v in values) for bound in (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, inf)})

    both, parts = histogram([*one, *other]), histogram(one).plus(histogram(other))
    assert parts.share_within(target) == pytest.approx(both.share_within(target))
    assert 0 <= both.share_within(target) <= 1
    assert both.share_within(both.percentile(90)) == pytest.approx(0.9, abs=1e-6)


def test_attainment_is_the_worst_target_and_means_have_no_budget():
    histogram = Histogram.of(BUCKETS, 350.0)
    latencies = {("chat", "p"): {"ttft": histogram, "tpot": histogram, "endToEnd": histogram}}
    found = attainments(fleet({"p": {"a": 1.0}}, a=(TTFT, TPOT, E2E)), Snapshot(), latencies)
    figure = found["chat", "assistant", "a"]
    assert figure.share == 0.9
    assert figure.burn_rate == pytest.approx(0.1 / 0.05)
    assert figure.observed_seconds == pytest.approx({"ttft": 0.5 + 0.5 * 50 / 90, "tpot": 0.35, "endToEnd": 1.0})


def test_classes_fare_as_their_placements_do():
    good = Histogram.of({0.5: 990.0, 1.0: 1000.0, inf: 1000.0}, 1.0)
    bad = Histogram.of({0.5: 0.0, 1.0: 1000.0, inf: 1000.0}, 1.0)
    plan = fleet({"p": {"a": 1.0}, "q": {"b": 0.5}, "r": {"b": 0.5}}, a=(TTFT,), b=(TTFT,))
    latencies = {("chat", "p"): {"ttft": good}, ("chat", "q"): {"ttft": good}, ("chat", "r"): {"ttft": bad}}
    found = attainments(plan, Snapshot(), latencies)
    assert found["chat", "assistant", "a"].share == pytest.approx(0.99)
    assert found["chat", "assistant", "b"].share == pytest.approx(0.495)
    leaving = Snapshot(workloads=(Workload("chat", "before", "uid", "assistant", 1, 1),))
    found = attainments(plan, leaving, {**latencies, ("chat", "before"): {"ttft": bad}})
    assert found["chat", "assistant", "a"].share == pytest.approx(0.99 * 1000 / 1500)


def test_few_requests_say_nothing():
    few = Histogram.of({0.5: 10.0, inf: 10.0})
    assert attainments(fleet({"p": {"a": 1.0}}, a=(TTFT,)), Snapshot(), {("chat", "p"): {"ttft": few}}) == {}
    assert attainments(fleet({"p": {"a": 1.0}}, a=(TTFT,)), Snapshot(), {}) == {}
