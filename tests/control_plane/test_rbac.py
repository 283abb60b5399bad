"""The chart's roles grant what the operator uses, no more and no less. Runs last and judges the whole session."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterator

import pytest

from devcluster.audit import Mark
from devcluster.installation import NAMESPACE as NAMESPACE_OF_OPERATOR
from devcluster.installation import RELEASE, USER
from devcluster.leader_worker_set import LeaderWorkerSetController
from plimsoll.rendering import labels
from tests.control_plane.bench import Bench, Manifest, llm_deployment, placements, policy, pool, settled, slo
from tests.good_objects import PROFILE

NAMESPACE = "chat"
NAME = "assistant"
CHAINED = "chained"
GIANT, SEVERAL_NODES = "giant", "meta-llama/Llama-3.1-405B-Instruct"
KEPT_PLANS = 20

Right = tuple[str, str, str, str]
"""Namespace (empty: everywhere), API group, resource (with subresource), verb."""
UNUSED_ON_PURPOSE: dict[tuple[str, str, str], str] = {}
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


CONFINED_TO = (NAMESPACE, "documents")


@pytest.fixture
def everywhere(
    bench: Bench, gateway_api: Callable[[], None], leader_worker_set: LeaderWorkerSetController
) -> Iterator[Bench]:
    """Everything that the operator may have to do, once."""
    gateway_api()
    leader_worker_set.start()
    bench.operator.stop()
    _exercise(bench)
    yield bench
    bench.clear()


@pytest.fixture
def confined(
    bench: Bench, gateway_api: Callable[[], None], leader_worker_set: LeaderWorkerSetController
) -> Iterator[tuple[Bench, Mark]]:
    """The same, by an operator that looks after two namespaces only."""
    gateway_api()
    leader_worker_set.start()
    bench.operator.stop()
    bench.clear()
    bench.operator.install(watchNamespaces=CONFINED_TO)
    # So that it is created once more.
    bench.cluster.kubectl("delete", "lease", RELEASE, f"--namespace={NAMESPACE_OF_OPERATOR}", "--ignore-not-found")
    beginning = bench.cluster.mark()
    bench.apply(llm_deployment("elsewhere"))
    _exercise(bench)
    yield bench, beginning
    # While LeaderWorkerSet is there: nobody collects what belongs to a kind that has vanished.
    bench.clear()
    bench.operator.install()


def _exercise(bench: Bench) -> None:
    targets = {"ttft": {"percentile": 95, "milliseconds": 2000}}
    profile = {**PROFILE, "metadata": {"name": "own-model"}}
    bench.apply(policy(), pool("l40s", "L40S", "1.10"), slo("unused", NAMESPACE, **targets), profile)
    bench.apply(*(_old_plan(number) for number in range(1, KEPT_PLANS + 1)))
    route = {"httpRoute": {"parentRefs": [{"name": "public"}]}}
    bench.apply(llm_deployment(NAME, NAMESPACE, placement={"replicas": {"min": 2}}, routing=route))
    bench.apply(pool("h100", "H100-SXM-80GB", "2.50"), llm_deployment(GIANT, NAMESPACE, SEVERAL_NODES, rate=30))
    mode = {"mode": "Chained", "pools": ["l4"]}
    bench.apply(pool("l4", "L4", "0.80"), llm_deployment(CHAINED, NAMESPACE, rate=10, placement=mode))
    bench.start()
    deployment = bench.wait("planned and Ready", lambda: _settled(bench))
    giant = bench.wait("the giant, too", lambda: _settled(bench, GIANT))
    chained = bench.wait("the chained one, too", lambda: _settled(bench, CHAINED))
    old = {*placements(deployment), *placements(giant), *placements(chained)}
    owner = {
        "apiVersion": deployment["apiVersion"],
        "kind": "LLMDeployment",
        "name": NAME,
        "uid": deployment["metadata"]["uid"],
    }
    leftover = {"name": "of-an-earlier-release", "namespace": NAMESPACE, "ownerReferences": [owner]}
    own = {labels.MANAGED_BY: labels.MANAGER, labels.LLM_DEPLOYMENT: NAME}
    bench.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {**leftover, "labels": own}})
    for name in (NAME, GIANT, CHAINED):
        bench.set(name, NAMESPACE, "/spec/engine/extraArgs", ["--enable-prefix-caching"])
    bench.patch("llmdeployment", NAME, NAMESPACE, {"op": "remove", "path": "/spec/routing/httpRoute"})

    def done() -> bool:
        kinds = "deployments,leaderworkersets,statefulsets,services,networkpolicies,configmaps,httproutes,pdb"
        names = {item["metadata"]["name"] for item in bench.own(kinds)}
        return (
            all(settled(bench.get("llmdeployment", name, NAMESPACE)) for name in (NAME, GIANT, CHAINED))
            and not old & names
            and leftover["name"] not in names
            and not bench.own("httproutes")
            and len(bench.all("placementplans")) == KEPT_PLANS
        )

    bench.wait("the edited one moved", done)
    bench.operator.stop()


def _settled(bench: Bench, name: str = NAME) -> Manifest | None:
    found = bench.get("llmdeployment", name, NAMESPACE)
    return found if settled(found) else None


def test_the_role_grants_exactly_what_is_used(everywhere: Bench, beginning: Mark) -> None:
    _judge(everywhere, beginning)


def test_confined_to_namespaces_the_roles_grant_exactly_what_is_used(confined: tuple[Bench, Mark]) -> None:
    bench, beginning = confined
    used = _judge(bench, beginning)
    assert used >= {("", "", "pods", "list"), ("chat", "plimsoll.dev", "llmdeployments", "watch")}
    other = bench.get("llmdeployment", "elsewhere")
    # What the API server fills in says Unknown of generation 0; whoever looks at it writes the generation.
    assert not other.get("status", {}).get("observedGeneration"), "an LLMDeployment of another namespace was looked at"
    assert {item["metadata"]["namespace"] for item in bench.own("deployments")} == {NAMESPACE}


def _judge(bench: Bench, beginning: Mark) -> set[Right]:
    """Compares what was used since then with what is granted now; returns what was used."""
    requests = [event for event in bench.cluster.requests_since(beginning) if event["user"].get("username") == USER]
    assert len(requests) > 100
    refused = [
        f"{event['requestReceivedTimestamp']} {event['verb']} {event['requestURI']}"
        for event in requests
        if event.get("responseStatus", {}).get("code") == http.client.FORBIDDEN
        and not bench.cluster.was_starting(event)
    ]
    assert refused == []

    granted = _granted(bench)
    used = {right for event in requests for right in _rights(event)}
    # What a namespace gives is judged for all namespaces together: no test does everything in each of them.
    unused = sorted({right[1:] for right in granted} - {right[1:] for right in used} - UNUSED_ON_PURPOSE.keys())
    beyond = sorted(right for right in used - granted if ("", *right[1:]) not in granted)
    assert not beyond, f"used and not granted: {beyond}"
    assert not unused, f"granted and never used: {unused}"
    assert not UNUSED_ON_PURPOSE.keys() & {right[1:] for right in used}, "an exception that is not needed any more"
    return used


def _granted(bench: Bench) -> set[Right]:
    """What all roles that are bound to the operator's account grant, with the namespace in which they do."""
    found = set()
    for binding in bench.all("clusterrolebindings", "rolebindings"):
        if USER not in {_user(subject) for subject in binding.get("subjects", [])}:
            continue
        namespace = binding["metadata"].get("namespace", "")
        role = bench.get(binding["roleRef"]["kind"], binding["roleRef"]["name"], namespace or "default")
        for rule in role["rules"]:
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    found |= {(namespace, group, resource, verb) for verb in rule["verbs"]}
    return found


def _user(subject: Manifest) -> str:
    return f"system:serviceaccount:{subject.get('namespace', '')}:{subject['name']}"


def _rights(event: Manifest) -> set[Right]:
    """What a request needs. A server-side apply of an object that is not there is a patch that needs create too."""
    target = event["objectRef"]
    subresource = f"/{target['subresource']}" if "subresource" in target else ""
    namespace = "" if target["resource"] == "namespaces" else target.get("namespace", "")
    place = namespace, target.get("apiGroup", ""), f"{target['resource']}{subresource}"
    created = event["verb"] == "patch" and event.get("responseStatus", {}).get("code") == 201
    return {(*place, verb) for verb in ([event["verb"], "create"] if created else [event["verb"]])}
