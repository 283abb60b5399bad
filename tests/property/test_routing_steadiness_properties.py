"""Routing under any loss of readiness: what it may name, what it may lose at once, and what may be deleted."""

from hypothesis import given
from hypothesis import strategies as st

from plimsoll.planning import step_for
from plimsoll.planning.snapshot import Workload
from plimsoll.planning.transition import (
    STEADY_SECONDS,
    WEIGHTS,
    Backend,
    ObservedRouting,
    RoutedClass,
    RoutingTable,
    backends_of,
)
from tests.unit.planning.test_transition_steps import placement, planned

NAMES = tuple("abcdefg")
states = st.sampled_from(["gone", "unready", "ready"])


@st.composite
def situations(draw):
    """A plan, what runs and what is routed; they need not agree on anything."""
    wanted = draw(st.sets(st.sampled_from(NAMES), min_size=1, max_size=5))
    routed = sorted(draw(st.sets(st.sampled_from(NAMES), min_size=1, max_size=6)))
    state = {name: draw(states) for name in NAMES}
    share = 1.0 / len(wanted)
    plan = planned(*(placement(name, 2, default=share) for name in sorted(wanted)))
    own = [
        Workload("chat", name, f"uid-{name}", "assistant", 2, 2 if state[name] == "ready" else 0)
        for name in NAMES
        if state[name] != "gone"
    ]
    weights = [1000 // len(routed)] * len(routed)
    weights[0] += 1000 - sum(weights)
    backends = tuple(Backend(name, "m", weight, 64) for name, weight in zip(routed, weights, strict=True))
    observed = ObservedRouting(RoutingTable(7, (RoutedClass("default", (), 60, "0", backends),)), 1e6)
    return plan, own, observed, state


@given(situations(), st.floats(0.0, STEADY_SECONDS - 0.1))
def test_more_than_half_is_never_lost_at_once_for_want_of_readiness(situation, seconds):
    plan, own, observed, state = situation
    before = backends_of(observed.table)
    after = backends_of(step_for(plan, own, observed, 5.0, unready_seconds=seconds).routing)
    dropped = {name for name in before - after if state[name] == "unready"}
    assert 2 * len(dropped) <= len(before) or 2 * len(after) >= len(before)


@given(situations(), st.floats(0.0, 2 * STEADY_SECONDS))
def test_routing_names_what_is_ready_or_says_what_is_not(situation, seconds):
    plan, own, observed, state = situation
    step = step_for(plan, own, observed, 5.0, unready_seconds=seconds)
    named = backends_of(step.routing)
    assert named, "never published empty"
    assert set(step.unready) == {name for name in named if state[name] != "ready"}
    if any(state[name] != "gone" for name in backends_of(observed.table)):
        assert not any(state[name] == "gone" for name in named), "what is gone leaves at once"
    if seconds >= STEADY_SECONDS and any(state[name] == "ready" for name in named):
        assert not step.unready, "after a minute the document follows"


@given(situations(), st.floats(0.0, 2 * STEADY_SECONDS), st.booleans())
def test_nothing_that_is_routed_is_deleted_and_a_guarded_step_takes_nothing(situation, seconds, guarded):
    plan, own, observed, state = situation
    step = step_for(plan, own, observed, 5.0, unready_seconds=seconds, guarded=guarded)
    assert not backends_of(step.routing) & set(step.prune)
    if guarded:
        assert step.prune == ()
        assert all(step.replicas[item.name] >= item.replicas for item in own if item.name in step.replicas)
        ready = {name for name in backends_of(observed.table) if state[name] == "ready"}
        assert ready <= backends_of(step.routing)
        if not step.waiting_for:
            assert {item.name for item in plan.placements} <= backends_of(step.routing), "what has grown serves"


@given(situations(), st.floats(0.0, 2 * STEADY_SECONDS), st.booleans())
def test_the_weights_of_a_class_sum_to_the_whole(situation, seconds, guarded):
    plan, own, observed, _ = situation
    step = step_for(plan, own, observed, 5.0, unready_seconds=seconds, guarded=guarded)
    for item in step.routing.classes:
        assert sum(backend.weight for backend in item.backends) == WEIGHTS
        assert all(backend.weight >= 1 for backend in item.backends)


@given(situations())
def test_the_document_grows_its_epoch_exactly_with_its_content(situation):
    plan, own, observed, _ = situation
    table = step_for(plan, own, observed, 5.0, unready_seconds=0.0).routing
    assert (table.epoch == observed.table.epoch) == (table.classes == observed.table.classes)
