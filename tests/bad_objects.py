"""Objects that must be refused, each with the field that the message must name.

The same table runs through pydantic (tests/unit/api/test_bad_objects.py) and through a real API server
(tests/control_plane/test_crds.py): both must give the same verdict.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.good_objects import (
    ABSENT,
    CUSTOM_POOL,
    DEPLOYMENT,
    LLAMA_8B,
    LLAMA_70B,
    MEASURED_PROFILE,
    NAMESPACE,
    PETALS_DEPLOYMENT,
    PLAN,
    POLICY,
    POOL,
    PROFILE,
    SLO,
    Manifest,
    changed,
    made,
)


@dataclass(frozen=True)
class BadObject:
    """An object with one fault."""

    name: str
    object: Manifest
    field: str
    """What the message must contain: the path of the field, or its name where the rule is about the whole object."""


def _deployment(name: str, path: str, value: object, field: str | None = None) -> BadObject:
    return BadObject(f"deployment: {name}", changed(DEPLOYMENT, path, value), field or shown(path))


def _petals(name: str, path: str, value: object, field: str | None = None) -> BadObject:
    return BadObject(f"deployment: {name}", changed(PETALS_DEPLOYMENT, path, value), field or shown(path))


def _pool(name: str, path: str, value: object, field: str | None = None) -> BadObject:
    return BadObject(f"pool: {name}", changed(POOL, path, value), field or shown(path))


def _slo(name: str, path: str, value: object, field: str | None = None) -> BadObject:
    return BadObject(f"objective: {name}", changed(SLO, path, value), field or shown(path))


def _measured(name: str, path: str, value: object, field: str | None = None) -> BadObject:
    return BadObject(f"measured: {name}", changed(MEASURED_PROFILE, path, value), field or shown(path))


def _profile(name: str, path: str, value: object, field: str | None = None) -> BadObject:
    return BadObject(f"profile: {name}", changed(PROFILE, path, value), field or shown(path))


def _policy(name: str, path: str, value: object, field: str | None = None) -> BadObject:
    return BadObject(f"policy: {name}", changed(POLICY, path, value), field or shown(path))


def _plan(name: str, path: str, value: object, field: str | None = None) -> BadObject:
    return BadObject(f"plan: {name}", changed(PLAN, path, value), field or shown(path))


def shown(path: str) -> str:
    """`spec.traffic.0.name` as messages write it: `spec.traffic[0].name`."""
    text = ""
    for part in path.split("."):
        text += f"[{part}]" if part.isdigit() else f".{part}" if text else part
    return text


def _owned_flags() -> Iterator[BadObject]:
    for argument in (
        "--model=other/model",
        "--model",
        "--served-model-name=x",
        "--host=0.0.0.0",
        "--port",
        "--tensor-parallel-size=2",
        "--tensor_parallel_size=2",
        "--tensor-par=2",
        "--pipeline-parallel-size",
        "--data-parallel-size=2",
        "--max-model-len=4096",
        "--max-num-seqs",
        "--gpu-memory-utilization=0.5",
        "--quantization=awq",
        "--dtype",
        "--config=/tmp/x.yaml",
        "--config.x=1",
        "--disable-log-stats",
        "--kv-cache-dtype=fp8",
        "--ssl-keyfile=/x",
        "--data-parallel-rank=1",
        "-",
        "--",
    ):
        yield _deployment(
            f"owned flag {argument}",
            "spec.engine.extraArgs",
            ["--enable-prefix-caching", argument],
            "spec.engine.extraArgs[1]",
        )


BAD_OBJECTS: list[BadObject] = [
    # Typos
    _deployment("typo at the top", "spec.trafic", []),
    _deployment("typo in a list item", "spec.traffic.0.requestPerMinute", 3),
    _deployment("typo deep down", "spec.placement.parallelism.tensors", [1]),
    _deployment("snake case", "spec.traffic.0.requests_per_minute", 3),
    _deployment("field of another release", "spec.routing.chains", True),
    _deployment("part of a pod spec that is not allowed", "spec.engine.podTemplate.hostNetwork", True),
    _pool("typo in the price", "spec.price.perhour", "2"),
    _pool("typo beside spec", "specs", {}),
    _slo("typo in a target", "spec.ttft.millisecond", 3),
    _policy("typo", "spec.budget.perHours", "3"),
    _profile("typo", "spec.architecture.hiddensize", 4096),
    # Missing
    BadObject("deployment: no spec", made("LLMDeployment", "a", None, NAMESPACE), "spec"),
    _deployment("no models at all", "spec.models", ABSENT),
    _deployment("no traffic", "spec.traffic", ABSENT),
    _deployment("model without a name", "spec.models.0.name", ABSENT),
    _deployment("class without a rate", "spec.traffic.1.requestsPerMinute", ABSENT),
    _deployment("class without lengths", "spec.traffic.1.tokens", ABSENT),
    _deployment("secret without a key", "spec.engine.huggingFaceTokenSecretRef.key", ABSENT),
    _pool("no price", "spec.price", ABSENT),
    _pool("no price per hour", "spec.price.perHour", ABSENT),
    _slo("target without a limit", "spec.ttft.milliseconds", ABSENT),
    _profile("no layers", "spec.architecture.layers", ABSENT),
    _plan("no digest", "spec.inputsDigest", ABSENT),
    # Types
    _deployment("spec is a list", "spec", [], "spec"),
    _deployment("traffic is a map", "spec.traffic", {}),
    _deployment("a model is a string", "spec.models.1", LLAMA_70B),
    _deployment("a quoted integer", "spec.traffic.0.requestsPerMinute", "1200"),
    _deployment("a fraction for an integer", "spec.traffic.0.requestsPerMinute", 0.5),
    _deployment("true for an integer", "spec.traffic.0.tokens.input", True),
    _deployment("a quoted boolean", "spec.routing.vllmRouter", "true"),
    _deployment("a number for a string", "spec.traffic.0.name", 7),
    _deployment("an unquoted ratio", "spec.traffic.0.taskError.0.value", 0.07),
    _deployment("an unquoted environment value", "spec.engine.env.0.value", 1),
    _deployment("an unquoted label", "spec.engine.podTemplate.labels.team", 1),
    _deployment("affinity is a string", "spec.engine.podTemplate.affinity", "zone"),
    _deployment("null for an item", "spec.models.1", None),
    _deployment("null for a required field", "spec.traffic.0.name", None),
    _pool("an unquoted price", "spec.price.perHour", 2.5),
    _pool("an unquoted whole price", "spec.price.perHour", 2),
    _slo("an unquoted share", "spec.unserved.max", 0),
    # Ranges and patterns
    _deployment("no models", "spec.models", []),
    _deployment("nine models", "spec.models", [{"name": f"org/model-{i}"} for i in range(9)]),
    _deployment("no traffic classes", "spec.traffic", []),
    _deployment("negative rate", "spec.traffic.0.requestsPerMinute", -1),
    _deployment("no input", "spec.traffic.0.tokens.input", 0),
    _deployment("negative output", "spec.traffic.0.tokens.output", -1),
    _deployment("unknown precision", "spec.models.0.precisions.0.name", "fp16"),
    _deployment("no precisions", "spec.models.0.precisions", []),
    _deployment("model name with a space", "spec.models.1.name", "Llama 3"),
    _deployment("class name in capitals", "spec.traffic.0.name", "Chat"),
    _deployment("task error above 1", "spec.traffic.0.taskError.0.value", "1.5"),
    _deployment("negative task error", "spec.traffic.0.taskError.0.value", "-0.1"),
    _deployment("an exponent", "spec.traffic.0.taskError.0.value", "1e-2"),
    _deployment(
        "arrivals too regular", "spec.traffic.0.arrivals", {"burstiness": "0.05"}, "spec.traffic[0].arrivals.burstiness"
    ),
    _deployment(
        "arrivals too bursty", "spec.traffic.0.arrivals", {"burstiness": "10.5"}, "spec.traffic[0].arrivals.burstiness"
    ),
    _deployment(
        "an unquoted burstiness", "spec.traffic.0.arrivals", {"burstiness": 2}, "spec.traffic[0].arrivals.burstiness"
    ),
    _deployment("factor 0", "spec.models.0.precisions.1.taskErrorFactor", "0"),
    _deployment("tensor degree 3", "spec.placement.parallelism.tensor.0", 3),
    _deployment("pipeline degree 9", "spec.placement.parallelism.pipeline.0", 9),
    _deployment("no tensor degrees", "spec.placement.parallelism.tensor", []),
    _deployment("unknown engine", "spec.engine.type", "triton"),
    _deployment("image with a space", "spec.engine.images.nvidia", "vllm openai"),
    _deployment("cache without a unit", "spec.engine.modelCache", {"emptyDir": {"sizeLimit": "200"}}, "sizeLimit"),
    _deployment("header with a colon", "spec.traffic.0.match.headers.0.name", "x-class:"),
    _deployment("route without a Gateway", "spec.routing.httpRoute.parentRefs", []),
    _deployment("label value with a space", "spec.engine.podTemplate.labels.team", "the chat team"),
    _deployment("a long argument", "spec.engine.extraArgs", ["x" * 1025], "spec.engine.extraArgs[0]"),
    _pool("a price below 0", "spec.price.perHour", "-1"),
    _pool("a price with a currency", "spec.price.perHour", "$2.50"),
    _pool("unknown capacity type", "spec.capacityType", "Reserved"),
    _pool("no GPUs per node", "spec.gpusPerNode", 0),
    _pool("unknown interconnect", "spec.interconnect.intraNode", "nvlink"),
    _slo("percentile 100", "spec.ttft.percentile", 100),
    _slo("percentile 0", "spec.ttft.percentile", 0),
    _slo("0 milliseconds", "spec.ttft.milliseconds", 0),
    _slo("unknown statistic", "spec.ttft.statistic", "Median"),
    _slo("share above 1", "spec.unserved.max", "1.01"),
    _slo("priority above 1000", "spec.priority", 1001),
    _policy("unknown algorithm", "spec.algorithm", "Optimal"),
    _policy(
        "round trip within a region",
        "spec.network",
        {"roundTripMilliseconds": [{"region": "us-east", "peer": "us-east", "milliseconds": 1}]},
        "roundTripMilliseconds[0].peer",
    ),
    _policy(
        "negative round trip",
        "spec.network",
        {"roundTripMilliseconds": [{"region": "us-east", "peer": "us-west", "milliseconds": -1}]},
        "milliseconds",
    ),
    _deployment("unknown mode", "spec.placement.mode", "Split"),
    _deployment("origins without chains", "spec.traffic.0.origins", [{"region": "us-east", "share": "1"}], "traffic"),
    _policy("search without time", "spec.timeLimitMilliseconds", 0),
    _policy("search longer than a round may take", "spec.timeLimitMilliseconds", 120_000),
    _policy("time limit as text", "spec.timeLimitMilliseconds", "20000"),
    _policy("saving of everything", "spec.rebalance.minimalSaving", "1"),
    _policy("saving as a number", "spec.rebalance.minimalSaving", 0.05),
    _policy("negative storage price", "spec.storage.pricePerGiBHour", "-0.1"),
    _policy("storage price as a number", "spec.storage.pricePerGiBHour", 0.1),
    _policy("storage below nothing", "spec.storage.limitGiB", -1),
    _policy("misspelt storage price", "spec.storage.pricePerGibHour", "0.1"),
    _policy("unknown approval", "spec.approval", "Never"),
    _policy("interval too short", "spec.planning.intervalSeconds", 1),
    _policy("two nodes at once", "spec.availability.tolerateNodeLoss", 2),
    _policy("node loss as a flag", "spec.availability.tolerateNodeLoss", True),
    _policy("all latency as headroom", "spec.headroom.latency", "1"),
    _plan("gap above 1", "spec.gap", "1.2"),
    _plan("unknown kind of limit", "spec.bindingLimits.0.kind", "Nodes"),
    _plan("digest of another kind", "spec.inputsDigest", "md5:0"),
    _plan("approval without a decision", "spec.approval.decision", ABSENT),
    _plan("approval without a digest", "spec.approval.digest", ABSENT),
    _plan("unknown decision", "spec.approval.decision", "Maybe"),
    _plan("approval of something else", "spec.approval.digest", "sha256:" + "3" * 64),
    _plan("approval by a short digest", "spec.approval.digest", "sha256:1111"),
    _plan("approval of a plan without a digest", "spec.decisionDigest", ABSENT, "spec.approval.digest"),
    # Repeated items
    _deployment("model twice", "spec.models.1.name", LLAMA_8B, "spec.models[1]"),
    _deployment("class twice", "spec.traffic.1.name", "chat", "spec.traffic[1]"),
    _deployment("precision twice", "spec.models.0.precisions.1.name", "bf16", "spec.models[0].precisions[1]"),
    _deployment("pool twice", "spec.placement.pools", ["l40s", "l40s"], "spec.placement.pools[1]"),
    _deployment("degree twice", "spec.placement.parallelism.tensor", [1, 2, 1], "spec.placement.parallelism.tensor[2]"),
    _deployment("variable twice", "spec.engine.env.1", {"name": "VLLM_LOGGING_LEVEL"}, "spec.engine.env[1]"),
    # Rules across fields
    _deployment("no default class", "spec.traffic.1", ABSENT, "spec.traffic"),
    _deployment("two default classes", "spec.traffic.0.match", ABSENT, "spec.traffic"),
    _deployment(
        "task error of a model that is no candidate", "spec.traffic.0.taskError.1.model", "x/y", "spec.traffic"
    ),
    _deployment("length below the lengths of a class", "spec.engine.maxModelLength", 1200),
    _deployment("min above max", "spec.placement.replicas.min", 41),
    _deployment("no cache", "spec.engine.modelCache", {}),
    _deployment("two caches", "spec.engine.modelCache.emptyDir", {}, "spec.engine.modelCache"),
    _deployment("value and valueFrom", "spec.engine.env.1.value", "x", "spec.engine.env[1]"),
    _deployment("valueFrom nothing", "spec.engine.env.1.valueFrom", {}),
    _deployment("label of Plimsoll", "spec.engine.podTemplate.labels", {"plimsoll.dev/pool": "x"}),
    _deployment("label key with a space", "spec.engine.podTemplate.labels", {"the team": "x"}),
    _deployment(
        "Exists with a value", "spec.engine.podTemplate.tolerations.0.value", "x", "podTemplate.tolerations[0]"
    ),
    _deployment(
        "seconds without NoExecute", "spec.engine.podTemplate.tolerations.0.effect", "NoSchedule", "tolerationSeconds"
    ),
    _deployment("name that begins with a digit", "metadata.name", "7b-chat"),
    _deployment("name with a dot", "metadata.name", "chat.v2"),
    *_owned_flags(),
    _petals("petals with replicas", "spec.placement.mode", "Replicated", "spec.engine.type"),
    _petals("petals in the default mode", "spec.placement", ABSENT, "spec.engine.type"),
    _petals("petals without an image", "spec.engine.images", ABSENT),
    _petals("petals with arguments of vLLM", "spec.engine.extraArgs", ["--enable-prefix-caching"]),
    _petals("petals with fp8", "spec.models.0.precisions.0.name", "fp8", "spec.models"),
    _petals("petals with a quantised checkpoint", "spec.models.0.precisions.0.checkpoint", "x/y-AWQ", "spec.models"),
    _pool("neither accelerator nor custom", "spec.accelerator", ABSENT, "accelerator"),
    _pool("both accelerator and custom", "spec.custom", CUSTOM_POOL["spec"]["custom"], "accelerator"),
    BadObject("pool: custom without a selector", changed(CUSTOM_POOL, "spec.nodeSelector", ABSENT), "nodeSelector"),
    BadObject("pool: custom with an empty selector", changed(CUSTOM_POOL, "spec.nodeSelector", {}), "nodeSelector"),
    BadObject("pool: memory without a unit", changed(CUSTOM_POOL, "spec.custom.memory", "80"), "spec.custom.memory"),
    BadObject("pool: no peaks", changed(CUSTOM_POOL, "spec.custom.peaks", []), "spec.custom.peaks"),
    BadObject(
        "pool: Spot without a spot price",
        changed(changed(POOL, "spec.capacityType", "Spot"), "spec.price.spotPerHour", ABSENT),
        "spec.price",
    ),
    _pool("name with a dot", "metadata.name", "h100.east"),
    _slo("Percentile without a percentile", "spec.ttft.percentile", ABSENT),
    _slo("Mean with a percentile", "spec.ttft.statistic", "Mean", "spec.ttft.percentile"),
    _profile("more active than all parameters", "spec.architecture.activeParameters", 50_000_000_000),
    _profile("KV heads that do not divide the heads", "spec.architecture.kvHeads", 5),
    _profile("heads that do not divide the width", "spec.architecture.hiddenSize", 4097, "headSize"),
    _profile("experts alone", "spec.architecture.expertsPerToken", ABSENT),
    _profile("more experts per token than experts", "spec.architecture.expertsPerToken", 9),
    _policy("another name", "metadata.name", "second"),
    # Measured coefficients
    _measured("share above 1", "spec.coefficients.0.weightsEfficiency", "1.05"),
    _measured("share of 0", "spec.coefficients.0.prefillEfficiency", "0"),
    _measured("share below a hundredth", "spec.coefficients.0.kvEfficiency", "0.009"),
    _measured("share in percent", "spec.coefficients.0.kvEfficiency", "83"),
    _measured("number for a string", "spec.coefficients.0.kvEfficiency", 0.83),
    _measured("negative overhead", "spec.coefficients.0.stepMilliseconds", "-1"),
    _measured("overhead in microseconds", "spec.coefficients.0.stepMilliseconds", "2490"),
    _measured("not a number", "spec.coefficients.0.sequenceMilliseconds", "NaN"),
    _measured("exponent", "spec.coefficients.0.sequenceMilliseconds", "5.9e-2"),
    _measured("typo", "spec.coefficients.0.stepMillisecond", "2.5"),
    _measured("no accelerator", "spec.coefficients.1.accelerator", ABSENT),
    _measured("an accelerator twice", "spec.coefficients.1.accelerator", "H100-SXM-80GB", "accelerator"),
    _measured("no coefficient", "spec.coefficients.1.stepMilliseconds", ABSENT, "spec.coefficients"),
    _measured("fit without rows", "spec.coefficients.0.fit.rows", 0),
    _measured("neither architecture nor coefficients", "spec.coefficients", [], "spec.architecture"),
]
