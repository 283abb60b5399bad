"""The custom resource definitions on a real API server: the same verdicts as pydantic, defaults, status, columns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from devcluster.cluster import Cluster, CommandError
from plimsoll.api import KINDS
from plimsoll.api.parse import parse
from plimsoll.api.units import canonical_quantity
from tests.bad_objects import BAD_OBJECTS, BadObject
from tests.good_objects import (
    ABSENT,
    DEPLOYMENT,
    GOOD_OBJECTS,
    NAMESPACE,
    PLAN,
    POLICY,
    POOL,
    SLO,
    SMALLEST_DEPLOYMENT,
    changed,
)
from tests.hostile_objects import HOSTILE_OBJECTS

EVERY = [*BAD_OBJECTS, *HOSTILE_OBJECTS]

CRDS = Path(__file__).parents[2] / "crds"
Manifest = dict[str, Any]


@pytest.fixture(scope="module", autouse=True)
def definitions(cluster: Cluster) -> Iterator[None]:
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(CRDS))
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=30s", "-f", str(CRDS))
    cluster.kubectl("create", "namespace", NAMESPACE)
    yield
    for kind in KINDS:
        scope = [f"--namespace={NAMESPACE}"] if kind.names.scope == "Namespaced" else []
        cluster.kubectl("delete", kind.names.plural, "--all", *scope)
    cluster.kubectl("delete", "namespace", NAMESPACE)


def _refusal(cluster: Cluster, manifest: Manifest) -> str | None:
    """What the API server says against the object; None when it takes it."""
    try:
        cluster.kubectl("create", "--dry-run=server", "--validate=strict", "--filename=-", input=json.dumps(manifest))
    except CommandError as error:
        return error.stderr
    return None


@pytest.fixture(scope="module")
def refusals(cluster: Cluster, definitions: None) -> dict[str, str | None]:
    """The verdict on every bad object, by name; several at a time, since each takes a kubectl."""
    with ThreadPoolExecutor(4) as pool:
        verdicts = pool.map(lambda bad: _refusal(cluster, bad.object), EVERY)
        return dict(zip((bad.name for bad in EVERY), verdicts, strict=True))


@pytest.mark.parametrize("bad", EVERY, ids=lambda bad: bad.name)
def test_bad_object_is_refused_and_the_message_names_the_field(refusals: dict[str, str | None], bad: BadObject) -> None:
    refusal = refusals[bad.name]
    assert refusal is not None, "the API server takes what pydantic refuses"
    assert bad.field in refusal


@pytest.mark.parametrize("manifest", GOOD_OBJECTS.values(), ids=GOOD_OBJECTS)
def test_good_object_is_taken(cluster: Cluster, manifest: Manifest) -> None:
    assert _refusal(cluster, manifest) is None


@pytest.mark.parametrize(
    "name", ["smallest deployment", "smallest pool", "full objective", "policy without a spec", "plan"]
)
def test_the_stored_object_shows_the_defaults_that_pydantic_fills_in(cluster: Cluster, name: str) -> None:
    manifest = GOOD_OBJECTS[name]
    stored = _create(cluster, manifest, "--dry-run=server")
    assert _without_empty(stored["spec"]) == _without_empty(parse(manifest).to_wire()["spec"])
    assert parse(stored).spec == parse(manifest).spec


def _without_empty(value: Any) -> Any:
    """`value` without empty lists and maps inside, which pydantic writes and the API server leaves out."""
    if isinstance(value, dict):
        inner = {key: _without_empty(item) for key, item in value.items()}
        return {key: item for key, item in inner.items() if item not in ({}, [])}
    return [_without_empty(item) for item in value] if isinstance(value, list) else value


def test_explain_reads_well(cluster: Cluster) -> None:
    spec = cluster.kubectl("explain", "llmdeployment.spec")
    assert "Candidate models. Plimsoll picks one or several." in spec
    assert all(field in spec for field in ("models", "traffic", "placement", "engine", "routing"))
    assert "such as 80Gi" in cluster.kubectl("explain", "gnp.spec.custom.memory")
    for kind in KINDS:
        for field in ("spec", "status"):
            assert "<no description>" not in cluster.kubectl("explain", f"{kind.names.plural}.{field}", "--recursive")


def test_get_shows_useful_columns(cluster: Cluster) -> None:
    for manifest in (DEPLOYMENT, POOL, SLO, PLAN):
        _create(cluster, manifest)
    _set_status(
        cluster,
        DEPLOYMENT,
        {
            "modelsInUse": "Llama-3.1-8B-Instruct (fp8)",
            "gpus": 6,
            "replicas": "5/6",
            "costPerHour": "31.40",
            "slo": "Met",
            "planTime": "2026-11-20T14:00:00Z",
            "conditions": [_ready("False", "Starting", "5 of 6 replicas are ready")],
        },
    )
    _set_status(
        cluster,
        POOL,
        {
            "nodes": 12,
            "gpus": {"total": 96, "allocatable": 96, "usedByPlimsoll": 40, "usedByOthers": 8, "free": 48},
            "conditions": [_ready("True", "NodesFound", "12 nodes")],
        },
    )
    _set_status(cluster, PLAN, {"state": "Applied"})
    shown = cluster.kubectl("get", "llmdep,gnp,islo,pplan", f"--namespace={NAMESPACE}")
    lines = [line.split() for line in shown.splitlines() if line]
    assert [line[0] for line in lines].count("NAME") == 4
    row = {line[0].split("/")[0].split(".")[0]: line[1:] for line in lines if "/" in line[0]}
    assert row["llmdeployment"][:8] == [
        "Llama-3.1-8B-Instruct",
        "(fp8)",
        "6",
        "5/6",
        "31.40",
        "Met",
        "False",
        row["llmdeployment"][7],
    ]
    assert row["gpunodepool"][:7] == ["H100-SXM-80GB", "12", "96", "40", "48", "2.50", "True"]
    assert row["inferenceslo"][:4] == ["800", "40", "30000", "100"]
    assert row["placementplan"][:4] == ["Applied", "31.40", "0.013", "1"]
    assert "5 of 6 replicas are ready" in cluster.kubectl("get", "llmdep", f"--namespace={NAMESPACE}", "-o", "wide")
    assert "assistant" in cluster.kubectl("get", "plimsoll", "-A")


def test_status_is_a_subresource(cluster: Cluster) -> None:
    manifest = changed(SMALLEST_DEPLOYMENT, "metadata.name", "subresource")
    before = _create(cluster, {**manifest, "status": {"gpus": 3}})
    assert "gpus" not in before["status"]
    _set_status(cluster, manifest, {"gpus": 4, "observedGeneration": 1})
    after = _get(cluster, manifest)
    assert after["status"].items() >= {"gpus": 4, "observedGeneration": 1}.items()
    assert after["metadata"]["generation"] == before["metadata"]["generation"] == 1
    with pytest.raises(CommandError, match=r"status\.gpus"):
        _set_status(cluster, manifest, {"gpus": -1})


def test_a_plan_cannot_be_changed(cluster: Cluster) -> None:
    manifest = changed(PLAN, "metadata.name", "immutable")
    _create(cluster, manifest)
    for path, value in (
        ("spec.costPerHour", "1"),
        ("spec.changes", []),
        ("spec.summary.gpus", 7),
        ("spec.inputsDigest", "sha256:" + "1" * 64),
    ):
        with pytest.raises(CommandError, match="only approval may be changed"):
            cluster.kubectl("replace", "--filename=-", input=json.dumps(changed(manifest, path, value)))
    relabelled = changed(manifest, "metadata.labels", {"a": "b"})
    cluster.kubectl("replace", "--filename=-", input=json.dumps(relabelled))
    _set_status(cluster, manifest, {"state": "Superseded"})


def test_a_plan_is_approved_by_its_digest_and_an_approval_stands(cluster: Cluster) -> None:
    name, digest = "decided", PLAN["spec"]["decisionDigest"]
    _create(cluster, changed(changed(PLAN, "spec.approval", ABSENT), "metadata.name", name))

    def say(decision: str | None, digest: str = digest) -> None:
        approval = None if decision is None else {"decision": decision, "digest": digest}
        patch = json.dumps({"spec": {"approval": approval}})
        cluster.kubectl("patch", "placementplan", name, "--type=merge", "--patch", patch)

    with pytest.raises(CommandError, match=r"approval\.digest must be the plan's decisionDigest"):
        say("Approved", "sha256:" + "9" * 64)
    with pytest.raises(CommandError, match=r'spec\.approval\.decision.*"Maybe"'):
        say("Maybe")
    say("Rejected")
    say(None)
    say("Rejected")
    say("Approved")
    for other in ("Rejected", None):
        with pytest.raises(CommandError, match="an approval stands"):
            say(other)
    again = changed(changed(PLAN, "metadata.name", name), "spec.costPerHour", "1")
    with pytest.raises(CommandError, match="only approval may be changed"):
        cluster.kubectl("replace", "--filename=-", input=json.dumps(again))


def test_a_second_policy_is_refused(cluster: Cluster) -> None:
    _create(cluster, POLICY)
    refusal = _refusal(cluster, changed(POLICY, "metadata.name", "other"))
    assert refusal is not None
    assert "metadata.name must be default" in refusal


def test_rules_hold_at_the_largest_sizes(cluster: Cluster) -> None:
    models = [{"name": f"organisation/{'m' * 60}-{i}"} for i in range(8)]
    traffic = [
        {
            "name": f"class-{i}",
            "requestsPerMinute": 1,
            "tokens": {"input": 1, "output": 1},
            "taskError": [{"model": model["name"], "value": "0.1"} for model in models],
            "match": {"headers": [{"name": "x-class", "value": str(i)}]},
        }
        for i in range(15)
    ]
    del traffic[-1]["match"]
    manifest = changed(changed(SMALLEST_DEPLOYMENT, "spec.models", models), "spec.traffic", traffic)
    manifest = changed(manifest, "spec.engine.extraArgs", [f"--other-{i}={'x' * 1000}" for i in range(64)])
    labels = {f"{'d' * 100}.example.com/key-{i}": "v" for i in range(32)}
    manifest = changed(manifest, "spec.engine.podTemplate", {"labels": labels, "annotations": labels})
    assert _refusal(cluster, manifest) is None
    (change,) = PLAN["spec"]["changes"]
    changes = [{**change, "name": f"deployment-{i}"} for i in range(200)]
    moved = [{**change["placements"][0], "placement": f"placement-{i}"} for i in range(32)]
    changes[0]["placements"] = moved
    largest = changed(changed(PLAN, "spec.changes", changes), "metadata.name", "largest")
    _create(cluster, largest)
    with pytest.raises(CommandError, match="only approval may be changed"):
        cluster.kubectl("replace", "--filename=-", input=json.dumps(changed(largest, "spec.costPerHour", "1")))


def test_quantities_are_written_as_the_api_server_writes_them(cluster: Cluster) -> None:
    texts = [
        "1024Mi",
        "1.5Gi",
        "0.5",
        "1000m",
        "1e3",
        "1000",
        "0Gi",
        "80Gi",
        "1500M",
        "0.5Ki",
        "12345",
        "100e-3",
        "1Ti",
        "0.1",
    ]
    for text in texts:
        quota = {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "quantity", "namespace": NAMESPACE},
            "spec": {"hard": {"limits.memory": text}},
        }
        stored = _create(cluster, quota, "--dry-run=server")
        assert canonical_quantity(text) == stored["spec"]["hard"]["limits.memory"], text


def _create(cluster: Cluster, manifest: Manifest, *flags: str) -> Manifest:
    text = cluster.kubectl("create", *flags, "--output=json", "--filename=-", input=json.dumps(manifest))
    stored: Manifest = json.loads(text)
    return stored


def _get(cluster: Cluster, manifest: Manifest) -> Manifest:
    metadata = manifest["metadata"]
    namespace = [f"--namespace={metadata['namespace']}"] if "namespace" in metadata else []
    stored: Manifest = json.loads(
        cluster.kubectl("get", manifest["kind"], metadata["name"], *namespace, "--output=json")
    )
    return stored


def _set_status(cluster: Cluster, manifest: Manifest, status: Manifest) -> None:
    cluster.kubectl(
        "apply",
        "--server-side",
        "--subresource=status",
        "--field-manager=plimsoll-status",
        "--filename=-",
        input=json.dumps(
            {
                "apiVersion": manifest["apiVersion"],
                "kind": manifest["kind"],
                "metadata": manifest["metadata"],
                "status": status,
            }
        ),
    )


def _ready(status: str, reason: str, message: str) -> Manifest:
    time = "2026-11-20T14:00:00Z"
    return {"type": "Ready", "status": status, "reason": reason, "message": message, "lastTransitionTime": time}
