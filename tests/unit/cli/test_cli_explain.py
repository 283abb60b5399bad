"""`plimsoll explain`: why the plan is as it is, and what a limit is worth."""

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from plimsoll.cli.main import main

EXAMPLES = Path(__file__).parents[3] / "examples"
FLEET = """
apiVersion: plimsoll.dev/v1alpha1
kind: GPUNodePool
metadata: {name: l40s}
spec: {accelerator: L40S, price: {perHour: "1.10"}, gpusPerNode: 4, nodes: {max: 1}}
---
apiVersion: plimsoll.dev/v1alpha1
kind: GPUNodePool
metadata: {name: h100}
spec: {accelerator: H100-SXM-80GB, price: {perHour: "2.50"}, gpusPerNode: 8, nodes: {max: 1}}
---
apiVersion: plimsoll.dev/v1alpha1
kind: LLMDeployment
metadata: {name: assistant, namespace: chat}
spec:
  models: [{name: meta-llama/Llama-3.1-8B-Instruct}]
  traffic: [{name: default, requestsPerMinute: RATE, tokens: {input: 1000, output: 250}}]
  placement: {pools: POOLS, replicas: {MAX}}
"""
POLICY = """
---
apiVersion: plimsoll.dev/v1alpha1
kind: PlacementPolicy
metadata: {name: default}
spec: {budget: {perHour: "2"}}
"""


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def files(folder: Path, rate: int, pools: str = "[l40s]", most: str = "", policy: str = "") -> Path:
    text = FLEET.replace("RATE", str(rate)).replace("POOLS", pools).replace("MAX", most) + policy
    (folder / "fleet.yaml").write_text(text)
    return folder


def document(folder: Path, *arguments: str) -> dict:
    result = run("explain", "-f", folder, "-o", "json", *arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return json.loads(result.stdout)


_IN_CHAINS = {"chained", "petals"}


@pytest.mark.parametrize("example", sorted({item.parent.name for item in EXAMPLES.glob("*/*.yaml")} - _IN_CHAINS))
def test_every_example_is_explained(example):
    result = run("explain", "-f", EXAMPLES / example)
    assert result.exit_code == 0, result.output
    for part in ("chosen", "serves 100", "per hour dearer", "lower bound", "binding limits"):
        assert part in result.stdout


def test_each_class_has_what_serves_it_and_why_the_rest_does_not():
    told = document(EXAMPLES / "fleet", "--deployment", "chat/analyst")
    (only,) = told["deployments"]
    (part,) = only["traffic"]
    assert sum(float(one["share"]) for one in part["chosen"]) == pytest.approx(1, abs=2e-3)
    reasons = [one["reason"] for one in part["rejected"]]
    assert any("per hour dearer" in reason for reason in reasons)
    assert any("time per output token" in reason for reason in reasons)
    assert any("GiB per GPU" in reason for reason in reasons)


def test_yaml_and_json_say_the_same():
    as_yaml, as_json = (run("explain", "-f", EXAMPLES / "quickstart", "-o", form) for form in ("yaml", "json"))
    assert yaml.safe_load(as_yaml.stdout) == json.loads(as_json.stdout)


def test_a_full_pool_is_worth_what_one_more_node_serves(tmp_path):
    result = run("explain", "-f", files(tmp_path, 2500))
    assert result.exit_code == 1
    assert "binding limits: GPUNodePool l40s (full)" in result.stdout
    (limit,) = document(tmp_path)["limits"]
    assert (limit["limit"], limit["step"]) == ("GPUNodePool l40s", "one more node with 4 GPUs")
    assert limit["servesMoreRequestsPerMinute"] > 100


def test_a_budget_is_worth_what_a_little_more_of_it_serves(tmp_path):
    limits = document(files(tmp_path, 600, policy=POLICY))["limits"]
    budget = next(item for item in limits if "budget.perHour" in item["limit"])
    assert budget["step"] == "1.10 more per hour"
    assert budget["servesMoreRequestsPerMinute"] > 50


def test_the_most_replicas_are_worth_what_one_more_serves(tmp_path):
    limits = document(files(tmp_path, 5000, pools="[h100]", most="max: 1"))["limits"]
    replicas = next(item for item in limits if "replicas.max 1" in item["limit"])
    assert replicas["step"] == "one more replica"
    assert replicas["servesMoreRequestsPerMinute"] > 0


def test_no_limit_binds_where_there_is_room(tmp_path):
    folder = files(tmp_path, 120)
    assert document(folder)["limits"] == []
    assert "binding limits: none" in run("explain", "-f", folder).stdout


def test_an_unknown_deployment_is_an_error_that_names_those_there_are(tmp_path):
    result = run("explain", "-f", files(tmp_path, 120), "--deployment", "chat/asistant")
    assert result.exit_code == 1
    assert "there are: chat/assistant" in result.output


def test_a_held_deployment_is_said_to_be_undecided(tmp_path):
    result = run("explain", "-f", files(tmp_path, 120, pools="[l40]"))
    assert result.exit_code == 1
    assert "nothing is decided" in result.stdout
    assert "PoolNotFound" in result.stderr
