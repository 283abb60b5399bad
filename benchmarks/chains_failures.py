"""Servers that leave while sessions run: who is interrupted, how long until it goes on, and what users wait."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np

from benchmarks.chains_cases import NETWORKS, arrivals
from benchmarks.chains_comparison import OURS, Case, loaded
from benchmarks.results import Figure, Table
from plimsoll.simulation.methods import METHODS
from plimsoll.simulation.montecarlo import Estimate, monte_carlo
from plimsoll.simulation.sessions import Outage, simulate_sessions

NETWORK = "BellCanada"
LOAD = 0.15
SHARE = 0.1
"""Of the servers leave together, drawn anew each time, and are away until the next ones leave."""
EVERY_SECONDS = 300.0
HOUR_SECONDS = 3600.0
WARM_UP_SECONDS = 300.0
SEEDS = range(5)
FIGURES = ("interrupted", "recovery", "recovery p95", "mean", "p95", "mean without losses")


@dataclass(frozen=True, slots=True)
class _Runs:
    method: str

    def __call__(self, seed: int) -> dict[str, float]:
        given, _ = loaded(Case(NETWORK, 0.0, LOAD, known=True, seed=seed))
        count = round(given.arrivals_per_second * HOUR_SECONDS)
        requests = arrivals(given, count, seed)
        fleet = METHODS[self.method](given)
        whole = simulate_sessions(fleet, requests, warm_up_seconds=WARM_UP_SECONDS)
        found = simulate_sessions(fleet, requests, outages=outages(seed), warm_up_seconds=WARM_UP_SECONDS)
        recovery = found.recovery_seconds
        return {
            "interrupted": found.interrupted / count,
            "recovery": float(np.mean(recovery)) if recovery else 0.0,
            "recovery p95": float(np.quantile(recovery, 0.95)) if recovery else 0.0,
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
    """All methods under the same losses."""
    rows = []
    found: dict[str, dict[str, Estimate]] = {}
    with ProcessPoolExecutor(processes) as pool:
        for name in METHODS:
            found[name] = monte_carlo(_Runs(name), SEEDS, pool.map)
            rows.append((name, *(_cell(found[name][each], each) for each in FIGURES)))
    ours = found[OURS]
    rival = min((name for name in METHODS if name != OURS), key=lambda name: found[name]["mean"].mean)
    figures = [
        Figure("losses: Plimsoll, interrupted sessions", 100 * ours["interrupted"].mean, "%"),
        Figure("losses: Plimsoll, until an interrupted session runs again, mean", ours["recovery"].mean, "s"),
        Figure("losses: Plimsoll, the same, 95th percentile", ours["recovery p95"].mean, "s"),
        Figure("losses: Plimsoll, mean response", ours["mean"].mean, "s"),
        Figure(
            f"losses: mean response to that of the best rival ({rival})",
            ours["mean"].mean / found[rival]["mean"].mean,
            "×",
        ),
    ]
    note = (
        f"Losses: {NETWORK}, {LOAD:.0%} of Plimsoll's capacity, known lengths; every {EVERY_SECONDS:.0f} s "
        f"{SHARE:.0%} of the servers leave and are back, empty, just before the next ones leave; loading takes 60 s. "
        "Interrupted sessions begin anew, their time counted from their arrival; none is given up. PETALS' servers "
        "rebalance at once, Plimsoll's move by its replacement rule, the others load what they had. "
        f"Means over {len(SEEDS)} seeds of an hour with 95 % confidence intervals."
    )
    columns = (
        "method", "interrupted", "until running again, mean s", "95th percentile s", "mean response s",
        "95th percentile s", "mean without losses s",
    )  # fmt: skip
    return figures, [note], [Table("Sessions while servers leave and come back", columns, rows)]


def _cell(value: Estimate, name: str) -> str:
    if name == "interrupted":
        return f"{value.mean:.1%} ± {value.half_width:.1%}"
    return f"{value.mean:.4g} ± {value.half_width:.2g}"
