"""Chained LLMDeployments in `plimsoll plan` and `plimsoll simulate`: the placement and the routes are drawn."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from plimsoll.cli.main import main

MANIFESTS = """
apiVersion: plimsoll.dev/v1alpha1
kind: GPUNodePool
metadata: {name: l4-east}
spec: {accelerator: L4, gpusPerNode: 1, nodes: {max: 8}, price: {perHour: "0.70"}, location: {region: us-east}}
---
apiVersion: plimsoll.dev/v1alpha1
kind: GPUNodePool
metadata: {name: l4-west}
spec: {accelerator: L4, gpusPerNode: 1, nodes: {max: 8}, price: {perHour: "0.60"}, location: {region: us-west}}
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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "fleet.yaml").write_text(MANIFESTS)
    return tmp_path


def run(*arguments: object):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_plan_shows_layers_by_server_and_the_chains(folder: Path) -> None:
    result = run("plan", "-f", folder)
    assert result.exit_code == 0, result.stderr
    assert "chained, meta-llama/Llama-3.3-70B-Instruct int4, 80 layers" in result.stdout
    assert "█" in result.stdout
    assert "→" in result.stdout
    document = json.loads(run("plan", "-f", folder, "-o", "json").stdout)
    chained = document["chained"][0]
    for chain in chained["chains"]:
        assert sum(hop["layers"] for hop in chain["servers"]) == chained["layers"]
    assert float(chained["costPerHour"]) == pytest.approx(sum(float(one["costPerHour"]) for one in chained["servers"]))


def test_no_objects_are_rendered_for_chains(folder: Path) -> None:
    result = run("plan", "-f", folder, "--render")
    assert result.exit_code == 1
    assert "LLMDeployment chat/assistant is chained" in result.stderr


def test_sessions_are_simulated_from_every_region(folder: Path) -> None:
    report = folder / "report.html"
    result = run("simulate", "-f", folder, "--duration", "10m", "--report", report, "-o", "json")
    assert result.exit_code == 0, result.stderr
    chained = json.loads(result.stdout)["chained"][0]
    flows = {flow["origin"]: flow for flow in chained["traffic"]}
    arrived = {origin: flow["requests"]["arrived"] for origin, flow in flows.items()}
    assert sum(arrived.values()) == pytest.approx(200, rel=0.2)
    assert arrived["us-east"] > arrived["us-west"] > 0
    for flow in flows.values():
        assert flow["latency"]["ttft"]["met"] is True
        assert flow["requests"]["completed"] == flow["requests"]["arrived"]
    near, far = (flows[region]["latency"]["tpot"]["meanMilliseconds"] for region in ("us-west", "us-east"))
    assert near < far
    assert sum(route["sessions"] for route in chained["routes"]) == sum(arrived.values())
    page = report.read_text()
    assert "layers by servers, and routes" in page
    assert page.count("<svg") == 2


def test_beside_replicas_both_are_shown(folder: Path) -> None:
    (folder / "other.yaml").write_text(
        """
apiVersion: plimsoll.dev/v1alpha1
kind: LLMDeployment
metadata: {name: small, namespace: chat}
spec:
  models: [{name: meta-llama/Llama-3.1-8B-Instruct}]
  placement: {pools: [l4-east]}
  traffic: [{name: default, requestsPerMinute: 12, tokens: {input: 300, output: 60}}]
"""
    )
    result = run("simulate", "-f", folder, "--duration", "5m")
    assert result.exit_code == 0, result.stderr
    assert "chat/assistant" in result.stdout
    assert "chat/small" in result.stdout
