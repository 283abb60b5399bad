"""Measured coefficients and observed corrections: the plan uses them, says so, and falls back where they end."""

from dataclasses import replace
from typing import Any

from plimsoll.api.common import Resource
from plimsoll.api.parse import parse
from plimsoll.planning import plan_fleet
from plimsoll.planning.plan import DeploymentState, FleetPlan, Severity
from plimsoll.planning.snapshot import Snapshot, SpeedCorrection
from tests.unit.planning.fleets import (
    EVALUATOR,
    LLAMA_8B,
    deployment,
    exchanged,
    manifest,
    nodes,
    objective,
    pool,
    snapshot,
)

SLOW = {"weightsEfficiency": "0.3", "kvEfficiency": "0.3", "prefillEfficiency": "0.1", "stepMilliseconds": "12"}


def profile(accelerator: str = "L40S", name: str = "measured", model: str = LLAMA_8B, **figures: Any) -> Resource:
    entry = {"accelerator": accelerator, **(figures or SLOW)}
    return parse(manifest("ModelProfile", name, {"model": model, "coefficients": [entry]}))


def facts(*more: Resource) -> Snapshot:
    base = snapshot(pool(), objective(), deployment(rate=900, slo="interactive"), nodes=nodes(8))
    return exchanged(base, *more)


def plan(where: Snapshot) -> FleetPlan:
    return plan_fleet(where, EVALUATOR)


def gpus(fleet: FleetPlan) -> int:
    return sum(item.gpus for item in fleet.deployments)


def speeds(fleet: FleetPlan) -> set[str]:
    return {placement.speed for item in fleet.deployments for placement in item.placements}


def test_measured_coefficients_take_the_place_of_the_published_ones() -> None:
    published, measured = plan(facts()), plan(facts(profile()))
    assert gpus(measured) > gpus(published)
    assert speeds(published) == {"pooled over measured nvidia GPUs"}
    assert speeds(measured) == {"measured: ModelProfile measured"}
    assert measured.digest != published.digest
    assert plan(facts()) == published  # nothing sticks


def test_the_plan_tells_how_good_the_fit_is() -> None:
    fit = {"rows": 60, "medianError": "0.033", "p90Error": "0.087"}
    found = plan(facts(profile(prefillEfficiency="0.4", fit=fit)))
    assert speeds(found) == {"measured: ModelProfile measured (60 rows, median error 3.3%)"}


def test_other_gpus_and_models_stay_as_published() -> None:
    for other in (profile("H100-SXM-80GB"), profile(model="meta-llama/Llama-3.3-70B-Instruct")):
        found = plan(facts(other))
        assert gpus(found) == gpus(plan(facts()))
        assert speeds(found) == {"pooled over measured nvidia GPUs"}
        assert not found.all_findings()


def test_names_count_whatever_their_case() -> None:
    found = plan(facts(profile("l40s", model=LLAMA_8B.lower())))
    assert speeds(found) == {"measured: ModelProfile measured"}


def test_an_unknown_accelerator_is_named_and_not_used() -> None:
    found = plan(facts(profile("L40X")))
    assert gpus(found) == gpus(plan(facts()))
    (finding,) = found.findings
    assert (str(finding.object), finding.reason) == ("ModelProfile measured", "UnknownAccelerator")
    assert finding.field == "spec.coefficients[0].accelerator"
    assert 'nearest: "L40' in finding.message


def test_of_two_profiles_the_last_by_name_counts_with_a_warning() -> None:
    found = plan(facts(profile(name="b"), profile(name="a", prefillEfficiency="0.4")))
    assert speeds(found) == {"measured: ModelProfile b"}
    (finding,) = found.findings
    assert (finding.reason, finding.severity) == ("MeasuredTwice", Severity.WARNING)


def test_coefficients_of_a_model_that_nobody_describes_are_an_error() -> None:
    found = plan(facts(profile(model="acme/secret-8b")))
    (finding,) = found.findings
    assert (finding.reason, finding.field) == ("ArchitectureMissing", "spec.architecture")
    assert found.deployments[0].state is DeploymentState.PLANNED


def correction(prefill: float, decode: float, **changes: Any) -> SpeedCorrection:
    usual = SpeedCorrection(LLAMA_8B, "bf16", "L40S", 1, 1, prefill, decode)
    return replace(usual, **changes)


def test_corrections_are_honoured_and_told() -> None:
    usual = plan(facts())
    slower = plan(replace(facts(), corrections=(correction(1.8, 1.8),)))
    assert gpus(slower) > gpus(usual)
    assert speeds(slower) == {"pooled over measured nvidia GPUs; corrected by observation: prefill ×1.80, decode ×1.80"}
    assert slower.digest != usual.digest
    elsewhere = plan(replace(facts(), corrections=(correction(1.8, 1.8, accelerator="H100-SXM-80GB"),)))
    assert gpus(elsewhere) == gpus(usual)
    assert speeds(elsewhere) == speeds(usual)


def test_a_correction_multiplies_what_was_measured() -> None:
    both = replace(facts(profile()), corrections=(correction(0.5, 0.5),))
    found = plan(both)
    assert gpus(found) < gpus(plan(facts(profile())))
    assert all(text.startswith("measured: ModelProfile measured; corrected") for text in speeds(found))


def test_options_that_do_not_run_share_the_correction_of_their_model_and_gpu() -> None:
    """Otherwise they would look better than what runs for the only reason that nobody has looked at them."""
    alone = plan(replace(facts(), corrections=(correction(1.8, 1.8),)))
    degrees = [(tensor, pipeline) for tensor in (1, 2, 4, 8) for pipeline in (1, 2, 4, 8)]
    everywhere = tuple(correction(1.8, 1.8, tensor=tensor, pipeline=pipeline) for tensor, pipeline in degrees)
    whole = plan(replace(facts(), corrections=everywhere))
    assert speeds(alone) == speeds(whole)
    assert [item.placements for item in alone.deployments] == [item.placements for item in whole.deployments]
