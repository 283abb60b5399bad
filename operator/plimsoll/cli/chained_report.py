"""Chained LLMDeployments in the HTML report: layers by servers with the routes through them, and sessions over time."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from plimsoll.cli.chained import latency_cells, way
from plimsoll.cli.report import cell_table
from plimsoll.cli.report_style import SERIES, TEXT, WIDTH
from plimsoll.cli.text import share

_MOST_SERVERS, _MOST_ROUTES = 60, 12


def chained_plots(document: Mapping[str, Any]) -> list[tuple[str, str, Figure]]:
    """(title, caption, figure) of every chained LLMDeployment."""
    drawn = []
    for item in document.get("chained", ()):
        name = f"{item['namespace']}/{item['name']}"
        left = len(item["servers"]) - _MOST_SERVERS
        more = f" {left} more servers are not shown." if left > 0 else ""
        caption = (
            "A bar is the interval of layers that a server hosts, in its region's colour; a line is a route, thicker "
            f"with more sessions.{more}"
        )
        drawn.append((f"{name}: layers by servers, and routes", caption, _placement(item)))
        if "series" in item:
            caption = "Sessions that hold memory or wait for it, and the mean response of those that end."
            drawn.append((f"{name}: sessions over time", caption, _over_time(item)))
    return drawn


def chained_section(item: Mapping[str, Any]) -> str:
    """Tables of one chained LLMDeployment."""
    rows = [
        (
            server["name"], server["region"], server["pool"], f"{server['gpus']} × {server['accelerator']}",
            f"{server['firstLayer']}-{server['firstLayer'] + server['layers'] - 1}",
            f"{server['sessions']:,}", share(server["cacheUsage"] or 0.0), server["costPerHour"],
        )
        for server in item["servers"]
    ]  # fmt: skip
    flows: list[tuple[str, ...]] = []
    for flow in item["traffic"]:
        head = (flow["name"], flow["origin"], f"{flow['requests']['arrived']:,}", share(flow["unserved"]))
        for name, latency in flow["latency"].items():
            flows.append((*head, *latency_cells(name, latency)))
            head = ("", "", "", "")
    routes = [(way(route["servers"]), route["origin"], f"{route['sessions']:,}") for route in item["routes"]]
    columns = ("class", "from", "requests", "unserved", "latency", "target", "attained", "mean", "p50", "p95")
    cost = (
        f"chained, {item['model']} {item['precision']}: {item['costPerHour']} per hour; "
        f"{item['running']:g} sessions run and {item['waiting']:g} wait on average"
    )
    return (
        f"<h2>{item['namespace']}/{item['name']}</h2><p class=dim>{cost}</p>{cell_table(columns, flows)}"
        + cell_table(("server", "region", "pool", "GPUs", "layers", "sessions", "cache", "cost/h"), rows)
        + cell_table(("route", "from", "sessions"), routes)
    )


def _placement(item: Mapping[str, Any]) -> Figure:
    servers = item["servers"][:_MOST_SERVERS]
    regions = sorted({server["region"] for server in item["servers"]})
    rows = {server["name"]: number for number, server in enumerate(servers)}
    figure = Figure(figsize=(WIDTH, 1.0 + 0.26 * len(servers)), layout="constrained")
    axes = figure.subplots()
    for region in regions:
        own = [server for server in servers if server["region"] == region]
        axes.barh(
            [rows[server["name"]] for server in own],
            [server["layers"] for server in own],
            left=[server["firstLayer"] for server in own],
            height=0.62,
            color=SERIES[regions.index(region) % len(SERIES)],
            alpha=0.45,
            label=region,
        )
    _routes(axes, item, rows)
    axes.set_yticks(list(rows.values()), list(rows))
    axes.set_ylim(len(servers) - 0.4, -0.6)
    axes.set_xlim(0, item["layers"])
    axes.set_xlabel("layer")
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
    return figure


def _routes(axes: Axes, item: Mapping[str, Any], rows: Mapping[str, int]) -> None:
    routes: Sequence[Mapping[str, Any]] = item.get("routes") or item["chains"]
    most = max((route.get("sessions", route.get("places", 1)) for route in routes), default=1)
    for number, route in enumerate(routes[:_MOST_ROUTES]):
        if not all(hop["name"] in rows for hop in route["servers"]):
            continue
        across, down = [], []
        for hop in route["servers"]:
            across += [hop["firstLayer"], hop["firstLayer"] + hop["layers"]]
            # Routes through one server lie beside each other.
            down += [rows[hop["name"]] + 0.4 * (number / _MOST_ROUTES - 0.5)] * 2
        weight = route.get("sessions", route.get("places", 1)) / most
        axes.plot(across, down, color=TEXT, linewidth=0.5 + 2.0 * weight, alpha=0.8)


def _over_time(item: Mapping[str, Any]) -> Figure:
    series = item["series"]
    minutes = [(a + b) / 120 for a, b in zip(series["beginSeconds"], series["endSeconds"], strict=True)]
    figure = Figure(figsize=(WIDTH, 2.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for number, name in enumerate(("running", "waiting")):
        left.plot(minutes, series[name], color=SERIES[number], linewidth=1.3, label=name)
    values = [float("nan") if value is None else value / 1000 for value in series["meanMilliseconds"]]
    right.plot(minutes, values, color=SERIES[0], linewidth=1.3, marker="." if len(values) == 1 else None)
    for axes, title in ((left, "sessions"), (right, "mean response, seconds")):
        axes.set_title(title)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("min")
        axes.tick_params(length=0)
    left.legend(fontsize=8)
    return figure
