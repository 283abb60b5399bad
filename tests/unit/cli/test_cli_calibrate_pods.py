"""`plimsoll calibrate` from running pods: their metrics as text, and range queries to a Prometheus."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import yaml

from plimsoll.api.parse import parse
from plimsoll.cli.manifests import FileError
from plimsoll.cli.prometheus import read_metrics
from plimsoll.performance import Observation, RooflineSteps
from plimsoll.performance.observations import predicted
from tests.unit.cli.calibrating import NAMED, run
from tests.unit.performance.test_performance_calibration import LLAMA_8B, SHAPE, TRUE, row


def histogram(name: str, total: float, count: float, labels: str) -> str:
    bucket = labels[:-1] + ',le="+Inf"}'
    return (
        f"# TYPE vllm:{name} histogram\nvllm:{name}_bucket{bucket} {count}\n"
        f"vllm:{name}_sum{labels} {total}\nvllm:{name}_count{labels} {count}\n"
    )


def metrics(
    requests: float = 1000.0, *, company: float = 12.0, cached: float = 0.0, tpot: str = "inter_token_latency_seconds"
) -> str:
    """As vLLM shows it: prompts of 900 and answers of 150 tokens, 20 ms queue, 80 ms to the first token, 11 ms each."""
    labels = '{engine="0",model_name="assistant"}'
    generated = 150.0 * requests
    return (
        histogram("request_prompt_tokens", 900 * requests, requests, labels)
        + histogram("request_generation_tokens", generated, requests, labels)
        + histogram("time_to_first_token_seconds", 0.1 * requests, requests, labels)
        + histogram("request_queue_time_seconds", 0.02 * requests, requests, labels)
        + histogram(tpot, 0.011 * generated, generated, labels)
        + histogram("e2e_request_latency_seconds", 1.75 * requests, requests, labels)
        + histogram("iteration_tokens_total", (900 + 150) * requests, generated / company, labels)
        + f"# TYPE vllm:generation_tokens counter\nvllm:generation_tokens_total{labels} {generated}\n"
        + f"# TYPE vllm:prefix_cache_queries counter\nvllm:prefix_cache_queries_total{labels} {900 * requests}\n"
        + f"# TYPE vllm:prefix_cache_hits counter\nvllm:prefix_cache_hits_total{labels} {900 * requests * cached}\n"
        + "# TYPE python_info gauge\npython_info 1\n"
    )


@pytest.mark.parametrize("name", ["inter_token_latency_seconds", "time_per_output_token_seconds"])
def test_metrics_of_a_running_pod(tmp_path: Path, name: str) -> None:
    path = tmp_path / "pod.prom"
    path.write_text(metrics(tpot=name))
    (found,) = read_metrics(path)
    assert (found.input_tokens, found.output_tokens) == pytest.approx((900.0, 150.0))
    assert (found.running, found.ttft, found.tpot) == pytest.approx((12.0, 0.08, 0.011))
    assert found.model == "assistant"


def test_only_what_came_after_an_earlier_text_counts(tmp_path: Path) -> None:
    early, late = tmp_path / "early.prom", tmp_path / "late.prom"
    early.write_text(metrics(1000.0, company=2.0))
    late.write_text(metrics(3000.0, company=5.0))
    (found,) = read_metrics(late, before=early)
    assert found.running == pytest.approx((3000 - 1000) / (3000 / 5 - 1000 / 2))
    with pytest.raises(FileError, match="restarted, or they are swapped"):
        read_metrics(early, before=late)


def test_cached_prompts_leave_the_first_token_out(tmp_path: Path) -> None:
    path = tmp_path / "pod.prom"
    path.write_text(metrics(cached=0.3))
    (found,) = read_metrics(path)
    assert (found.ttft, found.tpot) == (None, pytest.approx(0.011))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no metric begins with vllm:"),
        (metrics(5.0), "at least 20 requests"),
        ("vllm:x{ 3", "not Prometheus' text format"),
    ],
)
def test_faulty_metrics_are_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "pod.prom"
    path.write_text(text)
    result = run(path, *NAMED)
    assert result.exit_code == 1
    assert said in result.stderr


@contextmanager
def prometheus(answers: Mapping[str, Any], seen: list[tuple[str, str | None]], code: int = 200) -> Iterator[str]:
    """Answers a query by the first key that occurs in it."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())["query"][0]
            seen.append((query, self.headers["Authorization"]))
            result = next((value for key, value in answers.items() if key in query), [])
            body = json.dumps({"status": "success", "data": {"resultType": "matrix", "result": result}}).encode()
            self.send_response(code)
            if code == 302:
                self.send_header("Location", "http://127.0.0.1:9/elsewhere")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            """Silent."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def intervals(pods: Mapping[str, list[float]]) -> list[dict[str, Any]]:
    return [
        {
            "metric": {"pod": pod, "model_name": "assistant"},
            "values": [[1000.0 + 300 * number, str(value)] for number, value in enumerate(values)],
        }
        for pod, values in pods.items()
    ]


def answers() -> dict[str, Any]:
    """Two pods, four intervals each, of which one had too few requests and one has no answer."""
    terms = RooflineSteps(TRUE).terms(SHAPE)
    company = {"a": [1.0, 4.0, 16.0, 2.0], "b": [40.0, 8.0, 24.0, float("nan")]}
    times = {
        pod: [predicted(terms, row_of(value)) if value == value else None for value in values]
        for pod, values in company.items()
    }
    return {
        "request_prompt_tokens": intervals({pod: [900.0] * 4 for pod in company}),
        "request_generation_tokens": intervals({pod: [150.0] * 4 for pod in company}),
        "time_to_first_token": intervals(
            {pod: [0.02 + (item.ttft or 0) if item else float("nan") for item in found] for pod, found in times.items()}
        ),
        "queue_time": intervals({pod: [0.02] * 4 for pod in company}),
        "/ rate(vllm:iteration_tokens_total_count": intervals(company),
        "rate(vllm:time_per_output_token_seconds_sum": intervals(
            {pod: [(item.tpot or 0) if item else float("nan") for item in found] for pod, found in times.items()}
        ),
        "increase(": intervals({"a": [100.0, 100.0, 100.0, 3.0], "b": [100.0] * 4}),
    }


def row_of(company: float) -> Observation:
    return Observation(SHAPE, 900.0, 150.0, company, False, row(1, 128).measured, "prometheus")


def test_running_pods_are_measured_by_range_queries(tmp_path: Path) -> None:
    seen: list[tuple[str, str | None]] = []
    token = tmp_path / "token"
    token.write_text("secret\n")
    with prometheus(answers(), seen) as url:
        result = run("--prometheus", url, "--selector", 'namespace="chat"', "--name", f"assistant={LLAMA_8B}", "--gpu",
                     "H100-SXM-80GB", "--token-file", token)  # fmt: skip
    assert result.exit_code == 0, result.output
    (entry,) = parse(yaml.safe_load(result.stdout)).spec.coefficients
    assert (entry.fit.rows, entry.source) == (6, "Prometheus")
    assert entry.fit.median_error < 0.05
    assert all('{namespace="chat"}[300s]' in query for query, _ in seen)
    assert {header for _, header in seen} == {"Bearer secret"}
    assert len({query for query, _ in seen}) == len(seen) == 10  # the newest name of TPOT is asked for first
    assert "secret" not in result.output


@pytest.mark.parametrize(
    ("code", "said"), [(200, "no interval with at least 20 requests"), (403, "HTTP 403"), (302, "HTTP 302")]
)
def test_a_prometheus_that_does_not_help_is_told(code: int, said: str) -> None:
    seen: list[tuple[str, str | None]] = []
    with prometheus({}, seen, code) as url:
        result = run("--prometheus", url, *NAMED, PLIMSOLL_PROMETHEUS_TOKEN="from-the-environment")
    assert result.exit_code == 1
    assert said in result.stderr
    assert "from-the-environment" not in result.output
    assert seen[0][1] == "Bearer from-the-environment"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://host", "https:// or http://"),
        ("http://user:password@host", "no credentials in the address"),
        ("http://prometheus.monitoring", "a token goes over https only"),
    ],
)
def test_credentials_do_not_leak(url: str, said: str) -> None:
    result = run("--prometheus", url, *NAMED, PLIMSOLL_PROMETHEUS_TOKEN="token")
    assert result.exit_code == 1
    assert said in result.stderr
