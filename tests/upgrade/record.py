"""Records what a release's chart is and what its operator writes: the fixture of the upgrade test.

At each release, from its checkout:  python -m tests.upgrade.record
Of another one:                      python -m tests.upgrade.record --source DIR
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from devcluster.cluster import Cluster
from devcluster.installation import ROOT, Installation
from devcluster.nodes import demo_nodes
from plimsoll.api import KINDS
from plimsoll.controller.kinds import ALL
from tests.control_plane.bench import Bench, policy
from tests.upgrade.owned import applied

PREVIOUS = Path(__file__).with_name("previous")
USERS, WRITTEN = "users.yaml", "written.yaml"
EXAMPLE = "examples/fleet"


def record(source: Path, target: Path) -> None:
    """Runs the release in `source` on a control plane of its own with the example fleet."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    with Cluster() as cluster:
        cluster.apply(demo_nodes())
        for namespace in ("chat", "documents"):
            cluster.kubectl("create", "namespace", namespace)
        operator = Installation(cluster, {"PYTHONPATH": str(source / "operator")})
        chart = source / "helm" / "plimsoll"
        operator.install(chart)
        cluster.helm("package", str(chart), "--destination", str(target))
        bench = Bench(cluster, operator)
        bench.start()
        users = [item for item in _documents(source / EXAMPLE) if item["kind"] != "PlacementPolicy"]
        users.append(policy())
        bench.apply(*users)
        bench.settle(120)
        operator.stop()
        (target / USERS).write_text(yaml.safe_dump_all(users, sort_keys=False, width=120))
        (target / WRITTEN).write_text(yaml.safe_dump_all(_written(bench), sort_keys=False, width=120))


def _documents(folder: Path) -> list[dict[str, Any]]:
    return [item for path in sorted(folder.glob("*.yaml")) for item in yaml.safe_load_all(path.read_text())]


def _written(bench: Bench) -> list[dict[str, Any]]:
    """What each of the operator's field managers applied, to which part of which object."""
    kinds = sorted({kind.plural for kind in ALL if kind.owned} | {kind.names.plural for kind in KINDS})
    present = bench.cluster.kubectl("api-resources", "--output=name").split()
    known = [plural for plural in kinds if any(name.split(".")[0] == plural for name in present)]
    objects = json.loads(
        bench.cluster.kubectl("get", ",".join(known), "--all-namespaces", "--output=json", "--show-managed-fields")
    )
    return [
        {
            "manager": entry["manager"],
            "subresource": entry.get("subresource", ""),
            "manifest": applied(item, entry["fieldsV1"]),
        }
        for item in objects["items"]
        for entry in item["metadata"].get("managedFields", ())
        if entry["manager"].startswith("plimsoll-") and entry["operation"] == "Apply"
    ]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--source", type=Path, default=ROOT, help="checkout of the release")
    parser.add_argument("--target", type=Path, default=PREVIOUS, help="where the fixture goes")
    given = parser.parse_args()
    record(given.source.absolute(), given.target.absolute())


if __name__ == "__main__":
    main()
