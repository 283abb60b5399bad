"""The commands of docs/first-hour.md, typed in their order."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from devcluster.binaries import binary
from devcluster.installation import ROOT
from tests.control_plane.bench import Bench, conditions

PAGE = ROOT / "docs" / "first-hour.md"
ELSEWHERE = ("helm ", "curl ", "kubectl port-forward")
"""The chart is installed already, and behind simulated pods nobody answers."""


def sections() -> dict[int, str]:
    """The shell blocks of each numbered section."""
    found: dict[int, str] = {}
    for part in re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]:
        commands = "\n".join(re.findall(r"```sh\n(.*?)```", part, flags=re.DOTALL)).replace("\\\n", " ")
        kept = [line for line in commands.splitlines() if not line.startswith(ELSEWHERE)]
        found[int(part.partition(".")[0])] = "\n".join(kept)
    return found


@pytest.fixture(scope="module")
def reader(installed: Bench, nodes: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """The operator, on a cluster with nodes and nothing else."""
    installed.start()
    yield installed
    installed.operator.stop()
    installed.clear()


def test_the_page_can_be_typed(reader: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "kubectl").symlink_to(binary("kubectl"))
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    environment = os.environ | {
        "KUBECONFIG": str(reader.cluster.kubeconfig),
        "KUBECACHEDIR": str(tmp_path / "cache"),
        "PATH": f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    for number, commands in sections().items():
        answer = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert answer.returncode == 0, f"section {number}: {answer.stderr}\n{answer.stdout}"
        if number == 3:
            planned = conditions(reader.get("llmdeployment", "assistant"))["Planned"]
            assert planned["reason"] == "AwaitingApproval"
            assert planned["message"] in answer.stdout
            assert not reader.own("deployments")
        if number == 4:
            assert reader.own("deployments")
            assert conditions(reader.get("llmdeployment", "assistant"))["Ready"]["status"] == "True"
    reader.wait("nothing left", lambda: not reader.own("deployments", "pods"))
