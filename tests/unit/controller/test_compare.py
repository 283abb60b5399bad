"""When an apply can be left out: never wrongly, and always when nothing would change."""

import copy

import pytest

from plimsoll.controller.compare import is_applied, is_subset

MANAGER = "plimsoll-workloads"

DESIRED = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "w", "namespace": "chat", "labels": {"a": "1"}},
    "spec": {
        "replicas": 2,
        "template": {
            "spec": {
                "tolerations": [],
                "containers": [
                    {
                        "name": "engine",
                        "args": ["--model", "x"],
                        "env": [{"name": "A", "value": ""}, {"name": "B", "value": "2"}],
                        "resources": {"limits": {"memory": "1024Mi", "nvidia.com/gpu": "1"}},
                        "ports": [{"containerPort": 8000, "name": "http"}],
                    }
                ],
            }
        },
    },
}

OWNED = {
    "f:metadata": {"f:labels": {"f:a": {}}},
    "f:spec": {
        "f:replicas": {},
        "f:template": {
            "f:spec": {
                "f:containers": {
                    'k:{"name":"engine"}': {
                        ".": {},
                        "f:name": {},
                        "f:args": {},
                        "f:env": {
                            'k:{"name":"A"}': {".": {}, "f:name": {}},
                            'k:{"name":"B"}': {".": {}, "f:value": {}},
                        },
                        "f:ports": {'k:{"containerPort":8000,"protocol":"TCP"}': {".": {}, "f:name": {}}},
                    }
                }
            }
        },
    },
}


def live():
    """The desired object as the API server gives it back: with defaults, canonical, without empty values."""
    found = copy.deepcopy(DESIRED)
    found["metadata"] |= {
        "uid": "u",
        "managedFields": [{"manager": MANAGER, "operation": "Apply", "fieldsV1": copy.deepcopy(OWNED)}],
    }
    found["spec"]["strategy"] = {"type": "RollingUpdate"}
    pod = found["spec"]["template"]["spec"]
    del pod["tolerations"]
    container = pod["containers"][0]
    container["imagePullPolicy"] = "Always"
    del container["env"][0]["value"]
    container["resources"]["limits"]["memory"] = "1Gi"
    container["ports"][0]["protocol"] = "TCP"
    return found


def container(manifest):
    return manifest["spec"]["template"]["spec"]["containers"][0]


def test_server_defaults_and_spellings_need_no_apply():
    assert is_applied(DESIRED, live(), MANAGER)


def test_what_never_was_applied_by_us_is_applied():
    found = live()
    found["metadata"]["managedFields"] = []
    assert not is_applied(DESIRED, found, MANAGER)


@pytest.mark.parametrize(
    "edit",
    [
        lambda o: o["spec"].update(replicas=3),
        lambda o: o["metadata"]["labels"].update(a="2"),
        lambda o: o["metadata"].pop("labels"),
        lambda o: container(o)["args"].append("--more"),
        lambda o: container(o)["args"].reverse(),
        lambda o: container(o)["env"].pop(),
        lambda o: container(o)["env"][1].update(value="3"),
        lambda o: container(o)["resources"]["limits"].update(memory="2Gi"),
        lambda o: container(o)["ports"][0].update(containerPort=9000),
    ],
)
def test_any_foreign_edit_of_an_owned_field_needs_an_apply(edit):
    found = live()
    edit(found)
    assert not is_applied(DESIRED, found, MANAGER)


@pytest.mark.parametrize(
    "edit",
    [
        lambda o: o["metadata"]["labels"].pop("a"),
        lambda o: container(o)["env"].pop(),
        lambda o: container(o).pop("ports"),
        lambda o: o["spec"].pop("replicas"),
    ],
)
def test_what_is_no_longer_rendered_needs_an_apply_that_removes_it(edit):
    desired = copy.deepcopy(DESIRED)
    edit(desired)
    assert is_subset(desired, live())
    assert not is_applied(desired, live(), MANAGER)


def test_what_others_add_needs_no_apply():
    found = live()
    found["metadata"]["labels"]["theirs"] = "x"
    found["metadata"]["annotations"] = {"deployment.kubernetes.io/revision": "1"}
    container(found)["env"].append({"name": "INJECTED", "value": "x"})
    assert is_applied(DESIRED, found, MANAGER)


def test_quantities_count_by_value_only_where_quantities_stand():
    assert is_subset({"limits": {"cpu": "1000m"}}, {"limits": {"cpu": "1"}})
    assert not is_subset({"env": {"x": "1000m"}}, {"env": {"x": "1"}})
    assert not is_subset({"value": True}, {"value": 1})
