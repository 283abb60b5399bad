"""Names of vLLM's metrics, as one asks Prometheus for them."""

from collections.abc import Mapping

PREFIX = "vllm:"
HISTOGRAMS: Mapping[str, tuple[str, ...]] = {
    "input": ("request_prompt_tokens",),
    "output": ("request_generation_tokens",),
    "ttft": ("time_to_first_token_seconds",),
    "tpot": (
        "inter_token_latency_seconds",
        "time_per_output_token_seconds",
        "request_time_per_output_token_seconds",
    ),
    "end_to_end": ("e2e_request_latency_seconds",),
    "queue": ("request_queue_time_seconds",),
}
"""Figure -> histograms that have it, the newest name first. Their means are sum / count."""
CACHED = ("prefix_cache_hits_total", "prefix_cache_queries_total")
"""Counters of the prompts' tokens: served by the prefix cache, looked up in it."""
RUNNING = "num_requests_running"
WAITING = "num_requests_waiting"
CACHE_USAGE = ("kv_cache_usage_perc", "gpu_cache_usage_perc")
"""Gauges, 0 to 1, the newest name first."""
ENDED = "request_success_total"
"""Counter of requests that ended, by `finished_reason`: also those that were aborted."""
PREEMPTIONS = "num_preemptions_total"
TPOT_BY_REQUEST = (
    "request_time_per_output_token_seconds",
    "inter_token_latency_seconds",
    "time_per_output_token_seconds",
)
"""An objective is about requests; releases that lack that histogram count tokens."""
