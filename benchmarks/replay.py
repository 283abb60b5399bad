"""A published vLLM replay of BurstGPT beside the simulator: throughput, running and waiting requests over time.

The replay (data/burstgpt): 500 conversation requests to a vLLM server with Llama-3.2-1B on one GPU, arrivals
accelerated 100, 300, 500 and 1,000 times, at most 1,024 tokens per answer and 256 sequences. Nothing is fitted to what
is predicted. Inputs taken from the logs:

- arrivals: when a request was recorded less how long it took, at 100x; they agree within 1 ms with the 30 rows of the
  trace that are known;
- answer lengths, which no log holds: logged tokens per second and running request, summed over the request's life at
  100x, at most 1,024. They add up to the logged total within 0.3 %, and 59 % of them are at the limit;
- the GPU: its memory (24,576 MiB) fits two of the catalogue's products, RTX 3090 and A30; both are tried.

The server is vLLM's old engine (it logs swapped requests), which computes prompts before it goes on with decoding; the
simulator has the present one, with chunked prefill.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.data import data_folder
from plimsoll.catalog import load_catalog
from plimsoll.performance import Parallelism, ReplicaShape
from plimsoll.simulation import EngineSpec, Generation, Replica, Request, engine_of

Floats = NDArray[np.float64]
SCALES = (100, 300, 500, 1000)
FITTED_ON = 100
GPUS = ("RTX-3090", "A30")
MOST_TOKENS, MOST_SEQUENCES = 1024, 256


@dataclass(frozen=True, slots=True)
class Log:
    """The server's state about twice a second; seconds since the first arrival."""

    seconds: Floats
    tokens_per_second: Floats
    prompt_tokens_per_second: Floats
    running: Floats
    waiting: Floats
    kv_usage: Floats


@dataclass(frozen=True, slots=True)
class Latencies:
    """Of requests in the order of arrival."""

    ttft: Floats
    end_to_end: Floats


@dataclass(frozen=True, slots=True)
class Lines:
    """Step times whose decoding part is a straight line over the running sequences; prompts as the model has them."""

    model: EngineSpec
    fixed: float
    per_sequence: float

    def decode(self, running: int) -> tuple[float, float]:
        """The line; the context is in it."""
        return self.fixed + self.per_sequence * running, 0.0

    def mixed(self, running: int, context_tokens: float, chunk_tokens: float, chunk_pairs: float) -> float:
        """The line, and what the model says that the chunks add."""
        times = self.model.times
        with_chunk = times.mixed(running, context_tokens, chunk_tokens, chunk_pairs)
        without = times.mixed(running, context_tokens, 0, 0.0)
        return self.decode(running)[0] + with_chunk - without if running else with_chunk


def log(scale: int) -> Log:
    """What the server logged."""
    path = data_folder() / f"burstgpt/replay_vllm_log_scale{scale}_prompt500.csv"
    with path.open(newline="", encoding="utf-8") as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    column = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    began = _arrivals(scale)[0] if scale in (100, 500) else column["timestamp"][0]
    return Log(
        column["timestamp"] - began,
        column["generation_throughput"],
        column["prompt_throughput"],
        column["num_running"],
        column["num_pending"],
        column["gpu_kvcache_usage"] / 100.0,
    )


def latencies(scale: int) -> Latencies:
    """What the client logged; for 100x and 500x."""
    rows = _details(scale)
    return Latencies(
        np.array([row["first_chunk_time"] for row in rows]), np.array([row["total_chunk_time"] for row in rows])
    )


def requests(scale: int) -> list[Request]:
    """The 500 requests, accelerated."""
    arrivals = _arrivals(FITTED_ON)
    prompts = [max(1, int(row["sampled_in_num"])) for row in _details(FITTED_ON)]
    trace_seconds = (arrivals - arrivals[0]) * FITTED_ON
    return [
        Request(float(seconds / scale), "chat", prompt, int(answer))
        for seconds, prompt, answer in zip(trace_seconds, prompts, answer_lengths(), strict=True)
    ]


