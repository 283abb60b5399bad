"""The kustomize base says what the chart says."""

from __future__ import annotations

import subprocess

import yaml

from devcluster.binaries import binary
from tests.chart.manifests import Manifest, Render, parse
from tests.gitops.kustomize import BASE, files

OVERLAY = BASE.parent / "overlays" / "example"


def build(folder: object) -> list[Manifest]:
    """`kubectl kustomize`."""
    answer = subprocess.run([binary("kubectl"), "kustomize", str(folder)], capture_output=True, text=True, check=True)
    return parse(answer.stdout)


def test_the_committed_base_is_that_of_the_present_chart() -> None:
    assert {path.name: path.read_text() for path in BASE.iterdir()} == files(), "run `make gitops`"


def test_the_base_holds_what_the_chart_installs_and_its_namespace(render: Render) -> None:
    names = {(item["kind"], item["metadata"]["name"]) for item in build(BASE)}
    charted = {(item["kind"], item["metadata"]["name"]) for item in render()}
    assert names == charted | {("Namespace", "plimsoll-system")}


def test_definitions_come_first_and_are_never_pruned() -> None:
    for item in build(BASE):
        if item["kind"] == "CustomResourceDefinition":
            notes = item["metadata"]["annotations"]
            assert {"Prune=false", "Delete=false"} <= set(notes["argocd.argoproj.io/sync-options"].split(","))
            assert notes["argocd.argoproj.io/sync-wave"] == "-1"


def test_nothing_claims_to_be_of_a_helm_release() -> None:
    text = yaml.safe_dump_all(build(BASE))
    assert "helm.sh/chart" not in text
    assert "managed-by: Helm" not in text


def test_the_example_overlay_sets_image_and_memory() -> None:
    (operator,) = [item for item in build(OVERLAY) if item["kind"] == "Deployment"]
    (container,) = operator["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example.com/platform/plimsoll:0.1.0"
    assert container["resources"]["limits"]["memory"] == "2Gi"
