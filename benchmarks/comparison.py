"""Exact, GH, AGH and the production default side by side: on R1, on the paper's scaling family, and beyond it.

`python -m benchmarks.comparison` measures and prints; rows are added to results/scaling.csv as they are found.
`--resume` goes on with a run that was cut off; `--methods` measures only some again and keeps the other rows. A method
that takes less than a second is run five times, and the median counts.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from benchmarks import scaling
from benchmarks.progress import say
from benchmarks.results import RESULTS, Figure, Table, show
from plimsoll.allocation import (
    Allocation,
    AllocationProblem,
    Solution,
    check,
    from_paper_instance,
    solve_adaptive,
    solve_agh,
    solve_exact,
    solve_greedy,
)

ROWS = RESULTS / "scaling.csv"
R1 = Path(__file__).parents[1] / "tests" / "oracles" / "R1.json"
SIZES = ((4, 4, 5), (6, 6, 10), (8, 8, 10), (10, 10, 10), (15, 15, 15), (20, 20, 20), (50, 30, 20), (200, 50, 20))
JUDGED = (20, 20, 20)
LARGEST = (200, 50, 20)
SEEDS = 5
EXACT_SECONDS = 60.0
REFERENCE_SECONDS = 600.0
PROVEN = 1e-3
"""A gap up to here counts as solved."""
REPEATS = 5
EQUAL = 1e-4
"""Costs that differ by this part at most are the same quality."""


@dataclass(frozen=True, slots=True)
class Row:
    """One method on one instance; money for the whole period."""

    size: str
    demand: str
    seed: int
    method: str
    cost: float
    unserved: float
    seconds: float
    bound: float

    @property
    def instance(self) -> tuple[str, str, int]:
        return self.size, self.demand, self.seed

    @property
    def gap(self) -> float:
        return max(0.0, (self.cost - self.bound) / self.cost)


Solver = Callable[[AllocationProblem], Allocation | Solution]


def _methods(exact_seconds: float) -> dict[str, Solver]:
    return {
        "GH": solve_greedy,
        "AGH": solve_agh,
        "AGH+finish": solve_adaptive,
        "exact": lambda problem: solve_exact(
            problem, start=solve_agh(problem), time_limit_seconds=exact_seconds, relative_gap=PROVEN
        ),
    }


def measure(
    size: tuple[int, int, int], high: bool, seed: int, methods: Iterable[str], exact_seconds: float
) -> Iterable[Row]:
    """Rows of the methods on one instance; the method `reference` starts from the best of those before it."""
    instance = from_paper_instance(scaling.instance(size, seed, high))
    problem, hours = instance.problem, instance.period_hours
    solvers = _methods(exact_seconds)
    best: Allocation | None = None
    for name in methods:
        answer, seconds = _timed(solvers.get(name) or _long_run(best), problem)
        allocation = answer.allocation if isinstance(answer, Solution) else answer
        bound = answer.lower_bound_per_hour if isinstance(answer, Solution) else float("-inf")
        if violations := check(problem, allocation):
            raise RuntimeError(f"{name} on {_label(size)}: {violations[0].message}")
        if best is None or allocation.cost.total < best.cost.total:
            best = allocation
        rate = problem.class_rate_per_hour
        unserved = float(rate @ allocation.unserved / rate.sum())
        demand = "high" if high else "low"
        yield Row(_label(size), demand, seed, name, allocation.cost.total * hours, unserved, seconds, bound * hours)


def _timed(solver: Solver, problem: AllocationProblem) -> tuple[Allocation | Solution, float]:
    taken: list[float] = []
    while len(taken) < REPEATS and (not taken or taken[0] < 1.0):
        began = time.perf_counter()
        answer = solver(problem)
        taken.append(time.perf_counter() - began)
    return answer, statistics.median(taken)


def _long_run(start: Allocation | None) -> Callable[[AllocationProblem], Solution]:
    return lambda problem: solve_exact(problem, start=start, time_limit_seconds=REFERENCE_SECONDS, relative_gap=PROVEN)


def _label(size: Sequence[int]) -> str:
    return "×".join(map(str, size))


def load() -> list[Row]:
    """The rows of results/scaling.csv."""
    if not ROWS.exists():
        return []
    with ROWS.open(encoding="utf-8") as file:
        return [
            Row(
                line["size"],
                line["demand"],
                int(line["seed"]),
                line["method"],
                *(float(line[name]) for name in ("cost", "unserved", "seconds", "bound")),
            )
            for line in csv.DictReader(file)
        ]


def collect(
    sizes: Sequence[tuple[int, int, int]],
    seeds: Sequence[int],
    exact_seconds: float,
    reference: set[str],
    kept: Sequence[Row] = (),
) -> list[Row]:
    """Measure what is not among the kept rows; `reference` holds labels of sizes with a long run on seed 0 as well."""
    rows = list(kept)
    known = {(*row.instance, row.method) for row in rows}
    with ROWS.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _short(value) for name, value in asdict(row).items()} for row in rows)
        for size in sizes:
            for high in (False, True):
                for seed in seeds:
                    methods = list(_methods(exact_seconds))
                    if _label(size) in reference and seed == 0:
                        methods.append("reference")
                    demand = "high" if high else "low"
                    missing = [name for name in methods if (_label(size), demand, seed, name) not in known]
                    for row in measure(size, high, seed, missing, exact_seconds):
                        rows.append(row)
                        say(f"{row.size} {demand} seed {seed} {row.method}: {row.cost:.2f} in {row.seconds:.3f} s")
                        writer.writerow({name: _short(value) for name, value in asdict(row).items()})
                        file.flush()
    return rows


def _short(value: float | int | str) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def reference_instance() -> list[Figure]:
    """R1 at three demand levels against its published optima."""
    document = json.loads(R1.read_text(encoding="utf-8"))
    found = []
    for expected in document["expected"]:
        scale = expected["arrival_scale"]
        instance = from_paper_instance(document, arrival_scale=scale)
        solution = solve_exact(instance.problem)
        cost = solution.allocation.cost.total * instance.period_hours
        optimum = expected["milp_optimum_usd"]
        found.append(Figure(f"R1, demand ×{scale:g}: exact, off {optimum:g}", 100 * abs(cost / optimum - 1), "%", 0.1))
        for name, solver in (("GH", solve_greedy), ("AGH", solve_agh)):
            value = solver(instance.problem).cost.total * instance.period_hours
            found.append(Figure(f"R1, demand ×{scale:g}: {name}", value, "$ a day"))
        value = solve_adaptive(instance.problem).allocation.cost.total * instance.period_hours
        found.append(Figure(f"R1, demand ×{scale:g}: production default", value, "$ a day"))
    return found


def table(rows: Sequence[Row]) -> Table:
    """Means over the seeds, by size, demand and method."""
    best = _best(rows)
    lines = []
    for size in dict.fromkeys(row.size for row in rows):
        for demand in ("low", "high"):
            for method in dict.fromkeys(row.method for row in rows):
                group = [row for row in rows if (row.size, row.demand, row.method) == (size, demand, method)]
                if group:
                    lines.append(_line(size, demand, method, group, best))
    columns = (
        "I×J×K",
        "demand",
        "method",
        "runs",
        "mean cost $",
        "above best found",
        "median s",
        "proven gap",
        "solved",
    )
    return Table("Scaling family: cost of a day, time, distance to the best found, proven gap", columns, lines)


def _line(
    size: str, demand: str, method: str, group: Sequence[Row], best: dict[tuple[str, str, int], float]
) -> tuple[str, ...]:
    above = [row.cost / best[row.instance] - 1 for row in group]
    proven = [row.gap for row in group if row.bound > 0]
    return (
        size,
        demand,
        method,
        str(len(group)),
        f"{statistics.mean(row.cost for row in group):.2f}",
        f"{statistics.mean(above):.1%} (worst {max(above):.1%})",
        f"{statistics.median(row.seconds for row in group):.3g}",
        f"{statistics.mean(proven):.1%} (worst {max(proven):.1%})" if proven else "",
        f"{sum(gap <= PROVEN * 1.01 for gap in proven)} of {len(group)}" if proven else "",
    )


def _best(rows: Sequence[Row]) -> dict[tuple[str, str, int], float]:
    best: dict[tuple[str, str, int], float] = {}
    for row in rows:
        best[row.instance] = min(row.cost, best.get(row.instance, float("inf")))
    return best


def judged(rows: Sequence[Row]) -> list[Figure]:
    """The figures that have a target."""
    best = _best(rows)
    found = []
    for size, target, limit in ((JUDGED, 2.0, 3.0), (LARGEST, 5.0, 10.0)):
        label = _label(size)
        for demand in ("low", "high"):
            mine = [row for row in rows if (row.size, row.demand) == (label, demand)]
            if not mine:
                continue
            for method, most in (("GH", 0.01), ("AGH", 0.3)) if size == JUDGED else ():
                seconds = statistics.median(row.seconds for row in mine if row.method == method)
                found.append(Figure(f"{label} {demand}: {method}, median", seconds, "s", most))
            default = [row for row in mine if row.method == "AGH+finish"]
            above = max(100 * (row.cost / best[row.instance] - 1) for row in default)
            found.append(Figure(f"{label} {demand}: default above the best of all, worst seed", above, "%", target))
            slowest = max(row.seconds for row in default)
            found.append(Figure(f"{label} {demand}: default, slowest seed", slowest, "s", limit))
            gap = 100 * max(row.gap for row in default)
            found.append(Figure(f"{label} {demand}: default's own proven gap, worst seed", gap, "%"))
            exact = [row for row in mine if row.method == "exact"]
            solved = sum(row.gap <= PROVEN * 1.01 for row in exact)
            found.append(
                Figure(f"{label} {demand}: proven optimal by exact in {EXACT_SECONDS:g} s", solved, f"of {len(exact)}")
            )
            worse = sum(mine.cost * (1 + EQUAL) < row.cost for row, mine in zip(exact, default, strict=True))
            name = f"{label} {demand}: dearer than the default after {EXACT_SECONDS:g} s of exact"
            found.append(Figure(name, worse, f"of {len(exact)}"))
    return found


def equal_quality() -> Table:
    """How long exact takes to be as good as the default: its time limit is doubled until it is."""
    lines = []
    for high in (False, True):
        for seed in range(SEEDS):
            problem = from_paper_instance(scaling.instance(JUDGED, seed, high)).problem
            default, seconds = _timed(solve_adaptive, problem)
            cost = default.allocation.cost.total if isinstance(default, Solution) else default.cost.total
            limit, needed = 1.0, "not within 60"
            while limit <= EXACT_SECONDS:
                exact, taken = _timed(_methods(limit)["exact"], problem)
                if isinstance(exact, Solution) and exact.allocation.cost.total <= cost * (1 + EQUAL):
                    needed = f"{taken:.2f}"
                    break
                limit *= 2
            demand = "high" if high else "low"
            say(f"equal quality, {demand} seed {seed}: default {seconds:.2f} s, exact {needed} s")
            lines.append((_label(JUDGED), demand, str(seed), f"{seconds:.2f}", needed))
    title = "Equal quality: seconds of the default, and of exact at the least limit (1, 2, 4, … s) where it is as good"
    return Table(title, ("I×J×K", "demand", "seed", "default s", "exact s"), lines)


def run(*, resume: bool = False) -> tuple[list[Figure], list[Table]]:
    """Everything, with a ten-minute run on seed 0 of the two judged sizes; `resume` keeps the rows that are there."""
    kept = load() if resume else []
    rows = collect(SIZES, range(SEEDS), EXACT_SECONDS, {_label(JUDGED), _label(LARGEST)}, kept)
    return [*reference_instance(), *judged(rows)], [table(rows), equal_quality()]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.comparison", description=__doc__)
    parser.add_argument("--sizes", type=int, default=len(SIZES), help="only the first so many sizes")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--exact-seconds", type=float, default=EXACT_SECONDS)
    parser.add_argument("--reference", action="store_true", help="a ten-minute run on seed 0 of the judged sizes")
    parser.add_argument("--resume", action="store_true", help="keep the rows that are there")
    parser.add_argument("--methods", nargs="+", help="measure these again and keep the rows of the others")
    options = parser.parse_args()
    reference = {_label(JUDGED), _label(LARGEST)} if options.reference else set()
    kept = load() if options.resume or options.methods else []
    if options.methods:
        kept = [row for row in kept if row.method not in options.methods]
    rows = collect(SIZES[: options.sizes], range(options.seeds), options.exact_seconds, reference, kept)
    show([*reference_instance(), *judged(rows)], [table(rows)])


if __name__ == "__main__":
    main()
