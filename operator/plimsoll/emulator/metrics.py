"""What vLLM shows at `/metrics`: names, types, labels and buckets of version 1's engine, filled by the emulated one.

Names follow vLLM 0.30: `vllm/v1/metrics/loggers.py`. Left out are the families that depend on features which are not
emulated (speculative decoding, LoRA, KV transfer, MFU, KV residency) and those of Python and of the HTTP server.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from plimsoll.performance.memory import KV_BLOCK_TOKENS
from plimsoll.simulation import Counters, EngineSpec

FINISH_REASONS = ("stop", "length", "abort", "error", "repetition")
ENGINE = "0"
"""Label of the only engine core."""

TTFT_BUCKETS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0),
    *(80.0, 160.0, 640.0, 2560.0),
)
TOKEN_BUCKETS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
REQUEST_BUCKETS = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0),
    *(960.0, 1920.0, 7680.0),
)
STEP_BUCKETS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
CHOICE_BUCKETS = (1, 2, 5, 10, 20)


def length_buckets(longest: int) -> tuple[int, ...]:
    """1, 2, 5, 10, 20, 50, ... up to `longest`."""
    steps = (mantissa * 10**exponent for exponent in range(len(str(longest))) for mantissa in (1, 2, 5))
    return tuple(step for step in steps if step <= longest)


class Histogram:
    """Counts by bucket, each bound included."""

    __slots__ = ("_bounds", "_counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(float(bound) for bound in bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count `value`, `times` over."""
        self._counts[bisect_left(self._bounds, value)] += times
        self.total += value * times

    def buckets(self) -> list[tuple[str, float]]:
        """Bound and cumulative count, as Prometheus shows them."""
        below, shown = 0, []
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            below += count
            shown.append((bound, float(below)))
        return shown


