"""What is emulated: endpoints with a model on a GPU, in one frozen form for options, files and vLLM's command line."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from plimsoll.catalog import Catalog, load_catalog
from plimsoll.catalog.catalog import UnknownName
from plimsoll.catalog.gpus import GPU
from plimsoll.catalog.models import ModelArchitecture
from plimsoll.catalog.precisions import Precision, unsupported_reason
from plimsoll.performance import Parallelism, ReplicaShape, load_seconds, memory_fit, parallelism_problem, step_timer
from plimsoll.performance.memory import DEFAULT_GPU_MEMORY_UTILIZATION
from plimsoll.simulation import EngineSpec, LognormalLength
from plimsoll.simulation.engine import DEFAULT_MAX_NUM_BATCHED_TOKENS

DEFAULT_PORT = 8000
DEFAULT_MAX_NUM_SEQS = 256
"""vLLM's own on GPUs below 70 GiB (1,024 above)."""
DEFAULT_MAX_MODEL_LENGTH = 32_768
"""The planner's; models with a shorter context get that."""
_ALL_ADDRESSES = {"0.0.0.0", "::"}  # noqa: S104  (to compare with)

Positive = Annotated[int, Field(ge=1)]


class EmulatorError(ValueError):
    """An endpoint cannot be emulated as asked; the message names the field, the value and what is accepted."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)


class OutputLength(_Model):
    """Tokens at which answers end by themselves: lognormal with this mean and 95th percentile."""

    mean: Annotated[float, Field(ge=1.0)]
    p95: Annotated[float, Field(ge=1.0)]


class EndpointConfig(_Model):
    """One endpoint, or `count` equal ones on consecutive ports. Durations are simulated seconds."""

    model: str
    """Hugging Face name of a model in the catalog, or of one of its published checkpoints."""
    gpu: str
    """Name of a GPU in the catalog, or the product label of a node that has it."""
    tensor: Positive = 1
    pipeline: Positive = 1
    precision: str | None = None
    """Default: that of the checkpoint."""
    max_num_seqs: Positive = DEFAULT_MAX_NUM_SEQS
    max_num_batched_tokens: Positive = DEFAULT_MAX_NUM_BATCHED_TOKENS
    max_model_length: Positive | None = None
    """Default: the model's context, 32,768 tokens at most."""
    gpu_memory_utilization: Annotated[float, Field(gt=0.0, le=1.0)] = DEFAULT_GPU_MEMORY_UTILIZATION
    served_model_names: tuple[str, ...] = ()
    """The first stands in answers and metrics. Default: `model`."""
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] | None = None
    """Of the first; 0: any free port. Default: the port after the previous endpoint's, 8000 at first."""
    count: Positive = 1
    load_seconds: Annotated[float, Field(ge=0.0)] | Literal["auto"] = 0.0
    """From the start until it serves; `auto`: the planner's estimate for the model on this GPU."""
    while_loading: Literal["refuse", "unavailable"] = "refuse"
    """`refuse`: the port opens when the model is loaded, as vLLM's does. `unavailable`: it answers 503 until then."""
    shutdown_timeout_seconds: Annotated[float, Field(ge=0.0)] = 30.0
    """How long running requests may finish after SIGTERM."""
    stream_interval: Positive = 1
    """Tokens in a chunk of a stream."""
    output_length: OutputLength | None = None
    """Without it an answer has as many tokens as the client allows."""
    seed: int = 0
    """Of drawn answer lengths; the endpoints of `count` draw differently."""
    allow_faults: bool = False
    """Whether clients may crash and stall it (`/emulator/crash`, `/emulator/stall`)."""


class FleetConfig(_Model):
    """A file of endpoints."""

    endpoints: Annotated[tuple[EndpointConfig, ...], Field(min_length=1)]
    speed: Annotated[float, Field(gt=0.0)] = 1.0
    """Simulated seconds in a second."""


def read_fleet(path: Path) -> FleetConfig:
    """A YAML file with `endpoints` (a list) and `speed`; names are camelCase, as in manifests.

    Raises:
        EmulatorError: it cannot be read or is not of that form; the message names file and field.
    """
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        return FleetConfig.model_validate(content)
    except (OSError, yaml.YAMLError) as error:
        raise EmulatorError(f"{path}: {error}") from error
    except ValidationError as error:
        raise EmulatorError("\n".join(f"{path}: {line}" for line in _problems(error))) from error


def endpoint_config(**fields: Any) -> EndpointConfig:  # noqa: ANN401  (checked by the model)
    """An endpoint from Python names.

    Raises:
        EmulatorError: a field is out of range.
    """
    try:
        return EndpointConfig(**fields)
    except ValidationError as error:
        raise EmulatorError("\n".join(_problems(error))) from error


def _problems(error: ValidationError) -> Iterator[str]:
    problems = error.errors()
    places = [problem["loc"] for problem in problems]
    for problem in problems:
        # A faulty entry makes its list too short as well, which says nothing.
        if any(len(place) > len(problem["loc"]) and place[: len(problem["loc"])] == problem["loc"] for place in places):
            continue
        where = ".".join(str(part) for part in problem["loc"]) or "the document"
        value = "" if problem["type"] == "missing" else f" (got {problem['input']!r})"
        yield f"{where}: {problem['msg']}{value}"


