"""Load that a real Prometheus shows: replicas follow it, lies and outages move nothing, and noise writes nothing."""

from __future__ import annotations

import itertools
import random
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from devcluster.installation import Installation
from devcluster.prometheus import Prometheus
from tests.control_plane.bench import Bench, deleting, llm_deployment, placements, policy, pool, ready
from tests.control_plane.exporter import Exporter, Lie

MODEL = "meta-llama/Llama-3.1-8B-Instruct"
INTERVAL_SECONDS = 2.0
COOL_DOWN_SECONDS = 20
DECLARED = 600
"""Per minute; some 150 are one replica."""


@pytest.fixture
def observing(installed: Bench, nodes: None, tmp_path: Path) -> Iterator[tuple[Bench, Prometheus, Exporter]]:
    """The operator with a Prometheus that scrapes made-up engines behind its pods."""
    prometheus = Prometheus(tmp_path / "prometheus")
    settings = {
        "PLIMSOLL_PROMETHEUS_URL": prometheus.url,
        "PLIMSOLL_DEMAND_INTERVAL_SECONDS": str(INTERVAL_SECONDS),
        "PLIMSOLL_SLO_INTERVAL_SECONDS": str(INTERVAL_SECONDS),
    }
    bench = Bench(installed.cluster, Installation(installed.cluster, settings))
    bench.apply(
        policy(rebalance={"coolDownSeconds": COOL_DOWN_SECONDS}, routing={"propagationSeconds": 1}),
        pool("l40s", "L40S", "1.10"),
    )
    traffic = [{"name": "default", "requestsPerMinute": DECLARED, "tokens": {"input": 1000, "output": 250}}]
    parallelism = {"tensor": [1], "pipeline": [1]}
    bench.apply(llm_deployment("assistant", "chat", MODEL, traffic=traffic, placement={"parallelism": parallelism}))
    exporter = Exporter(per_minute=DECLARED)
    over = threading.Event()

    def follow() -> None:
        while not over.wait(1.0):
            pods = [pod for pod in bench.own("pods") if ready(pod) and not deleting(pod)]
            prometheus.scrape(exporter.serve((p["metadata"]["namespace"], p["metadata"]["name"]) for p in pods))

    following = threading.Thread(target=follow)
    try:
        with prometheus, exporter:
            bench.start()
            bench.settle()
            following.start()
            yield bench, prometheus, exporter
    finally:
        over.set()
        following.join()
        bench.operator.stop()
        bench.clear()


@contextmanager
def noise(exporter: Exporter, per_minute: float) -> Iterator[None]:
    """A tenth up and down, anew every two seconds."""
    over, draw = threading.Event(), random.Random(0)

    def run() -> None:
        while not over.wait(2.0):
            exporter.set(per_minute * draw.uniform(0.9, 1.1))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_replicas_follow_what_prometheus_shows(observing: tuple[Bench, Prometheus, Exporter]) -> None:
    bench, _, exporter = observing
    fresh(bench, "True", "Fresh")
    few = desired(bench)

    exporter.set(2.2 * DECLARED)
    bench.wait("more replicas", lambda: desired(bench) >= 1.7 * few, seconds=90)
    # The last tenth may be chance, and headroom covers it.
    bench.wait("demand covered", lambda: gauge(bench, "planned") >= 2.0 * DECLARED, seconds=60)

    exporter.set(1.1 * DECLARED)
    began, seen = time.monotonic(), [desired(bench)]
    while time.monotonic() < began + 120 and not any(new < old for old, new in itertools.pairwise(seen)):
        time.sleep(0.5)
        seen.append(desired(bench))
    old, new = seen[-2:]
    assert 0 < old - new <= max(2, 0.2 * old), f"load that halves is followed, a step at a time: {seen}"
    assert time.monotonic() - began >= COOL_DOWN_SECONDS
    assert gauge(bench, "planned") >= 1.1 * DECLARED


@pytest.mark.long
def test_lies_and_outages_take_nothing_away(observing: tuple[Bench, Prometheus, Exporter]) -> None:
    bench, prometheus, exporter = observing
    fresh(bench, "True", "Fresh")
    kept, planned = desired(bench), gauge(bench, "planned")
    lies: tuple[tuple[Lie, str], ...] = (("tenfold", "Implausible"), ("zeros", "Silent"))
    for lie, reason in lies:
        exporter.set(lie=lie)
        fresh(bench, "False", reason)
        assert (desired(bench), gauge(bench, "planned")) == (kept, planned), lie
        exporter.set(lie="")
        fresh(bench, "True", "Fresh")
    prometheus.stop()
    fresh(bench, "False", "PrometheusUnreachable")
    time.sleep(COOL_DOWN_SECONDS)
    assert (desired(bench), rate(bench)) == (kept, planned)
    prometheus.start()
    fresh(bench, "True", "Fresh")


@pytest.mark.long
def test_at_rest_nothing_is_written_and_the_report_is_there(
    observing: tuple[Bench, Prometheus, Exporter],
) -> None:
    bench, _, exporter = observing
    fresh(bench, "True", "Fresh")
    bench.wait("the report", lambda: len(traffic_of(bench).get("windows", ())) == 3, seconds=90)
    traffic = traffic_of(bench)
    assert {item["window"] for item in traffic["windows"]} == {"5m", "1h", "24h"}
    assert all(float(item["attainment"]) > 0.95 and float(item["burnRate"]) < 1 for item in traffic["windows"])
    assert traffic["ttft"]["observedMilliseconds"] > 0
    assert "plimsoll_slo_burn_rate{" in metrics(bench)
    bench.wait("quiet looks", lambda: quiet(bench, 5 * INTERVAL_SECONDS), seconds=120)
    mark = bench.cluster.mark()
    time.sleep(30)
    assert bench.wrote(mark) == []

    with noise(exporter, DECLARED):
        seen = []
        for _ in range(40):
            time.sleep(1.0)
            seen.append(desired(bench))
    assert seen == sorted(seen), "what noise has added is not taken away again"
    assert seen[-1] <= seen[0] + 1

    kept = rate(bench)
    bench.operator.stop()
    mark = bench.cluster.mark()
    bench.start()
    bench.wait("the operator has looked", lambda: gauge(bench, "observed"))
    time.sleep(2 * INTERVAL_SECONDS)
    assert (rate(bench), desired(bench)) == (kept, seen[-1])
    assert [item for item in bench.writes(mark) if item["verb"] in ("delete", "create")] == []


def fresh(bench: Bench, status: str, reason: str) -> None:
    bench.wait_condition("llmdeployment", "assistant", "chat", "MetricsFresh", status, reason, seconds=90)


def desired(bench: Bench) -> int:
    found = placements(bench.get("llmdeployment", "assistant", "chat"))
    return sum(item["replicas"]["desired"] for item in found.values())


def traffic_of(bench: Bench) -> dict[str, Any]:
    (traffic,) = bench.get("llmdeployment", "assistant", "chat")["status"]["traffic"]
    return dict(traffic)


def rate(bench: Bench) -> float:
    return float(traffic_of(bench)["requestsPerMinute"])


def quiet(bench: Bench, seconds: float) -> bool:
    mark = bench.cluster.mark()
    time.sleep(seconds)
    return not bench.writes(mark)


def metrics(bench: Bench) -> str:
    return str(bench.operator.get("/metrics")[1])


def gauge(bench: Bench, kind: str) -> float:
    name = "plimsoll_traffic_requests_per_minute"
    found = re.search(rf'^{name}{{[^}}]*kind="{kind}"[^}}]*}} (\S+)$', metrics(bench), re.MULTILINE)
    return float(found[1]) if found else 0.0
