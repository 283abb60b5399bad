"""Servers of a chain as objects: one StatefulSet each on its node, and what the chain shares."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace

import jsonschema
import pytest

from plimsoll.planning import plan_fleet, step_for
from plimsoll.planning.plan import DeploymentPlan, FleetPlan
from plimsoll.planning.running_chains import running_chains
from plimsoll.planning.snapshot import Workload
from plimsoll.planning.transition import Step
from plimsoll.rendering import (
    Manifest,
    RenderMismatch,
    labels,
    render_deployment,
    routing_document,
    routing_schema,
    routing_table_from_config_map,
    verify,
)
from plimsoll.rendering.observe import workload_facts
from tests.unit.planning.chain_cluster import cluster, deployment, only

Planned = tuple[FleetPlan, DeploymentPlan, Step]
Manifests = tuple[Manifest, ...]


@pytest.fixture(scope="module")
def planned() -> Planned:
    """One chain of three servers, all Ready."""
    fleet = plan_fleet(cluster(deployment(15)))
    plan = only(fleet)
    (chain,) = plan.chains
    known = {item.name: item for item in plan.placements}
    workloads = []
    for name in chain.servers:
        said = labels.option_from_annotations(labels.option_annotations(known[name].option))
        workloads.append(Workload("chat", name, "", "assistant", 1, 1, said))
    return fleet, plan, step_for(plan, workloads, None, 0.0)


@pytest.fixture(scope="module")
def manifests(planned: Planned) -> Manifests:
    fleet, plan, step = planned
    return render_deployment(fleet, plan, step, "2026-01-01T00:00:00Z", gateway_api=False)


def servers(manifests: Manifests) -> list[Manifest]:
    found = [item for item in manifests if item["kind"] == "StatefulSet"]
    return sorted(found, key=lambda item: str(item["metadata"]["name"]))


def container(server: Manifest) -> Manifest:
    found: Manifest = server["spec"]["template"]["spec"]["containers"][0]
    return found


def test_each_server_runs_its_layers_on_its_node(planned: Planned, manifests: Manifests) -> None:
    (chain,) = planned[1].chains
    found = servers(manifests)
    assert [item["metadata"]["name"] for item in found] == list(chain.servers)
    nodes = set()
    for number, server in enumerate(found):
        args = container(server)["args"]
        pairs = dict(itertools.pairwise(args))
        assert pairs["--pipeline-parallel-size"] == pairs["--nnodes"] == "3"
        assert pairs["--node-rank"] == str(number)
        assert pairs["--master-addr"] == f"{chain.name}-0.{chain.name}-peers.chat.svc.cluster.local"
        assert ("--headless" in args) is (number > 0)
        environment = {item["name"]: item.get("value") for item in container(server)["env"]}
        assert environment["VLLM_PP_LAYER_PARTITION"] == "27,27,26"
        required = server["spec"]["template"]["spec"]["affinity"]["nodeAffinity"][
            "requiredDuringSchedulingIgnoredDuringExecution"
        ]
        nodes.add(required["nodeSelectorTerms"][0]["matchFields"][0]["values"][0])
        assert len(server["metadata"]["name"]) <= 52
    assert len(nodes) == 3


def test_only_the_first_server_answers_and_the_others_watch_it(manifests: Manifests) -> None:
    first, *others = servers(manifests)
    assert "httpGet" in container(first)["livenessProbe"]
    for server in others:
        command = container(server)["livenessProbe"]["exec"]["command"]
        assert command[-2:] == [
            container(server)["args"][container(server)["args"].index("--master-addr") + 1],
            "29500",
        ]
        assert "ports" not in container(server)


def test_a_chain_has_one_service_for_requests_one_for_its_ranks_and_a_policy(
    planned: Planned, manifests: Manifests
) -> None:
    (chain,) = planned[1].chains
    requests, ranks = sorted(
        (item for item in manifests if item["kind"] == "Service"), key=lambda item: len(item["metadata"]["name"])
    )
    assert requests["metadata"]["name"] == chain.name
    assert requests["spec"]["selector"] == {labels.PLACEMENT: chain.name}
    assert ranks["spec"]["publishNotReadyAddresses"] is True
    assert ranks["spec"]["selector"] == {labels.CHAIN: chain.name}
    (policy,) = [item for item in manifests if item["kind"] == "NetworkPolicy"]
    members = {"matchLabels": {labels.CHAIN: chain.name}}
    assert policy["spec"]["podSelector"] == members
    assert policy["spec"]["ingress"][0] == {"from": [{"podSelector": members}]}
    owned = [item["metadata"]["labels"][labels.CHAIN] for item in manifests if item["kind"] != "ConfigMap"]
    assert set(owned) == {chain.name}


def test_the_routing_document_tells_chains_and_is_read_back(planned: Planned, manifests: Manifests) -> None:
    _, plan, step = planned
    assert step.routing is not None
    document = routing_document(plan.resource, step.routing)
    jsonschema.validate(document, routing_schema())
    (chain,) = document["chains"]
    assert [server["layers"] for server in chain["servers"]] == [27, 27, 26]
    assert chain["weight"] == 1000
    (config_map,) = [item for item in manifests if item["kind"] == "ConfigMap"]
    assert routing_table_from_config_map(config_map) == step.routing


def test_what_runs_is_read_back(planned: Planned, manifests: Manifests) -> None:
    facts = [workload_facts(item) for item in servers(manifests)]
    (chain,) = running_chains([item for item in facts if item is not None], None)
    assert chain.name == planned[1].chains[0].name
    assert chain.partition == (27, 27, 26)
    assert chain.places == planned[1].chains[0].places


def test_a_users_node_affinity_is_kept_beside_the_node(planned: Planned) -> None:
    fleet, plan, step = planned
    term = {"matchExpressions": [{"key": "zone", "operator": "Exists"}]}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term, term]}}
    template = plan.resource.spec.engine.pod_template.model_copy(update={"affinity": {"nodeAffinity": required}})
    engine = plan.resource.spec.engine.model_copy(update={"pod_template": template})
    resource = plan.resource.model_copy(update={"spec": plan.resource.spec.model_copy(update={"engine": engine})})
    rendered = render_deployment(fleet, replace(plan, resource=resource), step, "", gateway_api=False)
    verify(plan, step, rendered)
    affinity = servers(rendered)[0]["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    terms = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert [item["matchExpressions"] for item in terms] == [term["matchExpressions"]] * 2
    assert all(item["matchFields"][0]["key"] == "metadata.name" for item in terms)


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        (("affinity",), {}, "nodeAffinity"),
        (("containers", 0, "env"), [], "VLLM_PP_LAYER_PARTITION"),
    ],
)
def test_a_server_that_differs_from_the_plan_is_not_applied(
    planned: Planned,
    manifests: Manifests,
    path: tuple[str | int, ...],
    value: object,
    field: str,
) -> None:
    changed = copy.deepcopy(manifests)
    target = servers(changed)[1]["spec"]["template"]["spec"]
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    with pytest.raises(RenderMismatch, match=field):
        verify(planned[1], planned[2], changed)


def test_a_rank_that_differs_from_the_plan_is_not_applied(planned: Planned, manifests: Manifests) -> None:
    changed = copy.deepcopy(manifests)
    args = container(servers(changed)[1])["args"]
    args[args.index("--node-rank") + 1] = "2"
    with pytest.raises(RenderMismatch, match="--node-rank"):
        verify(planned[1], planned[2], changed)
