"""Whatever people do and in whatever order: under Manual approval only what a person has approved ever runs."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.controller.kinds import DEPLOYMENT
from tests.unit.controller.test_approval import LLM, World

ACTIONS = st.one_of(
    st.tuples(st.just("replicas"), st.integers(1, 4)),
    st.tuples(st.just("approve"), st.integers(1, 6)),
    st.tuples(st.just("reject"), st.integers(1, 6)),
    st.tuples(st.just("restart"), st.none()),
    st.tuples(st.just("lose details"), st.integers(1, 6)),
    st.tuples(st.just("scale by hand"), st.integers(0, 5)),
    st.tuples(st.just("delete by hand"), st.none()),
    st.tuples(st.just("fail"), st.none()),
)


@settings(max_examples=15, deadline=None)
@given(st.lists(ACTIONS, min_size=4, max_size=12))
def test_only_what_was_approved_runs(actions):
    asyncio.run(_play(actions))


async def _play(actions):
    world = World()
    world.policy("Manual")
    await world.settle()
    generation = 1
    approved, lost, sizes = {0}, False, {}
    for action, argument in actions:
        sizes.update(_sizes(world))
        name = f"plan-{argument or 0:06d}"
        exists = name in world.plans()
        match action:
            case "replicas":
                generation += 1
                least = {"replicas": {"min": argument}}
                world.see(LLM, world.deployment("assistant", generation=generation, placement=least))
            case "approve" if exists:
                approved.add(sizes[name])
                world.say("Approved", name)
            case "reject" if exists and not (world.plan(name)["spec"].get("approval") or {}):
                world.say("Rejected", name)
            case "restart":
                world.restart()
            case "lose details" if exists:
                lost = True
                for item in world.details(name):
                    del world.cluster.objects[item["metadata"]["uid"]]
            case "scale by hand" | "delete by hand":
                for live in world.store.live(DEPLOYMENT):
                    if action == "delete by hand":
                        world.store.drop(DEPLOYMENT, live["metadata"]["uid"])
                    else:
                        changed = {**live, "spec": {**live["spec"], "replicas": argument}}
                        world.see(DEPLOYMENT, changed)
                        # Without details a restart cannot know what was in force, and leaves what runs.
                        approved |= {argument} if lost else set()
            case "fail":
                world.cluster.refuse["apply", "Deployment", "*"] = 503
                await world.turn()
                world.cluster.refuse.clear()
        await world.settle()
        assert sum(world.pods().values()) in approved, (action, argument, world.plans())
        in_force = [name for name, status in world.plans().items() if status.get("state") in ("Applying", "Applied")]
        assert len(in_force) <= 1
        assert await world.turn() == [], "at rest nothing is written"


def _sizes(world):
    """How many replicas each plan asks for that nobody has said anything to yet."""
    plans = (item for item in world.cluster.objects.values() if item["kind"] == "PlacementPlan")
    return {
        item["metadata"]["name"]: item["spec"]["summary"]["replicas"] for item in plans if "summary" in item["spec"]
    }
