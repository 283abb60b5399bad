"""The report on objectives: metrics at once, status rarely, and windows read as often as they move."""

import pytest

from plimsoll.controller import objectives as module
from plimsoll.controller.metrics import Metrics
from plimsoll.controller.objectives import Objectives
from plimsoll.controller.settings import Settings
from plimsoll.controller.store import Store
from plimsoll.planning.attainment import Attainment
from plimsoll.planning.plan import FleetPlan
from tests.unit.controller import fakes

KEY = ("chat", "assistant", "default")


class World:
    def __init__(self, monkeypatch):
        self.now, self.trouble, self.read, self.found = 0.0, "", [], {}
        world = self

        async def histograms(ask, window_seconds, metrics):
            world.read.append((world.now, window_seconds))
            return {"window": window_seconds}

        def attainments(fleet, snapshot, latencies):
            return {KEY: self.found[latencies["window"]]} if latencies["window"] in self.found else {}

        monkeypatch.setattr(module, "Prometheus", fakes.prometheus(lambda: self.trouble))
        monkeypatch.setattr(module, "read_histograms", histograms)
        monkeypatch.setattr(module, "attainments", attainments)
        monkeypatch.setattr(module, "_classes", lambda _: {KEY})
        self.metrics, self.store = Metrics(), Store()
        settings = Settings(prometheus_url="http://prometheus")
        plan = FleetPlan("", (), (), (), 0.0)
        self.objectives = Objectives(settings, self.store, self.metrics, lambda: plan, lambda: self.now)

    async def turns(self, count, share=None, ttft=0.4, windows=(300.0, 3600.0, 86400.0)):
        if share is not None:
            burn = (1 - share) / 0.05
            self.found = {seconds: Attainment(1000.0, share, burn, {"ttft": ttft}) for seconds in windows}
        for _ in range(count):
            self.now += 60.0
            await self.objectives.turn()

    @property
    def shown(self):
        fare = self.store.fares.get(KEY)
        return None if fare is None else {item.window: float(item.burn_rate) for item in fare.windows}

    def gauge(self, window):
        labels = dict(zip(("namespace", "deployment", "traffic"), KEY, strict=True))
        return self.metrics.registry.get_sample_value("plimsoll_slo_burn_rate", {**labels, "window": window})


@pytest.fixture
def world(monkeypatch):
    return World(monkeypatch)


async def test_metrics_follow_and_status_is_rewritten_rarely(world):
    await world.turns(1, 0.99)
    assert world.shown == {"5m": 0.2, "1h": 0.2, "24h": 0.2}
    await world.turns(5, 0.9)
    assert world.gauge("5m") == pytest.approx(2.0)
    assert world.shown["5m"] == 0.2
    await world.turns(5)
    assert world.shown["5m"] == 2.0
    changes = world.store.changes
    await world.turns(30, 0.91)
    assert world.store.changes == changes, "a move of a tenth is nothing to write"


async def test_a_window_that_comes_later_is_shown_at_once(world):
    await world.turns(1, 0.99, windows=(300.0,))
    await world.turns(2, 0.99)
    assert set(world.shown) == {"5m", "1h", "24h"}


async def test_long_windows_are_read_seldom(world):
    await world.turns(120, 0.99)
    days = [moment for moment, seconds in world.read if seconds == 86400.0]
    assert len(days) < 12
    assert len([moment for moment, seconds in world.read if seconds == 300.0]) == 120


async def test_without_an_answer_status_stays_and_metrics_go(world):
    await world.turns(1, 0.99)
    world.trouble = "away"
    await world.turns(20)
    assert world.shown == {"5m": 0.2, "1h": 0.2, "24h": 0.2}
    assert world.gauge("5m") is None
