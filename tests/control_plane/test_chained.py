"""Mode Chained: a model over nodes in three regions, none of which could hold it, and one of them is lost."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner

from devcluster.nodes import gpu_node
from plimsoll.cli.main import main
from plimsoll.rendering import labels, routing_schema
from tests.control_plane.bench import Bench, Manifest, document, option_value, placements, ready

NAME, NAMESPACE = "assistant", "chat"
REGIONS = ("us-east", "us-west", "eu-west")


@pytest.fixture(scope="module")
def regions(bench: Bench) -> Iterator[None]:
    """Four nodes with one L4 in each region."""
    nodes = [
        gpu_node(f"{region}-{number}", "NVIDIA-L4", 1, 23034, region=region, zone=f"{region}a", cpu="16")
        for region in REGIONS
        for number in range(4)
    ]
    bench.cluster.apply(nodes)
    yield
    names = [node["metadata"]["name"] for node in nodes]
    bench.cluster.kubectl("delete", "node", "--ignore-not-found", *names)


def chains(bench: Bench) -> dict[str, list[Manifest]]:
    """Servers by chain, as routers are told."""
    content = document(bench.get("configmap", f"{NAME}-routing", NAMESPACE))
    jsonschema.validate(content, routing_schema())
    assert {backend["placement"]: backend["weight"] for backend in content["classes"][0]["backends"]} == {
        chain["name"]: chain["weight"] for chain in content["chains"]
    }
    return {chain["name"]: chain["servers"] for chain in content["chains"]}


def explained(bench: Bench, folder: Path) -> Manifest:
    """What `plimsoll explain` says of the cluster as it is."""
    kinds = "llmdeployments,inferenceslos,gpunodepools,placementpolicies,nodes,pods,statefulsets"
    text = bench.cluster.kubectl("get", kinds, "--all-namespaces", "--output=json")
    (folder / "cluster.json").write_text(text)
    result = CliRunner().invoke(main, ["explain", "-f", str(folder), "-o", "json"])
    assert result.exit_code == 0, result.stderr
    found: Manifest = json.loads(result.stdout)["chained"][0]
    return found


def test_chains_over_three_regions_outlive_a_node(bench: Bench, regions: None, tmp_path: Path) -> None:
    bench.apply_example("chained")
    (deployment,) = bench.settle()
    routed = chains(bench)
    assert len(routed) == 3
    assert {server["region"] for servers in routed.values() for server in servers} == set(REGIONS)
    pods = {pod["metadata"]["labels"][labels.PLACEMENT]: pod for pod in bench.own("pods")}
    assert all(ready(pod) for pod in pods.values())
    for name, servers in routed.items():
        assert sum(server["layers"] for server in servers) == 80
        for number, server in enumerate(servers):
            container = pods[server["placement"]]["spec"]["containers"][0]
            assert pods[server["placement"]]["spec"]["nodeName"] == server["node"]
            assert option_value(container["args"], "--node-rank") == str(number)
            assert option_value(container["args"], "--master-addr").startswith(f"{name}-0.{name}-peers.{NAMESPACE}.")
            environment = {item["name"]: item.get("value") for item in container["env"]}
            layers = ",".join(str(each["layers"]) for each in servers)
            assert environment["VLLM_PP_LAYER_PARTITION"] == layers
    assert sorted(pods) == sorted(server["placement"] for servers in routed.values() for server in servers)
    assert sorted(item["metadata"]["name"] for item in bench.own("networkpolicies")) == sorted(routed)
    assert {item["name"]: item["chain"]["node"] for item in placements(deployment).values()} == {
        server["placement"]: server["node"] for servers in routed.values() for server in servers
    }
    (plan,) = bench.all("placementplans")
    assert plan["spec"]["summary"]["placements"] == len(pods)
    mark = bench.cluster.mark()
    time.sleep(4)
    assert bench.wrote(mark) == [], "written at rest"

    told = explained(bench, tmp_path)
    assert {chain["servers"][0]["name"] for chain in told["chains"]} == {one[0]["node"] for one in routed.values()}
    assert float(told["costPerHour"]) == float(deployment["status"]["costPerHour"])

    # A node dies. What is deleted by hand here takes Kubernetes a minute.
    broken = min(routed)
    lost = routed[broken][1]
    bench.cluster.kubectl("delete", "node", lost["node"])
    pod = pods[lost["placement"]]["metadata"]["name"]
    options = (f"--namespace={NAMESPACE}", "--force", "--grace-period=0", "--ignore-not-found")
    bench.cluster.kubectl("delete", "pod", pod, *options)
    left = bench.wait("routing without the broken chain", lambda: broken not in (now := chains(bench)) and now)
    assert set(left) >= set(routed) - {broken}
    bench.settle()
    after = chains(bench)
    assert broken not in after
    assert len(after) == 3, "a new chain beside those that were left"
    assert set(routed) - {broken} < set(after)
    assert lost["node"] not in {server["node"] for servers in after.values() for server in servers}
    names = {item["metadata"]["name"] for item in bench.own("statefulsets,services,networkpolicies")}
    assert not {name for name in names if name.startswith(broken.removesuffix("-0"))}

    bench.cluster.kubectl("delete", "llmdeployment", NAME, f"--namespace={NAMESPACE}")
    bench.wait("everything collected", lambda: not bench.own("pods,statefulsets,networkpolicies,services"))


def test_a_chain_of_petals_servers_is_one_swarm_with_one_front_end(bench: Bench, regions: None) -> None:
    bench.cluster.kubectl("delete", "gpunodepool", "l4-eu-west", "--ignore-not-found")  # of the example before
    bench.apply_example("petals")
    (deployment,) = bench.settle()
    content = document(bench.get("configmap", "helper-routing", NAMESPACE))
    jsonschema.validate(content, routing_schema())
    pods = {pod["metadata"]["labels"][labels.PLACEMENT]: pod for pod in bench.own("pods")}
    assert all(ready(pod) for pod in pods.values())
    assert sorted(pods) == sorted(server["placement"] for chain in content["chains"] for server in chain["servers"])
    for chain in content["chains"]:
        layer = 0
        for number, server in enumerate(chain["servers"]):
            (container,) = pods[server["placement"]]["spec"]["containers"]
            assert pods[server["placement"]]["spec"]["nodeName"] == server["node"]
            assert option_value(container["args"], "--block_indices") == f"{layer}:{layer + server['layers']}"
            assert option_value(container["args"], "--peers") == f"{chain['name']}-peers.{NAMESPACE}.svc.cluster.local"
            assert ("--port" in container["args"]) is (number == 0)
            layer += server["layers"]
        assert layer == 80
    mark = bench.cluster.mark()
    time.sleep(3)
    assert bench.wrote(mark) == [], "written at rest"
    bench.cluster.kubectl("delete", "llmdeployment", deployment["metadata"]["name"], f"--namespace={NAMESPACE}")
    bench.wait("everything collected", lambda: not bench.own("pods,statefulsets,networkpolicies,services"))
