"""What costs nothing at rest still sees all that a plan depends on: demand, shares, stages, failures and reports.

The planner is the real one behind what goes between the processes: only what has changed is sent, in both directions.
"""

import pickle
from collections import Counter
from dataclasses import replace

import pytest

from plimsoll.api.llmdeployment_status import SLOWindow
from plimsoll.controller import renderings, report
from plimsoll.controller.difference import applied, difference
from plimsoll.controller.kinds import CONFIG_MAP, DEPLOYMENT, NODE, RESOURCES
from plimsoll.controller.store import Fare, Sight
from plimsoll.performance import TokenLengths
from plimsoll.planning import plan_fleet, planner
from plimsoll.planning.snapshot import Snapshot, TrafficDemand
from plimsoll.rendering import routing_table_from_config_map
from tests.unit.controller.test_loop import LLM, POLICY, POOL, World, settle
from tests.unit.planning.fleets import EVALUATOR

SLO = RESOURCES["InferenceSLO"]
KEY = ("chat", "assistant", "default")
BUSY = 3000.0
WINDOWS = tuple(SLOWindow(window=name, attainment="0.99", burn_rate="0.2") for name in ("5m", "1h", "24h"))


class Remote:
    """The planner as another process: it gets and gives differences."""

    def __init__(self):
        self.rounds = 0
        self._known, self._sent, self._told, self._heard = Snapshot(), None, None, None

    async def plan(self, snapshot):
        self.rounds += 1
        request = pickle.dumps(snapshot if self._sent is None else difference(self._sent, snapshot))
        self._sent = snapshot
        received = pickle.loads(request)
        self._known = received if isinstance(received, Snapshot) else applied(self._known, received)
        assert self._known == snapshot
        found = plan_fleet(self._known, EVALUATOR)
        answer = pickle.loads(pickle.dumps(found if self._told is None else difference(self._told, found)))
        self._told = found
        self._heard = answer if self._heard is None else applied(self._heard, answer)
        assert self._heard == found
        return self._heard


@pytest.fixture
def work(monkeypatch):
    """How often what is dear was done."""
    done = Counter()

    def counted(module, name):
        original = getattr(module, name)

        def wrapper(*arguments, **keywords):
            done[name] += 1
            return original(*arguments, **keywords)

        monkeypatch.setattr(module, name, wrapper)

    counted(planner, "decide_fleet")
    counted(renderings, "render_deployment")
    counted(report, "deployment_status")
    return done


@pytest.fixture
def world():
    made = World()
    made.planner = Remote()
    set_policy(made)
    made.restart()
    return made


def set_policy(world, **rebalance):
    spec = {"routing": {"propagationSeconds": 0}, "rebalance": {"maxShareShift": "1", **rebalance}}
    world.see(POLICY, {"metadata": {"name": "default", "generation": 2}, "spec": spec})


def expect(world, *, sight=None, **values):
    """As each look at Prometheus hands it over, in objects of its own."""
    demand = TrafficDemand(*KEY, BUSY, BUSY)
    world.store.expect((replace(demand, **values),), {KEY[:2]: sight or Sight("True", "Fresh", "as shown")})


def judge(world, windows=WINDOWS):
    world.store.judge({KEY: Fare(windows, {"ttft": 200})})


def replicas(world):
    return {item["metadata"]["name"]: item["spec"]["replicas"] for item in world.store.live(DEPLOYMENT)}


async def at_rest(world):
    """Observed, planned for, in place, and told."""
    expect(world)
    judge(world)
    await settle(world)
    await world.turn()


async def test_a_steady_fleet_with_observed_demand_costs_nothing(world, work):
    await at_rest(world)
    work.clear()
    rounds = world.planner.rounds
    for _ in range(3):
        expect(world)
        judge(world)
        assert await world.turn() == []
    assert (work, world.planner.rounds) == ({}, rounds)


async def test_replicas_that_become_ready_are_no_new_plan(world, work):
    expect(world)
    await world.turn()
    await world.turn()
    work.clear()
    world.pods_become_ready()
    await world.turn()
    assert work["decide_fleet"] == 0
    assert world.condition("Ready")["status"] == "True"


async def test_more_traffic_is_planned_rendered_and_told(world):
    await at_rest(world)
    (before,) = replicas(world).values()
    expect(world, requests_per_minute=2 * BUSY)
    await world.turn()
    assert sum(replicas(world).values()) > before
    assert world.status()["traffic"][0]["requestsPerMinute"] == 2 * BUSY


async def test_other_token_lengths_are_planned_for_and_told(world):
    await at_rest(world)
    (before,) = replicas(world).values()
    expect(world, lengths=TokenLengths(1500, 300, 3000, 600))
    await world.turn()
    assert sum(replicas(world).values()) > before
    assert world.status()["traffic"][0]["tokens"] == {"input": 1500, "inputP95": 3000, "output": 300, "outputP95": 600}


