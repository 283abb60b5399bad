"""`plimsoll replay`: what the operator would have done over a trace, and what that saved."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from plimsoll.cli.main import main

QUICKSTART = Path(__file__).parents[3] / "examples" / "quickstart"
CLASS = "default/assistant/default"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["replay", "-f", str(QUICKSTART), *(str(argument) for argument in arguments)])


@pytest.fixture
def day(tmp_path: Path) -> Path:
    """Two quiet windows around a busy one, of 20 minutes each."""
    rates = enumerate((1.0, 8.0, 1.0))
    path = tmp_path / "day.csv"
    path.write_text(
        "category,model,t_seconds,total_rate_req_per_s\n" + "".join(f"a,b,{1200 * n},{rate}\n" for n, rate in rates)
    )
    return path


def test_plans_follow_the_demand_and_static_fleets_stand_beside_them(day: Path) -> None:
    result = run("--trace", day, "--interval", "10m", "-o", "json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    rounds = found["rounds"]
    assert [item["seconds"] for item in rounds] == [600 * number for number in range(6)]
    assert rounds[0]["gpus"] == rounds[2]["gpus"] < rounds[3]["gpus"]
    assert rounds[5]["gpus"] == rounds[0]["gpus"]
    assert rounds[3]["demandPerMinute"][CLASS] == pytest.approx(480, rel=0.1)
    assert rounds[3]["moves"]
    peak, mean = (found["static"][name] for name in ("peak", "mean"))
    assert peak["gpus"] > mean["gpus"]
    assert peak["saved"] == pytest.approx(1 - float(found["cost"]) / float(peak["cost"]), abs=0.01)
    assert peak["worstAttainment"] >= found["worstAttainment"]
    assert found["gpuHours"] < peak["gpuHours"]
    observed = found["deployments"][0]["traffic"][0]
    assert not {"plannedRequestsPerMinute", "plannedUnserved"} & set(observed)  # of a plan that never ran
    assert "predictedMilliseconds" not in observed["latency"]["ttft"]
    served = observed["requests"]
    assert served["arrived"] == served["completed"]
    assert sum(served.values()) == 2 * served["arrived"]


def test_the_table_and_the_report_tell_the_moves_and_what_was_saved(day: Path, tmp_path: Path) -> None:
    path = tmp_path / "replay.html"
    result = run("--trace", day, "--interval", "10m", "--report", path)
    assert result.exit_code == 0, result.stderr
    for words in ("6 plans, one every 10 min", "static, for the peak", "static, for the mean", "saved"):
        assert words in result.stdout
    page = path.read_text()
    for text in (result.stdout, page):
        assert "simulated / planned" not in text
        assert " / " not in text
    assert "What planning saves" in page
    assert page.count("<svg") == 6
    assert "static" in json.loads(path.with_suffix(".json").read_text())


def test_the_interval_is_the_policys_unless_given(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "apiVersion: plimsoll.dev/v1alpha1\nkind: PlacementPolicy\nmetadata: {name: default}\n"
        "spec: {planning: {intervalSeconds: 120}}\n"
    )
    found = json.loads(run("-f", policy, "--duration", "5m", "-o", "json").stdout)
    assert found["replanSeconds"] == 120
    assert len(found["rounds"]) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--interval", "0"), "--interval 0: a time above 0"),
        (("--trace", "nowhere.csv"), "no such file"),
        (("--rate-scale", "0.0000001", "--duration", "1m"), "no request arrives in that time"),
    ],
)
def test_wrong_input_ends_with_1_and_says_what_is_accepted(arguments: tuple[str, ...], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 1
    assert message in result.stderr
