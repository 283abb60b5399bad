"""The kustomize base: the chart as rendered with its default values, without what is Helm's own.

python -m tests.gitops.kustomize     writes gitops/kustomize/base anew
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import helm_python
import yaml

from devcluster.installation import ROOT
from tests.chart.manifests import CHART, RELEASE, parse

BASE = ROOT / "gitops" / "kustomize" / "base"
HEADER = "# Generated from the chart by `make gitops`. Patch it in an overlay.\n"
NAMESPACE = {
    "apiVersion": "v1",
    "kind": "Namespace",
    "metadata": {
        "name": RELEASE["namespace"],
        "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
    },
}
KUSTOMIZATION = {
    "apiVersion": "kustomize.config.k8s.io/v1beta1",
    "kind": "Kustomization",
    "resources": ["namespace.yaml", "crds.yaml", "operator.yaml"],
}


def files() -> dict[str, str]:
    """Name and text of each file of the base."""
    with helm_python.Chart.load(CHART) as chart:
        texts = [text for path, text in sorted(chart.render({}, **RELEASE).items()) if not path.endswith("NOTES.txt")]
    found = [_plain(manifest) for text in texts for manifest in parse(text)]
    crds = [item for item in found if item["kind"] == "CustomResourceDefinition"]
    return {
        "kustomization.yaml": _text([KUSTOMIZATION]),
        "namespace.yaml": _text([NAMESPACE]),
        "crds.yaml": _text(crds),
        "operator.yaml": _text([item for item in found if item not in crds]),
    }


def _plain(manifest: dict[str, Any]) -> dict[str, Any]:
    """Without the labels and annotations by which Helm finds its releases again."""
    metadata = manifest["metadata"]
    for field in ("labels", "annotations"):
        own = {
            key: value
            for key, value in (metadata.get(field) or {}).items()
            if not key.startswith("helm.sh/") and (key, value) != ("app.kubernetes.io/managed-by", "Helm")
        }
        metadata.pop(field, None)
        if own:
            metadata[field] = own
    pod = manifest.get("spec", {}).get("template", {}).get("metadata", {}).get("labels", {})
    for key in ("helm.sh/chart", "app.kubernetes.io/managed-by"):
        pod.pop(key, None)
    return manifest


def _text(manifests: list[dict[str, Any]]) -> str:
    text: str = yaml.safe_dump_all(manifests, sort_keys=False, width=120, allow_unicode=True)
    return HEADER + text


def write(folder: Path) -> None:
    """Writes the base."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files().items():
        (folder / name).write_text(text)


if __name__ == "__main__":
    write(BASE)
