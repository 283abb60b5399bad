"""Replicas that do not start: who is late, and what that leaves to decide."""

from dataclasses import replace

from plimsoll.planning.plan import DeploymentState
from plimsoll.planning.snapshot import PodFacts, StartFailure
from plimsoll.planning.starts import LONGEST_WAIT_SECONDS, REASON, TRIES, Late, starting, wait_seconds
from tests.unit.planning.fleets import (
    deployment,
    exchanged,
    finding,
    node,
    nodes,
    plan,
    plan_of,
    pool,
    replicas,
    snapshot,
)
from tests.unit.planning.test_transition_steps import NEW, runs

TIMEOUT = 100.0
NODES = {"n": node("n"), "dead": node("dead", unavailable="not ready")}


def pod(name: str = "new", since: float = 1000.0, on: str = "n") -> PodFacts:
    return PodFacts(f"uid-{name}", "chat", name, on, {}, name, starting_since=since)


def late(pods, workloads, now: float = 1000.0 + TIMEOUT):
    return starting(NEW, workloads, pods, NODES, {"new": TIMEOUT}, now)


def test_a_placement_is_late_when_a_pod_has_had_its_time():
    assert late([pod()], runs(old=2, new=(3, 1))).late == (Late("new", 1, TIMEOUT),)
    early = late([pod()], runs(old=2, new=(3, 1)), now=1060.0)
    assert (early.late, early.next_seconds) == ((), 40.0)


def test_nothing_is_late_where_nothing_else_serves():
    assert late([pod()], runs(new=(3, 0))).late == ()
    assert late([pod()], runs(old=(2, 0), new=(3, 0))).late == ()


def test_what_lies_on_a_dead_node_or_is_given_up_or_has_begun_is_not_late():
    workloads = runs(old=2, new=(3, 1))
    assert late([pod(on="dead"), pod(on="gone"), pod("old"), pod(since=0.0)], workloads).late == ()


def test_the_wait_doubles_up_to_a_limit():
    assert [wait_seconds(600, attempts) for attempts in (1, 2, 3)] == [2400, 4800, 9600]
    assert wait_seconds(600, 50) == LONGEST_WAIT_SECONDS


# --- What is decided then ---------------------------------------------------------------------------------------------


def facts():
    return snapshot(pool(), pool("l4", "L4", "0.60"), deployment(rate=900), nodes=[*nodes(6), *nodes(8, "L4", 1)])


def failed(name: str, ready: int = 0, **fields) -> StartFailure:
    return StartFailure("chat", "assistant", name, ready, f"{name} did not start", **fields)


def test_the_plan_does_without_what_failed():
    free = plan(facts())
    (name,) = replicas(free)
    other = plan(replace(facts(), failures=(failed(name),)))
    assert plan_of(other).state is DeploymentState.PLANNED
    assert name not in replicas(other)
    assert finding(other, REASON).message == f"{name} did not start"
    assert other.digest != free.digest


def test_what_was_ready_of_it_may_stay():
    (name,) = replicas(plan(facts()))
    assert replicas(plan(replace(facts(), failures=(failed(name, ready=2),))))[name] == 2


def test_after_some_failures_nothing_new_is_tried_for_the_same_spec():
    names = [failed(f"elsewhere-{number}") for number in range(TRIES)]
    assert replicas(plan(replace(facts(), failures=tuple(names)))) == {}
    changed = tuple(replace(item, counts=False) for item in names)
    assert replicas(plan(replace(facts(), failures=changed)))
    fewer = exchanged(facts(), deployment(rate=60))
    assert replicas(plan(replace(fewer, failures=tuple(names[:-1]))))
