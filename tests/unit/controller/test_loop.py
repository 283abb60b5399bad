"""Whole turns of the loop over a store and a recording cluster, with the real planner and renderer in this process."""

import copy
from datetime import UTC, datetime
from importlib import util
from pathlib import Path

import pytest

from plimsoll.api.llmdeployment import ObservedLatency
from plimsoll.controller.apply import Applier
from plimsoll.controller.events import Recorder
from plimsoll.controller.guarding import Guarding
from plimsoll.controller.kinds import CONFIG_MAP, DEPLOYMENT, NODE, RESOURCES
from plimsoll.controller.loop import Loop
from plimsoll.controller.metrics import Metrics
from plimsoll.controller.planner_process import FailureReason, PlanFailure
from plimsoll.controller.report import Reporter
from plimsoll.controller.settings import Settings
from plimsoll.controller.store import Store
from plimsoll.planning import Evaluator, plan_fleet
from plimsoll.planning.snapshot import SpeedCorrection

_spec = util.spec_from_file_location("controller_fakes", Path(__file__).with_name("fakes.py"))
fakes = util.module_from_spec(_spec)
_spec.loader.exec_module(fakes)

LLM, POOL, PLAN, POLICY = (RESOURCES[k] for k in ("LLMDeployment", "GPUNodePool", "PlacementPlan", "PlacementPolicy"))
EVALUATOR = Evaluator()


class Planner:
    """The real planner, or a failure."""

    def __init__(self):
        self.failure = None
        self.rounds = 0

    async def plan(self, snapshot):
        self.rounds += 1
        return self.failure or plan_fleet(snapshot, EVALUATOR)


class World:
    """A cluster that answers writes, a store that is fed by them, and an operator that can be restarted."""

    def __init__(self):
        self.cluster, self.store, self.planner = fakes.FakeCluster(), Store(), Planner()
        self.now = 1000.0
        self.keeper = fakes.FakeCluster()
        for number in range(2):
            labels = {"nvidia.com/gpu.product": "NVIDIA-L40S"}
            allocatable = {"cpu": "96", "memory": "768Gi", "nvidia.com/gpu": "4"}
            ready = [{"type": "Ready", "status": "True"}]
            self.see(
                NODE,
                {
                    "metadata": {"name": f"n{number}", "labels": labels},
                    "status": {"allocatable": allocatable, "conditions": ready},
                },
            )
        self.see(
            POOL,
            {
                "metadata": {"name": "l40s", "generation": 1},
                "spec": {"accelerator": "L40S", "price": {"perHour": "1.10"}},
            },
        )
        self.see(
            POLICY, {"metadata": {"name": "default", "generation": 1}, "spec": {"routing": {"propagationSeconds": 5}}}
        )
        self.see(LLM, self.deployment("assistant"))
        self.restart()

    def restart(self):
        self.metrics = Metrics()
        settings = Settings()
        reporter = Reporter(self.cluster, self.store, Recorder(self.cluster, self.metrics), self.metrics)
        applier = Applier(self.cluster, self.store, self.metrics)
        guarding = Guarding(self.keeper, "plimsoll-system", self.metrics, self.clock)
        parts = (settings, self.store, self.planner, applier, reporter, guarding, self.metrics)
        self.loop = Loop(*parts, gateway_api=False)

    def clock(self):
        return self.now

    async def turn(self):
        """What a turn writes, details of plans apart."""
        self.cluster.writes.clear()
        await self.loop.turn()
        return [write[:3] for write in self.cluster.writes if "-details-" not in write[2]]

    def deployment(self, name, generation=1, **spec):
        return {
            "metadata": {"name": name, "namespace": "chat", "generation": generation},
            "spec": {
                "models": [{"name": "meta-llama/Llama-3.1-8B-Instruct"}],
                "traffic": [{"name": "default", "requestsPerMinute": 60, "tokens": {"input": 500, "output": 100}}],
                **spec,
            },
        }

    def see(self, kind, manifest):
        """A watch event."""
        metadata = {"uid": f"uid-{kind.name}-{manifest['metadata']['name']}", **manifest["metadata"]}
        metadata["resourceVersion"] = str(next(self.cluster.numbers))
        known = self.cluster.objects.get(metadata["uid"], {})
        status = {"status": known["status"]} if "status" in known else {}
        whole = {"apiVersion": kind.api_version, "kind": kind.name, **status, **manifest, "metadata": metadata}
        self.cluster.objects[metadata["uid"]] = whole
        self.store.put(kind, whole)

    def pods_become_ready(self):
        for workload in self.store.live(DEPLOYMENT):
            changed = copy.deepcopy(dict(workload))
            changed["status"] = {"readyReplicas": workload["spec"]["replicas"]}
            self.see(DEPLOYMENT, changed)

    def status(self, kind=LLM):
        return self.store.live(kind)[0]["status"]

    def condition(self, type_, kind=LLM):
        return next((c for c in self.status(kind)["conditions"] if c["type"] == type_), None)


