"""Writes the chart's Grafana dashboards: `python -m tools.dashboards [FOLDER]`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "helm" / "plimsoll" / "dashboards"
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
_COLUMNS = 24
_STAT_WIDTH, _STAT_HEIGHT, _GRAPH_WIDTH, _GRAPH_HEIGHT = 4, 4, 12, 8


@dataclass(frozen=True)
class Panel:
    """A figure or a graph. `queries` are pairs of expression and legend."""

    title: str
    queries: Sequence[tuple[str, str]]
    unit: str = "short"
    description: str = ""
    kind: str = "timeseries"
    stacked: bool = False


@dataclass(frozen=True)
class Dashboard:
    """One file. `variables` are pairs of name and the query that lists its values."""

    name: str
    title: str
    description: str
    panels: Sequence[Panel]
    variables: Sequence[tuple[str, str]] = ()


def stat(title: str, expression: str, unit: str = "short", description: str = "") -> Panel:
    """A single figure."""
    return Panel(title, [(expression, "")], unit, description, "stat")


_CHOSEN = '{namespace="$namespace", deployment="$deployment"}'
_BY_PLACEMENT = "{{placement}}"
_BY_DEPLOYMENT = "{{namespace}}/{{deployment}}"


def _per_deployment(metric: str) -> str:
    return f"sum by (namespace, deployment) ({metric})"


def _of_class(metric: str) -> str:
    return f'{{namespace="$namespace", deployment="$deployment", metric="{metric}"}}'


def _replicas(metric: str) -> str:
    return metric + _CHOSEN


FLEET = Dashboard(
    "fleet",
    "Plimsoll / Fleet",
    "What the fleet costs, what it serves, and what is short.",
    [
        stat(
            "Cost per hour",
            "fleet:plimsoll_cost_per_hour:max",
            description="Of the plan, in the currency of the pools' prices.",
        ),
        stat(
            "Cost per million output tokens",
            "fleet:cost_per_million_output_tokens:rate1h",
            description="Over the last hour.",
        ),
        stat("GPUs planned", 'sum(max by (pool) (plimsoll_pool_gpus{use="planned"}))'),
        stat("GPUs in all pools", 'sum(max by (pool) (plimsoll_pool_gpus{use="total"}))'),
        stat(
            "LLMDeployments not served wholly",
            'max(plimsoll_deployments{state="Short"})',
            description="State Short: demand stays unserved.",
        ),
        stat("Waiting for approval", "max(plimsoll_awaiting_approval)"),
        Panel("Cost per hour", [("fleet:plimsoll_cost_per_hour:max", "plan")]),
        Panel("LLMDeployments by state", [("max by (state) (plimsoll_deployments)", "{{state}}")], stacked=True),
        Panel(
            "GPUs of each pool in use",
            [
                ('max by (pool) (plimsoll_pool_gpus{use="planned"})', "{{pool}} planned"),
                ('max by (pool) (plimsoll_pool_gpus{use="others"})', "{{pool}} others"),
            ],
            stacked=True,
        ),
        Panel(
            "GPUs of each pool that can be planned with",
            [('max by (pool) (plimsoll_pool_gpus{use="total"})', "{{pool}}")],
        ),
        Panel("Requests answered", [(_per_deployment("placement:vllm_requests:rate5m"), _BY_DEPLOYMENT)], "reqps"),
        Panel("Output tokens", [(_per_deployment("placement:vllm_output_tokens:rate5m"), _BY_DEPLOYMENT)], "tokens/s"),
        Panel("Requests waiting", [(_per_deployment("placement:vllm_requests_waiting:sum"), _BY_DEPLOYMENT)]),
        Panel(
            "Time to first token, 95th percentile of the slowest placement",
            [("max by (namespace, deployment) (placement:vllm_ttft_seconds:p95_5m)", _BY_DEPLOYMENT)],
            "s",
        ),
        Panel(
            "Requests within their targets over the last hour",
            [('deployment:plimsoll_slo_attainment:min{window="1h"}', _BY_DEPLOYMENT)],
            "percentunit",
            "Of the class that fares worst.",
        ),
        Panel(
            "Burn rate over the last hour",
            [('deployment:plimsoll_slo_burn_rate:max{window="1h"}', _BY_DEPLOYMENT)],
            description="1 uses up exactly the share of requests that may miss a target.",
        ),
    ],
)

DEPLOYMENT = Dashboard(
    "deployment",
    "Plimsoll / LLMDeployment",
    "One LLMDeployment: its objectives, its placements, their load and their latencies.",
    [
        Panel(
            "Requests within their targets",
            [(f"max by (traffic, window) (plimsoll_slo_attainment{_CHOSEN})", "{{traffic}} {{window}}")],
            "percentunit",
        ),
        Panel(
            "Burn rate",
            [(f"max by (traffic, window) (plimsoll_slo_burn_rate{_CHOSEN})", "{{traffic}} {{window}}")],
            description="1 uses up exactly the share of requests that may miss a target.",
        ),
        *(
            Panel(
                f"{title}: target, predicted, observed",
                [
                    (
                        f"max by (traffic, kind) (plimsoll_slo_latency_seconds{_of_class(metric)})",
                        "{{traffic}} {{kind}}",
                    )
                ],
                "s",
                "In the statistic of the target.",
            )
            for title, metric in (
                ("Time to first token", "ttft"),
                ("Time per output token", "tpot"),
                ("End to end", "endToEnd"),
            )
        ),
        Panel(
            "Demand: declared, observed, planned for",
            [
                (
                    f"max by (traffic, kind) (plimsoll_traffic_requests_per_minute{_CHOSEN})",
                    "{{traffic}} {{kind}}",
                )
            ],
            description="Requests per minute.",
        ),
        Panel(
            "Requests answered",
            [(f"placement:vllm_requests:rate5m{_CHOSEN}", _BY_PLACEMENT)],
            "reqps",
            stacked=True,
        ),
        Panel(
            "How requests ended",
            [
                (
                    f"sum by (finished_reason) (rate({_replicas('vllm:request_success_total')}[5m]))",
                    "{{finished_reason}}",
                )
            ],
            "reqps",
            stacked=True,
        ),
        Panel("Requests running", [(f"placement:vllm_requests_running:sum{_CHOSEN}", _BY_PLACEMENT)]),
        Panel("Requests waiting", [(f"placement:vllm_requests_waiting:sum{_CHOSEN}", _BY_PLACEMENT)]),
        Panel(
            "Time to first token, 95th percentile",
            [(f"placement:vllm_ttft_seconds:p95_5m{_CHOSEN}", _BY_PLACEMENT)],
            "s",
        ),
        Panel(
            "Time per output token, 95th percentile",
            [(f"placement:vllm_tpot_seconds:p95_5m{_CHOSEN}", _BY_PLACEMENT)],
            "s",
        ),
        Panel("End to end, 95th percentile", [(f"placement:vllm_e2e_seconds:p95_5m{_CHOSEN}", _BY_PLACEMENT)], "s"),
        Panel(
            "Time in the queue, mean",
            [
                (
                    (
                        f"sum by (placement) (rate({_replicas('vllm:request_queue_time_seconds_sum')}[5m])) / "
                        f"sum by (placement) (rate({_replicas('vllm:request_queue_time_seconds_count')}[5m]))"
                    ),
                    _BY_PLACEMENT,
                )
            ],
            "s",
        ),
        Panel("Input tokens", [(f"placement:vllm_input_tokens:rate5m{_CHOSEN}", _BY_PLACEMENT)], "tokens/s"),
        Panel("Output tokens", [(f"placement:vllm_output_tokens:rate5m{_CHOSEN}", _BY_PLACEMENT)], "tokens/s"),
        Panel("Fullest KV cache", [(f"placement:vllm_kv_cache_usage:max{_CHOSEN}", _BY_PLACEMENT)], "percentunit"),
        Panel("Preemptions", [(f"placement:vllm_preemptions:rate5m{_CHOSEN}", _BY_PLACEMENT)], "ops"),
        Panel(
            "Replicas that are scraped",
            [(f"count by (placement) ({_replicas('vllm:num_requests_running')})", _BY_PLACEMENT)],
        ),
        Panel(
            "Corrections of predicted speed",
            [
                (
                    "max by (model, accelerator, parallelism, phase) (plimsoll_correction_factor)",
                    "{{model}} on {{accelerator}} {{parallelism}} {{phase}}",
                ),
                (
                    "max by (model, accelerator, parallelism, phase) (plimsoll_correction_estimate)",
                    "estimate: {{model}} on {{accelerator}} {{parallelism}} {{phase}}",
                ),
            ],
            description="Of all LLMDeployments: they belong to the kind of replica.",
        ),
    ],
    [
        ("namespace", "label_values(placement:vllm_requests:rate5m, namespace)"),
        ("deployment", 'label_values(placement:vllm_requests:rate5m{namespace="$namespace"}, deployment)'),
    ],
)

OPERATOR = Dashboard(
    "operator",
    "Plimsoll / Operator",
    "The operator itself: who leads, how long rounds take, and what is written.",
    [
        stat("Leaders", "sum(plimsoll_leader)", description="One, always."),
        stat("Operators that know everything", "sum(plimsoll_synced)"),
        stat("Changes of leader", "max(plimsoll_leader_transitions)"),
        stat("Held", "max(plimsoll_blast_radius_held)", description="1: nothing is taken away until a person looks."),
        stat(
            "Prometheus answers", "max by (source) (plimsoll_telemetry_up)", description="Absent where it is not asked."
        ),
        stat(
            "LLMDeployments with metrics of no use",
            "count(plimsoll_metrics_fresh == 0) or vector(0)",
            description="Their condition MetricsFresh says why.",
        ),
        Panel(
            "Planning",
            [
                ("histogram_quantile(0.5, sum by (le) (rate(plimsoll_plan_seconds_bucket[10m])))", "median"),
                ("histogram_quantile(0.95, sum by (le) (rate(plimsoll_plan_seconds_bucket[10m])))", "95th percentile"),
            ],
            "s",
        ),
        Panel(
            "Planning rounds by result", [("sum by (result) (increase(plimsoll_plan_result_total[10m]))", "{{result}}")]
        ),
        Panel(
            "Part of the time that is spent planning",
            [("max(avg_over_time(plimsoll_planning[10m]))", "planning")],
            "percentunit",
        ),
        Panel(
            "Turns of the loop by result", [("sum by (result) (increase(plimsoll_rounds_total[10m]))", "{{result}}")]
        ),
        Panel(
            "Writes of a round",
            [
                ("histogram_quantile(0.5, sum by (le) (rate(plimsoll_apply_seconds_bucket[10m])))", "median"),
                ("histogram_quantile(0.95, sum by (le) (rate(plimsoll_apply_seconds_bucket[10m])))", "95th percentile"),
            ],
            "s",
        ),
        Panel("Writes", [("sum by (action, result) (increase(plimsoll_actions_total[10m]))", "{{action}} {{result}}")]),
        Panel(
            "Requests to the API server",
            [("sum by (verb, code) (rate(plimsoll_api_requests_total[5m]))", "{{verb}} {{code}}")],
            "reqps",
        ),
        Panel("Events read", [("sum by (kind) (rate(plimsoll_feed_events_total[5m]))", "{{kind}}")], "ops"),
        Panel(
            "Time since the last event",
            [("time() - max by (kind) (plimsoll_feed_last_event_timestamp_seconds)", "{{kind}}")],
            "s",
            "Kinds that nobody changes are silent for good.",
        ),
        Panel("Objects known", [("max by (kind) (plimsoll_store_objects)", "{{kind}}")]),
        Panel(
            "Drift found by audits",
            [("sum by (kind, type) (increase(plimsoll_audit_drift_total[1h]))", "{{kind}} {{type}}")],
        ),
        Panel(
            "Changes by others put back", [("sum by (kind) (increase(plimsoll_drift_corrected_total[1h]))", "{{kind}}")]
        ),
        Panel("Event loop late by", [("max by (pod) (plimsoll_loop_lag_seconds)", "{{pod}}")], "s"),
        Panel("Kubernetes Events", [("sum by (result) (increase(plimsoll_events_total[10m]))", "{{result}}")]),
    ],
)

DASHBOARDS = (FLEET, DEPLOYMENT, OPERATOR)


def render(dashboard: Dashboard) -> dict[str, Any]:
    """Grafana's JSON model of a dashboard."""
    return {
        "uid": f"plimsoll-{dashboard.name}",
        "title": dashboard.title,
        "description": dashboard.description,
        "tags": ["plimsoll"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "",
        "links": [
            {
                "title": "Plimsoll",
                "type": "dashboards",
                "tags": ["plimsoll"],
                "asDropdown": True,
                "keepTime": True,
                "includeVars": False,
            }
        ],
        "templating": {"list": [_source(), *(_variable(*item) for item in dashboard.variables)]},
        "annotations": {"list": []},
        "panels": list(_placed(dashboard.panels)),
    }


def _source() -> dict[str, Any]:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}


