"""Each single step from the running state to the plan: make before break."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plimsoll.performance import Parallelism
from plimsoll.planning import step_for
from plimsoll.planning.plan import (
    ClassPlan,
    DeploymentPlan,
    DeploymentState,
    HostDemand,
    Option,
    Placement,
    ReplicaRate,
    Share,
)
from plimsoll.planning.snapshot import Workload
from plimsoll.planning.transition import (
    WEIGHTS,
    ObservedRouting,
    RoutedClass,
    RoutingTable,
    largest_remainder,
)
from tests.unit.planning.fleets import deployment, traffic

WAIT = 150.0
OPTION = Option(
    model="meta-llama/Llama-3.1-8B-Instruct",
    precision="bf16",
    checkpoint="meta-llama/Llama-3.1-8B-Instruct",
    pool="l40s",
    parallelism=Parallelism(1, 1),
    max_num_seqs=64,
    max_model_length=16384,
    image="vllm/vllm-openai",
    gpu_resource="nvidia.com/gpu",
    engine_args=(),
    host=HostDemand(2, 9 * 2**30, 2**30),
    load_seconds=60,
    gated=True,
)
TWO_CLASSES = [
    traffic("default"),
    traffic("long", match={"headers": [{"name": "x-class", "value": "long"}]}),
]


def placement(name: str, replicas: int, **shares: float) -> Placement:
    return Placement(
        name,
        OPTION,
        replicas,
        tuple(Share(key, value) for key, value in (shares or {"default": 1.0}).items()),
        1.0,
        0.5,
        "",
    )


def planned(
    *placements: Placement,
    state: DeploymentState = DeploymentState.PLANNED,
    unserved: Mapping[str, float] | None = None,
    classes: list | None = None,
) -> DeploymentPlan:
    resource = deployment(traffic=classes or [traffic()])
    found = tuple(
        ClassPlan(item.name, float(item.requests_per_minute), (unserved or {}).get(item.name, 0.0), (), ())
        for item in resource.spec.traffic
    )
    return DeploymentPlan(resource, state, placements, found, ())


def rated(*placements: Placement) -> DeploymentPlan:
    """With what each replica takes."""
    return planned(*(replace(item, rates=(ReplicaRate("default", 100.0),)) for item in placements))


def runs(**ready: int | tuple[int, int]) -> list[Workload]:
    """Workloads by name: replicas that are all Ready, or (replicas, Ready ones)."""
    pairs = {name: (count, count) if isinstance(count, int) else count for name, count in ready.items()}
    return [Workload("chat", name, f"uid-{name}", "assistant", *pair) for name, pair in pairs.items()]


def routed(plan: DeploymentPlan, workloads: list[Workload], age: float = 1e6) -> ObservedRouting:
    """The document that was published for a plan."""
    table = step_for(plan, workloads, None, WAIT).routing
    assert table is not None
    return ObservedRouting(table, age)


def weights(table: RoutingTable | None, traffic_name: str = "default") -> dict[str, int]:
    assert table is not None
    return {
        backend.placement: backend.weight
        for item in table.classes
        if item.name == traffic_name
        for backend in item.backends
    }


OLD = planned(placement("old", 2))
NEW = planned(placement("new", 3))


# --- From nothing -----------------------------------------------------------------------------------------------------


def test_a_first_plan_creates_everything_and_publishes_nothing():
    step = step_for(OLD, [], None, WAIT)
    assert (step.replicas, step.routing, step.prune) == ({"old": 2}, None, ())
    assert step.waiting_for == ("old: 0 of 2 replicas are Ready",)


def test_the_first_ready_replica_is_routed_without_waiting_for_the_rest():
    step = step_for(OLD, runs(old=(2, 1)), None, WAIT)
    assert weights(step.routing) == {"old": WEIGHTS}
    assert step.routing.epoch == 1
    assert step.routing.classes[0].backends[0].max_concurrency == 64
    assert step.waiting_for == ("old: 1 of 2 replicas are Ready",)


def test_a_complete_transition_waits_for_nothing():
    step = step_for(OLD, runs(old=2), routed(OLD, runs(old=2)), WAIT)
    assert (step.waiting_for, step.prune, step.replicas) == ((), (), {"old": 2})


# --- Replacing --------------------------------------------------------------------------------------------------------


def test_the_old_placement_stays_routed_and_running_until_all_of_the_new_one_is_ready():
    before = routed(OLD, runs(old=2))
    for ready in range(3):
        step = step_for(NEW, runs(old=2, new=(3, ready)), before, WAIT)
        assert step.routing is before.table
        assert step.prune == ()
        assert step.replicas == {"new": 3}
        assert step.waiting_for == (f"new: {ready} of 3 replicas are Ready",)


def test_routing_switches_once_all_of_the_new_placement_is_ready():
    before = routed(OLD, runs(old=2))
    step = step_for(NEW, runs(old=2, new=3), before, WAIT)
    assert weights(step.routing) == {"new": WEIGHTS}
    assert step.routing.epoch == before.table.epoch + 1
    assert step.prune == ()
    assert step.waiting_for == ("routers have not had time to see the new routing",)


def test_the_old_placement_is_pruned_only_after_routers_have_seen_the_new_routing():
    both = runs(old=2, new=3)
    published = step_for(NEW, both, routed(OLD, runs(old=2)), WAIT).routing
    for age, pruned in ((0.0, ()), (WAIT - 0.1, ()), (WAIT, ("old",)), (1e6, ("old",))):
        step = step_for(NEW, both, ObservedRouting(published, age), WAIT)
        assert step.routing is published
        assert step.prune == pruned


def test_the_old_placement_is_not_pruned_while_a_new_replica_is_missing_again():
    published = step_for(NEW, runs(old=2, new=3), routed(OLD, runs(old=2)), WAIT).routing
    assert step_for(NEW, runs(old=2, new=(3, 2)), ObservedRouting(published, 1e6), WAIT).prune == ()


def test_an_old_backend_without_a_ready_pod_is_dropped_while_the_new_one_starts():
    mixed = planned(placement("old", 2, default=0.5), placement("older", 2, default=0.5))
    before = routed(mixed, runs(old=2, older=2))
    step = step_for(NEW, runs(old=2, older=(2, 0), new=(3, 0)), before, WAIT)
    assert weights(step.routing) == {"old": WEIGHTS}
    assert step.routing.epoch == before.table.epoch + 1


def test_new_replicas_are_routed_at_once_when_no_old_one_is_left():
    before = routed(OLD, runs(old=2))
    step = step_for(NEW, runs(old=(2, 0), new=(3, 1)), before, WAIT)
    assert weights(step.routing) == {"new": WEIGHTS}


def test_admitted_traffic_stays_with_the_old_routing_until_it_switches():
    before = routed(OLD, runs(old=2))
    more = planned(placement("new", 3), unserved={"default": 0.5})
    step = step_for(more, runs(old=2, new=(3, 0)), before, WAIT)
    assert step.routing.classes[0].admitted_requests_per_minute == 120
    switched = step_for(more, runs(old=2, new=3), before, WAIT)
    assert switched.routing.classes[0].admitted_requests_per_minute == 60
    assert switched.routing.classes[0].unserved == "0.5"


# --- In increments ----------------------------------------------------------------------------------------------------


def test_requests_move_in_increments_that_routers_have_time_to_see():
    both, seen = runs(old=2, new=3), []
    observed = routed(OLD, runs(old=2))
    for _ in range(4):
        step = step_for(NEW, both, observed, WAIT, max_shift=0.25)
        seen.append(weights(step.routing).get("old", 0))
        assert sum(weights(step.routing).values()) == WEIGHTS
        assert step.prune == ()
        young = ObservedRouting(step.routing, WAIT - 1)
        assert step_for(NEW, both, young, WAIT, max_shift=0.25).routing is step.routing
        observed = ObservedRouting(step.routing, WAIT)
    assert seen == [750, 500, 250, 0]
    assert step_for(NEW, both, observed, WAIT, max_shift=0.25).prune == ("old",)


def test_requests_do_not_move_on_while_a_new_replica_is_missing_again():
    half = step_for(NEW, runs(old=2, new=3), routed(OLD, runs(old=2)), WAIT, max_shift=0.5).routing
    step = step_for(NEW, runs(old=2, new=(3, 2)), ObservedRouting(half, 1e6), WAIT, max_shift=0.5)
    assert step.routing is half
    back = step_for(NEW, runs(old=2, new=(3, 0)), ObservedRouting(half, 1e6), WAIT, max_shift=0.5)
    assert weights(back.routing) == {"old": WEIGHTS}


def test_all_classes_move_together_or_none_does():
    """A class that went ahead would meet on a placement what the other one has not taken away from it yet."""
    running = runs(a=2, b=2, c=2)
    first = planned(placement("a", 2), placement("b", 2, long=1.0), classes=TWO_CLASSES)
    then = planned(
        placement("a", 2, default=0.2), placement("b", 2, default=0.8), placement("c", 2, long=1.0), classes=TWO_CLASSES
    )
    half = step_for(then, running, routed(first, running, 0.0), WAIT, max_shift=0.5).routing
    assert weights(half, "long") == {"c": 500, "b": 500}
    assert weights(half) == {"a": 600, "b": 400}
    again = planned(
        placement("a", 2, default=0.5), placement("b", 2, default=0.5), placement("c", 2, long=1.0), classes=TWO_CLASSES
    )
    for plan in (then, again):
        assert step_for(plan, running, ObservedRouting(half, WAIT - 1), WAIT, max_shift=0.5).routing is half
    whole = step_for(then, running, ObservedRouting(half, WAIT), WAIT, max_shift=0.5).routing
    assert (weights(whole), weights(whole, "long")) == ({"a": 200, "b": 800}, {"c": WEIGHTS})


def test_what_is_ready_is_not_filled_with_what_is_meant_for_others():
    before = routed(rated(placement("a", 2, default=0.6), placement("b", 2, default=0.4)), runs(a=2, b=2))
    plan = rated(placement("a", 2, default=0.1), placement("b", 3, default=0.4), placement("c", 3, default=0.5))
    step = step_for(plan, runs(a=2, b=2, c=(3, 0)), before, WAIT)
    assert step.routing is before.table
    some = step_for(plan, runs(a=2, b=2, c=(3, 2)), before, WAIT)
    assert weights(some.routing) == {"a": 143, "b": 381, "c": 476}


def test_requests_leave_a_placement_with_what_it_lost():
    both = rated(placement("a", 4, default=0.5), placement("b", 4, default=0.5))
    step = step_for(both, runs(a=(4, 1), b=4), routed(both, runs(a=4, b=4)), WAIT)
    assert weights(step.routing) == {"a": 200, "b": 800}


# --- What did not start -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [DeploymentState.PLANNED, DeploymentState.SHORT])
@pytest.mark.parametrize("guarded", [False, True])
def test_what_did_not_start_goes_at_once(state, guarded):
    running, before = runs(old=2, new=(3, 0)), routed(OLD, runs(old=2))
    step = step_for(replace(OLD, state=state), running, before, WAIT, guarded=guarded, failed={"new"})
    assert step.prune == ("new",)
    assert step.routing is before.table
    assert step.replicas == {"old": 2}


def test_what_is_ready_of_a_placement_that_did_not_start_whole_stays():
    less = planned(placement("old", 3))
    step = step_for(less, runs(old=(5, 3)), routed(less, runs(old=3)), WAIT, failed={"old"})
    assert step.replicas == {"old": 3}
    part = step_for(OLD, runs(old=2, new=(3, 1)), routed(OLD, runs(old=2), 0.0), WAIT, failed={"new"})
    assert part.prune == ()


# --- Growing and shrinking in place -----------------------------------------------------------------------------------


def test_growth_happens_at_once():
    step = step_for(planned(placement("old", 5)), runs(old=2), routed(OLD, runs(old=2)), WAIT)
    assert step.replicas == {"old": 5}
    assert weights(step.routing) == {"old": WEIGHTS}


def test_a_shrink_waits_until_routers_have_seen_the_new_shares():
    less = planned(placement("old", 1))
    before = routed(OLD, runs(old=2))
    first = step_for(less, runs(old=2), before, WAIT)
    assert first.replicas == {"old": 2}
    assert first.routing.epoch == before.table.epoch + 1
    assert first.waiting_for == ("routers have not had time to see the new routing",)
    for age, replicas in ((WAIT - 1, 2), (WAIT, 1)):
        assert step_for(less, runs(old=2), ObservedRouting(first.routing, age), WAIT).replicas == {"old": replicas}


def test_a_shrink_waits_for_the_growth_elsewhere():
    moved = planned(placement("old", 1, default=0.25), placement("new", 3, default=0.75))
    step = step_for(moved, runs(old=2, new=(3, 2)), routed(OLD, runs(old=2)), WAIT)
    assert step.replicas == {"new": 3, "old": 2}


def test_a_placement_that_grows_is_routed_to_as_far_as_it_is_ready():
    moved = planned(placement("old", 2, default=0.25), placement("new", 6, default=0.75))
    before = routed(OLD, runs(old=8))
    seen = [weights(step_for(moved, runs(old=8, new=(6, ready)), before, WAIT).routing) for ready in (0, 1, 3, 6)]
    # Eight old replicas still run: each takes no more than one of the plan's, and so does each new one.
    assert seen[0] == {"old": 1000}
    assert seen[1] == {"old": 889, "new": 111}
    assert seen[2] == {"old": 727, "new": 273}
    assert seen[3] == {"old": 250, "new": 750}


def test_a_backend_that_comes_back_is_routed_to_again_although_not_all_of_it_is_ready():
    both = planned(placement("a", 4, default=0.5), placement("b", 4, default=0.5))
    start = routed(both, runs(a=4, b=4))
    lost = step_for(both, runs(a=(4, 0), b=4), start, WAIT).routing
    assert weights(lost) == {"b": WEIGHTS}
    back = step_for(both, runs(a=(4, 3), b=4), ObservedRouting(lost, 1e6), WAIT).routing
    assert set(weights(back)) == {"a", "b"}


# --- Documents --------------------------------------------------------------------------------------------------------


def test_an_unchanged_table_keeps_its_epoch():
    before = routed(OLD, runs(old=2))
    assert step_for(OLD, runs(old=2), before, WAIT).routing is before.table


def test_no_document_is_published_empty():
    before = routed(OLD, runs(old=2))
    assert step_for(OLD, runs(old=(2, 0)), before, WAIT).routing is before.table
    assert step_for(OLD, [], before, WAIT).routing is before.table
    assert step_for(OLD, runs(old=(2, 0)), None, WAIT).routing is None


def test_a_class_without_a_ready_backend_is_listed_without_one():
    plan = planned(placement("a", 1), placement("b", 1, long=1.0), classes=TWO_CLASSES)
    table = step_for(plan, runs(a=1, b=(1, 0)), None, WAIT).routing
    assert [(item.name, len(item.backends)) for item in table.classes] == [("default", 1), ("long", 0)]


def test_headers_of_a_class_are_published_at_once():
    plan = planned(placement("a", 1, default=1.0, long=1.0), classes=TWO_CLASSES)
    before = routed(plan, runs(a=1))
    renamed = [traffic("default"), traffic("long", match={"headers": [{"name": "x-class", "value": "xl"}]})]
    after = planned(placement("b", 1, default=1.0, long=1.0), classes=renamed)
    table = step_for(after, runs(a=1, b=(1, 0)), before, WAIT).routing
    assert table.classes[1].match_headers == (("x-class", "xl"),)
    assert weights(table, "long") == {"a": WEIGHTS}


def test_small_shares_get_a_weight_of_one_at_least():
    plan = planned(placement("a", 1, default=0.9999), placement("b", 1, default=0.0001))
    assert weights(step_for(plan, runs(a=1, b=1), None, WAIT).routing) == {"a": 999, "b": 1}


@given(st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=16))
def test_weights_sum_to_the_total_with_one_at_least_and_follow_the_shares(shares):
    found = largest_remainder(shares, WEIGHTS)
    assert sum(found) == WEIGHTS
    assert min(found) >= 1
    scale = WEIGHTS / sum(shares)
    assert all(abs(weight - share * scale) <= len(shares) + 1 for weight, share in zip(found, shares, strict=True))


def test_no_shares_have_no_weights():
    assert largest_remainder([], WEIGHTS) == []


# --- Short, held, nothing ---------------------------------------------------------------------------------------------


def test_a_held_deployment_has_an_empty_step():
    held = replace(NEW, state=DeploymentState.HELD)
    step = step_for(held, runs(old=2), routed(OLD, runs(old=2)), WAIT)
    assert (step.replicas, step.routing, step.prune, step.waiting_for) == ({}, None, (), ())


@pytest.mark.parametrize("age", [0.0, 1e6])
def test_a_short_deployment_grows_and_loses_nothing(age):
    short = planned(placement("old", 1), placement("new", 2), state=DeploymentState.SHORT)
    running = runs(old=3, older=2, new=1)
    step = step_for(short, running, routed(OLD, runs(old=3), age), WAIT)
    assert step.replicas == {"old": 3, "new": 2}
    assert step.prune == ()


def test_a_short_deployment_keeps_the_routing_to_what_its_plan_gives_up():
    before = routed(OLD, runs(old=2))
    short = planned(placement("new", 1), state=DeploymentState.SHORT, unserved={"default": 0.8})
    step = step_for(short, runs(old=2, new=1), before, WAIT)
    assert step.routing is before.table
    nothing = planned(state=DeploymentState.SHORT, unserved={"default": 1.0})
    assert step_for(nothing, runs(old=2), before, WAIT).routing is before.table


def test_a_short_class_keeps_its_routing_while_the_other_class_changes():
    plan = planned(placement("a", 1), placement("b", 1, long=1.0), classes=TWO_CLASSES)
    before = routed(plan, runs(a=1, b=1))
    short = planned(placement("a", 2), state=DeploymentState.SHORT, classes=TWO_CLASSES, unserved={"long": 1.0})
    table = step_for(short, runs(a=2, b=1), before, WAIT).routing
    assert weights(table, "long") == {"b": WEIGHTS}
    assert [item.admitted_requests_per_minute for item in table.classes] == [120, 120]


def test_scale_to_zero_prunes_everything_and_leaves_the_last_document():
    before = routed(OLD, runs(old=2))
    step = step_for(planned(), runs(old=2), before, WAIT)
    assert (step.replicas, step.prune) == ({}, ("old",))
    assert step.routing is not None
    assert step_for(planned(), [], before, WAIT).routing is before.table


def test_a_document_of_another_release_without_known_classes_is_replaced():
    strange = ObservedRouting(RoutingTable(7, (RoutedClass("gone", (), 1, "0", ()),)), 1e6)
    table = step_for(OLD, runs(old=2), strange, WAIT).routing
    assert (table.epoch, weights(table)) == (8, {"old": WEIGHTS})
