"""Approval by a person: what waits, what is applied, what is refused; over a store and a recording cluster."""

import base64
import copy
import json

import pytest

from plimsoll.controller.kinds import CONFIG_MAP, DEPLOYMENT, RESOURCES
from plimsoll.planning.archive import archived, restored
from plimsoll.rendering.details import KEY, details_content
from tests.unit.controller import test_loop

LLM, POOL, PLAN, POLICY = (RESOURCES[k] for k in ("LLMDeployment", "GPUNodePool", "PlacementPlan", "PlacementPolicy"))


class World(test_loop.World):
    """A cluster in which a person may say something."""

    def policy(self, approval, **spec):
        spec = {"approval": approval, "routing": {"propagationSeconds": 0}, **spec}
        self.see(POLICY, {"metadata": {"name": "default", "generation": 1}, "spec": spec})

    def demand(self, rate, name="assistant", generation=2, **spec):
        traffic = [{"name": "default", "requestsPerMinute": rate, "tokens": {"input": 500, "output": 100}}]
        self.see(LLM, self.deployment(name, generation=generation, traffic=traffic, **spec))

    def say(self, decision, name=None, digest=None):
        plan = copy.deepcopy(dict(self.plan(name)))
        plan["spec"]["approval"] = {"decision": decision, "digest": digest or plan["spec"]["decisionDigest"]}
        self.see(PLAN, {key: plan[key] for key in ("metadata", "spec", "status")})

    def plans(self):
        return {item["metadata"]["name"]: item["status"] for item in self.store.live(PLAN)}

    def plan(self, name=None):
        live = self.store.live(PLAN)
        return live[-1] if name is None else next(item for item in live if item["metadata"]["name"] == name)

    def state(self, name=None):
        status = self.plan(name)["status"]
        return status["state"], status.get("reason")

    def pods(self):
        return {item["metadata"]["name"]: item["spec"]["replicas"] for item in self.store.live(DEPLOYMENT)}

    def details(self, plan=None):
        """The ConfigMaps of a plan's details."""
        names = [item["name"] for item in self.plan(plan)["spec"]["detailsRefs"]]
        return [item for item in self.cluster.objects.values() if item["metadata"]["name"] in names]

    async def settle(self):
        for _ in range(3):
            await self.turn()
            self.pods_become_ready()
        await self.turn()


@pytest.fixture
def world():
    found = World()
    found.policy("Manual")
    return found


@pytest.fixture
async def serving(world):
    """One LLMDeployment, approved and serving."""
    await world.turn()
    world.say("Approved")
    await world.settle()
    assert world.state() == ("Applied", "Approved")
    return world


async def test_nothing_runs_before_a_person_has_approved(world):
    writes = await world.turn()
    assert {kind for verb, kind, _ in writes if verb == "apply"} == {"PlacementPlan"}
    assert world.state() == ("AwaitingApproval", None)
    planned = world.condition("Planned")
    assert (planned["status"], planned["reason"]) == ("True", "AwaitingApproval")
    assert "kubectl plimsoll approve plan-000001" in planned["message"]
    ready = world.condition("Ready")
    assert (ready["status"], ready["reason"]) == ("False", "AwaitingApproval")
    assert await world.turn() == [], "waiting is rest"
    assert not world.pods()

    world.store.clear_dirty()
    world.say("Approved")
    assert world.store.dirty, "approval wakes the operator"
    await world.settle()
    assert sum(world.pods().values()) >= 1
    assert world.condition("Ready")["status"] == "True"
    assert world.condition("Planned")["reason"] == "Planned"
    assert world.state() == ("Applied", "Approved")
    assert await world.turn() == []


async def test_while_a_plan_waits_the_approved_one_stays_and_ready_with_it(serving):
    before = serving.pods()
    serving.demand(3000)
    writes = await serving.turn()
    assert serving.pods() == before
    assert {kind for verb, kind, _ in writes if verb in ("apply", "delete")} == {"PlacementPlan"}
    assert serving.plans().keys() == {"plan-000001", "plan-000002"}
    assert serving.state("plan-000001") == ("Applied", "Approved")
    assert serving.state("plan-000002") == ("AwaitingApproval", None)
    assert serving.condition("Ready")["status"] == "True"
    assert serving.condition("Planned")["reason"] == "AwaitingApproval"
    assert serving.condition("SLOMet")["status"] == "Unknown"
    assert serving.condition("Rebalancing")["status"] == "False"
    status = serving.status()
    assert status["observedGeneration"] == 2
    assert {item["name"]: item["replicas"]["desired"] for item in status["placements"]} == before
    assert status["planRef"]["name"] == "plan-000001"
    policy = serving.status(POLICY)
    assert policy["lastPlanRef"]["name"] == "plan-000002"
    assert float(policy["costPerHour"]) == float(status["costPerHour"])
    assert await serving.turn() == []


