"""Argo CD's health checks, run by a real Lua over objects that the controller's functions made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from plimsoll.api import GROUP, KINDS
from tests.gitops.argocd import FOLDER, HEALTH, health, write
from tests.states import State, states

CHECKS = FOLDER / "resource_customizations" / GROUP


def _files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*.yaml")} | {
        str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*.lua")
    }


def test_the_committed_checks_and_their_test_data_are_those_of_the_present_code(tmp_path: Path) -> None:
    write(tmp_path)
    assert _files(tmp_path) == _files(FOLDER), "run `python -m tests.gitops.argocd`"


def _cases() -> list[Any]:
    return [
        pytest.param(CHECKS / kind.__name__, case, id=f"{kind.__name__}-{case['inputPath']}")
        for kind in KINDS
        for case in yaml.safe_load((CHECKS / kind.__name__ / "health_test.yaml").read_text())["tests"]
    ]


@pytest.mark.parametrize(("folder", "case"), _cases())
def test_argo_cd_says_what_its_test_file_expects(folder: Path, case: dict[str, Any]) -> None:
    manifest = yaml.safe_load((folder / case["inputPath"]).read_text())
    assert health((folder / "health.lua").read_text(), manifest) == case["healthStatus"]


@pytest.mark.parametrize("state", states(), ids=str)
def test_argo_cd_and_kstatus_agree(state: State) -> None:
    script = (CHECKS / state.kind / "health.lua").read_text()
    assert health(script, state.manifest)["status"] == HEALTH[state.expected]


@pytest.mark.parametrize("kind", [kind.__name__ for kind in KINDS])
def test_an_object_without_a_status_does_not_break_the_check(kind: str) -> None:
    found = health((CHECKS / kind / "health.lua").read_text(), {"metadata": {"name": "x", "generation": 1}})
    assert found["status"] == ("Healthy" if kind == "PlacementPlan" else "Progressing")
