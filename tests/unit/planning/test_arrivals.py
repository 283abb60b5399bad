"""What engines and gateways count, as demand of traffic classes: saturated, lying, missing or partly seen."""

from dataclasses import replace

import pytest

from plimsoll.api.parse import parse
from plimsoll.performance import Parallelism
from plimsoll.planning.arrivals import Load, PodLoad, readings
from plimsoll.planning.plan import (
    ClassPlan,
    DeploymentPlan,
    DeploymentState,
    FleetPlan,
    HostDemand,
    Option,
    Placement,
    Share,
)
from plimsoll.planning.snapshot import PodFacts, Snapshot, Workload

WINDOW = 60.0
NOW = 1000.0


def placement(name, **shares):
    option = Option(
        *("m", "bf16", "m", "l40s", Parallelism(1, 1), 64, 4096), image="", gpu_resource="", engine_args=(),
        host=HostDemand(1, 1, 1), load_seconds=76.0, gated=False,
    )  # fmt: skip
    return Placement(name, option, 2, tuple(Share(key, value) for key, value in shares.items()), 1.0, 0.5, "")


def fleet(*placements, unserved=0.0, **rates):
    traffic = [
        {"name": name, "requestsPerMinute": int(rate), "tokens": {"input": 10, "output": 10}}
        | ({} if not number else {"match": {"headers": [{"name": "x", "value": name}]}})
        for number, (name, rate) in enumerate(rates.items())
    ]
    metadata = {"name": "assistant", "namespace": "chat"}
    kind = {"apiVersion": "plimsoll.dev/v1alpha1", "kind": "LLMDeployment", "metadata": metadata}
    resource = parse({**kind, "spec": {"models": [{"name": "org/m"}], "traffic": traffic}})
    classes = tuple(ClassPlan(name, rate, unserved, (), ()) for name, rate in rates.items())
    plan = DeploymentPlan(resource, DeploymentState.PLANNED, placements, classes, ())
    return FleetPlan("", (plan,), (), (), 0.0)


def cluster(**pods):
    """Pods by placement, all Ready; underscores stand for hyphens."""
    found = [
        PodFacts(f"uid-{name}", "chat", name, "node", {}, placement=owner, ready=True)
        for owner, names in pods.items()
        for name in names
    ]
    workloads = [
        Workload("chat", owner, f"uid-{owner}", "assistant", len(names), len(names)) for owner, names in pods.items()
    ]
    return Snapshot(pods=tuple(found), workloads=tuple(workloads))


def pod(name, per_second=2.0, stay=5.0, before=None, **figures):
    """An engine in balance: requests inside are rate times stay."""
    inside = per_second * stay
    values = {
        "age_seconds": 3.0,
        "running": inside,
        "waiting": 0.0,
        "before": inside if before is None else before,
        "ended": per_second,
        "stays": per_second * stay,
        "stayed": per_second,
    }
    return PodLoad("chat", name, **(values | figures))


def reading(plan, facts, *pods, **routed):
    gateway = {("chat", "assistant", name): rate for name, rate in routed.items()}
    (found,) = readings(plan, facts, Load(NOW, WINDOW, tuple(pods), gateway))
    return found


ONE = fleet(placement("p", chat=1.0), chat=240.0)
TWO_PODS = cluster(p=["a", "b"])


def test_what_ends_and_what_piles_up_has_arrived():
    balanced = reading(ONE, TWO_PODS, pod("a"), pod("b"))
    assert balanced.windows["chat"].requests_per_minute == pytest.approx(240)
    assert (balanced.trouble, balanced.windows["chat"].calm, balanced.windows["chat"].whole) == ("", True, True)
    # Saturated: 2 a second go out, and 120 more wait than a minute before.
    full = reading(ONE, TWO_PODS, pod("a", waiting=120.0), pod("b"))
    assert full.windows["chat"].requests_per_minute == pytest.approx(360)
    assert not full.windows["chat"].calm, "with a queue nothing is too much"


def test_an_engine_that_began_anew_is_not_negative_demand():
    found = reading(ONE, TWO_PODS, pod("a", running=0.0, ended=0.0, before=500.0), pod("b"))
    assert found.windows["chat"].requests_per_minute == pytest.approx(120)


def test_what_a_new_engine_did_before_it_was_looked_at_is_not_known():
    new = replace(pod("b", ended=None, stays=None, stayed=None), before=None)
    window = reading(ONE, TWO_PODS, pod("a"), new).windows["chat"]
    assert (window.requests_per_minute >= 120, window.whole) == (True, False)
    assert reading(ONE, TWO_PODS, pod("a"), new, chat=4.0).windows["chat"].whole, "a gateway saw it all"


