"""The health server answers for the loop, from another thread."""

import urllib.error
import urllib.request

import pytest

from plimsoll.controller.health import HealthServer, Vitals
from plimsoll.controller.metrics import Metrics


@pytest.fixture
def served():
    vitals, metrics = Vitals(), Metrics()
    server = HealthServer("127.0.0.1", 0, vitals, metrics.registry)
    server.start()

    def get(path):
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"http://127.0.0.1:{server.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    yield vitals, metrics, get
    server.close()


def test_alive_while_the_loop_beats(served):
    vitals, _, get = served
    assert get("/healthz") == (200, "alive\n")
    vitals.last_beat -= 30
    assert get("/healthz")[0] == 503
    vitals.beat()
    assert get("/healthz")[0] == 200


def test_ready_only_when_synced_and_it_says_what_is_missing(served):
    vitals, _, get = served
    vitals.detail = "waiting until every kind is known"
    assert get("/readyz") == (503, "waiting until every kind is known\n")
    vitals.ready = True
    assert get("/readyz")[0] == 200


def test_metrics_carry_the_projects_prefix(served):
    _, metrics, get = served
    metrics.plan_results.labels("ok").inc()
    status, text = get("/metrics")
    assert status == 200
    assert 'plimsoll_plan_result_total{result="ok"} 1.0' in text
    assert all(line.startswith(("#", "plimsoll_")) for line in text.splitlines())
