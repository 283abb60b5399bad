"""An upgrade of Plimsoll: what another release made goes on as it is, in whole turns of the loop."""

import copy
import json

import pytest

import plimsoll
from plimsoll.controller.kinds import CONFIG_MAP, DEPLOYMENT
from plimsoll.planning import Evaluator, identity, images, keeping, renewal
from plimsoll.rendering import labels, record
from plimsoll.rendering.engine import vllm
from tests.unit.controller import test_loop
from tests.unit.controller.test_loop import LLM, World, settle

OLD_IMAGE = "vllm/vllm-openai:v0.17.0"


def become(monkeypatch, release, image=None, grace=None):
    """The operator's code as another release has it: its number, its pinned image, its rendering."""
    for module in (keeping, renewal, record):
        monkeypatch.setattr(module, "__version__", release)
    if image:
        monkeypatch.setattr(images, "PINNED", {"nvidia": image})
        monkeypatch.setattr(identity, "TEMPLATE_RELEASE", 0)
        monkeypatch.setattr(vllm, "TERMINATION_GRACE_SECONDS", grace)
    # A process knows no other release: what it remembers is its own.
    monkeypatch.setattr(test_loop, "EVALUATOR", Evaluator())


@pytest.fixture
async def upgraded():
    """A world that another release has settled, under the present one."""
    with pytest.MonkeyPatch.context() as patch:
        become(patch, "0.0.9", OLD_IMAGE, 11)
        world = World()
        await settle(world)
    with pytest.MonkeyPatch.context() as patch:
        become(patch, plimsoll.__version__)
        world.restart()
        yield world


def running(world):
    return {item["metadata"]["name"]: item for item in world.store.live(DEPLOYMENT)}


def template(workload):
    return workload["spec"]["template"]


async def test_an_upgrade_renames_nothing_and_restarts_nothing(upgraded):
    (before,) = running(upgraded).values()
    assert template(before)["spec"]["containers"][0]["image"] == OLD_IMAGE
    await upgraded.turn()
    assert running(upgraded) == {before["metadata"]["name"]: before}, "not even its annotations are written"
    assert upgraded.status()["placements"][0]["image"] == OLD_IMAGE
    assert upgraded.condition("Ready")["status"] == "True"
    assert upgraded.condition("Rebalancing")["status"] == "False"
    assert await upgraded.turn() == []


async def test_a_person_is_told_what_runs_and_how_to_have_it_made_anew(upgraded):
    await upgraded.turn()
    message = upgraded.condition("Planned")["message"]
    assert f"runs as release 0.0.9 made it with image {OLD_IMAGE}, and is kept" in message
    assert f"by release {plimsoll.__version__}, with image {images.PINNED['nvidia']}" in message
    assert f"--overwrite plimsoll.dev/renew={plimsoll.__version__}" in message


async def test_what_another_release_made_still_grows_and_shrinks(upgraded):
    (before,) = running(upgraded).values()
    for generation, (least, wanted) in enumerate(((3, 3), (1, 1)), start=2):
        spec = {"placement": {"replicas": {"min": least}}}
        upgraded.see(LLM, upgraded.deployment("assistant", generation=generation, **spec))
        await upgraded.turn()
        upgraded.pods_become_ready()
        await upgraded.turn()
        (document,) = upgraded.store.live(CONFIG_MAP)
        aged = copy.deepcopy(dict(document))
        aged["metadata"]["annotations"][labels.ROUTED_AT] = "2026-01-01T00:00:00Z"
        upgraded.see(CONFIG_MAP, aged)
        upgraded.restart()  # a new operator believes what the document says
        await upgraded.turn()
        (after,) = running(upgraded).values()
        assert after["spec"]["replicas"] == wanted
        assert template(after) == template(before)
        assert after["metadata"]["name"] == before["metadata"]["name"]


async def test_a_foreign_edit_is_put_back_to_what_the_other_release_rendered(upgraded):
    (before,) = running(upgraded).values()
    edited = copy.deepcopy(dict(before))
    template(edited)["spec"]["containers"][0]["image"] = "example.com/mine:1"
    upgraded.see(DEPLOYMENT, edited)
    await upgraded.turn()
    (after,) = running(upgraded).values()
    assert template(after) == template(before)


async def test_an_edit_by_the_user_makes_a_placement_of_the_new_release(upgraded):
    (old,) = running(upgraded)
    upgraded.see(LLM, upgraded.deployment("assistant", generation=2, engine={"maxModelLength": 4096}))
    await upgraded.turn()
    now = running(upgraded)
    assert old in now
    (new,) = (item for name, item in now.items() if name != old)
    assert template(new)["spec"]["containers"][0]["image"] == images.PINNED["nvidia"]
    assert new["metadata"]["annotations"][labels.MADE_BY] == plimsoll.__version__


async def test_the_annotation_makes_everything_anew_by_an_ordinary_transition(upgraded):
    (old,) = running(upgraded)
    manifest = upgraded.deployment("assistant")
    manifest["metadata"]["annotations"] = {renewal.RENEW: plimsoll.__version__}
    upgraded.see(LLM, manifest)
    await upgraded.turn()
    now = running(upgraded)
    assert old in now, "the new pods come first"
    (new,) = now.keys() - {old}
    upgraded.pods_become_ready()
    await upgraded.turn()
    (document,) = upgraded.store.live(CONFIG_MAP)
    assert all(name in document["data"]["routing.json"] for name in (old, new)), "half of the requests move first"
    test_loop.age(upgraded)
    upgraded.restart()
    await upgraded.turn()
    (document,) = upgraded.store.live(CONFIG_MAP)
    assert old not in document["data"]["routing.json"]
    assert "runs as release" not in upgraded.condition("Planned")["message"]
    # Without the annotation, half-way, the new one is gone on with.
    upgraded.see(LLM, upgraded.deployment("assistant"))
    await upgraded.turn()
    (document,) = upgraded.store.live(CONFIG_MAP)
    assert new in document["data"]["routing.json"]


@pytest.mark.parametrize("value", ["0.0.9", "yes", ""])
async def test_an_annotation_for_another_release_does_nothing(upgraded, value):
    (before,) = running(upgraded).values()
    manifest = upgraded.deployment("assistant")
    manifest["metadata"]["annotations"] = {renewal.RENEW: value}
    upgraded.see(LLM, manifest)
    await upgraded.turn()
    assert running(upgraded) == {before["metadata"]["name"]: before}


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"template":{}}'])
async def test_a_workload_whose_record_was_spoilt_is_replaced_before_it_goes(upgraded, text):
    (old,) = running(upgraded)
    spoilt = copy.deepcopy(dict(running(upgraded)[old]))
    del spoilt["metadata"]["annotations"][labels.RENDERED]
    if text is not None:
        spoilt["metadata"]["annotations"][labels.RENDERED] = text
    upgraded.see(DEPLOYMENT, spoilt)
    await upgraded.turn()
    assert old in running(upgraded)
    assert len(running(upgraded)) == 2


async def test_the_record_is_the_spec_without_replicas(upgraded):
    (workload,) = running(upgraded).values()
    spec = json.loads(workload["metadata"]["annotations"][labels.RENDERED])
    assert {**spec, "replicas": 1} == workload["spec"]
