"""Ways to place blocks and route sessions, side by side: equal delays, the same arrivals, several seeds.

Rows stand in results/chains/comparison.csv, one for each setting, seed and method; settings that are there are not run
again, so that a long comparison can be made in pieces.
"""

from __future__ import annotations

import csv
import itertools
import math
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.chains_cases import NETWORKS, arrivals, random_lengths, setting
from benchmarks.progress import say
from benchmarks.results import RESULTS, Figure, Table
from plimsoll.chains import compose
from plimsoll.chains.search import best_placement
from plimsoll.simulation.methods import METHODS, ChainSetting
from plimsoll.simulation.montecarlo import Estimate, estimate
from plimsoll.simulation.sessions import ChainFleet, simulate_sessions

ROWS = RESULTS / "chains" / "comparison.csv"
COLUMNS = ("network", "delay", "load", "lengths", "seed", "method", "arrivals_per_second", "fastest", "mean", "p95")
OUTPUT_TOKENS = 128
MEASURED_SECONDS = 240.0
OURS = "Plimsoll"
CONTESTED = 1.15
"""Times the fastest chain's time: above it the best rival leaves something to gain."""
SEEDS = range(5)
ALWAYS_RUN = 26
"""Servers up to which methods that cannot carry the load are simulated all the same."""


@dataclass(frozen=True, slots=True, order=True)
class Case:
    """One setting with one seed."""

    network: str
    delay_seconds: float
    load: float
    known: bool
    seed: int

    @property
    def key(self) -> tuple[str, ...]:
        """As it stands in the file."""
        return (self.network, f"{self.delay_seconds:g}", f"{self.load:g}", self.lengths, str(self.seed))

    @property
    def lengths(self) -> str:
        """In words."""
        return "known" if self.known else "random"


def cases() -> Iterator[Case]:
    """All of them, the dearest last; of each group first all settings with one seed, then with the next."""
    for networks, loads, delays in (
        (("AboveNet", "BellCanada", "GTS-CE"), (0.3, 0.6, 0.8, 0.95), (0.0, 60.0)),
        (("synthetic 100",), (0.6, 0.95), (0.0, 60.0)),
        (("synthetic 300",), (0.8,), (0.0, 60.0)),
        (("synthetic 1,000",), (0.8,), (0.0,)),
    ):
        for seed, network, delay, load, known in itertools.product(SEEDS, networks, delays, loads, (True, False)):
            yield Case(network, delay, load, known, seed)


def run(seconds: float, processes: int = 2) -> tuple[list[Figure], list[str], list[Table]]:
    """Run what is missing, for about so many seconds, and report what there is."""
    done = {tuple(row[name] for name in COLUMNS[:5]) for row in _rows()}
    wanted = list(cases())
    missing = [case for case in wanted if case.key not in done]
    ROWS.parent.mkdir(exist_ok=True)
    new = not ROWS.exists()
    until = time.monotonic() + seconds
    with ROWS.open("a", encoding="utf-8", newline="") as file, ProcessPoolExecutor(processes) as pool:
        out = csv.writer(file, lineterminator="\n")
        if new:
            out.writerow(COLUMNS)
        # In small lots, so that little is lost when time is over.
        while missing and time.monotonic() < until:
            lot, missing = missing[:processes], missing[processes:]
            for case, rows in zip(lot, pool.map(compared, lot), strict=True):
                out.writerows(rows)
                say(f"{' '.join(case.key)}: {len(missing)} left")
            file.flush()
    return report(len(wanted))