async def test_how_classes_fare_is_told_without_a_plan(world, work):
    await at_rest(world)
    work.clear()
    judge(world, tuple(item.model_copy(update={"burn_rate": 3}) for item in WINDOWS))
    assert await world.turn() == [("status", LLM.name, "assistant")]
    assert {float(item["burnRate"]) for item in world.status()["traffic"][0]["windows"]} == {3.0}
    assert (work["decide_fleet"], work["render_deployment"]) == (0, 0)


async def test_metrics_that_are_not_believed_are_told_without_a_plan(world, work):
    await at_rest(world)
    work.clear()
    expect(world, sight=Sight("False", "Silent", "nothing arrives any more"))
    assert await world.turn() == [("status", LLM.name, "assistant")]
    assert world.condition("MetricsFresh")["reason"] == "Silent"
    assert (work["decide_fleet"], work["render_deployment"]) == (0, 0)


async def test_every_stage_of_a_change_is_rendered_and_then_it_is_at_rest(world, work):
    set_policy(world, maxSurge="0.25")
    await at_rest(world)
    ((old, count),) = replicas(world).items()
    engine = {"podTemplate": {"annotations": {"example.com/change": "1"}}}
    world.see(LLM, world.deployment("assistant", generation=2, engine=engine))
    seen = []
    while old in replicas(world) and len(seen) < 4 * count:
        for _ in range(4):
            await world.turn()
            seen.append(replicas(world))
        work.clear()
        assert await world.turn() == [], "a stage that waits for pods writes nothing twice"
        assert not work
        world.pods_become_ready()
    await world.turn()
    assert old not in replicas(world), seen
    assert sum(replicas(world).values()) == count
    assert any(0 < stage.get(old, 0) < count for stage in seen), "in stages"
    assert max(sum(stage.values()) for stage in seen) <= count * 1.25 + 1
    await world.turn()
    work.clear()
    assert await world.turn() == []
    assert not work


async def test_shares_are_split_again_for_what_arrives_and_no_pod_moves(world, work):
    # One class is served by the cheap pool; the other, which is in a hurry, by the quick one.
    for number in range(4):
        world.see(NODE, node(f"l4-{number}", "NVIDIA-L4", 1))
    world.see(
        POOL,
        {"metadata": {"name": "l4", "generation": 1}, "spec": {"accelerator": "L4", "price": {"perHour": "0.30"}}},
    )
    targets = {"tpot": {"percentile": 95, "milliseconds": 35}}
    world.see(SLO, {"metadata": {"name": "hurried", "namespace": "chat", "generation": 1}, "spec": targets})
    relaxed = {"tpot": {"percentile": 95, "milliseconds": 400}}
    world.see(SLO, {"metadata": {"name": "relaxed", "namespace": "chat", "generation": 1}, "spec": relaxed})
    tokens = {"input": 500, "output": 100}
    hurried = {"name": "hurried", "match": {"headers": [{"name": "x-class", "value": "hurried"}]}}
    traffic = [
        {"name": "default", "requestsPerMinute": 120, "tokens": tokens, "sloRef": {"name": "relaxed"}},
        {**hurried, "requestsPerMinute": 300, "tokens": tokens, "sloRef": {"name": "hurried"}},
    ]
    single = {"parallelism": {"tensor": [1], "pipeline": [1]}}
    world.see(LLM, world.deployment("assistant", traffic=traffic, placement=single, engine={"maxModelLength": 4096}))
    arrive(world, default=120.0, hurried=300.0)
    await settle(world)
    await world.turn()
    before, weights = replicas(world), backends(world)
    assert len(weights["default"]) == len(weights["hurried"]) == 1, "each class has a placement of its own"
    work.clear()
    arrive(world, default=200.0, hurried=100.0)
    writes = await world.turn()
    assert ("apply", CONFIG_MAP.name, "assistant-routing") in writes
    assert backends(world)["default"].keys() == {*weights["default"], *weights["hurried"]}
    assert replicas(world) == before
    assert await world.turn() == []


def node(name, product, gpus):
    allocatable = {"cpu": "96", "memory": "768Gi", "nvidia.com/gpu": str(gpus)}
    return {
        "metadata": {"name": name, "labels": {"nvidia.com/gpu.product": product}},
        "status": {"allocatable": allocatable, "conditions": [{"type": "Ready", "status": "True"}]},
    }


def arrive(world, *, default, hurried):
    """Requests per minute now; placements stay planned for what they were."""
    demand = [TrafficDemand(*KEY, 120.0, default), TrafficDemand(*KEY[:2], "hurried", 300.0, hurried)]
    world.store.expect(tuple(demand), {})


def backends(world):
    """Weights by class and placement."""
    table = routing_table_from_config_map(world.store.live_by_name(CONFIG_MAP)["chat", "assistant-routing"])
    return {item.name: {one.placement: one.weight for one in item.backends} for item in table.classes}