async def test_the_fleet_is_held_to_the_approved_plan(serving):
    before = serving.pods()
    serving.demand(3000)
    await serving.turn()
    (name,) = before
    (live,) = serving.store.live(DEPLOYMENT)
    scaled = copy.deepcopy(dict(live))
    scaled["spec"]["replicas"] = before[name] + 2
    serving.see(DEPLOYMENT, scaled)
    for _ in range(3):
        await serving.turn()
    assert serving.pods() == before
    serving.store.drop(DEPLOYMENT, live["metadata"]["uid"])
    await serving.turn()
    assert serving.pods() == before


async def test_an_approved_change_is_applied_and_replaces_the_one_before(serving):
    before = serving.pods()
    serving.demand(3000)
    await serving.turn()
    serving.say("Approved")
    await serving.settle()
    assert sum(serving.pods().values()) > sum(before.values())
    assert serving.state("plan-000001") == ("Superseded", "Replaced")
    assert serving.state("plan-000002") == ("Applied", "Approved")
    assert serving.status()["planRef"]["name"] == "plan-000002"
    assert serving.condition("SLOMet")["status"] == "True"


async def test_an_approval_of_a_plan_that_has_been_overtaken_is_refused(serving):
    before = serving.pods()
    serving.demand(3000)
    await serving.turn()
    serving.demand(6000, generation=3)
    serving.say("Approved", "plan-000002")
    await serving.turn()
    assert serving.pods() == before
    assert serving.state("plan-000002") == ("Refused", "Stale")
    assert serving.state("plan-000003") == ("AwaitingApproval", None)
    # Also when it was set aside before the person spoke.
    serving.demand(3000, generation=4)
    await serving.turn()
    assert serving.state("plan-000003") == ("Superseded", "Outdated")
    serving.say("Approved", "plan-000003")
    await serving.turn()
    assert serving.state("plan-000003") == ("Refused", "Stale")
    assert "plan-000004" in serving.plans()["plan-000003"]["message"]
    assert serving.pods() == before


async def test_an_old_approval_does_not_bring_an_old_plan_back(serving):
    first = serving.pods()
    serving.demand(3000)
    await serving.turn()
    serving.say("Approved")
    await serving.settle()
    second = serving.pods()
    serving.demand(60, generation=3)
    await serving.turn()
    assert serving.pods() == second != first
    assert (
        serving.plan("plan-000003")["spec"]["decisionDigest"] == serving.plan("plan-000001")["spec"]["decisionDigest"]
    )
    assert serving.state("plan-000001") == ("Superseded", "Replaced")
    assert serving.state("plan-000003") == ("AwaitingApproval", None)


@pytest.mark.parametrize("fault", ["edited", "missing", "garbage"])
async def test_a_plan_whose_details_were_tampered_with_is_refused_and_offered_anew(world, fault):
    await world.turn()
    (details,) = world.details()
    if fault == "missing":
        del world.cluster.objects[details["metadata"]["uid"]]
    else:
        edited = copy.deepcopy(details)
        packed = b"nonsense" if fault == "garbage" else _with_more_replicas(world, details)
        edited["binaryData"][KEY] = base64.b64encode(packed).decode()
        world.cluster.objects[details["metadata"]["uid"]] = edited
    world.say("Approved")
    await world.turn()
    assert world.pods() == {}
    assert world.state("plan-000001") == ("Refused", "DetailsMissing" if fault == "missing" else "DigestMismatch")
    assert world.state("plan-000002") == ("AwaitingApproval", None)
    world.say("Approved", "plan-000002")
    await world.settle()
    assert world.state("plan-000002") == ("Applied", "Approved")
    assert world.pods()


def _with_more_replicas(world, details):
    import gzip

    content = gzip.decompress(base64.b64decode(details["binaryData"][KEY]))
    return gzip.compress(content.replace(b'"replicas":1', b'"replicas":4'), mtime=0)