def answer_lengths() -> NDArray[np.int64]:
    """(500,) tokens, from the 100x replay."""
    served, seen = log(FITTED_ON), latencies(FITTED_ON)
    arrivals = _arrivals(FITTED_ON)
    arrivals = arrivals - arrivals[0]
    present = np.maximum((served.running[1:] + served.running[:-1]) / 2.0, 0.5)
    each = np.where(served.running[1:] > 0, served.tokens_per_second[1:] / present, 0.0)
    until = np.concatenate([[0.0], np.cumsum(each * np.diff(served.seconds))])
    tokens = 1.0 + np.interp(arrivals + seen.end_to_end, served.seconds, until)
    tokens -= np.interp(arrivals + seen.ttft, served.seconds, until)
    return np.clip(np.rint(tokens), 1, MOST_TOKENS).astype(np.int64)


def logged_total() -> float:
    """Tokens generated in the 100x replay, by the server's log."""
    served = log(FITTED_ON)
    return float(np.sum(served.tokens_per_second[1:] * np.diff(served.seconds)))


def analytic_engine(gpu: str) -> EngineSpec:
    """The engine by the catalogue and the analytic step model."""
    catalog = load_catalog()
    model = catalog.model("meta-llama/Llama-3.2-1B-Instruct")
    shape = ReplicaShape(model, catalog.precision("bf16"), catalog.gpu(gpu), Parallelism(1, 1), 8192)
    return engine_of(shape, MOST_SEQUENCES)


def fitted_engine(gpu: str) -> EngineSpec:
    """The same with a straight line for decode steps, fitted to the log of the 100x replay alone (least squares of
    relative errors, samples without prompts)."""
    analytic = analytic_engine(gpu)
    served = log(FITTED_ON)
    used = (served.prompt_tokens_per_second == 0) & (served.running >= 1) & (served.tokens_per_second > 0)
    step = served.running[used] / served.tokens_per_second[used]
    per_sequence, fixed = np.polyfit(served.running[used], step, 1, w=1.0 / step)
    times = Lines(analytic, float(fixed), float(per_sequence))
    return EngineSpec(times, analytic.kv_tokens, MOST_SEQUENCES, analytic.max_num_batched_tokens)


def predict(engine: EngineSpec, stream: list[Request], at: Floats) -> tuple[Log, Latencies]:
    """The simulated replica, looked at at the seconds of the log."""
    replica = Replica(engine)
    generations: list[Generation] = []
    rows: list[tuple[float, float, float, float, float]] = []
    coming: Iterator[Request] = iter(stream)
    following = next(coming, None)
    before, tokens, prompts = 0.0, 0, 0
    for seconds in np.maximum(at, 0.0):
        while following is not None and following.arrival_seconds <= seconds:
            replica.advance(following.arrival_seconds)
            generations.append(replica.submit(following))
            following = next(coming, None)
        replica.advance(float(seconds))
        now = replica.counters()
        elapsed = max(float(seconds) - before, 1e-9)
        rows.append(
            (
                (now.generated_tokens - tokens) / elapsed,
                (now.prompt_tokens - prompts) / elapsed,
                float(now.running),
                float(now.waiting),
                now.kv_usage,
            )
        )
        before, tokens, prompts = float(seconds), now.generated_tokens, now.prompt_tokens
    while following is not None:
        replica.advance(following.arrival_seconds)
        generations.append(replica.submit(following))
        following = next(coming, None)
    replica.advance(1e9)
    columns = np.array(rows).T
    seen = Latencies(
        np.array([generation.ttft_seconds for generation in generations]),
        np.array([generation.end_to_end_seconds for generation in generations]),
    )
    return Log(at, *columns), seen


def _details(scale: int) -> list[dict[str, float]]:
    path = data_folder() / f"burstgpt/replay_detail_log_scale{scale}_prompt500.json"
    rows: dict[str, dict[str, float]] = json.loads(path.read_text(encoding="utf-8"))
    return sorted(rows.values(), key=lambda row: row["event_id"])


def _arrivals(scale: int) -> Floats:
    return np.array([row["record_time"] - row["total_chunk_time"] for row in _details(scale)])
