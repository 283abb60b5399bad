"""What is decoded of the API server's answers."""

import json
import typing
from types import NoneType

import pytest

from plimsoll.controller import wire
from plimsoll.controller.extract import facts_of
from plimsoll.controller.kinds import DEPLOYMENT, NODE, POD
from plimsoll.rendering import labels
from plimsoll.rendering.observe import node_facts, pod_facts

SINCE = "2026-01-01T00:00:00Z"
CONDITIONS = [
    {"type": type_, "status": status, "reason": "Good", "message": "all is well", "lastTransitionTime": SINCE}
    for type_, status in (("PodScheduled", "True"), ("Ready", "False"))
]
AMOUNTS = {"requests": {"cpu": "2", "nvidia.com/gpu": "1"}, "limits": {"memory": "4Gi"}, "claims": [{"name": "c"}]}
METADATA = {
    "name": "one",
    "uid": "u1",
    "resourceVersion": "7",
    "labels": {labels.MANAGED_BY: labels.MANAGER, labels.PLACEMENT: "assistant-1"},
    "annotations": {"a": "b"},
    "deletionTimestamp": None,
    "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {}}}],
}
NODE_OBJECT = {
    "metadata": METADATA,
    "spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule", "timeAdded": "x"}], "unschedulable": True},
    "status": {
        "allocatable": {"cpu": "31500m", "memory": "128Gi", "nvidia.com/gpu": "4", "pods": "110"},
        "capacity": {"cpu": "32"},
        "conditions": CONDITIONS,
        "images": [{"names": ["a"], "sizeBytes": 5}],
    },
}
POD_OBJECT = {
    "metadata": {**METADATA, "namespace": "chat"},
    "spec": {
        "nodeName": "n1",
        "containers": [{"name": "main", "resources": AMOUNTS, "env": [{"name": "A", "value": "b"}]}],
        "initContainers": [{"name": "first", "resources": AMOUNTS, "restartPolicy": "Always"}],
        "resources": AMOUNTS,
        "overhead": {"cpu": "250m"},
        "tolerations": [{"operator": "Exists"}],
    },
    "status": {"phase": "Running", "conditions": CONDITIONS, "podIP": "10.0.0.1"},
}
OBJECTS = [(NODE, NODE_OBJECT, node_facts, wire.NodePart), (POD, POD_OBJECT, pod_facts, wire.PodPart)]


class Noting(dict):
    """A JSON object that notes which fields somebody asks for, also those that it lacks."""

    def __init__(self, content, asked, path=()):
        super().__init__({key: _noting(value, asked, (*path, key)) for key, value in content.items()})
        self._asked, self._path = asked, path

    def get(self, key, default=None):
        self._asked.add((*self._path, key))
        return super().get(key, default)

    def __getitem__(self, key):
        self._asked.add((*self._path, key))
        return super().__getitem__(key)


def _noting(value, asked, path):
    if isinstance(value, list):
        return [_noting(item, asked, path) for item in value]
    return Noting(value, asked, path) if isinstance(value, dict) else value


def _is_decoded(part, path):
    """Whether the type of a part has the field; maps have them all."""
    for key in path:
        (part,) = {item for item in typing.get_args(part) if item is not NoneType} or {part}
        part = typing.get_args(part)[0] if typing.get_origin(part) is list else part
        if typing.get_origin(part) is dict:
            return True
        if key not in typing.get_type_hints(part):
            return False
        part = typing.get_type_hints(part)[key]
    return True


@pytest.mark.parametrize(("kind", "content", "facts", "part"), OBJECTS, ids=["node", "pod"])
def test_every_field_that_is_read_is_decoded(kind, content, facts, part):
    asked = set()
    facts(Noting(content, asked))
    assert len(asked) > 8
    assert {path for path in asked if not _is_decoded(part, path)} == set()
    assert facts_of(kind, wire.manifest_of(kind, json.dumps(content).encode())) == facts_of(kind, content)


@pytest.mark.parametrize(("kind", "content", "facts", "part"), OBJECTS, ids=["node", "pod"])
def test_what_is_not_read_is_not_kept(kind, content, facts, part):
    decoded = json.dumps(wire.manifest_of(kind, json.dumps(content).encode()))
    assert not [word for word in ("managedFields", "images", "tolerations", "env", "capacity") if word in decoded]


@pytest.mark.parametrize("content", [{}, {"spec": None}, {"spec": {"containers": None}, "status": None}])
def test_what_is_null_or_missing_is_nothing(content):
    whole = {"metadata": {"name": "one", "uid": "u1", "labels": None}, **content}
    for kind in (NODE, POD):
        assert facts_of(kind, wire.manifest_of(kind, json.dumps(whole).encode())) == facts_of(kind, whole)


def test_of_other_kinds_everything_is_kept():
    content = {"metadata": METADATA, "spec": {"replicas": 2}, "status": {"readyReplicas": 1}}
    found = wire.manifest_of(DEPLOYMENT, json.dumps(content).encode())
    assert found == {"apiVersion": "apps/v1", "kind": "Deployment", **content}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"metadata": {"labels": {"a": 1}}}', '{"spec": []}'])
def test_what_is_no_such_object_is_refused(text):
    with pytest.raises(wire.UnreadableError):
        wire.manifest_of(POD, text.encode())
