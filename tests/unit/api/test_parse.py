from __future__ import annotations

import copy
from decimal import Decimal
from typing import Any

import pytest
from pydantic import ValidationError

from plimsoll.api import GPUNodePool, LLMDeployment, PlacementPolicy, Resource
from plimsoll.api.arguments import HARMFUL_FLAGS, OWNED_FLAGS, is_harmful_flag, is_owned_flag, trusts_remote_code
from plimsoll.api.common import Condition
from plimsoll.api.llmdeployment_status import LLMDeploymentStatus
from plimsoll.api.parse import InvalidResource, Problem, parse
from tests.good_objects import CUSTOM_POOL, DEPLOYMENT, POLICY, POOL, SMALLEST_DEPLOYMENT, SMALLEST_POOL, changed


def _problems(manifest: Any) -> list[str]:
    with pytest.raises(InvalidResource) as caught:
        parse(manifest)
    return [str(problem) for problem in caught.value.problems]


def _deployment(manifest: dict[str, Any]) -> LLMDeployment:
    resource = parse(manifest)
    assert isinstance(resource, LLMDeployment)
    return resource


def test_the_message_names_object_field_value_and_what_would_do() -> None:
    with pytest.raises(InvalidResource) as caught:
        parse(changed(changed(DEPLOYMENT, "metadata.namespace", "chat"), "spec.traffic.0.tokens.input", -1))
    assert str(caught.value) == "LLMDeployment chat/assistant: spec.traffic[0].tokens.input: -1: must be at least 1"
    assert caught.value.object == "LLMDeployment chat/assistant"
    assert caught.value.problems == (
        Problem("spec.traffic[0].tokens.input", "must be at least 1", -1, "an integer of at least 1"),
    )


def test_one_parse_reports_all_problems() -> None:
    manifest = changed(DEPLOYMENT, "spec.trafic", [])
    manifest = changed(manifest, "spec.models.0.precisions.0.name", "fp16")
    manifest = changed(manifest, "spec.engine.extraArgs", ["--seed=1", "--port=1"])
    manifest = changed(manifest, "spec.placement.replicas", {"min": 5, "max": 2})
    assert sorted(_problems(manifest)) == [
        (
            "spec.engine.extraArgs[1]: --port=1: this flag belongs to Plimsoll, or abbreviates one that does: "
            "use the fields of the spec instead"
        ),
        "spec.models[0].precisions[0].name: fp16: must be one of bf16, fp8, int8, int4",
        "spec.placement.replicas.min: min must not exceed max",
        "unknown field spec.trafic; did you mean traffic?",
    ]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("spec.trafic", "unknown field spec.trafic; did you mean traffic?"),
        ("spec.traffic.0.requests_per_minute", "did you mean requestsPerMinute?"),
        ("spec.traffic.0.tokens.inputp95", "did you mean inputP95?"),
        ("spec.pools", "unknown field spec.pools; did you mean spec.placement.pools?"),
        ("spec.extraArgs", "did you mean spec.engine.extraArgs?"),
        ("spec.xyzzy", "unknown field spec.xyzzy"),
        ("sepc", "unknown field sepc; did you mean spec?"),
    ],
)
def test_unknown_fields_get_the_nearest_known_one(path: str, expected: str) -> None:
    (problem,) = _problems(changed(DEPLOYMENT, path, 1))
    assert problem.endswith(expected)


@pytest.mark.parametrize(
    ("manifest", "expected"),
    [
        ([], ["kind: must be an object with apiVersion and kind"]),
        ({}, ["apiVersion: is required", "kind: is required"]),
        ({**POOL, "kind": "GpuNodePool"}, ["kind: GpuNodePool: unknown kind; did you mean GPUNodePool?"]),
        (
            {**POOL, "apiVersion": "plimsoll.dev/v1"},
            ["apiVersion: plimsoll.dev/v1: this release knows plimsoll.dev/v1alpha1"],
        ),
        ({**POOL, "apiVersion": "apps/v1"}, ["apiVersion: apps/v1: must be plimsoll.dev/v1alpha1"]),
        ({**POOL, "metadata": {}}, ["metadata.name: is required"]),
        ({**POOL, "metadata": "pool"}, ["metadata: pool: must be an object with the fields name"]),
    ],
)
def test_what_is_no_resource_at_all(manifest: Any, expected: list[str]) -> None:
    found = _problems(manifest)
    assert len(found) == len(expected)
    assert all(problem.startswith(start) for problem, start in zip(found, expected, strict=True))


def test_what_the_server_adds_is_tolerated() -> None:
    manifest = copy.deepcopy(DEPLOYMENT)
    manifest["metadata"] |= {
        "uid": "2f4",
        "generation": 3,
        "resourceVersion": "77",
        "creationTimestamp": "2026-11-20T14:00:00Z",
        "managedFields": [{"manager": "kubectl"}],
        "labels": None,
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"},
    }
    resource = _deployment(manifest)
    assert (resource.metadata.uid, resource.metadata.generation, resource.metadata.resource_version) == ("2f4", 3, "77")
    assert resource.metadata.creation_timestamp is not None
    assert resource.reference == "bad-objects/assistant"