def compared(case: Case) -> list[tuple[object, ...]]:
    """The rows of a case."""
    given, fastest = loaded(case)
    warm_up = 2 * (given.problem.setup_seconds + 60.0) + 30.0
    measured = MEASURED_SECONDS if NETWORKS[case.network].servers <= ALWAYS_RUN else MEASURED_SECONDS / 2
    count = max(60, round(given.arrivals_per_second * (warm_up + measured)))
    requests = arrivals(given, count, case.seed)
    rows: list[tuple[object, ...]] = []
    known: dict[tuple[bytes, ...], tuple[float, float]] = {}
    for name, method in METHODS.items():
        mean = p95 = math.inf
        fleet = method(given)
        # Counting every delay often leads to the same placement, and so to the same run.
        same = (name.split(",")[0].encode(), fleet.placement.first.tobytes(), fleet.placement.count.tobytes())
        if same in known:
            mean, p95 = known[same]
        elif NETWORKS[case.network].servers <= ALWAYS_RUN or carried(fleet) >= given.arrivals_per_second:
            found = simulate_sessions(fleet, requests, warm_up_seconds=warm_up).response
            mean, p95 = known[same] = found.mean_seconds, found.percentile_seconds(95)
        rows.append((*case.key, name, *(f"{value:.6g}" for value in (given.arrivals_per_second, fastest, mean, p95))))
    return rows


def carried(fleet: ChainFleet) -> float:
    """Sessions per second that the chains composed of a fleet's placement serve."""
    chains = compose(fleet.problem, fleet.placement)
    return sum(chain.places / (chain.service_seconds + fleet.problem.setup_seconds) for chain in chains)


def loaded(case: Case) -> tuple[ChainSetting, float]:
    """The setting at its load, and the time of a session on the fastest chain, setup included.

    The load is a part of what Plimsoll's placement for an endless load carries.
    """
    given = setting(
        NETWORKS[case.network],
        arrivals_per_second=1.0,
        output_tokens=OUTPUT_TOKENS,
        setup_seconds=case.delay_seconds,
        seed=case.seed,
    )
    if not case.known:
        given = random_lengths(given)
    setup = given.problem.setup_seconds
    most, least = best_placement(given.problem, 1e6), best_placement(given.problem, 1e-6)
    if most is None or least is None:
        raise RuntimeError(f"{case}: no placement hosts all blocks")
    capacity = sum(chain.places / (chain.service_seconds + setup) for chain in most.chains)
    fastest = min(chain.service_seconds for chain in least.chains) + setup
    return replace(given, arrivals_per_second=case.load * capacity), fastest


@dataclass(frozen=True, slots=True)
class Compared:
    """A setting over its seeds."""

    key: tuple[str, ...]
    arrivals_per_second: float
    fastest: float
    mean: dict[str, Estimate]
    p95: dict[str, Estimate]

    @property
    def rival(self) -> str:
        """The method with the least mean, Plimsoll's own apart."""
        return min((name for name in self.mean if name != OURS), key=lambda name: self.mean[name].mean)

    @property
    def contested(self) -> bool:
        """Whether the best rival is slower than the fastest chain by enough."""
        return self.mean[self.rival].mean >= CONTESTED * self.fastest

    @property
    def mean_ratio(self) -> float:
        """Plimsoll's mean to the best rival's."""
        return self.mean[OURS].mean / self.mean[self.rival].mean

    @property
    def p95_ratio(self) -> float:
        """Plimsoll's 95th percentile to that rival's."""
        return self.p95[OURS].mean / self.p95[self.rival].mean


