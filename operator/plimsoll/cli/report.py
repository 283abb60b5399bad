"""The HTML report: one file that needs no network, readable in light and dark, and its figures beside it as JSON."""

import html
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from plimsoll.cli.manifests import FileError
from plimsoll.cli.tables import TWO_FIGURES, beside, duration, rates, span
from plimsoll.cli.text import share

_LABELS = {"ttft": "TTFT", "tpot": "TPOT", "endToEnd": "end to end"}
_CSS = """
:root { color-scheme: light dark; --back: #ffffff; --text: #1f2328; --dim: #59636e; --grid: #d8dee4; --panel: #f6f8fa;
  --bad: #c0262d; --s0: #2563eb; --s1: #c26a05; --s2: #047857; --s3: #9333ea; --s4: #dc2626; --s5: #0e7490;
  --s6: #be185d; --s7: #4d7c0f; }
@media (prefers-color-scheme: dark) { :root { --back: #0d1117; --text: #e6edf3; --dim: #9198a1; --grid: #30363d;
  --panel: #161b22; --bad: #ff7b72; --s0: #6cb0ff; --s1: #f5b544; --s2: #3fcf9a; --s3: #c69bff; --s4: #ff8a80;
  --s5: #3cc8e0; --s6: #f78fc0; --s7: #a9d65b; } }
body { background: var(--back); color: var(--text); font: 15px/1.5 system-ui, sans-serif; margin: 0 auto;
  max-width: 1120px; padding: 1.5rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .3rem; }
p { margin: .3rem 0; } .dim { color: var(--dim); } .bad { color: var(--bad); font-weight: 600; }
.tiles { display: flex; flex-wrap: wrap; gap: .7rem; margin: 1rem 0; }
.tile { background: var(--panel); border-radius: 8px; padding: .55rem .9rem; min-width: 8rem; }
.tile b { display: block; font-size: 1.3rem; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums; margin: .5rem 0; }
th { color: var(--dim); font-weight: 500; }
th, td { padding: .22rem .6rem .22rem 0; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } tr + tr td { border-top: 1px solid var(--grid); }
.moves :is(th, td):last-child { text-align: left; white-space: normal; }
svg { display: block; width: 100%; height: auto; }
"""


def report_writer(path: Path | None) -> Callable[[Mapping[str, Any]], None]:
    """What writes a document as a report to `path`, and to the same name with `.json`; nothing without a path.

    Called before the simulation runs, so that a missing library or folder is told at once.

    Raises:
        FileError: the plotting library is not installed, or the path is no HTML file in an existing folder.
    """
    if path is None:
        return lambda _document: None
    if path.suffix.lower() not in (".html", ".htm"):
        raise FileError(f"--report {path}: a name that ends in .html is accepted")
    if not path.parent.is_dir():
        raise FileError(f"--report {path}: no such folder {path.parent}")
    try:
        from plimsoll.cli.chained_report import chained_section
        from plimsoll.cli.report_plots import plots
    except ImportError as error:
        raise FileError(
            f"--report needs {error.name}, which is not installed: pip install 'plimsoll[analysis]'"
        ) from error

    def write(document: Mapping[str, Any]) -> None:
        chained = [chained_section(item) for item in document.get("chained", ())]
        page = report_html(document, plots(document), chained)
        try:
            path.write_text(page, encoding="utf-8")
            path.with_suffix(".json").write_text(json.dumps(document, indent=2), encoding="utf-8")
        except OSError as error:
            raise FileError(f"--report {path}: cannot be written: {error.strerror}") from error

    return write


def report_html(
    document: Mapping[str, Any], plots: Sequence[tuple[str, str, str]], sections: Sequence[str] = ()
) -> str:
    """The page; `plots` are (title, caption, inline SVG), `sections` HTML that comes before them."""
    replayed = "rounds" in document
    title = "Plimsoll replay" if replayed else "Plimsoll simulation"
    body = [f"<h1>{title}</h1>"]
    if "deployments" in document:
        body += [_setting(document), _tiles(document)]
        body.append(_comparison(document) if replayed else f"<p class=dim>{TWO_FIGURES}</p>")
        body.extend(_deployment(item) for item in document["deployments"])
    body.extend(sections)
    body.extend(f"<h2>{_text(name)}</h2><p class=dim>{_text(caption)}</p>{svg}" for name, caption, svg in plots)
    if replayed:
        body.append(_rounds(document))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_CSS}</style></head><body>{''.join(body)}</body></html>\n"
    )


def _setting(document: Mapping[str, Any]) -> str:
    sources = sorted({item["arrivals"] for one in document["deployments"] for item in one["traffic"]})
    parts = [f"arrivals: {', '.join(sources)}", f"seed {document['seed']}"]
    if document.get("warmUpSeconds"):
        parts.append(f"the first {document['warmUpSeconds']:.0f} s do not count in latencies")
    if "replanSeconds" in document:
        parts.append(f"a new plan every {document['replanSeconds']:.0f} s")
    return f"<p class=dim>{_text('; '.join(parts))}</p>"


