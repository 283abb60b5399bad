"""From the previous release, with its chart, its CRDs and what its operator had written, to the present one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from plimsoll import __version__
from plimsoll.planning.images import PINNED
from plimsoll.planning.renewal import RENEW
from plimsoll.rendering import labels
from tests.control_plane.bench import (
    Bench,
    Manifest,
    conditions,
    document,
    key,
    placement_of,
    placements,
    read_crds,
    ready,
)
from tests.upgrade.restore import restore

WRITTEN_KINDS = ("deployments", "services", "configmaps", "poddisruptionbudgets")


@pytest.fixture(scope="module")
def before(installed: Bench, nodes: None) -> Iterator[list[Manifest]]:
    """What the previous release had running, all pods Ready."""
    restore(installed, installed.operator)

    def running() -> bool:
        wanted = sum(item["spec"]["replicas"] for item in installed.own("deployments"))
        return wanted > 0 and sum(map(ready, installed.own("pods"))) == wanted

    installed.wait("the previous release's pods", running)
    yield _everything(installed)
    installed.operator.stop()
    installed.operator.install()
    installed.clear()


@pytest.fixture(scope="module")
def bench(installed: Bench, before: list[Manifest]) -> Bench:
    """The present chart and operator."""
    installed.operator.install()
    installed.start()
    return installed


def _everything(bench: Bench) -> list[Manifest]:
    return [*bench.own("pods", "replicasets", *WRITTEN_KINDS), *bench.all("llmdeployments,placementplans,gpunodepools")]


def _by_key(items: list[Manifest], *kinds: str) -> dict[Any, Manifest]:
    return {key(item): item for item in items if item["kind"] in kinds}


def test_no_pod_restarts_and_no_placement_is_renamed(bench: Bench, before: list[Manifest]) -> None:
    (released,) = {item["metadata"]["annotations"][labels.MADE_BY] for item in _by_key(before, "Deployment").values()}
    assert released != __version__

    def told() -> bool:
        messages = [conditions(item)["Planned"]["message"] for item in bench.settle()]
        return all(
            f"runs as release {released} made it" in message and f"with image {PINNED['nvidia']}" in message
            for message in messages
        )

    bench.wait("the conditions tell of the upgrade", told)
    for item in bench.settle():
        assert {each["image"] for each in placements(item).values()}.isdisjoint(PINNED.values())
    after = _everything(bench)
    for kinds in (("Pod",), ("ReplicaSet",), ("Deployment",)):
        old, new = _by_key(before, *kinds), _by_key(after, *kinds)
        assert {name: item["metadata"]["uid"] for name, item in new.items()} == {
            name: item["metadata"]["uid"] for name, item in old.items()
        }
        if kinds != ("Pod",):
            assert {name: item["spec"] for name, item in new.items()} == {
                name: item["spec"] for name, item in old.items()
            }
    documents = [_by_key(items, "ConfigMap") for items in (before, after)]
    assert {name: document(item) for name, item in documents[1].items()} == {
        name: document(item) for name, item in documents[0].items()
    }


def test_the_resource_definitions_are_upgraded_in_place_and_every_object_is_kept(
    bench: Bench, before: list[Manifest]
) -> None:
    kinds = ("LLMDeployment", "GPUNodePool", "PlacementPlan")
    old, new = _by_key(before, *kinds), _by_key(_everything(bench), *kinds)
    assert {name: item["metadata"]["uid"] for name, item in new.items()}.items() >= {
        name: item["metadata"]["uid"] for name, item in old.items()
    }.items()
    assert all(new[name].get("spec") == item.get("spec") for name, item in old.items())
    found = {
        crd["metadata"]["name"]: crd for crd in bench.read("/apis/apiextensions.k8s.io/v1/customresourcedefinitions")
    }
    for path in read_crds():
        (wanted,), (served,) = (
            each["spec"]["versions"] for each in (yaml.safe_load(path.read_text()), found[path.stem])
        )
        assert served["schema"] == wanted["schema"]
        assert found[path.stem]["status"]["storedVersions"] == ["v1alpha1"]


def test_more_traffic_adds_pods_of_the_old_making(bench: Bench, before: list[Manifest]) -> None:
    pods = bench.pod_uids()
    more = {"op": "add", "path": "/spec/traffic/0/requestsPerMinute", "value": 300}
    no_other_pool = {"op": "add", "path": "/spec/placement", "value": {"pools": ["l40s"]}}
    bench.patch("llmdeployment", "summaries", "documents", more, no_other_pool)
    bench.wait("more pods", lambda: len(bench.pod_uids()) > len(pods))
    bench.settle()
    assert bench.pod_uids() > pods
    names = {item["metadata"]["name"] for item in bench.own("deployments")}
    assert names == {item["metadata"]["name"] for item in _by_key(before, "Deployment").values()}
    assert len(bench.own("replicasets")) == len(names)


def test_an_annotation_has_one_deployment_made_anew_and_leaves_the_others(bench: Bench) -> None:
    others = {item["metadata"]["uid"] for item in bench.own("pods") if not _belongs(item, "analyst")}
    (old,) = {placement_of(item) for item in bench.own("pods") if _belongs(item, "analyst")}
    bench.cluster.kubectl("annotate", "llmdeployment", "analyst", "--namespace=chat", f"{RENEW}={__version__}")

    def made_anew() -> bool:
        return old not in {item["metadata"]["name"] for item in bench.own("deployments")}

    bench.wait("the old placement gone", made_anew)
    bench.settle()
    now = [item for item in bench.own("deployments") if _belongs(item, "analyst")]
    assert {item["spec"]["template"]["spec"]["containers"][0]["image"] for item in now} == {PINNED["nvidia"]}
    assert {item["metadata"]["uid"] for item in bench.own("pods") if not _belongs(item, "analyst")} == others


def _belongs(item: Manifest, name: str) -> bool:
    return bool(item["metadata"]["labels"].get(labels.LLM_DEPLOYMENT) == name)
