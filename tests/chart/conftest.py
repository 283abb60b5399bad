"""The chart, rendered in-process by Helm 4 (helm-python-sdk); no cluster, no network."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import helm_python
import pytest

from tests.chart.manifests import CHART, RELEASE, Manifest, Render, parse


@pytest.fixture(scope="session")
def chart() -> Iterator[helm_python.Chart]:
    with helm_python.Chart.load(CHART) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def render(chart: helm_python.Chart) -> Render:
    """Renders with values given as keywords, top-level keys only; returns the objects."""
    cache: dict[str, list[Manifest]] = {}

    def _render(**values: Any) -> list[Manifest]:
        key = json.dumps(values, sort_keys=True)
        if key not in cache:
            texts = sorted(chart.render(values, **RELEASE).items())
            cache[key] = [
                manifest for path, text in texts if not path.endswith("NOTES.txt") for manifest in parse(text)
            ]
        return copy.deepcopy(cache[key])

    return _render
