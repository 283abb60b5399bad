"""What the PlacementPolicy must allow before an LLMDeployment is planned."""

from __future__ import annotations

from typing import Any

import pytest

from plimsoll.planning.plan import DeploymentState
from tests.unit.planning.fleets import (
    applied,
    deployment,
    exchanged,
    finding,
    nodes,
    plan,
    plan_of,
    policy,
    pool,
    snapshot,
)

TALK = {"name": "talk", "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "chat"}}}
ANTI = {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "zone", "namespaceSelector": {}}]}


def fleet(engine: dict[str, Any], **rules: Any) -> Any:
    return snapshot(pool(), policy(**rules), deployment(engine=engine), nodes=nodes(2))


CLASSY = {"podTemplate": {"priorityClassName": "serving"}}
REMOTE = {"extraArgs": ["--seed=1", "--trust_remote_code"]}
FOLDER = {"modelCache": {"hostPath": {"path": "/var/lib/models"}}}


@pytest.mark.parametrize(
    ("engine", "rules", "reason", "says"),
    [
        (
            CLASSY,
            {},
            "PriorityClassNotAllowed",
            "priorityClassName: serving is not in spec.security.priorityClassNames of PlacementPolicy default; it",
        ),
        (CLASSY, {"security": {"priorityClassNames": ["batch"]}}, "PriorityClassNotAllowed", "it lists batch"),
        (
            CLASSY,
            {"security": {"priorityClassNames": ["serving"]}, "tenants": [{**TALK, "priorityClassNames": []}]},
            "PriorityClassNotAllowed",
            "serving is not in priorityClassNames of tenant talk",
        ),
        (REMOTE, {}, "RemoteCodeNotAllowed", "spec.engine.extraArgs[1]: --trust_remote_code runs code"),
        (
            {"extraArgs": ["--trust-remote"]},
            {"security": {"allowHostPath": True}},
            "RemoteCodeNotAllowed",
            "allowTrustRemoteCode",
        ),
        (FOLDER, {}, "HostPathNotAllowed", "spec.engine.modelCache.hostPath: /var/lib/models is a folder of the node"),
        (
            {"podTemplate": {"affinity": {"podAntiAffinity": ANTI}}},
            {},
            "AffinityNotAllowed",
            "podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].namespaceSelector",
        ),
        (
            {"podTemplate": {"affinity": {"nodeAffinity": {"padding": "x" * 20_000}}}},
            {},
            "AffinityNotAllowed",
            "at most 16384",
        ),
    ],
)
def test_what_is_not_allowed_is_held_and_what_runs_stays(
    engine: dict[str, Any], rules: dict[str, Any], reason: str, says: str
) -> None:
    before = fleet({}, **rules)
    running = applied(before, plan(before))
    decided = plan(exchanged(running, deployment(engine=engine)))
    assert plan_of(decided).state is DeploymentState.HELD
    assert says in finding(decided, reason).message


@pytest.mark.parametrize(
    ("engine", "rules"),
    [
        (CLASSY, {"security": {"priorityClassNames": ["serving"]}}),
        (CLASSY, {"tenants": [{**TALK, "priorityClassNames": ["serving"]}]}),
        (REMOTE, {"security": {"allowTrustRemoteCode": True}}),
        (FOLDER, {"security": {"allowHostPath": True}}),
        ({"podTemplate": {"affinity": {"podAntiAffinity": {}}}}, {}),
    ],
)
def test_what_is_allowed_is_planned(engine: dict[str, Any], rules: dict[str, Any]) -> None:
    assert plan_of(plan(fleet(engine, **rules))).state is DeploymentState.PLANNED
