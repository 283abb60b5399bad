"""Chained LLMDeployments in `plimsoll plan` and `plimsoll simulate`: the placement and the routes are drawn."""

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from plimsoll.cli.main import main

EXAMPLE = Path(__file__).parents[3] / "examples" / "chained"
MANIFESTS = """
apiVersion: plimsoll.dev/v1alpha1
kind: GPUNodePool
metadata: {name: l4-east}
spec: {accelerator: L4, gpusPerNode: 1, nodes: {max: 5}, price: {perHour: "0.70"}, location: {region: us-east}}
---
apiVersion: plimsoll.dev/v1alpha1
kind: GPUNodePool
metadata: {name: l4-west}
spec: {accelerator: L4, gpusPerNode: 1, nodes: {max: 5}, price: {perHour: "0.60"}, location: {region: us-west}}
---
apiVersion: plimsoll.dev/v1alpha1
kind: PlacementPolicy
metadata: {name: default}
spec:
  network: {roundTripMilliseconds: [{region: us-east, peer: us-west, milliseconds: 62}]}
  defaultSLO:
    ttft: {statistic: Percentile, percentile: 95, milliseconds: 8000}
    tpot: {statistic: Mean, milliseconds: 600}
---
apiVersion: plimsoll.dev/v1alpha1
kind: LLMDeployment
metadata: {name: assistant, namespace: chat}
spec:
  models:
  - name: meta-llama/Llama-3.3-70B-Instruct
    precisions: [{name: int4, checkpoint: example/Llama-3.3-70B-AWQ}]
  placement: {mode: Chained}
  traffic:
  - name: chat
    requestsPerMinute: 20
    tokens: {input: 400, output: 150}
    origins: [{region: us-east, share: "0.7"}, {region: us-west, share: "0.3"}]
"""
SMALL = """
apiVersion: plimsoll.dev/v1alpha1
kind: LLMDeployment
metadata: {name: small, namespace: chat}
spec:
  models: [{name: meta-llama/Llama-3.2-1B-Instruct}]
  placement: {pools: [l4-east]}
  traffic: [{name: default, requestsPerMinute: 12, tokens: {input: 300, output: 60}}]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "fleet.yaml").write_text(MANIFESTS)
    return tmp_path


def run(*arguments: object):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_plan_holds_every_layer_and_is_rendered(folder: Path) -> None:
    document = json.loads(run("plan", "-f", folder, "-o", "json").stdout)
    chained = document["chained"][0]
    for chain in chained["chains"]:
        assert sum(hop["layers"] for hop in chain["servers"]) == chained["layers"] == 80
    assert float(chained["costPerHour"]) == pytest.approx(sum(float(one["costPerHour"]) for one in chained["servers"]))
    rendered = list(yaml.safe_load_all(run("plan", "-f", folder, "--render").stdout))
    servers = [item for item in rendered if item["kind"] == "StatefulSet"]
    assert len(servers) == len(chained["servers"])
    (routing,) = [item for item in rendered if item["kind"] == "ConfigMap"]
    told = json.loads(routing["data"]["routing.json"])["chains"]
    assert [server["node"] for server in told[0]["servers"]] == [hop["name"] for hop in chained["chains"][0]["servers"]]


def test_what_else_chains_could_be_made_of_is_explained(folder: Path) -> None:
    text = (folder / "fleet.yaml").read_text().replace("precisions: [", "precisions: [{name: fp8}, ")
    (folder / "fleet.yaml").write_text(text)
    result = run("explain", "-f", folder)
    assert result.exit_code == 0, result.stderr
    assert "Llama-3.3-70B-Instruct fp8, 1 GPU per server" in result.stdout
    assert "chains of free servers carry" in " ".join(result.stdout.split())


def test_the_example_is_drawn_and_explained() -> None:
    for command in ("plan", "explain"):
        result = run(command, "-f", EXAMPLE)
        assert result.exit_code == 0, result.stderr
        for part in ("chained, meta-llama/Llama-3.3-70B-Instruct int4, 80 layers", "l4-us-west-2 54-79", "lower bound"):
            assert part in result.stdout
    pools = json.loads(run("plan", "-f", EXAMPLE, "-o", "json").stdout)["pools"]
    assert [(pool["nodes"], pool["gpus"]["total"], pool["gpus"]["planned"]) for pool in pools] == [
        (4, 4, 3),
        (4, 4, 3),
        (4, 4, 3),
    ]


def test_sessions_are_simulated_from_every_region_beside_replicas(folder: Path) -> None:
    (folder / "small.yaml").write_text(SMALL)
    report = folder / "report.html"
    result = run("simulate", "-f", folder, "--duration", "10m", "--report", report)
    assert result.exit_code == 0, result.stderr
    for text in ("chained, meta-llama/Llama-3.3-70B-Instruct int4, 80 layers", "█", "→", "chat/small"):
        assert text in result.stdout
    document = json.loads(report.with_suffix(".json").read_text())
    assert [one["name"] for one in document["deployments"]] == ["small"]
    chained = document["chained"][0]
    flows = {flow["origin"]: flow for flow in chained["traffic"]}
    arrived = {origin: flow["requests"]["arrived"] for origin, flow in flows.items()}
    assert sum(arrived.values()) == pytest.approx(200, rel=0.2)
    assert arrived["us-east"] > arrived["us-west"] > 0
    for flow in flows.values():
        assert flow["latency"]["ttft"]["met"] is True
        assert flow["requests"]["completed"] == flow["requests"]["arrived"]
    ttft, tpot = (
        [flows[region]["latency"][name]["meanMilliseconds"] for region in ("us-west", "us-east")]
        for name in ("ttft", "tpot")
    )
    assert ttft[0] < ttft[1], "prompts come from farther"
    assert tpot[0] == pytest.approx(tpot[1]), "tokens go round within the chain"
    assert sum(route["sessions"] for route in chained["routes"]) == sum(arrived.values())
    assert "layers by servers, and routes" in report.read_text()
