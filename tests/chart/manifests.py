"""Where the chart lies, and small questions about rendered objects."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

Manifest = dict[str, Any]
Render = Callable[..., list[Manifest]]

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "plimsoll"
RELEASE = {"name": "plimsoll", "namespace": "plimsoll-system"}

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def parse(text: str) -> list[Manifest]:
    """The objects of a YAML stream."""
    return [manifest for manifest in yaml.load_all(text, Loader=_Loader) if manifest]


def only(manifests: list[Manifest], kind: str) -> Manifest:
    """The one object of a kind."""
    (found,) = [manifest for manifest in manifests if manifest["kind"] == kind]
    return found


def kinds(manifests: list[Manifest]) -> set[str]:
    return {manifest["kind"] for manifest in manifests}
