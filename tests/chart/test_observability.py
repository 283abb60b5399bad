"""Rules and dashboards: every expression parses, and asks for nothing that is not there."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from devcluster.binaries import binary
from plimsoll.controller.metrics import Metrics
from plimsoll.emulator.metrics import EngineInfo, EngineMetrics
from plimsoll.simulation import Counters
from tests.chart.manifests import CHART, ROOT, Manifest, Render
from tests.chart.values import MATRIX
from tools.dashboards import DASHBOARDS, render

RULES = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((CHART / "rules").glob("*.yaml"))}
FILES = {path.stem: json.loads(path.read_text()) for path in sorted((CHART / "dashboards").glob("*.json"))}
RULE_TESTS = Path(__file__).parent / "rules.yaml"
POD_LABELS = {"namespace", "pod", "deployment", "placement", "pool"}
"""What the PodMonitor adds to the series of serving pods."""
SCRAPED = {"namespace", "pod", "service", "job", "instance"}
"""What a ServiceMonitor adds to the series of the operator."""

Names = dict[str, set[str]]
"""Metric -> its labels."""


def _families(families: Any) -> Iterator[tuple[str, str, set[str]]]:
    for family in families:
        labels = {name for sample in family.samples for name in sample.labels}
        yield family.name, family.type, labels


def _series(name: str, type_: str, labels: set[str]) -> Names:
    if type_ == "counter":
        return {f"{name}_total": labels}
    if type_ == "histogram":
        return {f"{name}_bucket": labels | {"le"}, f"{name}_sum": labels, f"{name}_count": labels}
    return {name: labels}


def _of_the_operator() -> Names:
    found: Names = {}
    metrics = Metrics()
    for field in metrics.__slots__:
        metric = getattr(metrics, field)
        for family in metric.describe() if hasattr(metric, "describe") else ():
            found |= _series(family.name, family.type, set(metric._labelnames) | SCRAPED)
    return found


def _of_vllm() -> Names:
    engine = EngineMetrics(EngineInfo("m", 4096, 100, 0.9), 0.0)
    engine.text(Counters(*(0 for _ in fields(Counters))))
    found: Names = {}
    for name, type_, labels in _families(engine.collect()):
        found |= _series(name, type_, (labels - {"le"}) | POD_LABELS)
    return found


def _labels_of_result(expression: promql_parser.Expr) -> set[str]:
    """Labels that a recorded series has: those of the outermost grouping."""
    if isinstance(expression, promql_parser.AggregateExpr):
        return set(expression.modifier.labels) if expression.modifier is not None else set()
    if isinstance(expression, promql_parser.Call):
        (inner,) = (each for each in expression.args if isinstance(each, promql_parser.AggregateExpr))
        return _labels_of_result(inner) - {"le"}
    return set()


def _recorded() -> Names:
    return {rule["record"]: _labels_of_result(promql_parser.parse(rule["expr"])) for rule in _rules("record")}


def _rules(kind: str) -> list[Manifest]:
    return [rule for file in RULES.values() for group in file["groups"] for rule in group["rules"] if kind in rule]


def _panel_expressions() -> Iterator[tuple[str, str]]:
    for name, dashboard in FILES.items():
        for panel in dashboard["panels"]:
            for target in panel["targets"]:
                yield f"{name}: {panel['title']}", target["expr"]
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                match = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
                assert match is not None, variable
                yield f"{name}: ${variable['name']}", f"max by ({match[2]}) ({match[1]})"


OPERATOR, VLLM = _of_the_operator(), _of_vllm()
KNOWN = OPERATOR | VLLM | _recorded()
EXPRESSIONS = {
    **dict(_panel_expressions()),
    **{f"rule {rule.get('record') or rule['alert']}": rule["expr"] for rule in _rules("expr")},
}


def _selectors(expression: promql_parser.Expr) -> list[promql_parser.VectorSelector]:
    found: list[promql_parser.VectorSelector] = []

    def visit(each: promql_parser.Expr) -> None:
        if isinstance(each, promql_parser.MatrixSelector):
            found.append(each.vector_selector)
        elif isinstance(each, promql_parser.VectorSelector):
            found.append(each)

    promql_parser.walk(expression, visit)
    return found


def _groupings(expression: promql_parser.Expr) -> list[tuple[set[str], set[str]]]:
    """Labels of each grouping, and metrics below it."""
    found: list[tuple[set[str], set[str]]] = []

    def visit(each: promql_parser.Expr) -> None:
        if isinstance(each, promql_parser.AggregateExpr) and each.modifier is not None:
            found.append((set(each.modifier.labels), {str(item.name) for item in _selectors(each.expr)}))

    promql_parser.walk(expression, visit)
    return found


@pytest.mark.parametrize("expression", EXPRESSIONS.values(), ids=EXPRESSIONS.keys())
def test_expressions_ask_for_series_and_labels_that_exist(expression: str) -> None:
    parsed = promql_parser.parse(expression)
    selectors = _selectors(parsed)
    assert selectors
    for selector in selectors:
        assert selector.name in KNOWN
        asked = {matcher.name for matcher in selector.matchers.matchers}
        assert asked <= KNOWN[selector.name], selector.name
    for labels, metrics in _groupings(parsed):
        for metric in metrics:
            assert labels <= KNOWN[metric], metric


def test_every_metric_of_the_operator_is_shown_or_watched() -> None:
    used = {str(item.name) for each in EXPRESSIONS.values() for item in _selectors(promql_parser.parse(each))}
    shown = {name.removesuffix("_bucket") for name in used}
    hidden = {name for name in OPERATOR if not name.endswith(("_sum", "_count"))}
    assert {name for name in hidden if name.removesuffix("_bucket") not in shown} == set()


def test_legends_and_texts_name_labels_that_the_series_have() -> None:
    """An unknown one would be shown as nothing."""
    for dashboard in FILES.values():
        for panel in dashboard["panels"]:
            for target in panel["targets"]:
                wanted = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
                assert wanted <= _shown_labels(target["expr"]), panel["title"]
    for rule in _rules("alert"):
        wanted = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
        assert wanted <= _shown_labels(rule["expr"]), rule["alert"]


def _shown_labels(expression: str) -> set[str]:
    """Labels of an expression's result, at least."""
    parsed = promql_parser.parse(expression)
    groupings = [labels for labels, _ in _groupings(parsed)]
    if groupings:
        return set.intersection(*groupings)
    return set.intersection(*(KNOWN[str(item.name)] for item in _selectors(parsed)))


