"""The ConfigMap of corrections: it comes back as it was, and what somebody broke in it costs only that."""

import json
from typing import Any

import pytest

from plimsoll.performance import Estimate
from plimsoll.planning.observed import Learnt, ReplicaKind
from plimsoll.rendering import labels
from plimsoll.rendering.corrections import KEY, corrections_config_map, learnt_from_config_map

KIND = ReplicaKind("meta-llama/Llama-3.1-8B-Instruct", "bf16", "L40S", 1, 1)
LEARNT = {KIND: Learnt(Estimate(1.0312345678901234, 1.0, 812.0), Estimate(0.7, 0.72, 9e9), "abc")}


def config_map(document: object) -> dict[str, Any]:
    return {"data": {KEY: json.dumps(document)}}


def test_what_was_learnt_comes_back_as_it_was() -> None:
    nothing = {ReplicaKind("x/y", "bf16", "L4", 1, 1): Learnt(Estimate(ignored="no requests"), Estimate(), "")}
    manifest = corrections_config_map(LEARNT | nothing, "plimsoll-system")
    assert learnt_from_config_map(manifest) == (LEARNT, ())


def test_it_does_not_wake_the_planner() -> None:
    metadata = corrections_config_map(LEARNT, "plimsoll-system")["metadata"]
    assert metadata["namespace"] == "plimsoll-system"
    assert labels.MANAGED_BY not in metadata["labels"]


def test_what_somebody_broke_is_left_out_and_named() -> None:
    (good,) = json.loads(corrections_config_map(LEARNT, "")["data"][KEY])["kinds"]
    part = good["decode"]
    bad = [
        {**good, "decode": {**part, "inForce": 40}},
        {**good, "decode": {**part, "value": float("nan")}},
        {**good, "tensor": "many"},
        {"model": "x"},
        7,
    ]
    found, problems = learnt_from_config_map(config_map({"version": 1, "kinds": [*bad, good]}))
    assert found == LEARNT
    assert [problem.split(": ")[1] for problem in problems] == [f"kinds[{number}]" for number in range(len(bad))]
    assert "0.5 to 2.0 are possible" in problems[0]


@pytest.mark.parametrize(
    "manifest",
    [{}, {"data": None}, {"data": {KEY: "{"}}, config_map([]), config_map({"version": 1}),
     config_map({"version": 2, "kinds": []}), config_map({"version": 1, "kinds": 3})],
)  # fmt: skip
def test_another_document_teaches_nothing(manifest: dict[str, Any]) -> None:
    found, problems = learnt_from_config_map(manifest)
    assert found == {}
    assert len(problems) == 1
