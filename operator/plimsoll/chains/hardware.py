"""The chain problem of real servers: times and memory from the catalog and the step model, transfers by bandwidth."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from plimsoll.catalog import GPU, ModelArchitecture, Precision
from plimsoll.chains.problem import ChainError, ChainProblem, Floats
from plimsoll.performance import ANALYTIC_STEPS, Coefficients, Correction, Parallelism, ReplicaShape, StepModel
from plimsoll.performance.correction import UNCORRECTED
from plimsoll.performance.memory import DEFAULT_GPU_MEMORY_UTILIZATION, reserve_bytes
from plimsoll.performance.weights import weight_bytes

HIDDEN_STATE_BYTES = 2.0
"""Per element: hidden states travel at 16 bits."""


@dataclass(frozen=True, slots=True)
class Server:
    """GPUs of one product on one node that share each block."""

    gpu: GPU
    network_bytes_per_second: float
    """Between this server and those that hidden states come from and go to."""
    tensor: int = 1
    """GPUs."""
    coefficients: Coefficients | None = None
    """Measured for this model on this GPU; None: published for the GPU."""
    correction: Correction = UNCORRECTED


@dataclass(frozen=True, slots=True)
class SessionShape:
    """One kind of session.

    Raises:
        ChainError: when a number is not above 0.
    """

    input_tokens: int
    output_tokens: int
    """At most; the cache is taken for input and output together."""
    at_once: int = 1
    """Sessions that a server decodes in one step: it takes no more, and its steps are as long as with so many."""

    def __post_init__(self) -> None:
        for name in ("input_tokens", "output_tokens", "at_once"):
            if getattr(self, name) < 1:
                raise ChainError(f"{name} is {getattr(self, name)}; it must be at least 1")


def chain_problem(
    model: ModelArchitecture,
    precision: Precision,
    servers: Sequence[Server],
    round_trip_seconds: Floats,
    sessions: SessionShape,
    *,
    setup_seconds: float = 0.0,
    embeddings_at_clients: bool = False,
    gpu_memory_utilization: float = DEFAULT_GPU_MEMORY_UTILIZATION,
    steps: StepModel = ANALYTIC_STEPS,
) -> ChainProblem:
    """The problem of placing a model's layers on these servers.

    A chain of one server has the step times of a replica on it. What a replica spends once per step, whatever its
    layers (scheduling, sampling), each server of a chain spends again; it counts among the trip. The output head's time
    is spread over all layers.

    Args:
        round_trip_seconds: (C, S) between clients and servers.
        embeddings_at_clients: as with PETALS. Else every server keeps room for the larger of embedding and head: any
            may be the first or the last.

    Raises:
        ChainError: when the round trips are not for these servers.
    """
    if round_trip_seconds.ndim != 2 or round_trip_seconds.shape[1] != len(servers):
        shape = round_trip_seconds.shape
        raise ChainError(
            f"round_trip_seconds has shape {shape}; a row per client and {len(servers)} columns are needed"
        )
    weights = weight_bytes(model, precision.bytes_per_parameter)
    kept = 0.0 if embeddings_at_clients else max(weights.embedding, weights.head)
    kinds = [_kind(server) for server in servers]
    unlike = dict(zip(kinds, servers, strict=True))
    speeds = {kind: _speed(model, precision, server, sessions, steps) for kind, server in unlike.items()}
    memory = {kind: _memory_bytes(model, server, gpu_memory_utilization) - kept for kind, server in unlike.items()}
    hop_bytes = 2.0 * HIDDEN_STATE_BYTES * model.hidden_size  # there and back
    bandwidth = np.array([server.network_bytes_per_second for server in servers])
    of_each = [speeds[kind] for kind in kinds]
    decode_step, prefill_step = (np.array([getattr(one, name) for one in of_each]) for name in ("step", "prompt_step"))
    tokens = sessions.input_tokens + sessions.output_tokens
    copies = max(_cache_copies(model, server.tensor) for server in servers)
    return ChainProblem(
        blocks=model.layers,
        block_bytes=weights.layers / model.layers,
        cache_bytes=copies * tokens * model.kv_bytes_per_token(precision.kv_bytes_per_element) / model.layers,
        memory_bytes=np.maximum(np.array([memory[kind] for kind in kinds]), 0.0),
        decode_trip_seconds=round_trip_seconds + sessions.at_once * hop_bytes / bandwidth + decode_step,
        decode_block_seconds=np.array([one.block for one in of_each]),
        prefill_trip_seconds=round_trip_seconds + sessions.input_tokens * hop_bytes / bandwidth + prefill_step,
        prefill_block_seconds=np.array([one.prompt_block for one in of_each]),
        output_tokens=sessions.output_tokens,
        setup_seconds=setup_seconds,
        sessions_at_once=sessions.at_once,
    )


def _kind(server: Server) -> tuple[int, int, Coefficients | None, Correction]:
    """What servers that are equally fast have in common."""
    return id(server.gpu), server.tensor, server.coefficients, server.correction


@dataclass(frozen=True, slots=True)
class _Speed:
    step: float
    """Seconds per decode step, whatever the layers."""
    block: float
    """Seconds per layer and decode step."""
    prompt_step: float
    prompt_block: float


def _speed(
    model: ModelArchitecture, precision: Precision, server: Server, sessions: SessionShape, steps: StepModel
) -> _Speed:
    tokens = sessions.input_tokens + sessions.output_tokens
    shape = ReplicaShape(
        model, precision, server.gpu, Parallelism(server.tensor, 1), tokens, server.coefficients, server.correction
    )
    # Without layers there are no all-reduces: what is left of the step is the engine's own.
    bare = steps.terms(replace(shape, model=replace(model, layers=0)))
    prompt, batch = np.array(float(sessions.input_tokens)), np.array(float(sessions.at_once))
    context = np.array(sessions.input_tokens + sessions.output_tokens / 2)
    decode = float(steps.decode_step_seconds(shape, batch, context))
    prefill = float(steps.prefill_seconds(shape, prompt, np.array(1.0)))
    fixed = bare.step + bare.sequence * sessions.at_once
    return _Speed(
        step=fixed,
        block=(decode - fixed) / model.layers,
        prompt_step=bare.step,
        prompt_block=(prefill - bare.step) / model.layers,
    )


def _memory_bytes(model: ModelArchitecture, server: Server, gpu_memory_utilization: float) -> float:
    """For layers and caches, over all GPUs of a server."""
    parallelism = Parallelism(server.tensor, 1)
    reserve = reserve_bytes(model, server.gpu, parallelism, gpu_memory_utilization)
    return server.tensor * (server.gpu.memory_bytes * gpu_memory_utilization - reserve)


def _cache_copies(model: ModelArchitecture, tensor: int) -> float:
    """Copies of a session's cache on a server: ranks beyond the number of KV heads hold copies."""
    divided_by = 1 if model.latent_attention else min(tensor, model.kv_heads)
    return tensor / divided_by
