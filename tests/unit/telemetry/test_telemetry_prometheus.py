"""Reading Prometheus over HTTP: what it answers is taken apart with care, and nothing leaks or hangs."""

import asyncio
import json
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from devcluster.certificates import Certificates
from plimsoll.planning.observed import Figures, PodFigures, Total
from plimsoll.telemetry import prometheus as client
from plimsoll.telemetry.prometheus import Access, Prometheus, PrometheusError, Sample
from plimsoll.telemetry.replicas import read_figures

NOW = 1_700_000_000.0


@dataclass
class Server:
    """Answers a query by the first key that occurs in it; remembers what was asked."""

    answers: Mapping[str, Any] = field(default_factory=dict)
    status: int = 200
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: threading.Event | None = None
    reached: threading.Event = field(default_factory=threading.Event)
    asked: list[str] = field(default_factory=list)
    seen: list[Mapping[str, str | None]] = field(default_factory=list)

    def body_of(self, query: str) -> bytes:
        result = next((value for key, value in self.answers.items() if key in query), [])
        return json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}}).encode()


@contextmanager
def serving(
    server: Server, certificates: tuple[Path, Path] | None = None, clients: Path | None = None
) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())["query"][0]
            server.asked.append(query)
            server.seen.append({name: self.headers[name] for name in ("Authorization", "Accept-Encoding", "Cookie")})
            server.reached.set()
            if server.delay is not None:
                server.delay.wait(10)
            body = server.body if server.body is not None else server.body_of(query)
            self.send_response(server.status)
            for name, value in server.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            """Silent."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    scheme = "http"
    if certificates is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificates)
        if clients is not None:
            context.load_verify_locations(clients)
            context.verify_mode = ssl.CERT_REQUIRED
        http.socket = context.wrap_socket(http.socket, server_side=True)
        scheme = "https"
    thread = threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"{scheme}://127.0.0.1:{http.server_port}"
    finally:
        if server.delay is not None:
            server.delay.set()
        http.shutdown()
        http.server_close()
        thread.join()


async def ask(access: Access, expression: str = "up") -> list[Sample]:
    async with Prometheus(access) as prometheus:
        return await prometheus.instant(expression)


def vector(value: object, moment: float = NOW, **labels: str) -> dict[str, Any]:
    return {"metric": {"__name__": "x", **labels}, "value": [moment, str(value)]}


# --- The client -------------------------------------------------------------------------------------------------------


async def test_values_that_are_not_finite_are_left_out() -> None:
    server = Server({"up": [vector(value, pod=str(value)) for value in ("NaN", "+Inf", "-Inf", 2.5)]})
    with serving(server) as url:
        (sample,) = await ask(Access(url))
    assert sample == Sample(frozenset({("pod", "2.5")}), NOW, 2.5)


async def test_the_token_is_read_anew_and_goes_along(tmp_path: Path) -> None:
    server, token = Server(), tmp_path / "token"
    with serving(server) as url:
        for text in ("first\n", "second\n"):
            token.write_text(text)
            await ask(Access(url, token))
    assert [seen["Authorization"] for seen in server.seen] == ["Bearer first", "Bearer second"]


async def test_no_redirect_is_followed(tmp_path: Path) -> None:
    elsewhere = Server()
    token = tmp_path / "token"
    token.write_text("secret")
    with (
        serving(elsewhere) as other,
        serving(Server(status=307, headers={"Location": f"{other}/api/v1/query"})) as url,
        pytest.raises(PrometheusError, match="HTTP 307") as refused,
    ):
        await ask(Access(url, token))
    assert elsewhere.asked == []
    assert "secret" not in str(refused.value)


async def test_an_answer_is_limited_in_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_LARGEST_BYTES", 2**20)
    with (
        serving(Server(body=b"[" + b" " * 2**21)) as url,
        pytest.raises(PrometheusError, match="an answer above 1 MiB"),
    ):
        await ask(Access(url))


async def test_an_answer_is_limited_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_TIMEOUT_SECONDS", 0.2)
    with serving(Server(delay=threading.Event())) as url, pytest.raises(PrometheusError, match="no answer within"):
        await ask(Access(url))


@pytest.mark.parametrize(
    "body",
    [b"<html>", b"[]", b"{}", b'{"data": null}', b'{"data": {"result": [{"metric": {}}]}}',
     b'{"data": {"result": [{"metric": {}, "value": [1, "x"]}]}}', b'{"data": {"result": [3]}}', b"\xff\xfe"],
)  # fmt: skip
async def test_what_is_no_answer_is_told(body: bytes) -> None:
    with serving(Server(body=body)) as url, pytest.raises(PrometheusError, match="not an answer of Prometheus"):
        await ask(Access(url))


async def test_an_error_of_the_server_is_told_with_its_words() -> None:
    with (
        serving(Server(status=422, body=b'{"error": "parse error at char 3"}')) as url,
        pytest.raises(PrometheusError, match=r"HTTP 422 to up: .*parse error"),
    ):
        await ask(Access(url))


async def test_a_server_that_is_away_is_told() -> None:
    with serving(Server()) as url:
        pass
    with pytest.raises(PrometheusError, match=r"127\.0\.0\.1"):
        await ask(Access(url))


async def test_a_missing_token_or_authority_is_told(tmp_path: Path) -> None:
    for access in (
        Access("https://prometheus", tmp_path / "no"),
        Access("https://prometheus", ca_file=tmp_path / "no"),
    ):
        with pytest.raises(PrometheusError, match=str(tmp_path / "no")):
            Prometheus(access)


async def test_a_server_may_ask_for_a_certificate(tmp_path: Path) -> None:
    authority = Certificates(tmp_path / "pki")
    certificate, key = authority.client("plimsoll")
    with serving(Server(), (authority.server, authority.server_key), authority.ca) as url:
        assert await ask(Access(url, ca_file=authority.ca, certificate_file=certificate, key_file=key)) == []
        with pytest.raises(PrometheusError, match=r"127\.0\.0\.1"):
            await ask(Access(url, ca_file=authority.ca))
    with pytest.raises(PrometheusError, match="no certificate with its key"):
        Prometheus(Access("https://prometheus", certificate_file=certificate, key_file=authority.server_key))


async def test_certificates_are_verified(tmp_path: Path) -> None:
    authority = Certificates(tmp_path / "pki")
    pair = authority.server, authority.server_key
    with serving(Server({"up": [vector(1)]}), pair) as url:
        assert len(await ask(Access(url, ca_file=authority.ca))) == 1
        with pytest.raises(PrometheusError, match=r"(?i)certificate"):
            await ask(Access(url))


# --- What is asked ----------------------------------------------------------------------------------------------------


def by_pod(pods: Mapping[str, object]) -> list[dict[str, Any]]:
    return [vector(value, namespace="chat", pod=pod) for pod, value in pods.items()]


def fleet_answers() -> dict[str, Any]:
    """Pods a (new names), b (older names), c (stale or odd values)."""
    return {
        "timestamp(": by_pod({"a": NOW - 12, "b": NOW - 30, "c": NOW - 200}),
        "time_to_first_token_seconds_sum": by_pod({"a": 20, "b": 30, "c": "NaN"}),
        "time_to_first_token_seconds_count": by_pod({"a": 100, "b": 100, "c": 50}),
        "inter_token_latency_seconds_sum": by_pod({"a": 300}),
        "inter_token_latency_seconds_count": by_pod({"a": 10_000}),
        "request_time_per_output_token_seconds": by_pod({"a": 7}),
        "vllm:time_per_output_token_seconds_sum": by_pod({"b": 400}),
        "vllm:time_per_output_token_seconds_count": by_pod({"b": 10_000}),
        "request_prompt_tokens_sum": by_pod({"a": 5e4, "b": 5e4, "c": -3}),
        "request_prompt_tokens_count": by_pod({"a": 100, "b": 100, "c": 50}),
        "request_generation_tokens": [*by_pod({"a": 100}), vector(9, pod="without-namespace"), vector(9)],
    }


async def figures_of(server: Server) -> Figures:
    with serving(server) as url:
        async with Prometheus(Access(url)) as prometheus:
            return await read_figures(prometheus.instant, 300.0)


async def test_growth_is_joined_by_namespace_and_pod() -> None:
    found = await figures_of(Server(fleet_answers()))
    a, b, c = found.pods
    assert found.window_seconds == 300.0
    assert a == PodFigures(
        "chat",
        "a",
        12.0,
        {"input": Total(5e4, 100), "output": Total(100, 100), "ttft": Total(20, 100), "tpot": Total(300, 10_000)},
    )
    assert b.totals["tpot"] == Total(400, 10_000)
    assert (c.age_seconds, c.totals) == (200.0, {})


async def test_one_query_per_metric_whatever_the_size_of_the_fleet() -> None:
    counts = []
    for pods in (1, 200):
        answers = {"timestamp(": by_pod({f"p{n}": NOW for n in range(pods)})}
        answers["increase("] = by_pod({f"p{n}": 1.0 for n in range(pods)})
        server = Server(answers)
        assert len((await figures_of(server)).pods) == pods
        counts.append(len(server.asked))
        assert all(query.count("by (namespace, pod)") == 1 for query in server.asked)
    assert counts[0] == counts[1] <= 15


async def test_queries_run_on_one_connection_without_cookies() -> None:
    server = Server(fleet_answers(), headers={"Set-Cookie": "session=1"})
    await figures_of(server)
    assert {seen["Cookie"] for seen in server.seen} == {None}
    assert {seen["Accept-Encoding"] for seen in server.seen} == {"identity"}


async def test_a_question_in_flight_can_be_cancelled() -> None:
    """The operator ends at once, whatever Prometheus does."""
    server = Server(delay=threading.Event())
    with serving(server) as url:
        task = asyncio.create_task(ask(Access(url)))
        await asyncio.to_thread(server.reached.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
