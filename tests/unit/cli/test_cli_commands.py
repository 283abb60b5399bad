"""The other commands, and what `plimsoll` says of itself."""

import yaml
from click.testing import CliRunner

from plimsoll import __version__
from plimsoll.api import KINDS
from plimsoll.cli.main import main


def test_crds_prints_one_definition_per_kind():
    result = CliRunner().invoke(main, ["crds"])
    assert result.exit_code == 0
    definitions = list(yaml.safe_load_all(result.stdout))
    assert {item["spec"]["names"]["kind"] for item in definitions} == {kind.__name__ for kind in KINDS}
    assert {item["kind"] for item in definitions} == {"CustomResourceDefinition"}


def test_help_lists_the_commands_and_the_version_is_the_package_s():
    shown = CliRunner().invoke(main, ["-h"])
    assert shown.exit_code == 0
    assert all(name in shown.stdout for name in ("plan", "crds", "run"))
    assert CliRunner().invoke(main, ["--version"]).stdout.strip() == f"plimsoll {__version__}"


def test_an_unknown_command_is_a_usage_error():
    assert CliRunner().invoke(main, ["plna"]).exit_code == 2