def test_dashboards_are_the_generated_ones() -> None:
    assert {dashboard.name: render(dashboard) for dashboard in DASHBOARDS} == FILES, "run `make dashboards`"


def test_panels_have_numbers_of_their_own_and_do_not_overlap() -> None:
    assert len({dashboard["uid"] for dashboard in FILES.values()}) == len(FILES)
    for dashboard in FILES.values():
        panels = dashboard["panels"]
        assert len({panel["id"] for panel in panels}) == len(panels)
        cells = [
            (x, y)
            for place in (panel["gridPos"] for panel in panels)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        ]
        assert len(cells) == len(set(cells))
        assert max(x for x, _ in cells) < 24


def test_every_alert_says_what_it_means_and_where_to_read_on() -> None:
    page = (ROOT / "docs" / "observability.md").read_text()
    alerts = _rules("alert")
    assert len({rule["alert"] for rule in alerts}) == len(alerts)
    for rule in alerts:
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert rule["annotations"].keys() == {"summary", "description"}
        assert rule["for"]
        assert f"\n### {rule['alert']}\n" in page, rule["alert"]


@pytest.mark.timeout(900)
def test_prometheus_takes_the_rules() -> None:
    files = [str(path) for path in (CHART / "rules").glob("*.yaml")]
    answer = subprocess.run([binary("promtool"), "check", "rules", "--lint=all", "--lint-fatal", *files], **_captured())
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.mark.timeout(900)
def test_alerts_fire_when_they_should_and_not_before() -> None:
    answer = subprocess.run([binary("promtool"), "test", "rules", str(RULE_TESTS)], **_captured())
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_every_rule_is_tested() -> None:
    text = RULE_TESTS.read_text()
    for rule in (*_rules("alert"), *_rules("record")):
        assert (rule.get("alert") or rule["record"]) in text


def _captured() -> dict[str, Any]:
    return {"capture_output": True, "text": True, "check": False}


def test_the_chart_carries_rules_and_dashboards_unchanged(render: Render) -> None:
    manifests = render(**MATRIX["watched"])
    rules = {item["metadata"]["name"]: item for item in manifests if item["kind"] == "PrometheusRule"}
    assert {name.removeprefix("plimsoll-"): item["spec"] for name, item in rules.items()} == RULES
    assert all(item["metadata"]["labels"]["release"] == "prometheus" for item in rules.values())
    boards = [item for item in manifests if item["kind"] == "ConfigMap"]
    assert {name: json.loads(text) for item in boards for name, text in item["data"].items()} == {
        f"plimsoll-{name}.json": dashboard for name, dashboard in FILES.items()
    }
    for item in boards:
        assert item["metadata"]["labels"].items() >= {"grafana_dashboard": "1", "team": "models"}.items()
        assert item["metadata"]["annotations"] == {"grafana_folder": "Models"}
        assert len(json.dumps(item)) < 2**18


def test_serving_pods_are_scraped_with_the_labels_that_the_rules_ask_for(render: Render) -> None:
    (monitor,) = (item for item in render(**MATRIX["watched"]) if item["kind"] == "PodMonitor")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert (endpoint["port"], endpoint["path"], endpoint["interval"]) == ("http", "/metrics", "5s")
    assert {each["targetLabel"] for each in endpoint["relabelings"]} | {"namespace", "pod"} == POD_LABELS
    assert monitor["spec"]["namespaceSelector"] == {"any": True}
    (confined,) = (item for item in render(**MATRIX["watched and confined"]) if item["kind"] == "PodMonitor")
    assert confined["spec"]["namespaceSelector"] == {"matchNames": ["chat"]}
