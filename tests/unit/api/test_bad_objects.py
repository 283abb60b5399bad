"""The table of bad objects, through pydantic."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from plimsoll.api.parse import InvalidResource, parse
from tests.bad_objects import BAD_OBJECTS, BadObject
from tests.good_objects import GOOD_OBJECTS
from tests.hostile_objects import HOSTILE_OBJECTS

EVERY = [*BAD_OBJECTS, *HOSTILE_OBJECTS]


def test_the_table_is_worth_its_name() -> None:
    names = [bad.name for bad in EVERY]
    assert len(names) == len(set(names)) >= 200


@pytest.mark.parametrize("bad", EVERY, ids=lambda bad: bad.name)
def test_bad_object_is_refused_and_the_message_names_the_field(bad: BadObject) -> None:
    with pytest.raises(InvalidResource) as caught:
        parse(bad.object)
    kind, name = bad.object["kind"], bad.object["metadata"]["name"]
    assert caught.value.object.startswith(f"{kind} ")
    assert caught.value.object.endswith(name)
    assert all(f"{line} ".startswith(f"{caught.value.object}: ") for line in str(caught.value).splitlines())
    assert bad.field in str(caught.value)
    assert len(caught.value.problems) == 1, str(caught.value)


@pytest.mark.parametrize("manifest", GOOD_OBJECTS.values(), ids=GOOD_OBJECTS)
def test_good_object_is_accepted_and_survives_the_round_trip(manifest: dict[str, Any]) -> None:
    before = copy.deepcopy(manifest)
    resource = parse(manifest)
    assert manifest == before
    assert parse(resource.to_wire()) == resource
