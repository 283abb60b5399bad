"""Servers that leave while sessions run: who is interrupted, how long until it goes on, and what users wait."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.chains_cases import NETWORKS, arrivals
from benchmarks.chains_comparison import OURS, Case, loaded
from benchmarks.chains_pipelines import as_operated
from benchmarks.results import Figure, Table
from plimsoll.simulation.methods import METHODS, ChainSetting
from plimsoll.simulation.montecarlo import Estimate, monte_carlo
from plimsoll.simulation.sessions import ChainFleet, Outage, simulate_sessions

NETWORK = "BellCanada"
LOAD = 0.15
SHARE = 0.1
"""Of the servers leave together, drawn anew each time, and are away until the next ones leave."""
EVERY_SECONDS = 300.0
HOUR_SECONDS = 3600.0
WARM_UP_SECONDS = 300.0
SEEDS = range(5)
FIGURES = ("interrupted", "recovery", "recovery p95", "mean", "p95", "mean without losses")


def _unmoved(setting: ChainSetting) -> ChainFleet:
    """Plimsoll's placement where each server keeps its blocks for ever."""
    return replace(METHODS[OURS](setting), replace=None)


STILL, OPERATED = "Plimsoll, servers keep their blocks", "Plimsoll's operator, disjoint chains"
WAYS: Mapping[str, Callable[[ChainSetting], ChainFleet]] = {**METHODS, STILL: _unmoved, OPERATED: as_operated}


@dataclass(frozen=True, slots=True)
class _Runs:
    way: str

    def __call__(self, seed: int) -> dict[str, float]:
        given, _ = loaded(Case(NETWORK, 0.0, LOAD, known=True, seed=seed))
        count = round(given.arrivals_per_second * HOUR_SECONDS)
        requests = arrivals(given, count, seed)
        make = WAYS[self.way]
        whole = simulate_sessions(make(given), requests, warm_up_seconds=WARM_UP_SECONDS)
        found = simulate_sessions(make(given), requests, outages=outages(seed), warm_up_seconds=WARM_UP_SECONDS)
        recovery = found.recovery_seconds
        return {
            "interrupted": found.interrupted / count,
            "recovery": float(np.mean(recovery)) if recovery else math.nan,
            "recovery p95": float(np.quantile(recovery, 0.95)) if recovery else math.nan,
            "mean": found.response.mean_seconds,
            "p95": found.response.percentile_seconds(95),
            "mean without losses": whole.response.mean_seconds,
        }


def outages(seed: int) -> list[Outage]:
    """A tenth of the servers every five minutes."""
    stream = np.random.default_rng([seed, 3])
    servers = NETWORKS[NETWORK].servers
    together = max(1, round(SHARE * servers))
    return [
        Outage(at, int(server), at + EVERY_SECONDS - 1.0)
        for at in np.arange(EVERY_SECONDS, HOUR_SECONDS, EVERY_SECONDS).tolist()
        for server in stream.permutation(servers)[:together]
    ]


def run(processes: int = 2) -> tuple[list[Figure], list[str], list[Table]]:
    """All ways under the same losses."""
    rows = []
    found: dict[str, dict[str, Estimate]] = {}
    with ProcessPoolExecutor(processes) as pool:
        for name in WAYS:
            found[name] = monte_carlo(_Runs(name), SEEDS, pool.map)
            rows.append((name, *(_cell(found[name][each], each) for each in FIGURES)))
    rival = min((name for name in METHODS if name != OURS), key=lambda name: found[name]["mean"].mean)
    figures = [figure for name in (OURS, STILL, OPERATED) for figure in _figures(name, found[name])]
    figures.append(
        Figure(
            f"losses: mean response of {OURS} to that of the best rival ({rival})",
            found[OURS]["mean"].mean / found[rival]["mean"].mean,
            "×",
        )
    )
    note = (
        f"Losses: {NETWORK}, {LOAD:.0%} of Plimsoll's capacity, known lengths; every {EVERY_SECONDS:.0f} s "
        f"{SHARE:.0%} of the servers leave and are back, empty, just before the next ones leave; loading takes 60 s. "
        "Interrupted sessions begin anew, their time counted from their arrival; none is given up. PETALS' servers "
        "rebalance at once, Plimsoll's move by its replacement rule, the others load what they had. The operator runs "
        "the cheapest disjoint chains that keep its targets (a whole GPU is worth seven slices), drops a chain that "
        "loses a server, and makes a new one of free servers where the others do not carry the load; it uses few of "
        "the servers that all others use. "
        f"Means over {len(SEEDS)} seeds of an hour with 95 % confidence intervals."
    )
    columns = (
        "method", "interrupted", "until running again, mean s", "95th percentile s", "mean response s",
        "95th percentile s", "mean without losses s",
    )  # fmt: skip
    return figures, [note], [Table("Sessions while servers leave and come back", columns, rows)]


def _figures(name: str, found: Mapping[str, Estimate]) -> list[Figure]:
    return [
        Figure(f"losses: {name}: interrupted sessions", 100 * found["interrupted"].mean, "%"),
        Figure(f"losses: {name}: until an interrupted session runs again, mean", found["recovery"].mean, "s"),
        Figure(f"losses: {name}: the same, 95th percentile", found["recovery p95"].mean, "s"),
        Figure(f"losses: {name}: mean response", found["mean"].mean, "s"),
    ]


def _cell(value: Estimate, name: str) -> str:
    if name == "interrupted":
        return f"{value.mean:.1%} ± {value.half_width:.1%}"
    return f"{value.mean:.4g} ± {value.half_width:.2g}"