@pytest.fixture
def world():
    return World()


async def settle(world):
    await world.turn()
    world.pods_become_ready()
    await world.turn()
    await world.turn()


async def test_first_pods_then_routing(world):
    writes = await world.turn()
    assert ("apply", "PlacementPlan", "plan-000001") in writes
    assert [kind for verb, kind, _ in writes if verb == "apply" and kind != "PlacementPlan"] == [
        "Service",
        "Deployment",
    ]
    assert (world.condition("Ready")["status"], world.condition("Ready")["reason"]) == ("False", "WaitingForPods")
    assert world.condition("Planned")["status"] == "True"
    assert world.status(PLAN)["state"] == "Applying"
    world.pods_become_ready()
    writes = await world.turn()
    assert ("apply", "ConfigMap", "assistant-routing") in writes
    assert world.condition("Ready")["status"] == "True"


async def test_at_rest_and_after_a_restart_nothing_is_written(world):
    await settle(world)
    assert world.status(PLAN)["state"] == "Applied"
    assert await world.turn() == []
    world.restart()
    assert await world.turn() == []


async def test_an_unchanged_snapshot_is_not_planned_again(world):
    await settle(world)
    rounds = world.planner.rounds
    await world.turn()
    assert world.planner.rounds == rounds


async def test_what_replicas_showed_corrects_the_plan_and_stands_in_status(world):
    await settle(world)
    (before,) = world.status()["placements"]
    assert not {"correction", "observed"} & before.keys()
    seen = ObservedLatency(ttft_milliseconds=310, tpot_milliseconds=41, time=datetime(2026, 11, 21, tzinfo=UTC))
    factors = SpeedCorrection("meta-llama/Llama-3.1-8B-Instruct", "bf16", "L40S", 1, 1, 1.1, 1.04)
    world.store.learn((factors,), {("chat", before["name"]): seen, ("elsewhere", before["name"]): seen})
    assert world.store.dirty
    await world.turn()
    (after,) = world.status()["placements"]
    assert after["correction"] == {"prefill": "1.1", "decode": "1.04"}
    assert after["observed"] == {"ttftMilliseconds": 310, "tpotMilliseconds": 41, "time": "2026-11-21T00:00:00Z"}
    assert after["speed"].endswith("corrected by observation: prefill ×1.10, decode ×1.04")
    assert await world.turn() == []
    # A restart that has heard nothing yet keeps the last figures.
    world.store.learn((factors,), {})
    assert await world.turn() == []
    world.store.learn((), {})
    await world.turn()
    assert "correction" not in world.status()["placements"][0]


async def test_recommend_reports_and_applies_nothing(world):
    world.see(POLICY, {"metadata": {"name": "default", "generation": 1}, "spec": {"approval": "Recommend"}})
    writes = await world.turn()
    assert {kind for verb, kind, _ in writes if verb == "apply"} == {"PlacementPlan"}
    assert world.condition("Planned")["reason"] == "AwaitingApproval"
    assert world.status(PLAN)["state"] == "Recommended"
    assert world.store.live(DEPLOYMENT) == []


async def test_without_any_plan_the_condition_says_why(world):
    world.planner.failure = PlanFailure(FailureReason.CRASHED, "the planner process ended")
    await world.turn()
    assert (world.condition("Ready")["status"], world.condition("Planned")["reason"]) == ("Unknown", "PlannerCrashed")
    assert world.condition("Reconciling")["status"] == "True"
    assert "observedGeneration" not in world.status()
    world.planner.failure = None
    await world.turn()
    assert world.condition("Reconciling") is None
    assert world.condition("Planned")["status"] == "True"


