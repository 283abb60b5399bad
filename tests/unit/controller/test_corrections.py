"""Corrections in the operator: kept over restarts, told once, and untouched by a Prometheus that is away."""

import logging
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from plimsoll.api.llmdeployment_status import ObservedLatency
from plimsoll.controller import corrections as module
from plimsoll.controller.corrections import NAME, Corrections
from plimsoll.controller.events import Recorder
from plimsoll.controller.kinds import POD, RESOURCES
from plimsoll.controller.metrics import Metrics
from plimsoll.controller.settings import Settings
from plimsoll.controller.status import renewed
from plimsoll.controller.store import Store
from plimsoll.performance import Estimate
from plimsoll.planning.observed import Figures, Learnt, Lesson, ObservedPlacement, ReplicaKind
from plimsoll.planning.plan import FleetPlan
from plimsoll.planning.snapshot import ObjectRef
from tests.unit.controller import fakes

KIND = ReplicaKind("meta-llama/Llama-3.1-8B-Instruct", "bf16", "L40S", 1, 1)
REF = ObjectRef("LLMDeployment", "chat", "assistant")
PLAN = FleetPlan("", (), (), (), 0.0)


def learnt(prefill=1.0, decode=1.0, requests=900.0, ignored=None):
    return {KIND: Learnt(*(Estimate(value, value, requests, ignored) for value in (prefill, decode)), "")}


class World:
    """An operator whose Prometheus and whose lessons are given; the cluster outlives it."""

    def __init__(self, monkeypatch):
        self.cluster, self.now, self.trouble, self.lesson = fakes.FakeCluster(), 1000.0, "", Lesson({}, ())

        async def figures(ask, window_seconds):
            return Figures(window_seconds, ())

        monkeypatch.setattr(module, "Prometheus", fakes.prometheus(lambda: self.trouble))
        monkeypatch.setattr(module, "read_figures", figures)
        monkeypatch.setattr(module, "learn", lambda *_: self.lesson)
        self.cluster.find = self.find
        self.restart()

    async def find(self, kind, namespace, name):
        for item in self.cluster.objects.values():
            metadata = item["metadata"]
            if (item["kind"], metadata["namespace"], metadata["name"]) == (kind.name, namespace, name):
                return item
        return None

    def restart(self):
        self.metrics, self.store = Metrics(), Store()
        metadata = {"name": REF.name, "namespace": REF.namespace, "uid": "uid-a", "generation": 1}
        kind = RESOURCES["LLMDeployment"]
        self.store.put(kind, {"apiVersion": kind.api_version, "kind": kind.name, "metadata": metadata, "spec": {}})
        self.corrections = Corrections(
            Settings(prometheus_url="http://prometheus"),
            self.cluster,
            self.store,
            Recorder(self.cluster, self.metrics),
            self.metrics,
            lambda: PLAN,
            lambda: self.now,
        )

    async def turn(self, what=None, seconds=300.0, ttft=0.5, tpot=0.03):
        if what is not None:
            self.lesson = Lesson(what, (ObservedPlacement(REF, "a", KIND, ttft, tpot),))
        self.now += seconds
        self.cluster.writes.clear()
        await self.corrections.turn()
        return [write[1:3] for write in self.cluster.writes]

    def metric(self, name, **labels):
        return self.metrics.registry.get_sample_value(name, labels or None)


@pytest.fixture
def world(monkeypatch):
    return World(monkeypatch)


async def test_what_is_in_force_reaches_the_next_snapshot_and_outlives_a_restart(world):
    await world.corrections.load()
    assert world.store.snapshot().corrections == ()
    assert ("ConfigMap", NAME) in await world.turn(learnt(1.1, 1.4))
    (before,) = world.store.snapshot().corrections
    assert (before.accelerator, before.prefill, before.decode) == ("L40S", 1.1, 1.4)
    world.restart()
    await world.corrections.load()
    assert world.store.snapshot().corrections == (before,)


async def test_a_move_wakes_the_planner_and_an_interval_without_one_does_not(world):
    await world.turn(learnt(1.0, 1.2))
    world.store.clear_dirty()
    again = {KIND: replace(learnt()[KIND], decode=Estimate(1.21, 1.2, 2000.0))}
    await world.turn(again)
    assert not world.store.dirty
    await world.turn(learnt(1.0, 1.25))
    assert world.store.dirty


async def test_estimates_alone_are_kept_every_ten_minutes_at_most(world):
    await world.turn(learnt(1.0, 1.2))

    def estimate(value):
        return {KIND: replace(learnt()[KIND], decode=Estimate(value, 1.2, 2000.0))}

    assert await world.turn(estimate(1.21)) == []
    assert await world.turn(estimate(1.22)) == [("ConfigMap", NAME)]
    assert await world.turn(estimate(1.22), seconds=9000.0) == []