def _tiles(document: Mapping[str, Any]) -> str:
    classes = [item for one in document["deployments"] for item in one["traffic"] if item["requests"]["arrived"]]
    arrived = sum(item["requests"]["arrived"] for item in classes)
    unserved = sum(item["unserved"] * item["requests"]["arrived"] for item in classes)
    attained = [item["attainment"] for item in classes if item["attainment"] is not None]
    tiles = [
        ("per hour", document["costPerHour"]),
        ("in all", document["cost"]),
        ("per million tokens", document["costPerMillionTokens"] or "-"),
        ("requests", f"{arrived:,}"),
        ("unserved", share(unserved / arrived) if arrived else "-"),
        ("within targets, worst class", share(min(attained)) if attained else "-"),
        ("simulated", span(document["simulatedSeconds"])),
    ]
    cells = "".join(f"<div class=tile><b>{_text(value)}</b>{_text(label)}</div>" for label, value in tiles)
    return f"<div class=tiles>{cells}</div>"


def _deployment(item: Mapping[str, Any]) -> str:
    per_million = item["costPerMillionTokens"]
    tokens = f", {per_million} per million tokens" if per_million else ""
    cost = f"{item['costPerHour']} per hour{tokens}"
    rows: list[tuple[str, ...]] = []
    for traffic in item["traffic"]:
        if not traffic["requests"]["arrived"]:
            rows.append((traffic["name"], "0"))
            continue
        head: tuple[str, ...] = (
            traffic["name"],
            f"{traffic['requests']['arrived']:,}",
            rates(traffic),
            share(traffic["unserved"]),
            f"{traffic['preemptions']:,}",
        )
        for name, latency in traffic["latency"].items():
            rows.append((*head, _LABELS[name], *_target(latency), *beside(latency)))
            head = ("",) * len(head)
    columns = (
        "class", "requests", "per minute", "unserved", "preempted", "latency", "target", "attained",
        "p50", "p95", "p99",
    )  # fmt: skip
    tables = cell_table(columns, rows)
    if item.get("placements"):
        tables += cell_table(
            ("placement", "pool", "replicas", "batch", "routed", "busy", "KV cache", "preemptions", "cost/h"),
            [
                (
                    part["name"], part["pool"], part["replicas"], part["maxNumSeqs"], f"{part['requests']:,}",
                    share(part["utilization"]), share(part["kvUsage"]), f"{part['preemptions']:,}", part["costPerHour"],
                )
                for part in item["placements"]
            ],
        )  # fmt: skip
    return f"<h2>{_text(item['namespace'])}/{_text(item['name'])}</h2><p class=dim>{_text(cost)}</p>{tables}"


def _target(latency: Mapping[str, Any]) -> tuple[str, str]:
    if "targetMilliseconds" not in latency:
        return "-", "-"
    attained = share(latency["attainment"]) if latency["attainment"] is not None else "-"
    target = f"{latency['statistic'].lower()} {duration(latency['targetMilliseconds'])}"
    return target, attained if latency["met"] else f"!{attained}, missed"


def _comparison(document: Mapping[str, Any]) -> str:
    rows = [("with Plimsoll's plans", document)]
    rows += [(f"static, sized for the {name}", item) for name, item in document["static"].items()]
    cells = []
    for label, item in rows:
        saved = item.get("saved")
        cells.append(
            (
                label, item["costPerHour"], item["cost"], f"{item['gpuHours']:,.1f}", share(item["unserved"]),
                share(item["worstAttainment"]) if item["worstAttainment"] is not None else "-",
                "" if saved is None else f"{saved:+.1%}",
            )
        )  # fmt: skip
    columns = (
        "fleet",
        "per hour",
        "in all",
        "GPU hours",
        "unserved",
        "within targets, worst class",
        "saved against it",
    )
    return f"<h2>What planning saves</h2>{cell_table(columns, cells)}"


def _rounds(document: Mapping[str, Any]) -> str:
    later = document["rounds"][1:]
    rows = [
        (f"{item['seconds'] / 3600:.2f} h", item["gpus"], item["costPerHour"], "; ".join(item["moves"]))
        for item in later
        if item["moves"]
    ]
    caption = f"{len(rows)} of {len(later)} plans after the first changed something."
    table = cell_table(("at", "GPUs", "per hour", "moves"), rows)
    return f"<h2>Moves</h2><p class=dim>{caption}</p><div class=moves>{table}</div>"


def cell_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table; a leading exclamation mark makes a cell stand out."""
    head = "".join(f"<th>{_text(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(_cell(value) for value in row)}</tr>" for row in rows)
    return f"<div class=scroll><table><tr>{head}</tr>{body}</table></div>"


def _cell(value: object) -> str:
    """A leading exclamation mark makes it stand out."""
    text = str(value)
    return f"<td class=bad>{_text(text[1:])}</td>" if text.startswith("!") else f"<td>{_text(text)}</td>"


def _text(value: object) -> str:
    return html.escape(str(value))
