"""Puts a recorded release back onto a control plane: chart, people's objects, and what its operator had written."""

from __future__ import annotations

import copy
import json
from typing import Any

import yaml

from devcluster.installation import Installation
from tests.control_plane.bench import Bench
from tests.upgrade.record import PREVIOUS, USERS, WRITTEN

Manifest = dict[str, Any]


def restore(bench: Bench, operator: Installation) -> None:
    """The cluster as the release left it when its operator stopped. No operator runs."""
    (chart,) = PREVIOUS.glob("*.tgz")
    operator.install(chart)
    bench.apply(*yaml.safe_load_all((PREVIOUS / USERS).read_text()))
    uids = {
        (item["kind"], item["metadata"]["namespace"], item["metadata"]["name"]): item["metadata"]["uid"]
        for item in bench.all("llmdeployments")
    }
    parts: dict[tuple[str, str], list[Manifest]] = {}
    for entry in yaml.safe_load_all((PREVIOUS / WRITTEN).read_text()):
        manifest = copy.deepcopy(entry["manifest"])
        for owner in manifest["metadata"].get("ownerReferences", ()):
            owner["uid"] = uids[owner["kind"], manifest["metadata"]["namespace"], owner["name"]]
        parts.setdefault((entry["subresource"], entry["manager"]), []).append(manifest)
    for (subresource, manager), items in sorted(parts.items()):
        arguments = ["apply", "--server-side", f"--field-manager={manager}", "--filename=-"]
        if subresource:
            # kubectl would miss the spec, which this apply leaves alone.
            arguments += [f"--subresource={subresource}", "--validate=false"]
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
        bench.cluster.kubectl(*arguments, input=text)
