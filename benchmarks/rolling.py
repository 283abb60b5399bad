"""Plans of a day against plans made anew every five minutes, when demand drifts at random or follows a real week.

`python -m benchmarks.rolling` prints the paper's fifth experiment on R1. A static plan keeps its replicas and routes
anew in every window; a rolling plan is found anew for every window's demand. Costs are those of a day: the mean over
the windows of what a window costs, times the windows of a day. Where changes are charged, every started replica costs
its GPUs' rent until it serves.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import numpy as np

from benchmarks.data import data_folder
from benchmarks.methods import AGH, DEFAULT, EXACT, GH
from benchmarks.progress import say
from benchmarks.results import Figure, Table, show
from benchmarks.robustness import planned_with, reference, unserved_share
from plimsoll.allocation import Allocation, AllocationProblem, solve_agh, solve_greedy
from plimsoll.allocation.paper import KV_MEMORY, PaperInstance
from plimsoll.allocation.problem import Floats
from plimsoll.allocation.robust import priced, restage, stressed

MINUTES = 5
WEEK_MINUTES = 15
"""The week's curve was read off a figure with a point for every seven minutes."""
LONG_MINUTES = 180
"""Windows in which the production default plans anew: it takes about a second, AGH a thirtieth of it."""
VOLATILITIES = (0.01, 0.02, 0.03, 0.04, 0.05)
SEEDS = 2
WEEK = "azure_llm_2024_2025_digitized/azure_llm_2024_requests_per_minute.csv"
CODING = ("Code", "Math")
"""Types whose demand follows the trace of the coding service; the others follow conversation."""
SLOWER = 1.2
"""Delays and errors in a walk whose static plans did not expect them."""
SHORT = 1e-3
"""A window with more than this part of its requests unserved counts as short of capacity."""
ENGINE_START_SECONDS = 60.0
GIGABYTES_PER_SECOND = 1.0
"""A start takes the engine's start and the reading of the weights: the figures of the performance model."""
STAY_HOURS = 1.0
"""A plan pays if it saves more in so many hours (a window, where that is longer) than its starts cost."""


@dataclass(slots=True)
class Tally:
    """What a way of planning came to, window by window."""

    minutes: int
    """Of a window."""
    costs: list[float] = field(default_factory=list)
    """Per hour, without changes."""
    unserved: list[float] = field(default_factory=list)
    charges: list[float] = field(default_factory=list)
    """Money for the starts in the window."""
    changes: int = 0
    """Options with another number of replicas than in the window before, summed."""

    def add(self, problem: AllocationProblem, answer: Allocation, started: float, changed: int) -> None:
        """One more window."""
        self.costs.append(answer.cost.total - answer.cost.change)
        self.unserved.append(unserved_share(problem, answer))
        self.charges.append(started)
        self.changes += changed

    def day(self, *, charged: bool = False) -> float:
        """Mean cost of a day."""
        return float(self._money(charged).mean())

    def peak(self, *, charged: bool = False) -> float:
        """The dearest window's cost, at the rate of a day."""
        return float(self._money(charged).max())

    def _money(self, charged: bool) -> Floats:
        """Each window's, at the rate of a day."""
        charges = np.array(self.charges) if charged else 0.0
        money: Floats = 24 * np.array(self.costs) + self.windows_a_day * charges
        return money

    @property
    def windows_a_day(self) -> float:
        """How many."""
        return 24 * 60 / self.minutes

    @property
    def short(self) -> float:
        """Part of the windows that are short of capacity."""
        return float((np.array(self.unserved) > SHORT).mean())


