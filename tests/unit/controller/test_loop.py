"""Whole turns of the loop over a store and a recording cluster, with the real planner and renderer in this process."""

import copy
import json
from datetime import UTC, datetime

import pytest

from plimsoll.api.llmdeployment_status import ObservedLatency
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
from plimsoll.planning import plan_fleet
from plimsoll.planning.snapshot import SpeedCorrection
from tests.unit.controller import fakes
from tests.unit.planning.fleets import EVALUATOR

LLM, POOL, PLAN, POLICY = (RESOURCES[k] for k in ("LLMDeployment", "GPUNodePool", "PlacementPlan", "PlacementPolicy"))


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
        guarding = Guarding(self.keeper, "plimsoll-system", self.clock)
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


def age(world):
    """The routing document says that it is old."""
    (document,) = world.store.live(CONFIG_MAP)
    aged = copy.deepcopy(dict(document))
    aged["metadata"]["annotations"]["plimsoll.dev/routed-at"] = "2026-01-01T00:00:00Z"
    world.see(CONFIG_MAP, aged)


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
    assert all(name in document["data"]["routing.json"] for name in names), "half of the requests move first"
    age(world)
    world.restart()
    await world.turn()
    (document,) = world.store.live(CONFIG_MAP)
    assert old not in document["data"]["routing.json"]
    assert old in {m["metadata"]["name"] for m in world.store.live(DEPLOYMENT)}, "routers need time"
    age(world)
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


# --- Restraint -------------------------------------------------------------------------------------------------------

SEVEN = [f"m{number}" for number in range(7)]


def fleet_of_nine_nodes(world, **spec):
    """Nine nodes of four GPUs, and an LLMDeployment with eight replicas at least."""
    annotate_policy(world)
    labels = {"nvidia.com/gpu.product": "NVIDIA-L40S"}
    allocatable = {"cpu": "96", "memory": "768Gi", "nvidia.com/gpu": "4"}
    ready = [{"type": "Ready", "status": "True"}]
    status = {"allocatable": allocatable, "conditions": ready}
    for name in SEVEN:
        world.see(NODE, {"metadata": {"name": name, "labels": labels}, "status": status})
    world.see(LLM, world.deployment("assistant", generation=2, placement={"replicas": {"min": 8}}, **spec))


def shrink(world, generation=3):
    world.see(LLM, world.deployment("assistant", generation=generation, placement={"replicas": {"min": 1}}))


def replicas(world):
    (found,) = world.store.live(DEPLOYMENT)
    return found["spec"]["replicas"]


async def settled_fleet(world):
    fleet_of_nine_nodes(world)
    await settle(world)
    world.pods_become_ready()
    await world.turn()
    assert replicas(world) == 8


def annotate_policy(world, **annotations):
    """Routers follow at once: what may shrink shrinks in the next turn."""
    metadata = {"name": "default", "generation": 1, "annotations": annotations}
    world.see(POLICY, {"metadata": metadata, "spec": {"routing": {"propagationSeconds": 0}}})


async def test_a_plan_that_removes_much_waits_until_a_person_names_it(world):
    await settled_fleet(world)
    shrink(world)
    await world.turn()
    await world.turn()
    assert replicas(world) == 8
    message = world.condition("Stalled")["message"]
    assert world.condition("Rebalancing")["reason"] == world.condition("Stalled")["reason"] == "BlastRadiusHeld"
    assert "the plan removes 7 of 8 replicas that serve" in message
    assert world.condition("Ready")["status"] == "True"
    assert world.condition("Stalled", POLICY)["reason"] == "BlastRadiusHeld"
    assert world.metrics.registry.get_sample_value("plimsoll_blast_radius_held") == 1
    annotate_policy(world, **{"plimsoll.dev/release": "0123456789ab"})
    await world.turn()
    assert replicas(world) == 8, "another plan was named"
    assert "names 0123456789ab, which is not this plan" in world.condition("Stalled")["message"]
    annotate_policy(world, **{"plimsoll.dev/release": message.partition("plimsoll.dev/release=")[2].split()[0]})
    await world.turn()
    await world.turn()
    assert replicas(world) == 1
    assert world.condition("Stalled") is None
    assert world.condition("Stalled", POLICY) is None


async def test_growth_goes_on_while_a_mass_loss_is_held_also_after_a_restart(world):
    await settled_fleet(world)
    for name in SEVEN[:4]:
        world.store.drop(NODE, f"uid-Node-{name}")
    shrink(world)
    world.restart()
    await world.turn()
    await world.turn()
    assert replicas(world) == 8
    assert "16 of 36 Ready GPUs vanished" in world.condition("Stalled", POLICY)["message"]
    world.see(LLM, world.deployment("assistant", generation=4, placement={"replicas": {"min": 10}}))
    await world.turn()
    assert replicas(world) == 10


