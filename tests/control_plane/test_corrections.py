"""Replicas slower than the catalog says, seen by a real Prometheus: predictions follow, and outages cost nothing."""

from __future__ import annotations

import asyncio
import random
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from devcluster.endpoints import Endpoints
from devcluster.installation import Installation
from devcluster.prometheus import Prometheus
from tests.control_plane.bench import Bench, Manifest, conditions, llm_deployment, placements, policy, pool

MODEL = "meta-llama/Llama-3.1-8B-Instruct"
REPLICAS = 12
INPUT, OUTPUT = 600, 20
PER_SECOND = 40.0
INTERVAL_SECONDS = 4.0
PLANNED, REAL = "L40S", "A10"
"""The GPU of the pool, and the one that its replicas really are as fast as: 0.69 times the memory bandwidth."""
CONFIG_MAP = "plimsoll-corrections"


@pytest.fixture
def observing(installed: Bench, nodes: None, tmp_path: Path) -> Iterator[tuple[Bench, Prometheus, Endpoints]]:
    """The operator with a Prometheus that scrapes an emulated engine behind each Ready pod."""
    prometheus = Prometheus(tmp_path / "prometheus")
    settings = {
        "PLIMSOLL_PROMETHEUS_URL": prometheus.url,
        "PLIMSOLL_CORRECTION_INTERVAL_SECONDS": str(INTERVAL_SECONDS),
    }
    bench = Bench(installed.cluster, Installation(installed.cluster, settings))
    bench.apply(policy(), pool("l40s", PLANNED, "1.10"))
    traffic = [
        {
            "name": "default",
            "requestsPerMinute": 60 * int(PER_SECOND),
            "tokens": {"input": INPUT, "output": OUTPUT, "inputP95": INPUT + 1, "outputP95": OUTPUT + 1},
        }
    ]
    fixed = {"replicas": {"min": REPLICAS, "max": REPLICAS}, "parallelism": {"tensor": [1], "pipeline": [1]}}
    bench.apply(llm_deployment("assistant", "chat", MODEL, traffic=traffic, placement=fixed))
    options = (f"--model={MODEL}", f"--gpu={REAL}", "--max-model-len=4096")
    try:
        with prometheus, Endpoints(bench.cluster, tmp_path / "endpoints", REPLICAS, *options) as endpoints:
            bench.start()
            bench.settle()
            endpoints.follow(prometheus)
            yield bench, prometheus, endpoints
    finally:
        bench.operator.stop()
        bench.clear()
        bench.cluster.kubectl("delete", "configmap", CONFIG_MAP, "--namespace=plimsoll-system", "--ignore-not-found")


@contextmanager
def load(endpoints: Endpoints) -> Iterator[None]:
    """Random arrivals at random endpoints, from a thread of its own."""
    over = threading.Event()
    draw = random.Random(0)

    async def send(session: aiohttp.ClientSession, address: str) -> None:
        body = {"model": MODEL, "prompt": list(range(INPUT)), "max_tokens": OUTPUT, "ignore_eos": True}
        async with session.post(f"http://{address}/v1/completions", json=body) as answer:
            await answer.read()

    async def run() -> None:
        tasks: set[asyncio.Task[None]] = set()
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            due = time.monotonic()
            while not over.is_set():
                due += draw.expovariate(PER_SECOND)
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                task = asyncio.create_task(send(session, draw.choice([*endpoints.pods.values()])))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            await asyncio.gather(*tasks)

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_predictions_follow_what_prometheus_shows(observing: tuple[Bench, Prometheus, Endpoints]) -> None:
    bench, prometheus, endpoints = observing
    (before,) = placements(assistant(bench)).values()
    predicted = predictions(bench)
    assert "correction" not in before
    assert before["speed"].startswith(("published", "pooled"))

    with load(endpoints):
        placement = bench.wait("both factors in force", lambda: _corrected(bench, 1.03), seconds=90)
        factors = {name: float(placement["correction"][name]) for name in ("prefill", "decode")}
        assert all(1.03 < value <= 1.3 for value in factors.values()), factors
        assert f"prefill ×{factors['prefill']:.2f}, decode ×{factors['decode']:.2f}" in placement["speed"]
        assert placement["observed"]["ttftMilliseconds"] > predicted["ttft"] / 3
        assert (placement["name"], placement["replicas"]["desired"]) == (before["name"], REPLICAS)
        assert conditions(assistant(bench))["Ready"]["status"] == "True"
        bench.wait("slower predictions", lambda: all(now > predicted[name] for name, now in predictions(bench).items()))
        assert telemetry_up(bench) == 1

        prometheus.stop()
        bench.wait("Prometheus missed", lambda: telemetry_up(bench) == 0)
        kept = gauges(bench)
        mark = bench.cluster.mark()
        time.sleep(2.5 * INTERVAL_SECONDS)
        assert gauges(bench) == kept
        assert bench.wrote(mark) == []
        for told in ("corrections stay as they are", "demand does not shrink"):
            assert log(bench).count(f"Prometheus does not answer, {told}") == 1

    events = [
        event for event in bench.events("LLMDeployment", "assistant", "chat") if event["reason"] == "SpeedCorrected"
    ]
    assert events
    assert "decode ×1.00 to ×1.0" in " ".join(event["note"] for event in events)

    bench.operator.stop()
    mark = bench.cluster.mark()
    bench.start()
    in_force = {name: value for name, value in kept.items() if "factor" in name}
    bench.wait("the leader has read them", lambda: gauges(bench))
    assert {name: value for name, value in gauges(bench).items() if "factor" in name} == in_force
    time.sleep(INTERVAL_SECONDS)
    # Nothing is planned anew, since the first plan knew the factors.
    assert bench.wrote(mark) == []


def assistant(bench: Bench) -> Manifest:
    return bench.get("llmdeployment", "assistant", "chat")


def _corrected(bench: Bench, least: float) -> Manifest | None:
    (placement,) = placements(assistant(bench)).values()
    factors = placement.get("correction")
    return placement if factors and all(float(value) > least for value in factors.values()) else None


def predictions(bench: Bench) -> dict[str, int]:
    (traffic,) = assistant(bench)["status"]["traffic"]
    return {name: traffic[name]["predictedMilliseconds"] for name in ("ttft", "tpot")}


def gauges(bench: Bench) -> dict[str, float]:
    """The correction gauges, by name and labels."""
    lines = bench.operator.get("/metrics")[1].splitlines()
    return {
        name: float(value)
        for name, value in (line.rsplit(" ", 1) for line in lines if line.startswith("plimsoll_correction_"))
    }


def telemetry_up(bench: Bench) -> float | None:
    found = re.search(
        r'^plimsoll_telemetry_up{source="prometheus"} (\S+)$', bench.operator.get("/metrics")[1], re.MULTILINE
    )
    return float(found[1]) if found else None


def log(bench: Bench) -> Any:
    process = bench.operator.process
    return process.log.read_text() if process is not None else ""