async def test_a_failed_round_leaves_what_runs_and_says_so_only_where_the_spec_is_new(world):
    await settle(world)
    world.planner.failure = PlanFailure(FailureReason.DEADLINE, "planning was stopped")
    world.see(NODE, {"metadata": {"name": "n9"}, "status": {}})
    assert await world.turn() == [], "the previous plan stays and the spec is planned"
    world.see(LLM, world.deployment("assistant", generation=2, placement={"replicas": {"min": 3}}))
    writes = await world.turn()
    assert {write[0] for write in writes} <= {"status", "create"}
    assert world.condition("Planned")["status"] == "False"
    assert world.condition("Ready")["status"] == "True", "what runs still serves"
    assert len(world.store.live(PLAN)) == 1


async def test_a_new_spec_goes_through_a_transition(world):
    await settle(world)
    (old,) = [m["metadata"]["name"] for m in world.store.live(DEPLOYMENT)]
    world.see(LLM, world.deployment("assistant", generation=2, engine={"maxModelLength": 4096}))
    await world.turn()
    names = {m["metadata"]["name"] for m in world.store.live(DEPLOYMENT)}
    assert old in names
    assert len(names) == 2
    world.pods_become_ready()
    await world.turn()
    (document,) = world.store.live(CONFIG_MAP)
    assert old not in document["data"]["routing.json"]
    assert old in {m["metadata"]["name"] for m in world.store.live(DEPLOYMENT)}, "routers need time"
    aged = copy.deepcopy(dict(document))
    aged["metadata"]["annotations"]["plimsoll.dev/routed-at"] = "2026-01-01T00:00:00Z"
    world.see(CONFIG_MAP, aged)
    writes = await world.turn()
    assert ("delete", "Deployment", old) not in writes, "a clock that jumps must not end their time"
    world.restart()
    writes = await world.turn()
    assert ("delete", "Deployment", old) in writes, "a new operator believes what the document says"
    assert ("delete", "Service", old) in writes


async def test_a_held_deployment_keeps_what_runs(world):
    await settle(world)
    world.see(LLM, world.deployment("assistant", generation=2, models=[{"name": "nobody/unknown"}]))
    writes = await world.turn()
    assert [write for write in writes if write[0] in ("apply", "delete") and write[1] != "PlacementPlan"] == []
    assert (world.condition("Ready")["status"], world.condition("Stalled")["reason"]) == ("False", "UnknownModel")
    assert world.status()["placements"][0]["replicas"]["ready"] >= 1


async def test_an_invalid_deployment_keeps_what_runs_and_names_the_field(world):
    await settle(world)
    world.see(LLM, world.deployment("assistant", generation=2, models=[]))
    writes = await world.turn()
    assert [write for write in writes if write[0] in ("apply", "delete") and write[1] != "PlacementPlan"] == []
    assert "spec.models" in world.condition("Ready")["message"]
    assert world.status()["observedGeneration"] == 2


async def test_a_deleted_deployment_is_left_to_the_garbage_collector(world):
    await settle(world)
    world.store.drop(LLM, "uid-LLMDeployment-assistant")
    assert [write for write in await world.turn() if write[1] in ("Deployment", "Service", "ConfigMap")] == []


async def test_events_are_told_once(world):
    await world.turn()
    told = [write for write in world.cluster.writes if write[0] == "create"]
    assert ("create", "Event", "Planned", "Normal") in told
    world.cluster.writes.clear()
    world.restart()
    assert [write for write in await world.turn() if write[0] == "create"] == []


async def test_what_cannot_be_applied_stands_in_the_condition(world):
    world.cluster.refuse["apply", "Deployment", "*"] = 403
    await world.turn()
    assert world.condition("Stalled")["reason"] == "ApplyRefused"
    assert world.condition("Ready")["reason"] == "ApplyRefused"
    assert world.condition("Planned")["status"] == "True"


async def test_pool_status_tells_stock(world):
    await world.turn()
    status = world.status(POOL)
    assert (status["nodes"], status["gpus"]["total"]) == (2, 8)
    assert world.condition("Ready", POOL)["reason"] == "NodesFound"


async def test_only_twenty_plans_are_kept(world):
    for number in range(1, 26):
        name = f"plan-{number:06d}"
        world.see(PLAN, {"metadata": {"name": name}, "spec": {}, "status": {"state": "Superseded"}})
    writes = await world.turn()
    assert ("apply", "PlacementPlan", "plan-000026") in writes
    assert [name for verb, kind, name in writes if (verb, kind) == ("delete", "PlacementPlan")] == [
        f"plan-{number:06d}" for number in range(1, 7)
    ]
    assert len(world.store.live(PLAN)) == 20
