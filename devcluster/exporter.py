"""Counters of vLLM for any number of pods, of a load that is set, and that may lie. One port for all pods."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Literal, Self
from urllib.parse import parse_qs, urlsplit

STAY_SECONDS = 2.0
TTFT_SECONDS, TPOT_SECONDS = 0.2, 0.04
_BUCKETS = {
    "time_to_first_token_seconds": (TTFT_SECONDS, (0.1, 0.25, 0.5, 1.0, 2.5)),
    "request_time_per_output_token_seconds": (TPOT_SECONDS, (0.025, 0.05, 0.075, 0.1)),
    "e2e_request_latency_seconds": (STAY_SECONDS, (1.0, 2.5, 5.0, 10.0)),
}
Lie = Literal["", "tenfold", "zeros"]


@dataclass
class _Pod:
    ended: float = 0.0
    shown: float = 0.0
    """As the counters have it, which may lie."""


@dataclass
class Exporter:
    """Use as a context manager. Pods share the load evenly; each request stays two seconds."""

    pods: dict[tuple[str, str], _Pod] = field(default_factory=dict)
    per_minute: float = 0.0
    lie: Lie = ""

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._counted_until = time.monotonic()
        exporter = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                query = parse_qs(urlsplit(self.path).query)
                body = exporter.text(query["namespace"][0], query["pod"][0]).encode()
                self.send_response(200 if body else 404)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                """Silent."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def set(self, per_minute: float | None = None, lie: Lie | None = None) -> None:
        """From now on."""
        with self._lock:
            self._count()
            self.per_minute = self.per_minute if per_minute is None else per_minute
            self.lie = self.lie if lie is None else lie

    def serve(self, pods: Iterable[tuple[str, str]]) -> list[tuple[str, dict[str, str]]]:
        """These pods from now on, by namespace and name. Returns what a Prometheus must scrape, with labels."""
        with self._lock:
            self._count()
            self.pods = {pod: self.pods.get(pod, _Pod()) for pod in pods}
        address = f"127.0.0.1:{self._http.server_port}"
        return [
            (address, {"namespace": namespace, "pod": pod, "__param_namespace": namespace, "__param_pod": pod})
            for namespace, pod in sorted(self.pods)
        ]

    def text(self, namespace: str, name: str) -> str:
        """What one pod shows; empty for one that is not served."""
        with self._lock:
            self._count()
            pod = self.pods.get((namespace, name))
            if pod is None:
                return ""
            running = 0.0 if self.lie == "zeros" else self.per_minute / 60 * STAY_SECONDS / len(self.pods)
            labels = 'model_name="m",engine="0"'
            lines = [
                f"vllm:num_requests_running{{{labels}}} {running}",
                f"vllm:num_requests_waiting{{{labels}}} 0",
                f"vllm:kv_cache_usage_perc{{{labels}}} 0.2",
                f"vllm:num_preemptions_total{{{labels}}} 0",
                f'vllm:request_success_total{{{labels},finished_reason="stop"}} {pod.shown}',
            ]
            for metric, (seconds, bounds) in _BUCKETS.items():
                for bound in (*map(str, bounds), "+Inf"):
                    below = pod.shown if float(bound) >= seconds else 0
                    lines.append(f'vllm:{metric}_bucket{{{labels},le="{bound}"}} {below}')
                lines += [
                    f"vllm:{metric}_sum{{{labels}}} {pod.shown * seconds}",
                    f"vllm:{metric}_count{{{labels}}} {pod.shown}",
                ]
            return "\n".join(lines) + "\n"

    def _count(self) -> None:
        """Let the counters run until now."""
        now = time.monotonic()
        if self.pods:
            ended = self.per_minute / 60 * (now - self._counted_until) / len(self.pods)
            for pod in self.pods.values():
                pod.ended += ended
                pod.shown += ended * {"": 1, "tenfold": 10, "zeros": 0}[self.lie]
        self._counted_until = now