@dataclass(frozen=True, slots=True)
class FinishedRequest:
    """One sequence that ended. Durations in simulated seconds; None where it did not come so far."""

    reason: str
    prompt_tokens: int
    answer_tokens: int
    max_tokens: int
    end_to_end_seconds: float
    queue_seconds: float
    prefill_seconds: float
    decode_seconds: float


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What does not change: served name, and labels of `vllm:cache_config_info`."""

    model_name: str
    max_model_length: int
    kv_blocks: int
    gpu_memory_utilization: float

    @classmethod
    def of(cls, model_name: str, spec: EngineSpec, gpu_memory_utilization: float) -> "EngineInfo":
        """Of an engine."""
        return cls(model_name, spec.longest_sequence, spec.kv_blocks, gpu_memory_utilization)


class EngineMetrics(Collector):
    """Everything that one engine process counts. Not thread-safe: it belongs to one event loop."""

    def __init__(self, info: EngineInfo, start_time_seconds: float) -> None:
        self._info = info
        self._start_time = start_time_seconds
        lengths = length_buckets(info.max_model_length)
        self.prompt_tokens = 0
        """Of requests whose first token came: vLLM counts a prompt then, and once."""
        self.finished = dict.fromkeys(FINISH_REASONS, 0)
        self.ttft = Histogram(TTFT_BUCKETS)
        self.inter_token = Histogram(TOKEN_BUCKETS)
        self.tpot = Histogram(TOKEN_BUCKETS)
        self.end_to_end = Histogram(REQUEST_BUCKETS)
        self.queue = Histogram(REQUEST_BUCKETS)
        self.inference = Histogram(REQUEST_BUCKETS)
        self.prefill = Histogram(REQUEST_BUCKETS)
        self.decode = Histogram(REQUEST_BUCKETS)
        self.prompts = Histogram(lengths)
        self.answers = Histogram(lengths)
        self.most_answers = Histogram(lengths)
        self.max_tokens = Histogram(lengths)
        self.computed = Histogram(lengths)
        self.choices = Histogram(CHOICE_BUCKETS)
        self.step_tokens = Histogram(STEP_BUCKETS)
        self._counters: Counters | None = None
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def first_token(self, prompt_tokens: int, ttft_seconds: float) -> None:
        """A prompt was computed."""
        self.prompt_tokens += prompt_tokens
        self.ttft.observe(ttft_seconds)

    def finish(self, request: FinishedRequest) -> None:
        """A sequence ended. One that was given up is counted, and in no histogram."""
        self.finished[request.reason] += 1
        if request.reason == "abort":
            return
        self.end_to_end.observe(request.end_to_end_seconds)
        self.queue.observe(request.queue_seconds)
        self.prefill.observe(request.prefill_seconds)
        self.decode.observe(request.decode_seconds)
        self.inference.observe(request.prefill_seconds + request.decode_seconds)
        # vLLM observes 0 for an answer of one token.
        self.tpot.observe(request.decode_seconds / max(1, request.answer_tokens - 1))
        self.prompts.observe(request.prompt_tokens)
        self.computed.observe(request.prompt_tokens)
        self.answers.observe(request.answer_tokens)
        self.max_tokens.observe(request.max_tokens)

    def finish_call(self, choices: int, longest_answer_tokens: int) -> None:
        """All `choices` answers to one prompt ended."""
        self.choices.observe(choices)
        self.most_answers.observe(longest_answer_tokens)

    def text(self, counters: Counters) -> bytes:
        """Prometheus' text format."""
        self._counters = counters
        return generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        """Nothing: the names are known only to `collect`."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All families."""
        counters = self._counters
        if counters is None:
            return
        yield from self._gauges(counters)
        yield from self._totals(counters)
        yield from self._histograms()

    def _gauges(self, counters: Counters) -> Iterator[Metric]:
        yield self._gauge("vllm:num_requests_running", "Requests that the engine runs", counters.running)
        yield self._gauge("vllm:num_requests_waiting", "Requests that wait for the engine", counters.waiting)
        waiting = GaugeMetricFamily(
            "vllm:num_requests_waiting_by_reason", "Waiting requests by reason", labels=(*_LABELS, "reason")
        )
        waiting.add_metric((*self._labels, "capacity"), counters.waiting)
        waiting.add_metric((*self._labels, "deferred"), 0)
        yield waiting
        sleep = GaugeMetricFamily(
            "vllm:engine_sleep_state", "1 for the state that the engine is in", labels=(*_LABELS, "sleep_state")
        )
        for state, value in (("awake", 1), ("weights_offloaded", 0), ("discard_all", 0)):
            sleep.add_metric((*self._labels, state), value)
        yield sleep
        yield self._gauge("vllm:kv_cache_usage_perc", "Part of the KV cache in use, 0 to 1", counters.kv_usage)
        cache = {
            "block_size": str(KV_BLOCK_TOKENS),
            "cache_dtype": "auto",
            "enable_prefix_caching": "False",
            "engine": ENGINE,
            "gpu_memory_utilization": str(self._info.gpu_memory_utilization),
            "kv_cache_size_tokens": str(self._info.kv_blocks * KV_BLOCK_TOKENS),
            "num_gpu_blocks": str(self._info.kv_blocks),
        }
        info = GaugeMetricFamily("vllm:cache_config_info", "The KV cache's configuration", labels=tuple(cache))
        info.add_metric(tuple(cache.values()), 1)
        yield info
        started = GaugeMetricFamily("process_start_time_seconds", "When this engine started, Unix time")
        started.add_metric((), self._start_time)
        yield started

    def _totals(self, counters: Counters) -> Iterator[Metric]:
        # Prefix caches and multi-modal inputs are not emulated: their counters exist and stay at zero.
        for name, help_text, value in (
            ("num_preemptions", "Requests that lost their KV blocks", counters.preemptions),
            ("prompt_tokens", "Prompt tokens computed", self.prompt_tokens),
            ("prompt_tokens_cached", "Prompt tokens found in a cache", 0),
            ("generation_tokens", "Tokens generated", counters.generated_tokens),
            ("prefix_cache_queries", "Tokens looked up in the prefix cache", 0),
            ("prefix_cache_hits", "Tokens found in the prefix cache", 0),
            ("external_prefix_cache_queries", "Tokens looked up in other instances' caches", 0),
            ("external_prefix_cache_hits", "Tokens found in other instances' caches", 0),
            ("mm_cache_queries", "Multi-modal items looked up", 0),
            ("mm_cache_hits", "Multi-modal items found", 0),
        ):
            family = CounterMetricFamily(f"vllm:{name}", help_text, labels=_LABELS)
            family.add_metric(self._labels, value)
            yield family
        sources = CounterMetricFamily("vllm:prompt_tokens_by_source", "Prompt tokens", labels=(*_LABELS, "source"))
        for source in ("local_compute", "local_cache_hit", "external_kv_transfer"):
            value = self.prompt_tokens if source == "local_compute" else 0
            sources.add_metric((*self._labels, source), value)
        yield sources
        finished = CounterMetricFamily(
            "vllm:request_success", "Requests that ended", labels=(*_LABELS, "finished_reason")
        )
        for reason, count in self.finished.items():
            finished.add_metric((*self._labels, reason), count)
        yield finished

    def _histograms(self) -> Iterator[Metric]:
        for name, help_text, histogram in (
            ("time_to_first_token_seconds", "From arrival to the first token", self.ttft),
            ("inter_token_latency_seconds", "Between two tokens of an answer", self.inter_token),
            ("request_time_per_output_token_seconds", "Mean time per token after the first, by request", self.tpot),
            ("e2e_request_latency_seconds", "From arrival to the last token", self.end_to_end),
            ("request_queue_time_seconds", "From arrival until it first runs", self.queue),
            ("request_inference_time_seconds", "From when it first runs to the last token", self.inference),
            ("request_prefill_time_seconds", "From when it first runs to the first token", self.prefill),
            ("request_decode_time_seconds", "From the first token to the last", self.decode),
            ("request_prompt_tokens", "Tokens of a prompt", self.prompts),
            ("request_generation_tokens", "Tokens of an answer", self.answers),
            ("request_max_num_generation_tokens", "Tokens of a request's longest answer", self.most_answers),
            ("request_params_n", "Answers asked for", self.choices),
            ("request_params_max_tokens", "Most tokens that a request allows", self.max_tokens),
            ("request_prefill_kv_computed_tokens", "Prompt tokens computed for a request", self.computed),
            ("iteration_tokens_total", "Tokens of a step of the engine", self.step_tokens),
        ):
            family = HistogramMetricFamily(f"vllm:{name}", help_text, labels=_LABELS)
            family.add_metric(self._labels, histogram.buckets(), histogram.total)
            yield family

    def _gauge(self, name: str, help_text: str, value: float) -> Metric:
        family = GaugeMetricFamily(name, help_text, labels=_LABELS)
        family.add_metric(self._labels, value)
        return family

    @property
    def _labels(self) -> tuple[str, str]:
        return self._info.model_name, ENGINE


_LABELS = ("model_name", "engine")
