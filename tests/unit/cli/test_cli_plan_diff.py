"""`plimsoll plan --diff`: what a pull request changes, and exit statuses that a pipeline can tell apart."""

import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from plimsoll.cli.main import main

FLEET = Path(__file__).parents[3] / "examples" / "fleet"


def run(base: Path, head: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["plan", "--diff", str(base), "-f", str(head), *arguments])


def changed(folder: Path, file: str, old: str, new: str) -> Path:
    shutil.copytree(FLEET, folder / "head")
    path = folder / "head" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return folder / "head"


def test_equal_files_change_nothing() -> None:
    result = run(FLEET, FLEET)
    assert (result.exit_code, "The plan does not change." in result.stdout) == (0, True)


def test_what_only_people_read_changes_nothing(tmp_path: Path) -> None:
    head = changed(tmp_path, "slos.yaml", "priority: 100", "priority: 101")
    assert run(FLEET, head).exit_code == 0


def test_more_traffic_is_shown_with_placements_cost_latency_and_pools(tmp_path: Path) -> None:
    head = changed(tmp_path, "deployments.yaml", "requestsPerMinute: 600", "requestsPerMinute: 1600")
    result = run(FLEET, head)
    assert result.exit_code == 2
    for part in (
        "1 of 3 LLMDeployments changes.",
        "#### chat/assistant",
        "| turns | requests per minute |  | 600 | 1600 |",
        "| turns | TTFT p95 | 800 ms |",
        "| cost per hour |",
        "#### Pools",
    ):
        assert part in result.stdout
    assert "#### documents/summaries" not in result.stdout, "what runs as well as before stays"


def test_new_and_removed_deployments_are_named(tmp_path: Path) -> None:
    documents = list(yaml.safe_load_all((FLEET / "deployments.yaml").read_text()))
    head = changed(tmp_path, "deployments.yaml", "", "")
    (head / "deployments.yaml").write_text(yaml.safe_dump_all(documents[1:]))
    removed, added = run(FLEET, head), run(head, FLEET)
    assert (removed.exit_code, added.exit_code) == (2, 2)
    assert "#### chat/assistant\n\nRemoved" in removed.stdout
    assert "#### chat/assistant\n\nNew" in added.stdout


def test_an_empty_base_is_a_fleet_that_is_all_new(tmp_path: Path) -> None:
    result = run(tmp_path, FLEET)
    assert result.exit_code == 2
    assert "3 of 3 LLMDeployments change." in result.stdout


def test_demand_that_cannot_be_served_any_more_fails_and_shows_the_difference(tmp_path: Path) -> None:
    head = changed(tmp_path, "policy.yaml", '"100"', '"1"')
    result = run(FLEET, head)
    assert result.exit_code == 1
    assert "#### New warnings and errors" in result.stdout
    assert "BudgetExceeded" in result.stdout
    healed = run(head, FLEET)
    assert healed.exit_code == 2
    assert "#### Gone" in healed.stdout


def test_a_wrong_new_object_fails_though_the_old_one_was_right(tmp_path: Path) -> None:
    head = changed(tmp_path, "deployments.yaml", "requestsPerMinute: 60\n", "requestsPerMinute: many\n")
    result = run(FLEET, head)
    assert result.exit_code == 1
    assert "requestsPerMinute" in result.stderr


@pytest.mark.parametrize(
    "arguments", [["--bogus"], ["--render"], ["-o", "json"], ["--nodes", "/nowhere"], ["-o", "poem"]], ids=" ".join
)
def test_wrong_use_is_never_taken_for_a_change(arguments: list[str]) -> None:
    assert run(FLEET, FLEET, *arguments).exit_code == 1
    assert CliRunner().invoke(main, ["plan", "--diff=x"]).exit_code == 1
    assert run(Path("/nowhere"), FLEET).exit_code == 1


def test_wrong_use_of_the_plain_command_keeps_its_exit_status() -> None:
    assert CliRunner().invoke(main, ["plan", "--bogus"]).exit_code == 2


def test_text_of_strangers_makes_no_mention_link_or_cell(tmp_path: Path) -> None:
    hostile = "@everyone <img src=x> [a](http://b) | c"
    head = changed(tmp_path, "deployments.yaml", "interactive}", f'"{hostile}"}}')
    result = run(FLEET, head)
    assert result.exit_code == 1
    for part in ("@everyone", "<img", "[a]("):
        assert part not in result.stdout.replace("\\[", "")