def test_placements_of_one_class_tell_classes_apart():
    plan = fleet(placement("p", chat=1.0), placement("q", batch=1.0), chat=240.0, batch=60.0)
    found = reading(plan, cluster(p=["a"], q=["b"]), pod("a", 4.0), pod("b", 1.0))
    assert {name: window.requests_per_minute for name, window in found.windows.items()} == pytest.approx(
        {"chat": 240, "batch": 60}
    )


def test_shared_placements_are_split_as_routed():
    plan = fleet(placement("p", chat=1.0, batch=0.5), placement("q", batch=0.5), chat=100.0, batch=200.0)
    found = reading(plan, cluster(p=["a"], q=["b"]), pod("a", 4.0), pod("b", 1.0))
    assert {name: window.requests_per_minute for name, window in found.windows.items()} == pytest.approx(
        {"chat": 120, "batch": 120 + 60}
    )


def test_pods_of_placements_on_their_way_out_count():
    found = reading(ONE, cluster(p=["a"], before=["b"]), pod("a", 1.0), pod("b", 3.0))
    assert found.windows["chat"].requests_per_minute == pytest.approx(240)


@pytest.mark.parametrize("factor", [10, 30])
def test_counters_that_run_away_are_implausible(factor):
    wild = {"ended": 2.0 * factor, "stays": 10.0 * factor, "stayed": 2.0 * factor}
    found = reading(ONE, TWO_PODS, pod("a", **wild), pod("b", **wild))
    assert found.trouble == "Implausible"
    assert not found.windows["chat"].plausible


def test_many_requests_that_never_end_are_no_reason_to_shrink():
    found = reading(ONE, TWO_PODS, pod("a", running=80.0, before=80.0, ended=0.1, stays=0.5, stayed=0.1), pod("b"))
    assert found.windows["chat"].plausible
    assert not found.windows["chat"].calm


def test_engines_that_preempt_are_no_reason_to_shrink():
    found = reading(ONE, TWO_PODS, pod("a", cache_usage=0.99, preemptions=0.5), pod("b"))
    assert not found.windows["chat"].calm


def test_series_that_are_missing_or_old():
    nothing = reading(ONE, TWO_PODS)
    assert (nothing.trouble, nothing.windows) == ("NoSeries", {})
    old = reading(ONE, TWO_PODS, pod("a", age_seconds=WINDOW + 1), pod("b"))
    assert old.trouble == "ReplicasMissing"
    assert not old.windows["chat"].whole
    assert old.windows["chat"].requests_per_minute == pytest.approx(120), "a lower bound"
    starting = replace(TWO_PODS, workloads=tuple(replace(item, ready_replicas=0) for item in TWO_PODS.workloads))
    assert reading(ONE, starting).trouble == "NoReadyReplicas"


def test_traffic_that_is_not_admitted_is_not_seen_by_engines():
    found = reading(fleet(placement("p", chat=0.6), unserved=0.4, chat=240.0), TWO_PODS, pod("a"), pod("b"))
    assert not found.windows["chat"].whole


def test_a_gateway_goes_first():
    plan = fleet(placement("p", chat=1.0, batch=0.6), unserved=0.4, chat=100.0, batch=200.0)
    found = reading(plan, cluster(p=["a", "b"]), pod("a"), pod("b"), chat=3.0, batch=4.0)
    assert {name: window.requests_per_minute for name, window in found.windows.items()} == pytest.approx(
        {"chat": 180, "batch": 240}
    )
    assert all(window.whole for window in found.windows.values())
    assert reading(plan, cluster(p=["a", "b"]), chat=3.0, batch=4.0).windows["chat"].requests_per_minute == 180


def test_a_gateway_that_misses_requests_or_classes_does_not():
    plan = fleet(placement("p", chat=1.0, batch=0.5), chat=100.0, batch=200.0)
    for routed in ({"chat": 0.1, "batch": 0.1}, {"chat": 3.0}):
        found = reading(plan, cluster(p=["a", "b"]), pod("a"), pod("b"), **routed)
        assert sum(window.requests_per_minute for window in found.windows.values()) == pytest.approx(240)


def test_a_surge_of_long_requests_is_believed():
    """Few have ended yet, and those that did came before."""
    surge = {"running": 400.0, "before": 100.0, "ended": 1.0, "stays": 120.0, "stayed": 1.0}
    found = reading(ONE, TWO_PODS, pod("a", **surge), pod("b", **surge))
    assert found.trouble == ""
    assert found.windows["chat"].requests_per_minute == pytest.approx(2 * 60 * (1 + 300 / 60))


def test_an_engine_that_runs_dry_is_believed():
    dry = {"running": 0.0, "before": 100.0, "ended": 100 / WINDOW, "stays": 100 / WINDOW * 55, "stayed": 100 / WINDOW}
    found = reading(ONE, TWO_PODS, pod("a", **dry), pod("b", **dry))
    assert found.trouble == ""
    assert found.windows["chat"].requests_per_minute == 0
