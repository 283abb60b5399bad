"""Declared lengths that no lognormal distribution has: people are told, and the plan is made all the same."""

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from plimsoll.cli.main import main
from plimsoll.planning.plan import DeploymentState, FleetPlan, Severity
from tests.unit.planning.fleets import LLAMA_8B, deployment, finding, manifest, nodes, plan, plan_of, pool, snapshot

REASON = "SpreadTooWide"
MATCH = {"headers": [{"name": "x-class", "value": "plain"}]}


def planned(**tokens: int) -> FleetPlan:
    lengths = {"input": 1000, "output": 250, **tokens}
    classes = [
        {"name": "plain", "requestsPerMinute": 30, "tokens": {"input": 1000, "output": 250}, "match": MATCH},
        {"name": "spread", "requestsPerMinute": 30, "tokens": lengths},
    ]
    return plan(snapshot(deployment(traffic=classes), pool(), nodes=nodes(2)))


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        (
            {"inputP95": 5000},
            ("inputP95: 5000", "the mean of 1000", "(3868 tokens)", "raise spec.traffic[1].tokens.input"),
        ),
        ({"outputP95": 1500}, ("outputP95: 1500", "the mean of 250", "(967 tokens)", "tokens.output")),
    ],
)
def test_a_percentile_that_is_cut_is_a_warning_with_what_is_planned(
    tokens: dict[str, int], said: tuple[str, ...]
) -> None:
    fleet = planned(**tokens)
    warning = finding(fleet, REASON)
    (name,) = tokens
    assert (warning.severity, warning.field) == (Severity.WARNING, f"spec.traffic[1].tokens.{name}")
    for words in (*said, "3.87 times the mean", "split the class"):
        assert words in warning.message
    result = plan_of(fleet)
    assert result.state is DeploymentState.PLANNED
    assert result.placements
    assert [item.unserved for item in result.classes] == [0.0, 0.0]


def test_the_widest_spread_that_there_is_needs_no_warning() -> None:
    assert not [item for item in planned(inputP95=3868, outputP95=967).all_findings() if item.reason == REASON]


def test_both_percentiles_are_told_and_again_in_the_next_round() -> None:
    facts = snapshot(
        deployment(
            traffic=[
                {
                    "name": "chat",
                    "requestsPerMinute": 30,
                    "tokens": {"input": 500, "output": 100, "inputP95": 4000, "outputP95": 900},
                }
            ]
        ),
        pool(),
        nodes=nodes(2),
    )
    for _ in range(2):  # what an LLMDeployment may choose from is remembered between rounds
        fields = [item.field for item in plan(facts).all_findings() if item.reason == REASON]
        assert fields == ["spec.traffic[0].tokens.inputP95", "spec.traffic[0].tokens.outputP95"]


def test_plan_prints_it_as_a_warning_and_succeeds(tmp_path: Path) -> None:
    tokens = {"input": 500, "output": 100, "inputP95": 4000}
    spec = {
        "models": [{"name": LLAMA_8B}],
        "traffic": [{"name": "chat", "requestsPerMinute": 30, "tokens": tokens}],
    }
    objects = [
        manifest("LLMDeployment", "assistant", spec, "chat"),
        manifest("GPUNodePool", "l40s", {"accelerator": "L40S", "price": {"perHour": "1.10"}}),
    ]
    path = tmp_path / "fleet.yaml"
    path.write_text(yaml.safe_dump_all(objects))
    result = CliRunner().invoke(main, ["plan", "-f", str(path)])
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.stderr.splitlines() if REASON in line]
    assert line.lower().startswith("warning: ")
    assert "LLMDeployment chat/assistant: spec.traffic[0].tokens.inputP95: 4000" in line
