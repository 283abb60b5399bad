"""Load that a real Prometheus shows: replicas follow it, lies and outages move nothing, and noise writes nothing."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from devcluster.exporter import Exporter, Lie
from tests.control_plane.bench import Bench, policy, pool
from tests.control_plane.observing import DECLARED, INTERVAL_SECONDS, Observed, observed

COOL_DOWN_SECONDS = 20
OUTAGE_LOOKS = 40
"""Ten minutes, at a look every 15 s."""


@pytest.fixture
def fleet(installed: Bench, nodes: None, tmp_path: Path) -> Iterator[Observed]:
    around = (
        policy(rebalance={"coolDownSeconds": COOL_DOWN_SECONDS}, routing={"propagationSeconds": 1}),
        pool("l40s", "L40S", "1.10"),
    )
    with observed(installed, tmp_path, *around) as made:
        yield made


@contextmanager
def noise(exporter: Exporter, per_minute: float) -> Iterator[None]:
    """A tenth up and down, anew every two seconds; afterwards as before."""
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
        exporter.set(per_minute)


def test_replicas_follow_what_prometheus_shows(fleet: Observed) -> None:
    bench, exporter = fleet.bench, fleet.exporter
    fleet.fresh("True", "Fresh")
    few = fleet.desired()

    exporter.set(2.2 * DECLARED)
    bench.wait("more replicas", lambda: fleet.desired() >= 1.7 * few, seconds=90)
    # The last tenth may be chance, and headroom covers it.
    bench.wait("demand covered", lambda: fleet.gauge("planned") >= 2.0 * DECLARED, seconds=60)

    exporter.set(1.1 * DECLARED)
    began, seen = time.monotonic(), [fleet.desired()]
    while time.monotonic() < began + 120 and not any(new < old for old, new in itertools.pairwise(seen)):
        time.sleep(0.5)
        seen.append(fleet.desired())
    old, new = seen[-2:]
    assert 0 < old - new <= max(2, 0.2 * old), f"load that halves is followed, a step at a time: {seen}"
    assert time.monotonic() - began >= COOL_DOWN_SECONDS
    assert fleet.gauge("planned") >= 1.1 * DECLARED


@pytest.mark.long
def test_lies_and_outages_take_nothing_away(fleet: Observed) -> None:
    exporter = fleet.exporter
    fleet.fresh("True", "Fresh")
    kept, planned = fleet.desired(), fleet.gauge("planned")
    lies: tuple[tuple[Lie, str], ...] = (("tenfold", "Implausible"), ("zeros", "Silent"))
    for lie, reason in lies:
        exporter.set(lie=lie)
        fleet.fresh("False", reason)
        assert (fleet.desired(), fleet.gauge("planned")) == (kept, planned), lie
        exporter.set(lie="")
        fleet.fresh("True", "Fresh")
    fleet.prometheus.stop()
    fleet.fresh("False", "PrometheusUnreachable")
    time.sleep(OUTAGE_LOOKS * INTERVAL_SECONDS)
    assert (fleet.desired(), fleet.rate()) == (kept, planned)
    fleet.prometheus.start()
    fleet.fresh("True", "Fresh")


@pytest.mark.long
def test_at_rest_nothing_is_written_and_the_report_is_there(fleet: Observed) -> None:
    bench, exporter = fleet.bench, fleet.exporter
    fleet.fresh("True", "Fresh")
    bench.wait("the report", lambda: len(fleet.traffic().get("windows", ())) == 3, seconds=90)
    traffic = fleet.traffic()
    assert {item["window"] for item in traffic["windows"]} == {"5m", "1h", "24h"}
    assert all(float(item["attainment"]) > 0.95 and float(item["burnRate"]) < 1 for item in traffic["windows"])
    assert traffic["ttft"]["observedMilliseconds"] > 0
    assert "plimsoll_slo_burn_rate{" in fleet.metrics()
    bench.wait("quiet looks", lambda: quiet(bench, 5 * INTERVAL_SECONDS), seconds=120)
    mark = bench.cluster.mark()
    time.sleep(30)
    assert bench.wrote(mark) == []

    with noise(exporter, DECLARED):
        seen = []
        for _ in range(40):
            time.sleep(1.0)
            seen.append(fleet.desired())
    assert seen == sorted(seen), "what noise has added is not taken away again"
    assert seen[-1] <= seen[0] + 1

    time.sleep(5 * INTERVAL_SECONDS)  # no window holds noise any more
    kept = fleet.rate()
    bench.operator.stop()
    mark = bench.cluster.mark()
    bench.start()
    bench.wait("the operator has looked", lambda: fleet.gauge("observed"))
    time.sleep(2 * INTERVAL_SECONDS)
    assert (fleet.rate(), fleet.desired()) == (kept, seen[-1])
    assert [item for item in bench.writes(mark) if item["verb"] in ("delete", "create")] == []


def quiet(bench: Bench, seconds: float) -> bool:
    mark = bench.cluster.mark()
    time.sleep(seconds)
    return not bench.writes(mark)