async def test_a_rejected_plan_is_not_offered_again_until_something_else_was_in_force(serving):
    before = serving.pods()
    serving.demand(3000)
    await serving.turn()
    serving.say("Rejected")
    await serving.turn()
    assert serving.state("plan-000002") == ("Rejected", None)
    assert serving.condition("Ready")["status"] == "True"
    assert await serving.turn() == []
    serving.restart()
    await serving.turn()
    # Something else comes and goes: the answer of then still holds.
    serving.demand(6000, generation=3)
    await serving.turn()
    serving.demand(3000, generation=4)
    await serving.turn()
    assert serving.plans().keys() == {"plan-000001", "plan-000002", "plan-000003"}
    assert serving.state("plan-000003") == ("Superseded", "Outdated")
    assert serving.pods() == before
    # The person thinks better of it.
    serving.say("Approved", "plan-000002")
    await serving.settle()
    assert serving.state("plan-000002") == ("Applied", "Approved")
    assert sum(serving.pods().values()) > sum(before.values())


async def test_after_a_restart_an_approved_transition_goes_on_although_another_plan_waits(serving):
    before = serving.pods()
    serving.demand(3000)
    await serving.turn()
    serving.say("Approved")
    await serving.turn()
    half = serving.pods()
    assert sum(half.values()) > sum(before.values())
    serving.demand(60, generation=3)
    serving.restart()
    await serving.settle()
    assert serving.pods() == half, "neither taken back nor shrunk for the plan that waits"
    assert serving.state("plan-000002") == ("Applied", "Approved")
    assert serving.state("plan-000003") == ("AwaitingApproval", None)


async def test_without_readable_details_a_restart_leaves_what_runs_as_it_is(serving):
    (details,) = serving.details()
    del serving.cluster.objects[details["metadata"]["uid"]]
    before = serving.pods()
    serving.restart()
    assert await serving.turn() == [], "the present plan is the approved one"
    serving.demand(3000)
    serving.restart()
    writes = await serving.turn()
    assert serving.pods() == before
    assert {kind for verb, kind, _ in writes if verb in ("apply", "delete")} == {"PlacementPlan"}
    assert serving.condition("Ready")["status"] == "True"
    serving.say("Approved")
    await serving.settle()
    assert sum(serving.pods().values()) > sum(before.values())


async def test_what_changes_no_pod_needs_no_approval(serving):
    match = {"headers": [{"name": "x-class", "value": "gold"}]}
    size = {"input": 500, "output": 100}
    spec = serving.deployment("assistant")["spec"]
    gold = [
        {"name": "default", "requestsPerMinute": 60, "tokens": size},
        {"name": "gold", "requestsPerMinute": 0, "tokens": size, "match": match},
    ]
    serving.see(LLM, serving.deployment("assistant", generation=2, traffic=gold))
    await serving.turn()
    waiting = serving.condition("Planned")["reason"] == "AwaitingApproval"
    assert waiting, "a new class is served under a new name: new pods"
    serving.see(LLM, serving.deployment("assistant", generation=3, **{**spec, "routing": {"vllmRouter": True}}))
    await serving.turn()
    await serving.turn()
    assert serving.condition("Planned")["reason"] == "Planned"
    (document,) = serving.store.live(CONFIG_MAP)
    assert "vllm-router.json" in document["data"]


async def test_a_waiting_plan_of_one_deployment_does_not_hold_up_the_others(serving):
    serving.see(LLM, serving.deployment("other"))
    await serving.turn()
    serving.say("Approved")
    await serving.settle()
    serving.demand(3000)
    await serving.turn()
    spec = serving.deployment("other")["spec"]
    serving.see(LLM, serving.deployment("other", generation=2, **{**spec, "routing": {"vllmRouter": True}}))
    await serving.turn()
    documents = {item["metadata"]["name"]: item for item in serving.store.live(CONFIG_MAP)}
    assert "vllm-router.json" in documents["other-routing"]["data"]
    reasons = {
        item["metadata"]["name"]: {c["type"]: c["reason"] for c in item["status"]["conditions"]}["Planned"]
        for item in serving.store.live(LLM)
    }
    assert reasons == {"assistant": "AwaitingApproval", "other": "Planned"}


async def test_routing_follows_ready_pods_while_a_plan_waits(serving):
    serving.demand(3000)
    await serving.turn()
    (live,) = serving.store.live(CONFIG_MAP)
    gone = copy.deepcopy(dict(live))
    serving.store.drop(CONFIG_MAP, gone["metadata"]["uid"])
    await serving.turn()
    (document,) = serving.store.live(CONFIG_MAP)
    before, after = (json.loads(item["data"]["routing.json"]) for item in (gone, document))
    # It is made anew, and readers ignore smaller epochs than they have seen.
    assert after.pop("epoch") > before.pop("epoch")
    assert after == before


