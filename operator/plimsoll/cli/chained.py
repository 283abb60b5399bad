"""Chained LLMDeployments as plain data and for people: the placement (layers by server), chains, simulated sessions."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text

from plimsoll.chains import Placement as Layers
from plimsoll.chains import Route
from plimsoll.chains.problem import Ints
from plimsoll.cli.figures import METRICS, latency_document, milliseconds, requests_document, rounded
from plimsoll.cli.table import new_table
from plimsoll.cli.text import counted, money, share
from plimsoll.performance import LatencyTargets
from plimsoll.planning.chained import ChainedPlan
from plimsoll.planning.plan import ClassPlan
from plimsoll.planning.scenario import PlannedClass, class_key
from plimsoll.simulation import Request
from plimsoll.simulation.dispatch import ComposedChains, Dispatcher, DispatcherFactory, Queued
from plimsoll.simulation.session_report import SessionReport
from plimsoll.simulation.sessions import ChainFleet, simulate_sessions

_BAR = 60
"""Characters that the layers take in the map."""
_MOST_ROWS = 40


def chained_document(plan: ChainedPlan) -> dict[str, Any]:
    """One plan; money as strings, rates per minute, latencies in milliseconds, layers from 0."""
    chosen, placement = plan.chosen, plan.chosen.placement
    return {
        "namespace": plan.ref.namespace,
        "name": plan.ref.name,
        "model": plan.model.name,
        "precision": plan.precision.name,
        "layers": plan.problem.blocks,
        "costPerHour": money(chosen.price_per_hour),
        "gpus": plan.gpus,
        "sessionsPerStep": plan.at_once,
        "plannedRequestsPerMinute": rounded(sum(item.planned_rate_per_second for item in plan.classes) * 60),
        "carriedRequestsPerMinute": rounded(chosen.rate_per_second * 60),
        "unserved": rounded(1.0 - plan.served),
        "meanResponseMilliseconds": milliseconds(chosen.mean_response_seconds) if plan.served >= 1 else None,
        "origins": list(plan.regions),
        "servers": [
            {
                "name": plan.servers[server].node,
                "pool": plan.servers[server].pool,
                "region": plan.servers[server].region,
                "accelerator": plan.servers[server].accelerator,
                "gpus": plan.servers[server].tensor,
                "firstLayer": int(placement.first[server]),
                "layers": int(placement.count[server]),
                "costPerHour": money(plan.servers[server].price_per_hour),
            }
            for server in sorted(chosen.servers, key=lambda one: (int(placement.first[one]), plan.servers[one].node))
        ],
        "chains": [
            {
                "servers": _hops(plan, chain.route),
                "places": chain.places,
                "ttftMilliseconds": milliseconds(max(first for first, _ in times)),
                "tpotMilliseconds": milliseconds(max(later for _, later in times)),
            }
            for chain in chosen.chains
            for times in [[plan.chain_seconds(chain, client) for client in range(len(plan.regions))]]
        ],
    }


def _hops(plan: ChainedPlan, route: Route) -> list[dict[str, Any]]:
    position, hops = 0, []
    for server, blocks in zip(route.servers, route.blocks, strict=True):
        hops.append({"name": plan.servers[server].node, "firstLayer": position, "layers": blocks})
        position += blocks
    return hops


def print_chained(console: Console, document: Mapping[str, Any]) -> None:
    """The placement as a map of layers and servers, and the chains."""
    rate = document["plannedRequestsPerMinute"]
    console.print(
        f"[bold]{document['namespace']}/{document['name']}[/bold]   chained, {document['model']} "
        f"{document['precision']}, {document['layers']} layers   {document['costPerHour']} per hour, "
        f"{counted(document['gpus'], 'GPU')}, carries {document['carriedRequestsPerMinute']:.1f} of {rate:.1f} planned "
        f"requests per minute, {document['sessionsPerStep']} sessions per step"
    )
    table = new_table("server", "region", "pool", "GPUs", "layers", "placement", "cost/h")
    servers = document["servers"]
    for server in servers[:_MOST_ROWS]:
        last = server["firstLayer"] + server["layers"] - 1
        table.add_row(
            server["name"],
            server["region"],
            server["pool"],
            f"{server['gpus']} × {server['accelerator']}",
            f"{server['firstLayer']}-{last}",
            Text(_bar(server["firstLayer"], server["layers"], document["layers"])),
            server["costPerHour"],
        )
    console.print(table)
    _and_more(console, servers)
    table = new_table("chain", "places", "TTFT", "TPOT")
    for chain in document["chains"][:_MOST_ROWS]:
        table.add_row(
            way(chain["servers"]),
            str(chain["places"]),
            f"{chain['ttftMilliseconds']:,.0f} ms",
            f"{chain['tpotMilliseconds']:,.0f} ms",
        )
    console.print(table)
    _and_more(console, document["chains"])
    console.print()


def _bar(first: int, count: int, layers: int) -> str:
    begin, end = round(first * _BAR / layers), round((first + count) * _BAR / layers)
    end = max(end, begin + 1)
    return "·" * begin + "█" * (end - begin) + "·" * (_BAR - end)


def way(hops: Sequence[Mapping[str, Any]]) -> str:
    """Servers with their layers, in order."""
    return " → ".join(f"{hop['name']} {hop['firstLayer']}-{hop['firstLayer'] + hop['layers'] - 1}" for hop in hops)


def _and_more(console: Console, rows: Sequence[object]) -> None:
    if len(rows) > _MOST_ROWS:
        console.print(f"… and {len(rows) - _MOST_ROWS} more; -o json has all of them", style="dim")


# --- Simulation -------------------------------------------------------------------------------------------------------


def planned_classes(plans: Iterable[ChainedPlan]) -> dict[str, PlannedClass]:
    """The classes of chained LLMDeployments, for the traffic of a simulation."""
    found = {}
    for plan in plans:
        for item in plan.classes:
            longest = int(item.lengths.input_p95 + item.lengths.output_p95)
            shown = ClassPlan(item.declared.name, item.requests_per_minute, 1.0 - plan.served, (), ())
            known = PlannedClass(plan.ref, item, shown, None, longest)
            found[known.key] = known
    return found


@dataclass(frozen=True, slots=True)
class _Flow:
    """What comes of one class from one region."""

    key: str
    traffic: str
    region: str
    client: int
    targets: LatencyTargets


def simulate_chained(
    plan: ChainedPlan, requests: Iterable[Request], *, seed: int, interval_seconds: float, warm_up_seconds: float
) -> dict[str, Any]:
    """Sessions over the planned chains: each takes the fastest chain with a free place, else one queue for all."""
    flows = _flows(plan)
    fleet = ChainFleet(plan.problem, plan.chosen.placement, _dispatcher(plan))
    found = simulate_sessions(
        fleet,
        _from_regions(requests, plan, flows, seed),
        clients={flow.key: flow.client for flow in flows},
        targets={flow.key: flow.targets for flow in flows},
        interval_seconds=interval_seconds,
        warm_up_seconds=warm_up_seconds,
    )
    used = {plan.servers[server].node: found.servers[server] for server in plan.chosen.servers}
    document = chained_document(plan)
    for server in document["servers"]:
        use = used[server["name"]]
        server |= {"sessions": use.sessions, "cacheUsage": rounded(use.cache_usage)}
    return {
        **document,
        "simulatedSeconds": round(found.simulated_seconds, 3),
        "running": rounded(found.running),
        "waiting": rounded(found.waiting),
        "waitMilliseconds": milliseconds(found.wait.mean_seconds) if found.wait.count else None,
        "traffic": [_flow_document(flow, found) for flow in flows if flow.key in found.classes],
        "routes": [
            {"origin": plan.regions[use.client], "servers": _hops(plan, use.route), "sessions": use.sessions}
            for use in found.routes
        ],
        "series": _series(found),
    }


def _dispatcher(plan: ChainedPlan) -> DispatcherFactory:
    def build(_: Layers, slots: Ints) -> Dispatcher:
        return Queued(slots, lambda free: ComposedChains(plan.chosen.chains, free), plan.problem.clients)

    return build


def _flows(plan: ChainedPlan) -> list[_Flow]:
    flows = []
    for item in plan.classes:
        name = item.declared.name
        for client, (region, part) in enumerate(zip(plan.regions, plan.region_shares[name], strict=True)):
            if part > 0:
                key = f"{class_key(plan.ref, name)}@{region}"
                flows.append(_Flow(key, name, region, client, item.targets))
    return flows


def _from_regions(
    requests: Iterable[Request], plan: ChainedPlan, flows: Sequence[_Flow], seed: int
) -> Iterator[Request]:
    """Each request with the region that it comes from, drawn by the shares."""
    stream = np.random.default_rng([seed, 8])
    shares = {class_key(plan.ref, name): np.cumsum(own) for name, own in plan.region_shares.items()}
    known = {flow.key for flow in flows}
    for request in requests:
        edges = shares.get(request.traffic_class)
        if edges is None:
            continue
        number = min(int(np.searchsorted(edges, stream.random(), side="right")), len(edges) - 1)
        key = f"{request.traffic_class}@{plan.regions[number]}"
        yield request._replace(traffic_class=key if key in known else next(iter(known)))


def _flow_document(flow: _Flow, found: SessionReport) -> dict[str, Any]:
    report = found.classes[flow.key]
    return {
        "name": flow.traffic,
        "origin": flow.region,
        **requests_document(report),
        "latency": {
            name: latency_document(
                getattr(report, attribute), None, next((one for one in report.targets if one.name == attribute), None)
            )
            for name, attribute in METRICS
        },
    }


def _series(found: SessionReport) -> dict[str, Any]:
    def of(attribute: str) -> list[float | None]:
        values = []
        for interval in found.intervals:
            own = [item.end_to_end for item in interval.classes.values() if item.end_to_end.count]
            count = sum(item.count for item in own)
            values.append(
                milliseconds(sum(item.count * getattr(item, attribute) for item in own) / count) if count else None
            )
        return values

    return {
        "beginSeconds": [round(each.begin_seconds, 3) for each in found.intervals],
        "endSeconds": [round(each.end_seconds, 3) for each in found.intervals],
        "meanMilliseconds": of("mean_seconds"),
        "running": [rounded(each.running) for each in found.intervals],
        "waiting": [rounded(each.waiting) for each in found.intervals],
    }


def print_chained_run(console: Console, document: Mapping[str, Any]) -> None:
    """What sessions saw, and which routes they took."""
    print_chained(console, document)
    table = new_table("class", "from", "requests", "unserved", "latency", "target", "attained", "mean", "p50", "p95")
    for flow in document["traffic"]:
        head = (flow["name"], flow["origin"], f"{flow['requests']['arrived']:,}", share(flow["unserved"]))
        for name, latency in flow["latency"].items():
            table.add_row(*head, *latency_cells(name, latency))
            head = ("", "", "", "")
    console.print(table)
    table = new_table("route", "from", "sessions")
    for route in document["routes"][:_MOST_ROWS]:
        table.add_row(way(route["servers"]), route["origin"], f"{route['sessions']:,}")
    console.print(table)
    _and_more(console, document["routes"])
    console.print(
        f"{document['running']:g} sessions run and {document['waiting']:g} wait on average; a session waits for "
        f"{(document['waitMilliseconds'] or 0.0) / 1000:.2f} s",
        soft_wrap=True,
    )
    console.print()


def latency_cells(name: str, latency: Mapping[str, Any]) -> tuple[str, ...]:
    """Metric, target, attainment, mean and percentiles."""
    target, attained = "-", "-"
    if "targetMilliseconds" in latency:
        target = f"{latency['statistic'].lower()} {latency['targetMilliseconds']:,} ms"
        attained = "-" if latency["attainment"] is None else share(latency["attainment"])
        attained = attained if latency["met"] else f"{attained}, missed"
    simulated = latency["simulatedMilliseconds"]
    values = (latency["meanMilliseconds"], simulated["p50"], simulated["p95"])
    label = {"ttft": "TTFT", "tpot": "TPOT", "endToEnd": "end to end"}[name]
    return (label, target, attained, *("-" if value is None else f"{value:,.0f} ms" for value in values))