async def test_without_a_policy_the_message_says_how_to_make_one(world):
    await settled_fleet(world)
    world.store.drop(POLICY, "uid-PlacementPolicy-default")
    shrink(world)
    await world.turn()
    assert '"metadata": {"name": "default", "annotations"' in world.condition("Stalled")["message"]


async def test_a_release_that_is_no_digest_is_told(world):
    annotate_policy(world, **{"plimsoll.dev/release": "yes"})
    await world.turn()
    assert 'metadata.annotations[plimsoll.dev/release]: "yes"' in world.condition("Ready", POLICY)["message"]


async def test_an_unreadable_memory_of_the_guard_stops_nothing(world):
    await world.keeper.apply(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "plimsoll-guard", "namespace": "plimsoll-system"},
            "data": {"guard.json": "{"},
        },
        "somebody",
    )
    await settle(world)
    assert world.condition("Ready")["status"] == "True"


async def test_the_guard_writes_nothing_at_rest(world):
    await settled_fleet(world)
    world.keeper.writes.clear()
    for _ in range(3):
        world.now += 400
        await world.turn()
    assert world.keeper.writes == []


def scale(world, count, manager="kube-controller-manager"):
    (found,) = world.store.live(DEPLOYMENT)
    changed = copy.deepcopy(dict(found))
    changed["spec"]["replicas"] = count
    fields = {"f:spec": {"f:replicas": {}}}
    entry = {"manager": manager, "operation": "Update", "subresource": "scale", "fieldsV1": fields}
    changed["metadata"]["managedFields"] = [*changed["metadata"]["managedFields"], entry]
    changed["status"] = {"readyReplicas": count}
    world.see(DEPLOYMENT, changed)


async def test_a_workload_that_an_autoscaler_owns_is_neither_written_nor_deleted(world):
    annotate_policy(world)
    await settle(world)
    (old,) = [m["metadata"]["name"] for m in world.store.live(DEPLOYMENT)]
    scale(world, 4)
    writes = await world.turn()
    assert ("apply", "Deployment", old) not in writes
    assert world.condition("Stalled")["reason"] == world.condition("Rebalancing")["reason"] == "ForeignManager"
    for part in (f"Deployment chat/{old}", "kube-controller-manager", "kubectl scale deployment"):
        assert part in world.condition("Stalled")["message"]
    assert world.condition("Ready")["status"] == "True"
    world.see(LLM, world.deployment("assistant", generation=2, engine={"maxModelLength": 4096}))
    for _ in range(3):
        await world.turn()
        world.pods_become_ready()
    assert old in {m["metadata"]["name"] for m in world.store.live(DEPLOYMENT)}


async def test_an_autoscaler_that_scales_beyond_the_plan_does_not_hold_the_fleet(world):
    await settled_fleet(world)
    scale(world, 20)
    world.see(LLM, world.deployment("other"))
    await world.turn()
    assert world.metrics.registry.get_sample_value("plimsoll_blast_radius_held") == 0
    assert world.condition("Stalled")["reason"] == "ForeignManager"


async def test_a_deleted_routing_document_comes_back_with_a_later_epoch(world):
    await settle(world)
    (before,) = world.store.live(CONFIG_MAP)
    world.store.drop(CONFIG_MAP, before["metadata"]["uid"])
    await world.turn()
    (after,) = world.store.live(CONFIG_MAP)
    epochs = [json.loads(item["data"]["routing.json"])["epoch"] for item in (before, after)]
    assert epochs[1] > epochs[0], "readers ignore smaller ones"


async def test_a_paused_deployment_gets_nothing_but_its_status(world):
    await settle(world)
    paused = world.deployment("assistant", generation=2, placement={"replicas": {"min": 3}})
    paused["metadata"]["annotations"] = {"plimsoll.dev/paused": "true"}
    world.see(LLM, paused)
    world.store.drop(CONFIG_MAP, "none")
    writes = await world.turn()
    assert {write[0] for write in writes} <= {"status", "create"}
    assert world.condition("Rebalancing")["reason"] == world.condition("Planned")["reason"] == "Paused"
    assert world.condition("Ready")["status"] == "True"
    assert world.condition("Stalled") is None
    world.see(LLM, world.deployment("assistant", generation=2, placement={"replicas": {"min": 3}}))
    await world.turn()
    assert replicas(world) == 3


async def test_routing_that_would_lose_most_backends_stays_and_says_so(world):
    await settle(world)
    (before,) = world.store.live(CONFIG_MAP)
    (workload,) = world.store.live(DEPLOYMENT)
    down = copy.deepcopy(dict(workload))
    down["status"] = {}
    world.see(DEPLOYMENT, down)
    await world.turn()
    assert world.store.live(CONFIG_MAP)[0]["data"] == before["data"]
    assert workload["metadata"]["name"] in world.condition("RoutingHeld")["message"]
    world.pods_become_ready()
    await world.turn()
    assert world.condition("RoutingHeld") is None