async def test_from_automatic_to_manual_what_runs_stays_and_back_again_everything_is_applied(world):
    world.policy("Automatic")
    await world.settle()
    before = world.pods()
    world.policy("Manual")
    assert not [write for write in await world.turn() if write[0] in ("apply", "delete")]
    world.restart()
    world.demand(3000)
    await world.turn()
    assert world.pods() == before
    assert world.state("plan-000002") == ("AwaitingApproval", None)
    world.policy("Recommend")
    await world.turn()
    assert world.state("plan-000001") == ("Applied", None)
    assert world.state("plan-000002") == ("Recommended", None)
    assert world.pods() == before
    world.policy("Automatic")
    await world.settle()
    assert sum(world.pods().values()) > sum(before.values())
    assert world.state("plan-000002") == ("Applied", None)
    assert world.state("plan-000001") == ("Superseded", "Replaced")


async def test_a_killed_operator_goes_on_with_the_approved_plan(serving):
    serving.demand(3000)
    await serving.turn()
    serving.say("Approved")
    # Killed right after the approval was heard: nothing of the plan was applied, and the fleet asks for less again.
    serving.cluster.refuse["apply", "Deployment", "*"] = 503
    await serving.turn()
    assert serving.state("plan-000002") == ("Applying", "Approved")
    serving.cluster.refuse.clear()
    serving.demand(60, generation=3)
    serving.restart()
    await serving.settle()
    assert sum(serving.pods().values()) > 1
    assert serving.state("plan-000002") == ("Applied", "Approved")


async def test_an_approval_that_cannot_be_recorded_is_tried_again_and_applies_nothing(serving):
    before = serving.pods()
    serving.demand(3000)
    await serving.turn()
    serving.say("Approved")
    serving.cluster.refuse["status", "PlacementPlan", "*"] = 500
    await serving.turn()
    assert serving.pods() == before
    serving.cluster.refuse.clear()
    await serving.settle()
    assert sum(serving.pods().values()) > sum(before.values())


async def test_a_deployment_that_is_deleted_or_broken_is_not_brought_back(serving):
    serving.demand(3000)
    await serving.turn()
    serving.see(LLM, serving.deployment("assistant", generation=3, models=[{"name": "nobody/unknown"}]))
    assert not [write for write in await serving.turn() if write[1] in ("Deployment", "Service", "ConfigMap")]
    assert serving.condition("Planned")["reason"] == "UnknownModel"
    serving.store.drop(LLM, "uid-LLMDeployment-assistant")
    assert not [write for write in await serving.turn() if write[1] in ("Deployment", "Service", "ConfigMap")]


async def test_the_whole_decision_is_kept_beside_the_plan(world):
    world.policy("Automatic")
    await world.turn()
    spec = world.plan()["spec"]
    content = details_content(world.details(), spec["detailsDigest"].removeprefix("sha256:"))
    fleet = restored(content)
    assert archived(fleet) == content
    (plan,) = fleet.deployments
    assert [(item["name"], item["replicas"]["desired"]) for item in world.status()["placements"]] == [
        (item.name, item.replicas) for item in plan.placements
    ]
    (owner,) = world.details()[0]["metadata"]["ownerReferences"]
    assert owner["uid"] == world.plan()["metadata"]["uid"]


async def test_the_plan_in_force_is_kept_however_many_wait_after_it(serving):
    for number in range(25):
        least = {"replicas": {"min": 2 + number % 2}}
        serving.see(LLM, serving.deployment("assistant", generation=2 + number, placement=least))
        await serving.turn()
    kept = serving.plans()
    assert kept["plan-000001"]["state"] == "Applied"
    assert len(kept) == 21


async def test_an_approval_is_a_release_of_the_guard_against_mass_removal(world):
    world.policy("Manual")
    world.see(LLM, world.deployment("assistant", placement={"replicas": {"min": 6}}))
    await world.turn()
    world.say("Approved")
    await world.settle()
    assert sum(world.pods().values()) == 6
    world.see(LLM, world.deployment("assistant", generation=2))
    await world.turn()
    assert sum(world.pods().values()) == 6
    world.say("Approved")
    await world.settle()
    assert sum(world.pods().values()) == 1
