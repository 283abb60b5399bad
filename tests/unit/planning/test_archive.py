"""A plan that is kept beside its PlacementPlan is the plan that was decided, byte for byte, and nothing else."""

import json
import math
from dataclasses import replace

import pytest

from plimsoll.planning.archive import FORM, ArchiveError, archived, content_digest, restored
from plimsoll.rendering.details import KEY, PART_BYTES, compressed_parts, details_config_map, details_content
from tests.unit.planning import fleets


@pytest.fixture(scope="module")
def fleet():
    slo = fleets.objective(ttft=900)
    deployments = (
        fleets.deployment(slo="interactive"),
        fleets.deployment("large", model=fleets.LLAMA_70B),
        fleets.deployment("unknown", model="nobody/unknown"),
    )
    pools = (fleets.pool(), fleets.pool("h100", "H100-SXM-80GB", "2.50"))
    nodes = [*fleets.nodes(3), *fleets.nodes(2, "H100-SXM-80GB", 8, prefix="h100")]
    return fleets.plan(fleets.snapshot(*deployments, *pools, slo, nodes=nodes))


def test_what_is_read_back_is_what_was_decided(fleet):
    again = restored(archived(fleet))
    assert again.pools == fleet.pools
    assert again.findings == fleet.findings
    for mine, theirs in zip(again.deployments, fleet.deployments, strict=True):
        assert replace(mine, resource=theirs.resource) == theirs
        assert mine.resource.spec == theirs.resource.spec
        assert mine.resource.metadata.name == theirs.resource.metadata.name
    assert {str(item.state) for item in again.deployments} == {"Planned", "Held"}


def test_equal_plans_give_equal_bytes(fleet):
    content = archived(fleet)
    assert archived(restored(content)) == content
    assert compressed_parts(content) == compressed_parts(archived(restored(content)))


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (lambda document: document.update(form="plimsoll.dev/plan-details/v9"), FORM),
        (lambda document: document["fleet"].pop("digest"), "digest"),
        (lambda document: document["fleet"].update(deployments=None), "not a plan"),
        (lambda document: document["fleet"]["deployments"][0]["placements"][0].update(replicas="4"), "'4'"),
        (lambda document: document["fleet"]["deployments"][0].update(state="Perhaps"), "Perhaps"),
        (lambda document: document["fleet"]["deployments"][0]["resource"]["spec"].pop("models"), "does not parse"),
    ],
)
def test_what_is_no_plan_is_refused_with_the_reason(fleet, edit, text):
    document = json.loads(archived(fleet))
    edit(document)
    with pytest.raises(ArchiveError, match=text):
        restored(json.dumps(document).encode())


def test_figures_without_end_are_not_written_as_something_that_is_no_json(fleet):
    with pytest.raises(ValueError, match="JSON"):
        archived(replace(fleet, objective_per_hour=math.inf))


def _maps(content):
    return [
        details_config_map("plan-000007", "uid-7", "plimsoll-system", number, part)
        for number, part in enumerate(compressed_parts(content))
    ]


def test_details_go_through_config_maps_that_the_plan_owns(fleet):
    content = archived(fleet)
    (config_map,) = _maps(content)
    assert details_content([config_map], content_digest(content)) == content
    (owner,) = config_map["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("PlacementPlan", "plan-000007", "uid-7")
    assert "app.kubernetes.io/managed-by" not in config_map["metadata"]["labels"], "it must not wake the planner"


def test_large_details_are_divided_and_none_is_above_what_a_config_map_holds():
    import random

    content = random.Random(1).randbytes(3 * PART_BYTES)  # does not compress
    maps = _maps(content)
    assert len(maps) == 4
    assert all(len(item["binaryData"][KEY]) <= 700 * 1024 for item in maps)
    assert details_content(maps, content_digest(content)) == content
    with pytest.raises(ArchiveError):
        details_content(maps[:-1], content_digest(content))
    with pytest.raises(ArchiveError):
        details_content(maps[::-1], content_digest(content))
    with pytest.raises(ValueError, match="16 ConfigMaps"):
        compressed_parts(random.Random(1).randbytes(16 * PART_BYTES))


def test_details_that_were_edited_are_refused(fleet):
    content = archived(fleet)
    with pytest.raises(ArchiveError, match="detailsDigest"):
        details_content(_maps(content.replace(b'"replicas":1', b'"replicas":2')), content_digest(content))
    (config_map,) = _maps(content)
    for wrong in ("%%%", "bm9uc2Vuc2U=", ""):
        with pytest.raises(ArchiveError):
            details_content([{**config_map, "binaryData": {KEY: wrong}}], content_digest(content))
