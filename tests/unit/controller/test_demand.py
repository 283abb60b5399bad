"""Demand in the operator: taken up after a restart, handed to the planner, told when it is lost, kept meanwhile."""

import pytest

from plimsoll.controller import demand as module
from plimsoll.controller.demand import Demand
from plimsoll.controller.kinds import RESOURCES
from plimsoll.controller.metrics import Metrics
from plimsoll.controller.settings import Settings
from plimsoll.controller.store import Store
from plimsoll.performance import TokenLengths
from plimsoll.planning.arrivals import Load, Reading
from plimsoll.planning.following import Window
from plimsoll.planning.plan import FleetPlan
from plimsoll.planning.snapshot import ObjectRef
from tests.unit.controller import fakes

REF = ObjectRef("LLMDeployment", "chat", "assistant")
PLACE = ("chat", "assistant")
KEY = (*PLACE, "default")
PLAN = FleetPlan("", (), (), (), 0.0)
INTERVAL = 15.0


class World:
    """An operator whose Prometheus is given; statuses outlive it."""

    def __init__(self, monkeypatch):
        self.now, self.trouble, self.reading, self.lengths = 1000.0, "", Reading(REF, {}), {}
        self.status, self.source = {}, "Observed"

        async def load(ask, seconds, window_seconds, query):
            assert window_seconds == 4 * INTERVAL
            return Load(seconds, window_seconds, ())

        async def histograms(ask, window_seconds, metrics):
            return {}

        monkeypatch.setattr(module, "Prometheus", fakes.prometheus(lambda: self.trouble))
        monkeypatch.setattr(module, "read_load", load)
        monkeypatch.setattr(module, "read_histograms", histograms)
        monkeypatch.setattr(module, "readings", lambda *_: (self.reading,))
        monkeypatch.setattr(module, "seen_lengths", lambda *_: self.lengths)
        self.restart()

    def restart(self):
        self.metrics, self.store = Metrics(), Store()
        self.put("LLMDeployment", "assistant", "chat", SPEC, self.status)
        self.put("PlacementPolicy", "default", "", {"demand": {"source": self.source}}, {})
        settings = Settings(prometheus_url="http://prometheus", demand_interval_seconds=INTERVAL)
        self.demand = Demand(settings, self.store, self.metrics, lambda: PLAN, lambda: self.now)
        self.demand.load()

    def put(self, kind, name, namespace, spec, status):
        metadata = {"name": name, "namespace": namespace, "uid": f"uid-{name}", "generation": 1}
        known = RESOURCES[kind]
        manifest = {"apiVersion": known.api_version, "kind": kind, "metadata": metadata, "spec": spec, "status": status}
        self.store.put(known, manifest)

    async def turns(self, count, rate=None, trouble="", **window):
        for _ in range(count):
            self.now += INTERVAL
            windows = {} if rate is None else {"default": Window(self.now, rate, **window)}
            self.reading = Reading(REF, windows, trouble, "because")
            await self.demand.turn()

    @property
    def planned(self):
        found = self.store.snapshot().demand
        return found[0].requests_per_minute if found else None

    @property
    def said(self):
        sight = self.store.sights[PLACE]
        return sight.status, sight.reason


SPEC = {
    "models": [{"name": "meta-llama/Llama-3.1-8B-Instruct"}],
    "traffic": [{"name": "default", "requestsPerMinute": 600, "tokens": {"input": 1000, "output": 250}}],
}


@pytest.fixture
def world(monkeypatch):
    return World(monkeypatch)


async def test_nothing_measured_is_as_declared(world):
    await world.turns(20, trouble="NoReadyReplicas")
    assert (world.planned, world.said) == (None, ("Unknown", "NotMeasured"))


async def test_what_is_measured_is_planned_for(world):
    await world.turns(20, 1500.0)
    assert 1500 <= world.planned < 1700
    assert world.said == ("True", "Fresh")
    labels = {"namespace": "chat", "deployment": "assistant", "traffic": "default"}
    value = world.metrics.registry.get_sample_value
    rates = {
        kind: value("plimsoll_traffic_requests_per_minute", {**labels, "kind": kind})
        for kind in ("declared", "observed", "planned")
    }
    assert rates == {"declared": 600, "observed": 1500, "planned": world.planned}


async def test_the_policy_may_keep_what_is_declared(world):
    world.source = "Declared"
    world.restart()
    await world.turns(20, 1500.0)
    assert (world.planned, world.said) == (None, ("True", "Fresh"))


async def test_an_outage_is_told_when_it_lasts_and_nothing_is_taken_away(world, caplog):
    await world.turns(20, 1500.0)
    planned, world.trouble = world.planned, "away"
    await world.turns(8)
    assert world.said == ("True", "Fresh")
    await world.turns(20)
    assert (world.planned, world.said) == (planned, ("False", "PrometheusUnreachable"))
    assert caplog.text.count("away") == 1
    assert world.metrics.registry.get_sample_value("plimsoll_telemetry_up", {"source": "prometheus"}) == 0
    world.trouble = ""
    await world.turns(1, 1500.0)
    assert world.said == ("True", "Fresh")


async def test_a_restart_goes_on_where_the_status_says(world):
    condition = {
        "type": "MetricsFresh",
        "status": "True",
        "reason": "Fresh",
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    tokens = {"input": 2000, "output": 300, "inputP95": 4000, "outputP95": 600}
    world.status = {
        "conditions": [condition],
        "traffic": [{"name": "default", "requestsPerMinute": 300, "tokens": tokens}],
    }
    world.restart()
    assert world.planned == 300
    assert world.store.snapshot().demand[0].lengths == TokenLengths(2000, 300, 4000, 600)
    world.trouble = "away"
    await world.turns(8)
    assert world.planned == 300, "for a while"
    await world.turns(1)
    assert world.planned == 600, "nothing measured since the restart: the larger of declared and last known"


async def test_a_status_of_declared_demand_is_no_measurement(world):
    unknown = {
        "type": "MetricsFresh",
        "status": "Unknown",
        "reason": "NotMeasured",
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    world.status = {"conditions": [unknown], "traffic": [{"name": "default", "requestsPerMinute": 300}]}
    world.restart()
    assert world.planned is None


async def test_lengths_count_only_with_metrics_in_order(world):
    seen = TokenLengths(3000.0, 250.0, 6000.0, 500.0)
    world.lengths = {KEY: seen}
    await world.turns(1, 600.0, trouble="ReplicasMissing", whole=False)
    assert world.store.snapshot().demand[0].lengths is None
    await world.turns(5, 600.0)
    assert world.store.snapshot().demand[0].lengths == seen


async def test_at_rest_nothing_changes(world):
    await world.turns(200, 1500.0)
    changes = world.store.changes
    await world.turns(40, 1500.0)
    assert world.store.changes == changes
