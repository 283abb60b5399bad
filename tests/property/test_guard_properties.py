"""The blast-radius guard over any history: what it must hold, what it must let through, and what it may remember."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from plimsoll.controller.guarding import _kept, _remembered
from plimsoll.planning.guard import WINDOW_SECONDS, Census, Intent, Memory, Served, judge
from plimsoll.planning.snapshot import ObjectRef

GPUS_PER_NODE = 4
HARMLESS = Intent("d0", (), shrinks=True)
"""It shrinks something, and nothing that serves."""
censuses = st.builds(
    lambda nodes, deployments: Census(nodes * GPUS_PER_NODE, nodes, GPUS_PER_NODE if nodes else 0, deployments),
    st.integers(0, 30),
    st.integers(0, 30),
)
steps = st.lists(st.tuples(st.floats(0.1, 400.0), censuses), min_size=1, max_size=25)


def lost(before: Census, now: Census) -> bool:
    """More than a fifth and at least three, of nodes of one size or of LLMDeployments. Written without the guard."""
    for was, is_ in ((before.nodes, now.nodes), (before.deployments, now.deployments)):
        if was - is_ >= 3 and 5 * (was - is_) > was:
            return True
    return False


def run(history, memory=None, intent=HARMLESS):
    """(time, census, memory, reasons) after each step."""
    now, memory, seen = 0.0, memory or Memory(), []
    for pause, census in history:
        now += pause
        memory, reasons = judge(memory, census, intent, now, released=False)
        seen.append((now, census, memory, reasons))
    return seen


@given(steps)
def test_a_loss_within_ten_minutes_is_held(history):
    seen = run(history)
    for index, (now, census, _, reasons) in enumerate(seen):
        recent = [item for at, item, *_ in seen[:index] if now - at <= WINDOW_SECONDS]
        if any(lost(item, census) for item in recent):
            assert reasons


@given(steps)
def test_nothing_is_held_without_a_loss(history):
    seen = run(history)
    for index, (_, census, _, reasons) in enumerate(seen):
        if reasons:
            # Nodes and LLMDeployments may have had their peaks at different times.
            nodes, deployments = (max(getattr(item, name) for _, item, *_ in seen[: index + 1]) for name in FIELDS)
            assert lost(Census(nodes * GPUS_PER_NODE, nodes, GPUS_PER_NODE, deployments), census)


FIELDS = ("nodes", "deployments")


@given(steps, st.lists(st.floats(1.0, 5000.0), min_size=1, max_size=5))
def test_time_alone_frees_nothing_that_is_held_back(history, pauses):
    *_, (_, census, memory, reasons) = run(history)
    after = run([(pause, census) for pause in pauses], replace(memory))
    if reasons:
        assert all(item[3] for item in after)


@given(steps)
def test_a_hold_that_holds_nothing_back_ends_after_the_window(history):
    idle = replace(HARMLESS, shrinks=False)
    now, census, memory, _ = run(history, intent=idle)[-1]
    for _ in range(3):
        now += WINDOW_SECONDS + 1
        memory, reasons = judge(memory, census, idle, now, released=False)
    assert not reasons


@given(steps)
def test_a_release_frees_and_the_same_state_is_not_held_again(history):
    now, census, memory, _ = run(history)[-1]
    memory, reasons = judge(memory, census, HARMLESS, now + 1, released=True)
    assert not reasons
    assert not judge(memory, census, HARMLESS, now + 2, released=False)[1]


@given(steps)
def test_what_came_back_is_not_held(history):
    now, census, memory, _ = run(history)[-1]
    peak = memory.baseline.peak(census)
    assert not judge(memory, peak, HARMLESS, now + 1, released=False)[1]


@given(steps)
def test_a_restart_at_any_moment_forgets_no_hold(history):
    for now, census, memory, reasons in run(history):
        if reasons:
            remembered = _remembered(_kept(memory), 0.0)
            assert judge(remembered, census, HARMLESS, 1.0, released=False)[1], now


@given(st.lists(st.tuples(st.floats(0.01, 5.0), censuses), min_size=1, max_size=300))
def test_memory_stays_small(history):
    assert all(len(memory.sightings) <= 22 for _, _, memory, _ in run(history))


served = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=8)


def intent_with(pairs, digest="d1"):
    refs = [ObjectRef("LLMDeployment", "chat", f"d{number}") for number in range(len(pairs))]
    items = tuple(Served(ref, *pair) for ref, pair in zip(refs, pairs, strict=True))
    return Intent(digest, items, shrinks=True)


@given(served)
def test_a_plan_that_removes_much_of_what_serves_is_held_and_no_other(pairs):
    census = Census(80, 20, 4, 8)
    memory, reasons = judge(Memory(), census, intent_with(pairs), 0.0, released=False)
    removed, total = sum(max(0, serving - planned) for serving, planned in pairs), sum(pair[0] for pair in pairs)
    assert bool(reasons) == (removed >= 3 and 5 * removed > total)
    again = judge(memory, census, intent_with(pairs), 1e6, released=False)[1]
    assert bool(again) == bool(reasons), "it neither passes nor fails by waiting"
    assert not judge(memory, census, intent_with(pairs), 1e6, released=True)[1]


@given(served)
def test_a_transition_that_passed_is_not_held_half_way(pairs):
    census = Census(80, 20, 4, 8)
    grown = [(serving, max(serving, planned)) for serving, planned in pairs]
    memory, reasons = judge(Memory(), census, intent_with(grown), 0.0, released=False)
    assert not reasons
    # Both old and new replicas serve, and a new plan wants as many as the one before.
    half_way = intent_with([(serving + planned, planned) for serving, planned in grown], "d2")
    assert not judge(memory, census, half_way, 1.0, released=False)[1]
