"""The values schema: it refuses what is misspelt or unsafe, and knows every value."""

from __future__ import annotations

import json
import re
from typing import Any

import helm_python
import pytest
import yaml

from tests.chart.manifests import CHART, RELEASE
from tests.chart.values import MATRIX

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "misspelt value": ({"replica": 1}, "replica"),
    "misspelt nested value": ({"image": {"name": "x"}}, "name"),
    "two operators that elect no leader": ({"replicas": 2, "leaderElection": {"enabled": False}}, "replicas"),
    "the default two when election is off": ({"leaderElection": {"enabled": False}}, "replicas"),
    "more than can be of use": ({"replicas": 6}, "replicas"),
    "memory too small to plan": ({"settings": {"plannerMemoryMegabytes": 100}}, "plannerMemoryMegabytes"),
    "tag latest": ({"image": {"tag": "latest"}}, "tag"),
    "digest without algorithm": ({"image": {"digest": "0" * 64}}, "digest"),
    "no repository": ({"image": {"repository": ""}}, "repository"),
    "root": ({"runAsUser": 0}, "runAsUser"),
    "log level": ({"logLevel": "TRACE"}, "logLevel"),
    "log format": ({"logFormat": "xml"}, "logFormat"),
    "privileged port": ({"healthPort": 80}, "healthPort"),
    "port as text": ({"healthPort": "8081"}, "healthPort"),
    "namespace that is no name": ({"watchNamespaces": ["chat*"]}, "watchNamespaces"),
    "a namespace twice": ({"watchNamespaces": ["chat", "chat"]}, "watchNamespaces"),
    "unknown setting": ({"settings": {"debounce": 1}}, "debounce"),
    "setting not above 0": ({"settings": {"planDeadlineSeconds": 0}}, "planDeadlineSeconds"),
    "fraction of a write": ({"settings": {"inFlight": 1.5}}, "inFlight"),
    "annotation that is no text": ({"podAnnotations": {"a": 1}}, "podAnnotations"),
    "name that is no DNS label": ({"fullnameOverride": "Not_DNS"}, "fullnameOverride"),
    "interval": ({"serviceMonitor": {"interval": "often"}}, "interval"),
    "address of another scheme": ({"prometheus": {"url": "ftp://prometheus"}}, "url"),
    "credentials in the address": ({"prometheus": {"url": "https://user:secret@prometheus"}}, "url"),
    "interval of corrections": ({"settings": {"correctionIntervalSeconds": 5}}, "correctionIntervalSeconds"),
    "no API server port": ({"networkPolicy": {"apiServerPorts": []}}, "apiServerPorts"),
}


@pytest.mark.parametrize(("values", "named"), REFUSED.values(), ids=REFUSED.keys())
def test_bad_values_are_refused_by_name(chart: helm_python.Chart, values: dict[str, Any], named: str) -> None:
    with pytest.raises(helm_python.HelmValuesError, match=named):
        chart.render(values, **RELEASE)


def test_missing_account_name_is_refused(chart: helm_python.Chart) -> None:
    with pytest.raises(helm_python.HelmRenderError, match=r"serviceAccount\.name must be set"):
        chart.render({"serviceAccount": {"create": False}}, **RELEASE)


def test_defaults_need_no_values_of_the_user(chart: helm_python.Chart) -> None:
    assert chart.render({}, **RELEASE)


def _paths(values: dict[str, Any], prefix: str = "") -> set[str]:
    return {f"{prefix}{name}" for name in values} | {
        path for name, value in values.items() if isinstance(value, dict) for path in _paths(value, f"{prefix}{name}.")
    }


def test_schema_declares_exactly_the_values_with_defaults() -> None:
    declared = {
        f"{name}.{child}"
        for name, schema in SCHEMA["properties"].items()
        for child in schema.get("properties", {})
        if name not in {"settings", "resources"}
    } | (set(SCHEMA["properties"]) - {"global"})
    assert {path for path in _paths(VALUES) if not path.startswith("resources.")} == declared


def test_every_object_of_the_schema_is_closed() -> None:
    def check(schema: dict[str, Any], path: str) -> None:
        if "properties" in schema:
            assert schema.get("additionalProperties") is False, path
            for name, child in schema["properties"].items():
                check(child, f"{path}.{name}")

    check(SCHEMA, "values")


def test_every_value_is_used_and_every_used_value_is_declared() -> None:
    text = "".join(path.read_text() for path in (CHART / "templates").iterdir())
    used = set(re.findall(r"\.Values\.([A-Za-z.]+)", text))
    leaves = {path for path in _paths(VALUES) if not any(other.startswith(f"{path}.") for other in _paths(VALUES))}
    assert used <= _paths(VALUES)
    assert {leaf for leaf in leaves if leaf not in used and not leaf.startswith("resources.")} == set()


def test_matrix_sets_every_value() -> None:
    """So that the rules in test_security.py are checked with each value in use."""
    free = {"imagePullSecrets", "resources", "image.pullPolicy"}
    tops = {path.partition(".")[0] for path in _paths(VALUES) if path not in free}
    assert tops <= {name for values in MATRIX.values() for name in values} | {path.partition(".")[0] for path in free}
