"""What Plimsoll asks of a server that answers requests, under the names and labels of vLLM's metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_LABELS = ("model_name", "engine")
_SECONDS = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000)


class Metrics:
    """Counts of one front end."""

    def __init__(self, model: str) -> None:
        self._registry = CollectorRegistry()
        own = (model, "0")

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"vllm:{name}", text, _LABELS, registry=self._registry).labels(*own)

        def histogram(name: str, text: str, bounds: tuple[float, ...]) -> Histogram:
            made = Histogram(f"vllm:{name}", text, _LABELS, buckets=bounds, registry=self._registry)
            return made.labels(*own)

        self.running = gauge("num_requests_running", "Requests that generate.")
        self.waiting = gauge("num_requests_waiting", "Requests that wait for a place.")
        self._ended = Counter(
            "vllm:request_success", "Requests that ended.", (*_LABELS, "finished_reason"), registry=self._registry
        )
        self._own = own
        self._input = histogram("request_prompt_tokens", "Tokens of prompts.", _TOKENS)
        self._output = histogram("request_generation_tokens", "Tokens of answers.", _TOKENS)
        self._queue = histogram("request_queue_time_seconds", "Until a place was free.", _SECONDS)
        self._first = histogram("time_to_first_token_seconds", "Until the first token.", _SECONDS)
        self._later = histogram("request_time_per_output_token_seconds", "Per token after the first.", _SECONDS)
        self._whole = histogram("e2e_request_latency_seconds", "Until the last token.", _SECONDS)

    def ended(self, reason: str, prompt: int, answer: int, queue: float, first: float | None, whole: float) -> None:
        """Count one request: tokens, and seconds since it came; `first` is None without a token."""
        self._ended.labels(*self._own, reason).inc()
        self._queue.observe(queue)
        self._whole.observe(whole)
        self._input.observe(prompt)
        self._output.observe(answer)
        if first is not None:
            self._first.observe(first)
            if answer > 1:
                self._later.observe((whole - first) / (answer - 1))

    def text(self) -> bytes:
        """As Prometheus reads it."""
        return generate_latest(self._registry)
