"""Simulations as tables for people, from the same documents as `-o json`."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from plimsoll.cli.table import new_table
from plimsoll.cli.text import counted, share

_LABELS = {"ttft": "TTFT", "tpot": "TPOT", "endToEnd": "end to end"}
_PERCENTILES = ("p50", "p95", "p99")
_MOST_MOVES = 20
TWO_FIGURES = (
    "Two figures are simulated / planned: the plan is for the declared rates and lengths, and its latency is that of "
    "the worst placement of a class."
)


def print_deployments(console: Console, document: Mapping[str, Any]) -> None:
    """Per deployment: classes with their latencies, beside what was planned for a single plan, then placements."""
    for deployment in document["deployments"]:
        per_million = deployment["costPerMillionTokens"]
        tokens = f", {per_million} per million tokens" if per_million is not None else ""
        gpus = deployment["gpus"]
        gpus = counted(gpus, "GPU") if isinstance(gpus, int) else f"{gpus:,.1f} GPUs on average"
        state = "" if deployment["state"] == "Planned" else f"   [red]{deployment['state']}[/red]"
        console.print(
            f"[bold]{deployment['namespace']}/{deployment['name']}[/bold]   {deployment['costPerHour']} per hour, "
            f"{gpus}{tokens}{state}"
        )
        _print_classes(console, deployment["traffic"])
        _print_placements(console, deployment.get("placements", []))
        console.print()


def print_run(console: Console, document: Mapping[str, Any]) -> None:
    """What the whole run was and cost."""
    tokens = document["inputTokens"] + document["outputTokens"]
    per_million = document["costPerMillionTokens"]
    console.print(
        f"[bold]{document['costPerHour']} per hour[/bold], {document['cost']} for {span(document['simulatedSeconds'])} "
        f"and {tokens / 1e6:,.1f} million tokens: {per_million or '-'} per million, "
        f"{document['costPerMillionOutputTokens'] or '-'} per million answered"
    )
    if "rounds" not in document:
        console.print(TWO_FIGURES, style="dim", soft_wrap=True)


def print_replay(console: Console, document: Mapping[str, Any]) -> None:
    """What the plans changed, and what that saved."""
    rounds = document["rounds"]
    moves = [item for item in rounds[1:] if item["moves"]]
    count = f"{len(moves)} of them changed something" if moves else "none of them changed anything"
    console.print(f"{len(rounds)} plans, one every {span(document['replanSeconds'])}; {count}")
    if moves:
        table = new_table("at", "GPUs", "cost/h", "changes")
        for item in moves[:_MOST_MOVES]:
            table.add_row(span(item["seconds"]), str(item["gpus"]), item["costPerHour"], "\n".join(item["moves"]))
        console.print(table)
    if len(moves) > _MOST_MOVES:
        console.print(f"… and {len(moves) - _MOST_MOVES} more; -o json has all of them", style="dim")
    console.print()
    table = new_table("fleet", "cost/h", "cost", "GPU hours", "unserved", "in all targets, worst class", "saved")
    rows = [("replayed plans", document)]
    rows += [(f"static, for the {name}", item) for name, item in document["static"].items()]
    for name, item in rows:
        table.add_row(
            name,
            item["costPerHour"],
            item["cost"],
            _number(item["gpuHours"]),
            _share(item["unserved"], zero="0"),
            _share(item["worstAttainment"]),
            "" if item.get("saved") is None else f"{item['saved']:+.1%}",
        )
    console.print(table)
    for name, item in document["static"].items():
        if item["short"]:
            console.print(
                f"static, for the {name}: stock or budget do not cover {', '.join(item['short'])}", style="dim"
            )


def _print_classes(console: Console, classes: list[Mapping[str, Any]]) -> None:
    if not classes:
        return
    table = new_table(
        "class", "requests", "per minute", "unserved", "preempted", "in all targets", "latency",
        "target", "attained", "p50", "p95", "p99",
    )  # fmt: skip
    for item in classes:
        arrived = item["requests"]["arrived"]
        first = [item["name"], f"{arrived:,}", rates(item)]
        if not arrived:
            table.add_row(*first)
            continue
        first += [_share(item["unserved"], zero="0"), f"{item['preemptions']:,}", _share(item["attainment"])]
        for name, latency in item["latency"].items():
            table.add_row(*first, _LABELS[name], *_target(latency), *beside(latency))
            first = [""] * len(first)
    console.print(table)


def _print_placements(console: Console, placements: list[Mapping[str, Any]]) -> None:
    if not placements:
        return
    table = new_table(
        "placement", "pool", "replicas", "batch", "routed", "busy", "KV cache", "running", "waiting",
        "preemptions", "cost/h",
    )  # fmt: skip
    for item in placements:
        table.add_row(
            item["name"],
            item["pool"],
            str(item["replicas"]),
            str(item["maxNumSeqs"]),
            f"{item['requests']:,}",
            _share(item["utilization"]),
            _share(item["kvUsage"]),
            _number(item["runningPerReplica"]),
            _number(item["waitingPerReplica"]),
            f"{item['preemptions']:,}",
            item["costPerHour"],
        )
    console.print(table)


def _target(latency: Mapping[str, Any]) -> tuple[str, str]:
    if "targetMilliseconds" not in latency:
        return "-", "-"
    statistic = str(latency["statistic"]).lower()
    met = _share(latency["attainment"])
    target = f"{statistic} {duration(latency['targetMilliseconds'])}"
    return target, met if latency["met"] else f"[red]{met}, missed[/red]"


def rates(item: Mapping[str, Any]) -> str:
    """Requests of a class per minute, simulated / planned; a replay has many plans, so only simulated."""
    planned = item.get("plannedRequestsPerMinute")
    return f"{item['requestsPerMinute']:,.0f}" + ("" if planned is None else f" / {planned:,.0f}")


def beside(latency: Mapping[str, Any]) -> list[str]:
    """Percentiles, simulated / planned where the plan that ran predicted any."""
    seen, predicted = latency["simulatedMilliseconds"], latency.get("predictedMilliseconds")
    if predicted is None:
        return [duration(seen[name]) for name in _PERCENTILES]
    return [_pair(seen[name], predicted[name]) for name in _PERCENTILES]


def duration(milliseconds: float | None) -> str:
    """For people: milliseconds below 10 s, then seconds."""
    return "-" if milliseconds is None else " ".join(_figure(milliseconds))


def _pair(first: float | None, second: float | None) -> str:
    """Two times; a common unit is named once."""
    one, other = (("-", "") if value is None else _figure(value) for value in (first, second))
    unit = "" if one[1] == other[1] else f" {one[1]}"
    return f"{one[0]}{unit} / {other[0]} {other[1]}".rstrip()


def _figure(milliseconds: float) -> tuple[str, str]:
    if milliseconds >= 10_000:
        return f"{milliseconds / 1000:,.1f}", "s"
    return (f"{milliseconds:,.1f}" if milliseconds < 100 else f"{milliseconds:,.0f}"), "ms"


def _share(value: float | None, zero: str | None = None) -> str:
    if value is None:
        return "-"
    return zero if zero is not None and value == 0 else share(value)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"


def span(seconds: float) -> str:
    """A time for people: `1 h 0 min 7 s`."""
    whole = round(seconds)
    parts = [(whole // 3600, "h"), (whole // 60 % 60, "min"), (whole % 60, "s")]
    return " ".join(f"{number} {unit}" for number, unit in parts if number) or "0 s"