def test_of_a_status_only_what_cannot_be_read_is_lost() -> None:
    status = {"gpus": 8, "costPerHour": 3, "ofALaterRelease": {}, "placements": [{"name": "Not A Name"}], "slo": "Met"}
    resource = _deployment({**DEPLOYMENT, "status": status})
    assert resource.status == LLMDeploymentStatus(gpus=8, slo="Met")
    unreadable: Any
    for unreadable in ("text", None, [], {"conditions": 3}):
        assert _deployment({**DEPLOYMENT, "status": unreadable}).status == LLMDeploymentStatus()


def test_defaults() -> None:
    spec = _deployment(SMALLEST_DEPLOYMENT).spec
    assert [precision.name for precision in spec.models[0].precisions] == ["bf16"]
    assert spec.models[0].precisions[0].task_error_factor == 1
    assert spec.placement.pools is None
    assert spec.placement.parallelism.tensor == (1, 2, 4, 8)
    assert spec.placement.replicas.min == 1
    assert spec.engine.model_cache.empty_dir is not None
    policy = PlacementPolicy.implied()
    assert policy.spec.default_slo.ttft.milliseconds == 2000
    assert policy.spec.headroom.demand == Decimal("0.1")


def test_names_in_python_are_snake_case() -> None:
    spec = _deployment(DEPLOYMENT).spec
    assert spec.traffic[0].requests_per_minute == 1200
    assert spec.traffic[0].tokens.input_p95 == 3200
    assert spec.engine.hugging_face_token_secret_ref is not None
    pool = parse(POOL)
    assert isinstance(pool, GPUNodePool)
    assert pool.spec.price.per_hour == Decimal("2.50")
    assert pool.spec.price_per_gpu_hour == Decimal("2.50")
    assert pool.to_wire()["spec"]["price"] == {"perHour": "2.50", "spotPerHour": "1.20"}


def test_derived_figures() -> None:
    own, spot = parse(CUSTOM_POOL), parse(changed(POOL, "spec.capacityType", "Spot"))
    assert isinstance(own, GPUNodePool)
    assert own.spec.custom is not None
    assert own.spec.custom.memory_bytes == 80 * 2**30
    assert isinstance(spot, GPUNodePool)
    assert spot.spec.price_per_gpu_hour == Decimal("1.20")


def test_resources_are_frozen() -> None:
    resource: Resource = parse(SMALLEST_POOL)
    with pytest.raises(ValidationError, match="frozen"):
        resource.spec = resource.spec  # type: ignore[misc]


def test_a_status_can_be_built_and_written() -> None:
    condition = Condition.model_validate(
        {
            "type": "Ready",
            "status": "True",
            "reason": "AllReady",
            "message": "6 of 6 replicas are ready",
            "lastTransitionTime": "2026-11-20T15:00:00+01:00",
            "observedGeneration": 2,
        }
    )
    status = LLMDeploymentStatus(conditions=(condition,), cost_per_hour=Decimal("31.40"))
    assert status.condition("Ready") is condition
    assert status.condition("Stalled") is None
    wire = status.to_wire()
    assert wire["costPerHour"] == "31.40"
    assert wire["conditions"][0]["lastTransitionTime"] == "2026-11-20T14:00:00Z"


@pytest.mark.parametrize("flag", OWNED_FLAGS)
def test_owned_flags_are_known_in_every_spelling(flag: str) -> None:
    assert is_owned_flag(flag)
    assert is_owned_flag(f"{flag}=1")
    assert is_owned_flag(flag[:-1])
    assert is_owned_flag(f"{flag}.key=1")
    assert is_owned_flag("--" + flag[2:].replace("-", "_"))


@pytest.mark.parametrize("flag", HARMFUL_FLAGS)
def test_harmful_flags_are_known_in_every_spelling(flag: str) -> None:
    assert all(is_harmful_flag(text) for text in (flag, f"{flag}=x", flag[:-1], "--" + flag[2:].replace("-", "_")))


@pytest.mark.parametrize("argument", ["--trust-remote-code", "--trust_remote_code", "--trust-remote", "--tru=true"])
def test_remote_code_is_known_in_every_spelling(argument: str) -> None:
    assert trusts_remote_code(argument)


@pytest.mark.parametrize(
    "argument", ["--enable-prefix-caching", "-1", "8192", "model", "--models", "--seed", "-O3", "x=-tp"]
)
def test_other_arguments_are_free(argument: str) -> None:
    assert not is_owned_flag(argument)


def test_the_policy_may_leave_out_everything() -> None:
    assert parse(changed(POLICY, "spec", {})) == PlacementPolicy.implied()