async def test_an_event_tells_which_factor_moved(world):
    await world.turn(learnt(1.0, 1.0))
    world.cluster.created = []

    async def create(kind, manifest, manager):
        world.cluster.created.append(manifest)
        return manifest

    world.cluster.create = create
    await world.turn(learnt(1.0, 1.04))
    (event,) = world.cluster.created
    assert (event["reason"], event["type"], event["regarding"]["name"]) == ("SpeedCorrected", "Normal", "assistant")
    assert "Llama-3.1-8B-Instruct bf16 on L40S t1p1: decode ×1.00 to ×1.04 after 900 requests" in event["note"]
    await world.turn()
    assert len(world.cluster.created) == 1


async def test_without_prometheus_nothing_moves_and_it_is_said_once(world, caplog):
    caplog.set_level(logging.INFO)
    await world.turn(learnt(1.0, 1.2))
    assert world.metric("plimsoll_telemetry_up", source="prometheus") == 1
    before, world.trouble = world.store.snapshot().corrections, "http://prometheus: refused"
    for _ in range(3):
        assert await world.turn(learnt(1.0, 1.9)) == []
    assert world.metric("plimsoll_telemetry_up", source="prometheus") == 0
    assert world.store.snapshot().corrections == before
    world.trouble = ""
    await world.turn()
    said = [record.message for record in caplog.records if "Prometheus" in record.message]
    assert [text.split(":")[0] for text in said] == [
        "Prometheus does not answer, corrections stay as they are",
        "Prometheus answers again",
    ]


async def test_a_reason_for_ignoring_is_said_once_whatever_its_figures(world, caplog):
    caplog.set_level(logging.INFO)
    for count in (3, 17, 4):
        await world.turn(learnt(ignored=f"{count} requests were observed, 50 are needed"))
    await world.turn(learnt(ignored="at 95% load queues hide the speed; at most 80% count"))
    said = [record.message for record in caplog.records if "teaches nothing of decode" in record.message]
    assert len(said) == 2
    assert "3 requests were observed" in said[0]


async def test_factors_are_metrics(world):
    assert world.metric("plimsoll_telemetry_up", source="prometheus") is None
    await world.turn(learnt(1.1, 1.4))
    labels = {"model": KIND.model, "precision": "bf16", "accelerator": "L40S", "parallelism": "t1p1", "phase": "decode"}
    assert world.metric("plimsoll_correction_factor", **labels) == 1.4
    assert world.metric("plimsoll_correction_estimate", **labels) == 1.4


async def test_an_api_server_that_refuses_costs_a_warning_and_is_tried_again(world, caplog):
    world.cluster.refuse["apply", "ConfigMap", NAME] = 500
    assert await world.turn(learnt(1.0, 1.2)) == []
    assert "ConfigMap plimsoll-corrections" in caplog.text
    world.cluster.refuse.clear()
    assert await world.turn() == [("ConfigMap", NAME)]


async def test_loading_waits_for_the_api_server(world, monkeypatch):
    await world.turn(learnt(1.0, 1.2))
    answers = [fakes.ApiError(0, "Unreachable", "away"), fakes.ApiError(503, "Busy", "busy")]

    async def find(*place):
        if answers:
            raise answers.pop()
        return await world.find(*place)

    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.0)
    world.cluster.find = find
    world.restart()
    await world.corrections.load()
    assert len(world.store.snapshot().corrections) == 1


# --- Observed latencies in status -------------------------------------------------------------------------------------


def latency(ttft, tpot, minute=0):
    time = datetime(2026, 11, 21, 20, minute, tzinfo=UTC)
    return ObservedLatency(ttft_milliseconds=ttft, tpot_milliseconds=tpot, time=time)


def test_status_follows_moves_of_more_than_a_fifth_only():
    shown = latency(500, 30)
    assert renewed(shown, latency(590, 35, 9)) is shown
    assert renewed(shown, latency(610, 30, 9)) == latency(610, 30, 9)
    assert renewed(shown, latency(500, None, 9)) == latency(500, None, 9)
    assert renewed(shown, None) is shown
    assert renewed(None, shown) is shown


async def test_status_is_rewritten_every_ten_minutes_at_most(world):
    world.store.put(
        POD,
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": "a-1",
                "namespace": "chat",
                "uid": "uid-pod",
                "labels": {"app.kubernetes.io/managed-by": "plimsoll", "plimsoll.dev/placement": "a"},
            },
        },
    )
    seen = []
    for ttft in (0.5, 0.9, 0.9, 0.2):
        await world.turn(learnt(), ttft=ttft)
        seen.append(world.store.observed["chat", "a"].ttft_milliseconds)
    assert seen == [500, 500, 900, 900]


async def test_a_config_map_that_somebody_broke_costs_a_warning(world, caplog):
    await world.turn(learnt(1.0, 1.2))
    (kept,) = (item for item in world.cluster.objects.values() if item["kind"] == "ConfigMap")
    kept["data"] = {}
    world.restart()
    await world.corrections.load()
    assert world.store.snapshot().corrections == ()
    assert "ConfigMap plimsoll-corrections: left out" in caplog.text
