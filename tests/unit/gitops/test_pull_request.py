"""The workflow that people copy: little power, and the same command that is tested."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from devcluster.installation import ROOT

WORKFLOW = ROOT / "examples" / "gitops" / ".github" / "workflows" / "plimsoll-plan.yaml"


@pytest.fixture(scope="module")
def workflow() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(WORKFLOW.read_text())
    return found


def test_it_may_read_the_code_and_write_comments_and_nothing_else(workflow: dict[str, Any]) -> None:
    assert workflow["permissions"] == {"contents": "read", "pull-requests": "write"}
    assert "pull_request_target" not in WORKFLOW.read_text(), "strangers' code would run with the token"
    assert "secrets." not in WORKFLOW.read_text()


def test_actions_have_a_version_and_no_text_of_the_pull_request_reaches_a_shell(workflow: dict[str, Any]) -> None:
    for step in workflow["jobs"]["plan"]["steps"]:
        assert "uses" not in step or step["uses"].partition("@")[2].startswith("v")
        assert "${{" not in step.get("run", "")


@pytest.mark.parametrize(("edit", "status"), [("", "0"), ("requestsPerMinute: 200", "2"), ("kind: Nothing", "1")])
def test_its_shell_step_tells_no_change_changes_and_mistakes_apart(
    workflow: dict[str, Any], tmp_path: Path, edit: str, status: str
) -> None:
    (step,) = [item for item in workflow["jobs"]["plan"]["steps"] if item.get("id") == "plan"]
    for side in ("base", "head"):
        folder = tmp_path / side / "fleet"
        folder.mkdir(parents=True)
        for path in (ROOT / "examples" / "fleet").glob("*.yaml"):
            text = path.read_text()
            if side == "head" and edit:
                field = edit.split(":")[0]
                text = "\n".join(
                    line.split(field)[0] + edit if line.strip().startswith(field) else line
                    for line in text.splitlines()
                )
            (folder / path.name).write_text(text)
    outputs, summary = tmp_path / "outputs", tmp_path / "summary"
    environment = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "FLEET": "fleet",
        "GITHUB_OUTPUT": str(outputs),
        "GITHUB_STEP_SUMMARY": str(summary),
    }
    subprocess.run(["bash", "-c", step["run"]], cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert outputs.read_text() == f"status={status}\n"
    assert status == "1" or "### Plimsoll plan" in summary.read_text()