def _variable(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": _DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
    }


def _placed(panels: Sequence[Panel]) -> Iterator[dict[str, Any]]:
    """Panels from left to right, a new row where the next one does not fit or has another height."""
    x = y = row_height = 0
    for number, panel in enumerate(panels, 1):
        figure = panel.kind == "stat"
        width, height = (_STAT_WIDTH, _STAT_HEIGHT) if figure else (_GRAPH_WIDTH, _GRAPH_HEIGHT)
        if x + width > _COLUMNS or (x and height != row_height):
            x, y = 0, y + row_height
        row_height = height
        yield _panel(number, panel, {"x": x, "y": y, "w": width, "h": height})
        x += width


def _panel(number: int, panel: Panel, position: dict[str, int]) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    if panel.kind == "timeseries":
        fill = {"fillOpacity": 30, "stacking": {"mode": "normal"}} if panel.stacked else {"fillOpacity": 5}
        defaults["custom"] = {"lineWidth": 1, "showPoints": "never", **fill}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        **({"description": panel.description} if panel.description else {}),
        "datasource": _DATASOURCE,
        "gridPos": position,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _options(panel),
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": _DATASOURCE,
                "expr": expression,
                "legendFormat": legend or "__auto",
                **({"instant": True, "range": False} if panel.kind == "stat" else {}),
            }
            for index, (expression, legend) in enumerate(panel.queries)
        ],
    }


def _options(panel: Panel) -> dict[str, Any]:
    if panel.kind == "stat":
        return {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "none", "graphMode": "none"}
    return {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}


def main() -> None:
    """Writes one file for each dashboard."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    for dashboard in DASHBOARDS:
        (folder / f"{dashboard.name}.json").write_text(
            json.dumps(render(dashboard), indent=2, ensure_ascii=False) + "\n"
        )


if __name__ == "__main__":
    main()