def settings(rows: Iterable[dict[str, str]]) -> list[Compared]:
    """The rows by setting."""
    grouped: dict[tuple[str, ...], list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        grouped[tuple(row[name] for name in COLUMNS[:4])].append(row)
    found = []
    for key, own in grouped.items():
        by_method = {name: [row for row in own if row["method"] == name] for name in METHODS}
        found.append(
            Compared(
                key,
                estimate([float(row["arrivals_per_second"]) for row in own]).mean,
                estimate([float(row["fastest"]) for row in own]).mean,
                {name: estimate([float(row["mean"]) for row in each]) for name, each in by_method.items()},
                {name: estimate([float(row["p95"]) for row in each]) for name, each in by_method.items()},
            )
        )
    order = {name: number for number, name in enumerate(NETWORKS)}
    return sorted(found, key=lambda one: (one.key[3], float(one.key[1]), order[one.key[0]], float(one.key[2])))


def report(wanted: int) -> tuple[list[Figure], list[str], list[Table]]:
    """What the rows say."""
    rows = list(_rows())
    found = settings(rows)
    contested = [one for one in found if one.contested]
    known = [one for one in contested if one.key[3] == "known"]
    random = [one for one in contested if one.key[3] == "random"]
    figures = [
        Figure("settings compared", len(found), ""),
        Figure("settings in which the best rival leaves something to gain", len(contested), ""),
    ]
    if known:
        figures += [
            Figure("there, known lengths: mean to the best rival's, worst setting", _worst(known, "mean"), "×", 0.85),
            Figure("there, known lengths: 95th percentile, worst setting", _worst(known, "p95"), "×", 0.85),
            Figure(
                "there, known lengths: settings that miss 15 % in either",
                sum(one.mean_ratio > 0.85 or one.p95_ratio > 0.85 for one in known),
                f"of {len(known)}",
                0.0,
            ),
        ]
    if random:
        figures += [
            Figure("there, random lengths: mean to the best rival's, worst setting", _worst(random, "mean"), "×", 1.0),
            Figure("there, random lengths: 95th percentile, worst setting", _worst(random, "p95"), "×", 1.0),
        ]
    if found:
        figures.append(Figure("anywhere: mean to the best rival's, worst setting", _worst(found, "mean"), "×", 1.01))
    runs = len({tuple(row[name] for name in COLUMNS[:5]) for row in rows})
    note = (
        f"Comparison: {runs} of {wanted} runs are in; each is {MEASURED_SECONDS:.0f} s of arrivals after a warm-up, "
        f"half of that beyond {ALWAYS_RUN} servers. "
        "All that arrive are served to their end. Delays are equal for all methods. The load is a part of the rate "
        "that Plimsoll's placement carries; means of methods that cannot carry it grow with the length of the run and "
        f"only say so; beyond {ALWAYS_RUN} servers they are not simulated (inf) where the chains composed of their "
        "placement carry less than the load. Cells: mean / 95th percentile of the response in seconds over seeds, "
        "with the half width of the "
        "mean's 95 % confidence interval. “Contested”: the best rival's mean is at least "
        f"{CONTESTED} times the time on the fastest chain."
    )
    return figures, [note], [_table(found, lengths) for lengths in ("known", "random")]


def _worst(found: Iterable[Compared], what: str) -> float:
    return max(one.mean_ratio if what == "mean" else one.p95_ratio for one in found)


def _table(found: Iterable[Compared], lengths: str) -> Table:
    columns = ("network", "delay s", "load", "requests/s", "runs", "fastest chain s", *METHODS, "to the best rival")
    rows = []
    for one in found:
        if one.key[3] != lengths:
            continue
        cells = [_cell(one.mean[name], one.p95[name]) for name in METHODS]
        ratio = f"{one.mean_ratio:.2f} / {one.p95_ratio:.2f}{' contested' if one.contested else ''}"
        if math.isinf(one.mean[one.rival].mean):
            ratio = "no rival carries it"
        rows.append(
            (*one.key[:1], one.key[1], one.key[2], f"{one.arrivals_per_second:.2f}", str(one.mean[OURS].runs),
             f"{one.fastest:.1f}", *cells, ratio)
        )  # fmt: skip
    return Table(f"Comparison, {lengths} lengths", columns, rows)


def _cell(mean: Estimate, p95: Estimate) -> str:
    spread = "" if math.isinf(mean.half_width) else f"±{mean.half_width:.2g}"
    return f"{mean.mean:.4g}{spread} / {p95.mean:.4g}"


def _rows() -> Iterator[dict[str, str]]:
    if Path(ROWS).exists():
        with ROWS.open(encoding="utf-8", newline="") as file:
            yield from csv.DictReader(file)
