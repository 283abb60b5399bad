"""The chart's role grants what the operator uses, no more and no less. Runs last and judges the whole session."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from devcluster.audit import Mark
from devcluster.installation import NAMESPACE as NAMESPACE_OF_OPERATOR
from devcluster.installation import RELEASE, USER
from plimsoll.rendering import labels
from tests.bad_objects import PROFILE
from tests.control_plane.bench import Bench, Manifest, llm_deployment, placements, policy, pool, settled, slo

NAMESPACE = "chat"
NAME = "assistant"
KEPT_PLANS = 20

Right = tuple[str, str, str]
"""API group, resource (with subresource), verb."""
UNUSED_ON_PURPOSE: dict[Right, str] = {}
"""Rights that no test makes the operator use, each with the reason why it has them."""


def _old_plan(number: int) -> Manifest:
    summary = {"deployments": 1, "placements": 1, "replicas": 1, "gpus": 1, "changedDeployments": 1}
    spec = {"inputsDigest": f"sha256:{number:064x}", "costPerHour": "1.00", "summary": summary}
    return {
        "apiVersion": "plimsoll.dev/v1alpha1",
        "kind": "PlacementPlan",
        "metadata": {"name": f"plan-{number:06}"},
        "spec": spec,
    }


@pytest.fixture
def exercised(bench: Bench, gateway_api: Callable[[], None]) -> Bench:
    """Everything that the operator may have to do, once."""
    gateway_api()
    bench.operator.stop()
    targets = {"ttft": {"percentile": 95, "milliseconds": 2000}}
    profile = {**PROFILE, "metadata": {"name": "own-model"}}
    bench.apply(policy(), pool("l40s", "L40S", "1.10"), slo("unused", NAMESPACE, **targets), profile)
    bench.apply(*(_old_plan(number) for number in range(1, KEPT_PLANS + 1)))
    route = {"httpRoute": {"parentRefs": [{"name": "public"}]}}
    bench.apply(llm_deployment(NAME, NAMESPACE, placement={"replicas": {"min": 2}}, routing=route))
    bench.start()
    (deployment,) = bench.settle()
    (old,) = placements(deployment)
    owner = {
        "apiVersion": deployment["apiVersion"],
        "kind": "LLMDeployment",
        "name": NAME,
        "uid": deployment["metadata"]["uid"],
    }
    leftover = {"name": "of-an-earlier-release", "namespace": NAMESPACE, "ownerReferences": [owner]}
    own = {labels.MANAGED_BY: labels.MANAGER, labels.LLM_DEPLOYMENT: NAME}
    bench.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {**leftover, "labels": own}})
    bench.set(NAME, NAMESPACE, "/spec/engine/extraArgs", ["--enable-prefix-caching"])
    bench.patch("llmdeployment", NAME, NAMESPACE, {"op": "remove", "path": "/spec/routing/httpRoute"})

    def done() -> bool:
        names = {item["metadata"]["name"] for item in bench.own("deployments,services,configmaps,httproutes,pdb")}
        return (
            settled(bench.get("llmdeployment", NAME, NAMESPACE))
            and old not in names
            and leftover["name"] not in names
            and not bench.own("httproutes")
            and len(bench.all("placementplans")) == KEPT_PLANS
        )

    bench.wait("the edited one moved", done)
    bench.operator.stop()
    return bench


def test_the_role_grants_exactly_what_is_used(exercised: Bench, beginning: Mark) -> None:
    requests = [event for event in exercised.cluster.requests_since(beginning) if event["user"]["username"] == USER]
    assert len(requests) > 100
    refused = [(e["verb"], e["objectRef"]) for e in requests if e.get("responseStatus", {}).get("code") == 403]
    assert refused == []

    granted, used = _granted(exercised), {right for event in requests for right in _rights(event)}
    unused = sorted(granted - used - UNUSED_ON_PURPOSE.keys())
    assert not used - granted, f"used and not granted: {sorted(used - granted)}"
    assert not unused, f"granted and never used: {unused}"
    assert UNUSED_ON_PURPOSE.keys() <= granted - used, "an exception that is not needed any more"


def _granted(bench: Bench) -> set[Right]:
    own = f"{RELEASE}-leader-election"
    answers = [
        bench.cluster.kubectl("get", "clusterrole", RELEASE, "--output=json"),
        bench.cluster.kubectl("get", "role", own, f"--namespace={NAMESPACE_OF_OPERATOR}", "--output=json"),
    ]
    return {
        (group, resource, verb)
        for role in map(json.loads, answers)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def _rights(event: Manifest) -> set[Right]:
    """What a request needs. A server-side apply of an object that is not there is a patch that needs create too."""
    target = event["objectRef"]
    subresource = f"/{target['subresource']}" if "subresource" in target else ""
    place = target.get("apiGroup", ""), f"{target['resource']}{subresource}"
    created = event["verb"] == "patch" and event.get("responseStatus", {}).get("code") == 201
    return {(*place, verb) for verb in ([event["verb"], "create"] if created else [event["verb"]])}
