"""The report's plots, from a simulation's document: inline SVG whose colours follow the page's."""

import io
import re
from collections.abc import Mapping, Sequence
from math import floor, log10
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from plimsoll.cli.chained_report import chained_plots
from plimsoll.cli.report_style import COLOURS, SERIES, STYLE, TEXT, WIDTH

_DASHES = ("-", "--", ":")
_MOST_CLASSES, _MOST_PLACEMENTS = 12, 24
_METRICS = (("ttft", "time to first token"), ("tpot", "time per output token"), ("endToEnd", "end to end"))


def plots(document: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(title, caption, inline SVG) of each plot that the document has figures for."""
    with rc_context(STYLE):
        drawn = [*chained_plots(document), *_replay_plots(document), *_common_plots(document)]
        return [
            (title, caption, inline_svg(figure, f"p{number}")) for number, (title, caption, figure) in enumerate(drawn)
        ]


def _replay_plots(document: Mapping[str, Any]) -> list[tuple[str, str, Figure]]:
    if "rounds" not in document:
        return []
    return [
        ("GPUs", "In use over time, by placement: starting, ready or draining.", _gpus(document)),
        ("Cost", "Per hour, and what it adds up to. Static fleets are one plan for all the time.", _costs(document)),
    ]  # fmt: skip


def _common_plots(document: Mapping[str, Any]) -> list[tuple[str, str, Figure]]:
    if "series" not in document:
        return []
    drawn = [("Requests per minute", "Arrivals by traffic class.", _rates(document))]
    classes, every = _classes(document), document["series"]["classes"]
    if classes:
        left = f" The {len(classes)} busiest of {len(every)} classes." if len(every) > len(classes) else ""
        caption = f"Of requests that complete in each interval; the dashed line is the target. Logarithmic scale.{left}"
        drawn.append(("Latency", caption, _latencies(document, classes)))
        drawn.append(
            ("Within targets", "Part of the requests that kept all targets of their class.", _attainment(document))
        )
    drawn.append(
        ("Utilisation", "Busy: part of the replicas' time in which engines ran steps.", _utilisation(document))
    )
    if "rounds" not in document:
        drawn.append(("Cost", "Rent per hour, and what it adds up to.", _costs(document)))
    return drawn


def inline_svg(figure: Figure, prefix: str) -> str:
    """Without a size of its own, with colours from the page, and with ids that no other plot of the page has."""
    with io.StringIO() as out:
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
        svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(
        r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1), count=1
    )
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'(url\(|href=")#', rf"\1#{prefix}-", svg)
    for stand_in, colour in COLOURS.items():
        svg = svg.replace(stand_in, colour)
    return re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", svg)


def _classes(document: Mapping[str, Any]) -> list[str]:
    """Those with the most requests."""
    series = document["series"]["classes"]
    busiest = sorted(series, key=lambda key: -sum(series[key]["requestsPerMinute"]))[:_MOST_CLASSES]
    return sorted(busiest)


def _placements(document: Mapping[str, Any], field: str) -> list[str]:
    series = document["series"]["placements"]
    largest = sorted(series, key=lambda key: -sum(value or 0.0 for value in series[key][field]))[:_MOST_PLACEMENTS]
    return sorted(largest)


def _rates(document: Mapping[str, Any]) -> Figure:
    figure, axes = _single(2.4)
    for number, key in enumerate(_classes(document)):
        _line(axes, document, document["series"]["classes"][key]["requestsPerMinute"], number, key)
    axes.set_ylim(bottom=0)
    _finish(axes, document)
    return figure


def _attainment(document: Mapping[str, Any]) -> Figure:
    figure, axes = _single(2.0)
    for number, key in enumerate(_classes(document)):
        values = [None if value is None else 100 * value for value in document["series"]["classes"][key]["attainment"]]
        _line(axes, document, values, number, key)
    low = axes.get_ylim()[0]
    axes.set_ylim(max(0.0, min(low, 95.0)), 100.5)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    _finish(axes, document)
    return figure


def _latencies(document: Mapping[str, Any], classes: Sequence[str]) -> Figure:
    figure = Figure(figsize=(WIDTH, 0.5 + 1.75 * len(classes)), layout="constrained")
    grid = figure.subplots(len(classes), len(_METRICS), squeeze=False)
    for row, key in zip(grid, classes, strict=True):
        for axes, (metric, label) in zip(row, _METRICS, strict=True):
            series = document["series"]["classes"][key][metric]
            for number, percentile in enumerate(("p50", "p95", "p99")):
                _line(axes, document, series[percentile], number, percentile)
            if series["targetMilliseconds"] is not None:
                axes.axhline(series["targetMilliseconds"], color=TEXT, linestyle="--", linewidth=1.0)
            _logarithmic(axes, [*series["p50"], *series["p99"], series["targetMilliseconds"]])
            target = f", {series['statistic'].lower()} target" if series["statistic"] is not None else ""
            axes.set_title(f"{key}\n{label}{target}")
            _finish(axes, document, legend=False, ticks=4)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=3)
    return figure


def _utilisation(document: Mapping[str, Any]) -> Figure:
    keys = _placements(document, "utilization")
    figure = Figure(figsize=(WIDTH, 2.4 + 0.18 * len(keys)), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, field, title in ((left, "utilization", "busy"), (right, "kvUsage", "KV cache in use")):
        for number, key in enumerate(keys):
            values = document["series"]["placements"][key][field]
            _line(axes, document, [None if value is None else 100 * value for value in values], number, key)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
        axes.set_title(title)
        _finish(axes, document, legend=False)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=2, fontsize=8)
    return figure


def _gpus(document: Mapping[str, Any]) -> Figure:
    keys = _placements(document, "gpus")
    figure = Figure(figsize=(WIDTH, 2.6 + 0.18 * len(keys)), layout="constrained")
    axes = figure.subplots()
    times = _hours(document)
    rows = [document["series"]["placements"][key]["gpus"] for key in keys]
    if rows:
        colours = [SERIES[number % len(SERIES)] for number in range(len(keys))]
        areas = axes.stackplot(times, rows, labels=keys, colors=colours, linewidth=0, step="mid")
        for number, area in enumerate(areas):
            area.set_alpha((0.8, 0.45, 0.25)[number // len(SERIES) % 3])
    for number, (name, static) in enumerate(document["static"].items()):
        dash = _DASHES[1 + number % 2]
        axes.axhline(static["gpus"], color=TEXT, linestyle=dash, linewidth=1.0, label=f"static fleet for the {name}")
    axes.set_ylim(bottom=0)
    _finish(axes, document, legend=False)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=2, fontsize=8)
    return figure


def _costs(document: Mapping[str, Any]) -> Figure:
    series = document["series"]
    spans = [(end - begin) / 3600.0 for begin, end in zip(series["beginSeconds"], series["endSeconds"], strict=True)]
    rates = [
        sum(values) for values in zip(*(item["costPerHour"] for item in series["placements"].values()), strict=True)
    ]
    rates = rates or [0.0] * len(spans)
    figure = Figure(figsize=(WIDTH, 2.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    lines = [("this plan" if "rounds" not in document else "with Plimsoll's plans", rates)]
    lines += [
        (f"static {name}", [float(static["costPerHour"])] * len(spans))
        for name, static in document.get("static", {}).items()
    ]
    for number, (name, values) in enumerate(lines):
        total = 0.0
        sums = [total := total + value * span for value, span in zip(values, spans, strict=True)]
        _line(left, document, values, number, name)
        _line(right, document, sums, number, name)
    for axes, title in ((left, "per hour"), (right, "so far")):
        axes.set_ylim(bottom=0)
        axes.set_title(title)
        _finish(axes, document, legend=len(lines) > 1 and axes is right)
    return figure


def _single(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def _line(axes: Axes, document: Mapping[str, Any], values: Sequence[float | None], number: int, label: str) -> None:
    """One series; what has no value is a gap."""
    points = [float("nan") if value is None else value for value in values]
    axes.plot(
        _hours(document),
        points,
        color=SERIES[number % len(SERIES)],
        linestyle=_DASHES[number // len(SERIES) % len(_DASHES)],
        linewidth=1.3,
        label=label,
        marker="." if len(points) == 1 else None,
    )


def _logarithmic(axes: Axes, values: Sequence[float | None]) -> None:
    """With ticks at 1, 2 and 5 of each decade, and from one of them to another, so that there are always two."""
    axes.set_yscale("log")
    known = [value for value in values if value is not None and value > 0]
    wide = bool(known) and max(known) > 300.0 * min(known)
    if known:
        axes.set_ylim(_tick_below(min(known)), _tick_above(max(known)))
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0), numticks=20))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _milliseconds(value)))


def _tick_below(value: float) -> float:
    """Of 1, 2 and 5."""
    decade = 10.0 ** floor(log10(value))
    return decade * max(tick for tick in (0.5, 1.0, 2.0, 5.0) if tick * decade < value)


def _tick_above(value: float) -> float:
    decade = 10.0 ** floor(log10(value))
    return decade * min(tick for tick in (2.0, 5.0, 10.0) if tick * decade > value)


def _hours(document: Mapping[str, Any]) -> list[float]:
    """The middle of each interval, in the unit of the axis."""
    series = document["series"]
    unit = 3600.0 if _in_hours(document) else 60.0
    return [(begin + end) / 2 / unit for begin, end in zip(series["beginSeconds"], series["endSeconds"], strict=True)]


def _in_hours(document: Mapping[str, Any]) -> bool:
    return bool(document["durationSeconds"] > 2 * 3600)


def _finish(axes: Axes, document: Mapping[str, Any], *, legend: bool = True, ticks: int = 8) -> None:
    unit = "h" if _in_hours(document) else "min"
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} {unit}"))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=ticks, steps=[1, 2, 3, 5, 6, 10]))
    axes.tick_params(length=0, pad=5)
    axes.margins(x=0.01)
    if legend and axes.get_legend_handles_labels()[0]:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)


def _milliseconds(value: float) -> str:
    return f"{value / 1000:g} s" if value >= 1000 else f"{value:g} ms"
