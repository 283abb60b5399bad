"""Argo CD's health checks: made from one text, beside test data from the controller's own functions.

python -m tests.gitops.argocd        writes gitops/argocd anew
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import lupa
import yaml

from devcluster.installation import ROOT
from plimsoll.api import GROUP, KINDS
from tests.kstatus import KStatus
from tests.states import State, states

FOLDER = ROOT / "gitops" / "argocd"
HEALTH = {KStatus.CURRENT: "Healthy", KStatus.IN_PROGRESS: "Progressing", KStatus.FAILED: "Degraded"}

LUA = """\
-- Health of a {kind} of Plimsoll, as kstatus has it: what is stalled needs a person.
local hs = {{ status = "Progressing", message = "Plimsoll has not looked at it yet" }}
local status = obj.status
if status == nil then
  return hs
end
if status.observedGeneration == nil or status.observedGeneration ~= obj.metadata.generation then
  hs.message = "Plimsoll has not looked at this generation yet"
  return hs
end
local ready = nil
for _, condition in ipairs(status.conditions or {{}}) do
  if condition.type == "Stalled" and condition.status == "True" then
    hs.status = "Degraded"
    hs.message = condition.message
    return hs
  end
  if condition.type == "Ready" then
    ready = condition
  end
end
if ready ~= nil then
  hs.message = ready.message
  if ready.status == "True" then
    hs.status = "Healthy"
  end
end
return hs
"""

LUA_RECORD = """\
-- Health of a {kind} of Plimsoll: a record, whatever became of the decision.
local hs = {{ status = "Healthy", message = "Recorded" }}
if obj.status ~= nil and obj.status.state ~= nil then
  hs.message = obj.status.state
end
return hs
"""


def lua(kind: str) -> str:
    """The health check of a kind."""
    return (LUA_RECORD if kind == "PlacementPlan" else LUA).format(kind=kind)


def health(script: str, manifest: Any) -> dict[str, str]:
    """What Argo CD makes of an object: `status` and `message`."""
    runtime = lupa.LuaRuntime(unpack_returned_tuples=True)
    runtime.globals().obj = _table(runtime, manifest)
    found = runtime.execute(script)
    return {"status": found.status, "message": found.message}


def _table(runtime: Any, value: Any) -> Any:
    if isinstance(value, dict):
        return runtime.table_from({key: _table(runtime, item) for key, item in value.items()})
    if isinstance(value, list):
        return runtime.table_from([_table(runtime, item) for item in value])
    return value


def write(folder: Path) -> None:
    """The checks with their test data, laid out as in Argo CD's own repository, and as a patch of its ConfigMap."""
    shutil.rmtree(folder / "resource_customizations", ignore_errors=True)
    by_kind: dict[str, list[State]] = {kind.__name__: [] for kind in KINDS}
    for state in states():
        by_kind[state.kind].append(state)
    data: dict[str, str] = {}
    for kind, own in by_kind.items():
        target = folder / "resource_customizations" / GROUP / kind
        (target / "testdata").mkdir(parents=True)
        (target / "health.lua").write_text(lua(kind))
        data[f"resource.customizations.health.{GROUP}_{kind}"] = lua(kind)
        tests = []
        for state in own:
            path = f"testdata/{state.name}.yaml"
            (target / path).write_text(yaml.safe_dump(state.manifest, sort_keys=False, width=120))
            expected = {"status": HEALTH[state.expected], "message": health(lua(kind), state.manifest)["message"]}
            tests.append({"healthStatus": expected, "inputPath": path})
        (target / "health_test.yaml").write_text(yaml.safe_dump({"tests": tests}, sort_keys=False, width=120))
    patch = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "argocd-cm", "namespace": "argocd"},
        "data": data,
    }
    text = yaml.dump(patch, Dumper=_Readable, sort_keys=False, width=120)
    (folder / "argocd-cm-patch.yaml").write_text(text)


class _Readable(yaml.SafeDumper):
    """Scripts as literal blocks."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Readable.add_representer(str, _text)


if __name__ == "__main__":
    write(FOLDER)
