"""What replicas were observed to take: it moves the right factor, in the right direction, and doubt moves nothing."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from plimsoll.api.parse import parse
from plimsoll.catalog import load_catalog
from plimsoll.performance import Correction, LatencyTargets, Parallelism, ReplicaShape, TokenLengths, predict
from plimsoll.performance.correction import UNCORRECTED
from plimsoll.planning import plan_fleet
from plimsoll.planning.observed import Figures, Learnt, Lesson, PodFigures, ReplicaKind, Total, in_force, learn
from plimsoll.planning.plan import FleetPlan
from plimsoll.planning.snapshot import Snapshot
from tests.unit.planning.fleets import (
    EVALUATOR,
    LLAMA_8B,
    applied,
    deployment,
    exchanged,
    manifest,
    nodes,
    objective,
    pool,
    snapshot,
)

FIGURES = {"accelerator": "L40S", "weightsEfficiency": "0.7", "prefillEfficiency": "0.4"}
KIND = ReplicaKind(LLAMA_8B, "bf16", "L40S", 1, 1)
WINDOW = 300.0
INPUT, OUTPUT = 1000.0, 200.0


def running(rate: int = 900) -> tuple[FleetPlan, Snapshot]:
    """A fleet that runs as planned."""
    facts = snapshot(pool(), objective(), deployment(rate=rate, slo="interactive"), nodes=nodes(8))
    fleet = plan_fleet(facts, EVALUATOR)
    return fleet, applied(facts, fleet)


FLEET, FACTS = running()


@cache
def truth(rate_per_second: float, correction: Correction) -> tuple[float, float]:
    """Mean latencies of a replica that is so much slower."""
    (plan,) = FLEET.deployments
    (placement,) = plan.placements
    catalog = load_catalog()
    shape = ReplicaShape(
        catalog.model(LLAMA_8B),
        catalog.precision("bf16"),
        catalog.gpu("L40S"),
        Parallelism(1, 1),
        placement.option.max_model_length,
        correction=correction,
    )
    lengths = TokenLengths(INPUT, OUTPUT, 2 * INPUT, 2 * OUTPUT)
    found = predict(shape, lengths, LatencyTargets(), rate_per_second, placement.option.max_num_seqs)
    return found.ttft_seconds, found.tpot_seconds


def figures(
    real: Correction = UNCORRECTED,
    requests: float = 300.0,
    age_seconds: float = 20.0,
    facts: Snapshot = FACTS,
    **changes: Total | None,
) -> Figures:
    """What pods count whose true speed is `real`."""
    ttft, tpot = truth(requests / WINDOW, real)
    tokens = requests * OUTPUT
    totals: dict[str, Total | None] = {
        "input": Total(requests * INPUT, requests),
        "output": Total(tokens, requests),
        "ttft": Total(requests * ttft, requests),
        "tpot": Total(tokens * tpot, tokens),
        "queue": Total(0.0, requests),
        "cached": Total(0.0, requests * INPUT),
        **changes,
    }
    there = {name: item for name, item in totals.items() if item is not None}
    pods = (PodFigures(pod.namespace, pod.name, age_seconds, there) for pod in facts.pods if pod.placement)
    return Figures(WINDOW, tuple(pods))


def lessons(count: int, real: Correction, learnt: Mapping[ReplicaKind, Learnt] | None = None) -> Lesson:
    lesson, seen = Lesson(learnt or {}, ()), figures(real)
    for _ in range(count):
        lesson = learn(FLEET, FACTS, seen, lesson.learnt)
    return lesson


@pytest.mark.parametrize(
    "real", [Correction(1.3, 1.3), Correction(0.8, 0.8), Correction(1.0, 1.4), Correction(1.5, 1.0)]
)
def test_factors_approach_the_truth_and_stay(real: Correction) -> None:
    found = lessons(60, real).learnt[KIND]
    assert found.prefill.value == pytest.approx(real.prefill, rel=0.05)
    assert found.decode.value == pytest.approx(real.decode, rel=0.05)


def test_one_window_moves_little_and_no_plan() -> None:
    lesson = lessons(1, Correction(1.9, 1.9))
    found = lesson.learnt[KIND]
    assert 1.0 < found.decode.value < 1.03
    assert found.in_force == Correction()
    assert in_force(lesson.learnt) == ()


def test_what_is_in_force_goes_into_the_next_plan() -> None:
    corrections = in_force(lessons(20, Correction(1.3, 1.3)).learnt)
    (item,) = corrections
    assert (item.model, item.accelerator, item.tensor) == (LLAMA_8B, "L40S", 1)
    assert item.decode > 1.1
    fleet = plan_fleet(replace(FACTS, corrections=corrections), EVALUATOR)
    (placement,) = fleet.deployments[0].placements
    assert placement.correction.decode == item.decode
    assert "corrected by observation" in placement.speed


def test_however_slow_it_is_bounds_hold() -> None:
    found = lessons(200, Correction(3.0, 3.0)).learnt[KIND]
    assert found.decode.in_force <= 2.0
    assert found.prefill.in_force <= 2.0
    assert found.decode.value == 2.0


DOUBTFUL: dict[str, tuple[dict[str, Any], str, str]] = {
    "no latency": ({"ttft": Total(0.0, 300.0)}, "prefill", "which is none"),
    "no time per token": ({"tpot": None}, "decode", "which is none"),
    "no lengths": ({"input": None}, "decode", "no requests with their token lengths"),
    "no requests": ({"ttft": Total(0.0, 0.0)}, "decode", "no requests with their token lengths"),
    "few requests": ({"requests": 3.0}, "decode", "50 are needed"),
    "stale": ({"age_seconds": 400.0}, "decode", "400 s old"),
    "overloaded": ({"ttft": Total(900.0, 3000.0)}, "prefill", "queues hide the speed"),
    "waited in the queue": ({"queue": Total(200.0, 300.0)}, "prefill", "was spent in the queue"),
    "cached prompts": ({"cached": Total(150e3, 300e3)}, "prefill", "prefix cache serves 50%"),
    "another model": ({"tpot": Total(3e5, 60e3)}, "decode", "implausible"),
}


@pytest.mark.parametrize(("changes", "phase", "said"), DOUBTFUL.values(), ids=DOUBTFUL.keys())
def test_doubt_moves_nothing_and_is_told(changes: dict[str, Any], phase: str, said: str) -> None:
    before = lessons(3, Correction(1.2, 1.2)).learnt
    after = learn(FLEET, FACTS, figures(**changes), before).learnt
    was, now = getattr(before[KIND], phase), getattr(after[KIND], phase)
    assert said in str(now.ignored)
    assert replace(now, ignored=None) == was


def test_short_prompts_tell_nothing_of_prefill() -> None:
    """Their first token takes as long as a step of decoding."""
    few = 300.0
    found = learn(FLEET, FACTS, figures(input=Total(16 * few, few), ttft=Total(0.03 * few, few)), {}).learnt[KIND]
    assert "depends on prefill by" in str(found.prefill.ignored)
    assert found.prefill.value == 1.0


def test_pods_that_are_not_scraped_are_told() -> None:
    found = learn(FLEET, FACTS, Figures(WINDOW, ()), {}).learnt[KIND]
    assert "none of" in str(found.decode.ignored)
    assert not found.rests_on_requests
    assert in_force({KIND: found}) == ()


def test_only_ready_pods_of_placements_count() -> None:
    stopped = replace(FACTS, pods=tuple(replace(pod, ready=False) for pod in FACTS.pods))
    assert learn(FLEET, stopped, figures(Correction(1.5, 1.5)), {}).learnt == {}
    others = replace(FACTS, pods=tuple(replace(pod, placement="") for pod in FACTS.pods))
    assert learn(FLEET, others, figures(Correction(1.5, 1.5)), {}).learnt == {}


def test_means_are_reported_per_placement() -> None:
    (item,) = learn(FLEET, FACTS, figures(Correction(1.2, 1.2)), {}).observed
    ttft, tpot = truth(1.0, Correction(1.2, 1.2))
    assert (str(item.deployment), item.kind) == ("LLMDeployment chat/assistant", KIND)
    assert (item.ttft_seconds, item.tpot_seconds) == (pytest.approx(ttft), pytest.approx(tpot))
    assert learn(FLEET, FACTS, figures(requests=3.0), {}).observed == ()


def test_placements_of_one_kind_count_together_and_move_no_faster() -> None:
    facts = exchanged(
        snapshot(pool(), objective(), deployment(rate=900, slo="interactive"), nodes=nodes(12)),
        deployment("other", rate=900, slo="interactive"),
    )
    fleet = plan_fleet(facts, EVALUATOR)
    both = applied(facts, fleet)
    lesson = learn(fleet, both, figures(Correction(1.5, 1.5), facts=both), {})
    assert len(lesson.observed) == 2
    assert lesson.learnt[KIND].decode.value == pytest.approx(1.02, abs=0.001)


def test_a_kind_that_is_new_begins_where_it_is_predicted() -> None:
    """At the mean of the same model on the same GPU: being seen for the first time changes no prediction."""
    other = replace(KIND, tensor=2)
    known = lessons(40, Correction(1.3, 1.3)).learnt[KIND]
    lesson = learn(FLEET, FACTS, figures(Correction(1.3, 1.3)), {other: known})
    assert lesson.learnt[KIND].decode.in_force == pytest.approx(known.decode.in_force, abs=0.001)
    before, after = in_force({other: known}), in_force(lesson.learnt)
    assert {item.tensor for item in after} == {1, 2}
    assert before[0] in after


def test_what_was_learnt_of_other_coefficients_does_not_count() -> None:
    """A ModelProfile, or another release, already knows what the factors made up for."""
    known = lessons(40, Correction(1.3, 1.3)).learnt
    measured = manifest("ModelProfile", "m", {"model": LLAMA_8B, "coefficients": [FIGURES]})
    profiled = exchanged(replace(FACTS, corrections=in_force(known)), parse(measured))
    (placement,) = plan_fleet(profiled, EVALUATOR).deployments[0].placements
    assert placement.correction == Correction()
    found = learn(FLEET, profiled, figures(), known).learnt[KIND]
    assert found.in_force == Correction()
    assert found.decode.requests < known[KIND].decode.requests


def test_kinds_that_run_no_more_are_remembered() -> None:
    other = replace(KIND, model="Qwen/Qwen2.5-7B-Instruct")
    known = lessons(30, Correction(1.3, 1.3)).learnt[KIND]
    assert learn(FLEET, FACTS, figures(), {other: known}).learnt[other] == known