def variant(config: EndpointConfig, catalog: Catalog | None = None) -> tuple[ModelArchitecture, Precision]:
    """The model and the precision that a name stands for; a published quantised checkpoint's name tells both.

    Raises:
        EmulatorError: the catalog has neither.
    """
    catalog = catalog or load_catalog()
    checkpoint = next(
        (
            (model, precision)
            for model in catalog.models.values()
            for precision, name in model.checkpoints.items()
            if name.lower() == config.model.lower()
        ),
        None,
    )
    try:
        model, precision = checkpoint or (catalog.model(config.model), None)
        return model, catalog.precision(config.precision or precision or model.native_precision)
    except UnknownName as error:
        raise EmulatorError(f"endpoint {config.model}: {error}") from error


def shape_of(config: EndpointConfig, catalog: Catalog | None = None) -> ReplicaShape:
    """The replica behind an endpoint.

    Raises:
        EmulatorError: model, GPU or precision is unknown, or an engine would refuse to split the model so.
    """
    catalog = catalog or load_catalog()
    model, precision = variant(config, catalog)
    gpu = _gpu(config, catalog)
    parallelism = Parallelism(config.tensor, config.pipeline)
    problem = parallelism_problem(model, gpu, parallelism) or unsupported_reason(precision, gpu)
    if problem:
        raise EmulatorError(f"endpoint {config.model}: {problem}")
    length = config.max_model_length or min(model.context_length, DEFAULT_MAX_MODEL_LENGTH)
    if length > model.context_length:
        raise EmulatorError(
            f"endpoint {config.model}: maxModelLength is {length}; the model's context is {model.context_length} tokens"
        )
    return ReplicaShape(model, precision, gpu, parallelism, length)


def engine_spec(config: EndpointConfig, shape: ReplicaShape) -> EngineSpec:
    """Its engine, with the planner's step times and KV capacity.

    Raises:
        EmulatorError: vLLM would not start: the model, or one sequence of the maximal length, does not fit.
    """
    fit = memory_fit(shape, config.gpu_memory_utilization)
    if not fit.fits:
        raise EmulatorError(f"endpoint {shape.model.name} on {shape.gpu.name} {shape.parallelism}: {fit.reason}")
    try:
        return EngineSpec(
            times=step_timer(shape),
            kv_tokens=fit.kv_tokens,
            max_num_seqs=config.max_num_seqs,
            max_num_batched_tokens=config.max_num_batched_tokens,
            max_model_length=shape.max_model_length,
            stages=shape.parallelism.pipeline,
        )
    except ValueError as error:
        raise EmulatorError(f"endpoint {config.model}: {error}") from error


def loading_seconds(config: EndpointConfig, shape: ReplicaShape) -> float:
    """How long it takes until it serves."""
    return load_seconds(shape) if config.load_seconds == "auto" else config.load_seconds


def answer_lengths(config: EndpointConfig, shape: ReplicaShape) -> LognormalLength | None:
    """The distribution of answer lengths, cut to the model's maximal length.

    Raises:
        EmulatorError: the 95th percentile is below the mean.
    """
    if config.output_length is None:
        return None
    try:
        return LognormalLength.of_p95(config.output_length.mean, config.output_length.p95, shape.max_model_length)
    except ValueError as error:
        raise EmulatorError(f"endpoint {config.model}: outputLength: {error}") from error


def expanded(configs: tuple[EndpointConfig, ...]) -> Iterator[EndpointConfig]:
    """Each endpoint by itself, with its port and seed.

    Raises:
        EmulatorError: a port is above 65,535, or two endpoints have the same.
    """
    port = DEFAULT_PORT
    taken: dict[int, list[tuple[str, str]]] = {}
    for index, config in enumerate(configs):
        port = port if config.port is None else config.port
        name = f"endpoints.{index} ({config.model})"
        for number in range(config.count):
            if port > 65535:
                raise EmulatorError(f"endpoint {config.model}: port {port}; the last is 65535")
            for other, host in taken.get(port, ()) if port else ():
                if host == config.host or {host, config.host} & _ALL_ADDRESSES:
                    raise EmulatorError(
                        f"{other} and {name} both have port {port} at {config.host}; each endpoint needs its own"
                    )
            taken.setdefault(port, []).append((name, config.host))
            yield config.model_copy(update={"port": port, "count": 1, "seed": config.seed + number})
            port += 1 if port else 0  # 0 stays: any free port


def _gpu(config: EndpointConfig, catalog: Catalog) -> GPU:
    try:
        return catalog.gpu(config.gpu)
    except UnknownName as error:
        found = catalog.gpu_by_product_label(config.gpu)
        if found is None:
            known = "" if error.nearest else f"; known: {', '.join(sorted(catalog.gpus))}"
            raise EmulatorError(f"endpoint {config.model}: {error}{known}") from error
        return found