def walk(volatility: float, seed: int, classes: int, windows: int = 24 * 60 // MINUTES) -> Floats:
    """Demand factors (windows, classes) that start at 1: a random walk of the logarithm, mean 1."""
    steps = np.random.default_rng(seed).standard_normal((windows - 1, classes))
    drift = np.cumsum(volatility * steps - volatility**2 / 2, axis=0)
    return np.exp(np.concatenate((np.zeros((1, classes)), drift)))


def week(names: Sequence[str], minutes: int = WEEK_MINUTES) -> Floats:
    """Demand factors (windows, classes) of the digitised Azure week, each service's mean 1, both from their Monday on.

    Raises:
        FileNotFoundError: the data are not there.
    """
    curves = {}
    with (data_folder() / WEEK).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for series in ("azure2024_coding", "azure2024_conversation"):
        points = [
            (datetime.fromisoformat(row["timestamp_utc"]), float(row["requests_per_min_mid"]))
            for row in rows
            if row["series"] == series
        ]
        # Seven days from some weekday on: what lies before the first Monday follows on the last Sunday.
        monday = next(day for day, _ in points if day.weekday() == 0).replace(hour=0, minute=0, second=0)
        elapsed = np.array([((day - monday) % timedelta(days=7)).total_seconds() / 60 for day, _ in points])
        rates = np.array([rate for _, rate in points])
        order = np.argsort(elapsed)
        at = np.arange(0, 7 * 24 * 60, minutes) + minutes / 2
        curve = np.interp(at, elapsed[order], rates[order], period=7 * 24 * 60)
        curves[series] = curve / curve.mean()
    return np.stack(
        [curves["azure2024_coding" if name in CODING else "azure2024_conversation"] for name in names], axis=1
    )


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """Demand over time, and what static plans were made for."""

    name: str
    minutes: int
    demands: tuple[Floats, ...]
    """Factors (windows, classes), one array for each seed."""
    planned_for: Floats
    """The demand factors that static plans expect."""
    slower: float = 1.0
    """Delays and errors over what static plans expect; plans made in a window know them."""
    with_default: bool = False
    """Also plan anew with the production default."""

    @property
    def stay_hours(self) -> float:
        """Over which a start has to pay off."""
        return max(STAY_HOURS, self.minutes / 60)

    def windows(self, instance: PaperInstance, demand: Floats) -> Iterator[AllocationProblem]:
        """Each window's problem."""
        worse = stressed(
            instance.problem,
            delay_factor=self.slower,
            error_factor=self.slower,
            delay_bound_resources=[KV_MEMORY],
        )
        return (stressed(worse, demand_factor=factors) for factors in demand)


PEAKS = "Azure week, static plans for its peaks"


def scenes(instance: PaperInstance) -> Iterator[Scene]:
    """Random walks, one with slower replicas, and the week with static plans for its mean and for its peaks."""
    ones = np.ones(instance.problem.classes)
    for volatility in VOLATILITIES:
        demands = tuple(walk(volatility, seed, len(ones)) for seed in range(SEEDS))
        name = f"random walk, sigma {volatility:g}"
        yield Scene(name, MINUTES, demands, ones)
    name = f"random walk, sigma {VOLATILITIES[-1]:g}, delays and errors ×{SLOWER:g}"
    yield Scene(name, MINUTES, demands, ones, slower=SLOWER)
    demand = week(instance.class_names)
    yield Scene("Azure week, static plans for its mean", WEEK_MINUTES, (demand,), ones)
    yield Scene(PEAKS, WEEK_MINUTES, (demand,), demand.max(axis=0))
    demand = week(instance.class_names, LONG_MINUTES)
    name = f"Azure week in windows of {LONG_MINUTES} minutes, static plans for its peaks"
    yield Scene(name, LONG_MINUTES, (demand,), demand.max(axis=0), with_default=True)


def static(instance: PaperInstance, plan: Allocation, scene: Scene, demand: Floats) -> Tally:
    """The plan's replicas in every window, routed anew."""
    tally = Tally(scene.minutes)
    for problem in scene.windows(instance, demand):
        tally.add(problem, restage(problem, plan), 0.0, 0)
    return tally


def rolling(
    instance: PaperInstance, solve: Callable[[AllocationProblem], Allocation], scene: Scene, demand: Floats
) -> tuple[Tally, Tally]:
    """A plan for every window, always carried out, or only where it saves more than its starts cost.

    The first plan's starts are free.
    """
    always, sparing = Tally(scene.minutes), Tally(scene.minutes)
    start_money = start_costs(instance.problem)
    before: Allocation | None = None
    kept: Allocation | None = None
    for problem in scene.windows(instance, demand):
        answer = solve(problem)
        always.add(problem, answer, *_change(start_money, before, answer))
        before = answer
        if kept is not None:
            stay = restage(problem, kept)
            starts, _ = _change(start_money, kept, answer)
            if stay.cost.total <= answer.cost.total + starts / scene.stay_hours:
                answer = stay
        sparing.add(problem, answer, *_change(start_money, kept, answer))
        kept = answer
    return always, sparing


def informed(instance: PaperInstance, scene: Scene, demand: Floats) -> Tally:
    """The production default for every window, told what runs and what starts cost."""
    tally = Tally(scene.minutes)
    start_money = start_costs(instance.problem)
    before: Allocation | None = None
    for problem in scene.windows(instance, demand):
        asked = problem
        if before is not None:
            active = np.flatnonzero(before.replicas)
            rows = np.stack((active, np.full(len(active), -1), before.replicas[active]), axis=1)
            asked = replace(problem, running=rows, option_start_cost_per_hour=start_money / scene.stay_hours)
        answer = priced(problem, DEFAULT.solve(asked))
        tally.add(problem, answer, *_change(start_money, before, answer))
        before = answer
    return tally


def _change(start_money: Floats, before: Allocation | None, after: Allocation) -> tuple[float, int]:
    """Money for starts, and options whose number of replicas changed."""
    if before is None:
        return 0.0, 0
    growth = after.replicas - before.replicas
    return float(start_money @ np.maximum(growth, 0)), int((growth != 0).sum())


def start_costs(problem: AllocationProblem) -> Floats:
    """Money (N,) for a replica's GPUs from its start until it serves."""
    seconds = ENGINE_START_SECONDS + problem.option_storage_gigabytes / GIGABYTES_PER_SECOND
    costs: Floats = problem.option_price_per_hour * seconds / 3600
    return costs


ROLLING_GH, ROLLING, SPARING = "GH rolling", "AGH rolling", "AGH rolling, if it pays"
INFORMED = f"{DEFAULT.name} rolling, told what runs"


def measure(instance: PaperInstance, scene: Scene, known: Mapping[str, list[Tally]]) -> dict[str, list[Tally]]:
    """Tallies by way of planning, one for each seed; `known` holds those that need no new measurement."""
    expected = stressed(instance.problem, demand_factor=scene.planned_for)
    tallies: dict[str, list[Tally]] = {}
    for method in (GH, AGH, EXACT, planned_with(EXACT, 0.1)):
        plan = method.solve(expected)
        tallies[f"{method.name} static"] = [static(instance, plan, scene, demand) for demand in scene.demands]
    if known:
        return tallies | dict(known)
    tallies[ROLLING_GH] = [rolling(instance, solve_greedy, scene, demand)[0] for demand in scene.demands]
    both = [rolling(instance, solve_agh, scene, demand) for demand in scene.demands]
    tallies[ROLLING] = [always for always, _ in both]
    tallies[SPARING] = [sparing for _, sparing in both]
    if scene.with_default:
        tallies[f"{DEFAULT.name} rolling"] = [rolling(instance, DEFAULT.solve, scene, d)[0] for d in scene.demands]
        tallies[INFORMED] = [informed(instance, scene, demand) for demand in scene.demands]
    return tallies


def run() -> tuple[list[Figure], list[Table]]:
    """All scenes on R1."""
    instance = reference()
    figures: list[Figure] = []
    lines: list[tuple[str, ...]] = []
    rolled: dict[str, list[Tally]] = {}
    for scene in scenes(instance):
        say(f"rolling: {scene.name}")
        tallies = measure(instance, scene, rolled if scene.name == PEAKS else {})
        rolled = {name: tallies[name] for name in (ROLLING_GH, ROLLING, SPARING)}
        lines += [(scene.name, name, *_cells(group)) for name, group in tallies.items()]
        for name, other, charged in (
            (ROLLING, "AGH static", False),
            (ROLLING, "exact static", False),
            (SPARING, "AGH static", True),
            (INFORMED, "exact static", True),
        ):
            if name not in tallies:
                continue
            mine, theirs = _mean(tallies[name], charged=charged), _mean(tallies[other], charged=charged)
            text = f"{scene.name}: {name} against {other}{', changes charged' if charged else ''}"
            figures.append(Figure(text, 100 * (mine / theirs - 1), "%"))
    columns = (
        "demand",
        "plan",
        "$ a day",
        "... changes charged",
        "dearest window, $ a day",
        "unserved",
        "windows short of capacity",
        "options changed a day",
    )
    title = f"Static plans and plans every {MINUTES} minutes (Azure: {WEEK_MINUTES}) on R1"
    title += f"; means over {SEEDS} random walks of a day, or one week"
    return figures, [Table(title, columns, lines)]


def _mean(tallies: Sequence[Tally], *, charged: bool) -> float:
    return float(np.mean([tally.day(charged=charged) for tally in tallies]))


def _cells(tallies: Sequence[Tally]) -> tuple[str, ...]:
    days = [tally.day() for tally in tallies]
    each = f" ({' / '.join(f'{day:,.1f}' for day in days)})" if len(days) > 1 else ""
    unserved = np.mean([np.mean(tally.unserved) for tally in tallies])
    changes = np.mean([tally.changes * tally.windows_a_day / len(tally.costs) for tally in tallies])
    return (
        f"{np.mean(days):,.1f}{each}",
        f"{_mean(tallies, charged=True):,.1f}",
        f"{np.mean([tally.peak() for tally in tallies]):,.1f}",
        f"{unserved:.2%}",
        f"{np.mean([tally.short for tally in tallies]):.1%}",
        f"{changes:.1f}",
    )


if __name__ == "__main__":
    show(*run())
