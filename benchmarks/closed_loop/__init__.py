"""A day in the closed loop: Plimsoll beside fixed fleets, autoscaling rules and a fleet that knows the future.

Days are played by the performance model (`day.py`), and one of each kind by the event simulator. Parts are kept in
`.benchmarks/closed_loop`; `--resume` goes on with those that are there.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from functools import cache, partial
from typing import Any

import numpy as np

from benchmarks.closed_loop import rivals
from benchmarks.closed_loop.day import Days, Rule, Tables
from benchmarks.closed_loop.day import run as play
from benchmarks.closed_loop.operator import OPERATOR, Habits, Operator, Plans, rule_of
from benchmarks.closed_loop.scenes import ARRIVALS, SEEDS, STEP_SECONDS, Scene, scenes
from benchmarks.closed_loop.validation import simulated
from benchmarks.data import ROOT
from benchmarks.progress import say
from benchmarks.results import Figure, Table
from plimsoll.allocation.problem import Floats, Ints
from plimsoll.planning.following import FOLLOWING

PARTS = ROOT / ".benchmarks" / "closed_loop"
FEW_SEEDS = 2
"""Of the sweeps and the ablations; what is chosen from a sweep is played with all seeds."""
LINES = (0.85, 0.825, 0.8, 0.775, 0.75, 0.725, 0.7, 0.675, 0.65, 0.6, 0.55)
"""How full the oracle's replicas may be. The less, the more requests are within their targets."""
HEADROOMS = (0.0, 0.1, 0.2)
TRIED_AT_ONCE = 12
"""Points of a sweep that are played with all seeds, the cheapest first."""
T_OF_FOUR = 2.776
"""Student's t for a 95 % interval from five seeds."""
POISSON = "Poisson"


def run(*, resume: bool = False) -> tuple[list[Figure], list[str], list[Table]]:
    """All scenes; the parts that are there already are not computed again where `resume` says so."""
    if not resume:
        for path in PARTS.glob("*.json"):
            path.unlink()
    PARTS.mkdir(parents=True, exist_ok=True)
    found = [_scene_results(scene) for scene in scenes()]
    figures = [figure for mine, _ in found for figure in mine]
    tables = [table for _, mine in found for table in mine]
    return figures, [" ".join(note.split()) for note in _NOTES], tables


def _scene_results(scene: Scene) -> tuple[list[Figure], list[Table]]:
    bench = _Bench(scene)
    parts = [bench.compared(arrivals) for arrivals in ([POISSON] if scene.again else ARRIVALS)]
    if not scene.again:
        parts += [bench.validated(), bench.split()]
    return [figure for mine, _ in parts for figure in mine], [table for _, table in parts]


class _Bench:
    """The parts of one scene."""

    def __init__(self, scene: Scene) -> None:
        self._scene, self._plans = scene, Plans(scene)
        self._tables: Tables | None = None
        self._arrivals = cache(scene.arrivals)
        self._expected = scene.expected(600.0)
        self._first, self._mix = self._expected[0], self._expected.mean(axis=0)

    # --- Parts -------------------------------------------------------------------------------------------------------

    def _part(self, name: str, make: Callable[[], Any]) -> Any:  # noqa: ANN401  (JSON)
        path = PARTS / f"{self._scene.name}-{name}.json".replace(" ", "_").replace(",", "")
        if not path.exists():
            say(f"closed loop: {self._scene.name}, {name}")
            path.write_text(json.dumps(make()), encoding="utf-8")
        return json.loads(path.read_text(encoding="utf-8"))

    def _play(self, arrivals: Floats, start: Ints, shares: Floats, rule: Rule, *, keep: bool = False) -> Days:
        return play(self._scene, self._tabled(), arrivals, start, shares, rule, keep=keep)

    def _tabled(self) -> Tables:
        if self._tables is None:
            found = self._part("tables", lambda: {name: value.tolist() for name, value in _fields(self._scene).items()})
            self._tables = Tables(**{name: np.array(value) for name, value in found.items()})
        return self._tables

    def _streams(self, arrivals: str, seeds: Sequence[int]) -> Floats:
        return np.stack([self._arrivals(ARRIVALS[arrivals], seed) for seed in seeds])

    def _operated(self, arrivals: str, seeds: Sequence[int], habits: Habits, *, keep: bool = False) -> Days:
        operators = [Operator(self._scene, self._plans, self._first, habits) for _ in seeds]
        start = np.stack([item.replicas for item in operators])
        shares = np.stack([item.shares for item in operators])
        return self._play(self._streams(arrivals, seeds), start, shares, rule_of(operators), keep=keep)

    def _fixed(self, arrivals: str, rates: Floats) -> Days:
        replicas, shares, _ = self._plans.decide(rates * (1 + self._scene.headroom), None, False, None)
        return self._held(arrivals, replicas, shares)

    def _held(self, arrivals: str, replicas: Ints, shares: Floats) -> Days:
        lanes = len(SEEDS)
        start, split = np.repeat(replicas[None], lanes, axis=0), np.repeat(shares[None], lanes, axis=0)
        return self._play(self._streams(arrivals, SEEDS), start, split, rivals.fixed(replicas, shares))

    def plimsoll(self, arrivals: str) -> dict[str, Any]:
        """With the policy's defaults."""
        return dict(self._part(f"{arrivals}-plimsoll", lambda: _told(self._operated(arrivals, SEEDS, OPERATOR))))

    def oracle(self, arrivals: str) -> dict[str, Any] | None:
        """The fullest that reaches Plimsoll's attainment."""
        aim = float(np.mean(self.plimsoll(arrivals)["overall"]))
        enough = bisect_left(LINES, True, key=lambda line: float(np.mean(self._at(arrivals, line)["overall"])) >= aim)
        return dict(self._at(arrivals, LINES[enough])) if enough < len(LINES) else None

    def _at(self, arrivals: str, line: float) -> Any:  # noqa: ANN401  (JSON)
        return self._part(f"{arrivals}-oracle-{line:g}", partial(self._oracle, arrivals, line))

    def _oracle(self, arrivals: str, line: float) -> dict[str, Any]:
        plan = self._foreseen(line)
        days = self._follow(arrivals, SEEDS, plan)
        return {**_told(days), "line": line, "bound": plan.bound}

    def _follow(self, arrivals: str, seeds: Sequence[int], plan: rivals.Foreseen, *, keep: bool = False) -> Days:
        lanes = len(seeds)
        start = np.repeat(plan.replicas[:1], lanes, axis=0)
        shares = np.repeat(plan.shares[:1], lanes, axis=0)
        rule = rivals.foreseen_rule(self._scene, plan)
        return self._play(self._streams(arrivals, seeds), start, shares, rule, keep=keep)

    def _foreseen(self, line: float) -> rivals.Foreseen:
        found = self._part(f"foreseen-{line:g}", lambda: _listed(rivals.foresee(self._scene, self._expected, line)))
        return rivals.Foreseen(np.array(found["replicas"]), np.array(found["shares"]), found["bound"])

    def rule(self, arrivals: str, kind: str) -> dict[str, Any] | None:
        """The cheapest point of a swept rule that reaches Plimsoll's attainment; None where none does."""
        own = self.plimsoll(arrivals)
        swept = self._part(f"{arrivals}-{kind}-sweep", lambda: self._sweep(arrivals, kind))
        few = float(np.mean(own["overall"][:FEW_SEEDS]))
        able = sorted((point for point in swept if point["attainment"] >= few), key=lambda point: point["cost"])
        for first in range(0, len(able), TRIED_AT_ONCE):
            name = f"{arrivals}-{kind}-from-{first}-{few:.6f}"
            tried = self._part(name, partial(self._points, arrivals, kind, able[first : first + TRIED_AT_ONCE]))
            reach = [found for found in tried if np.mean(found["overall"]) >= np.mean(own["overall"])]
            if reach:
                return dict(min(reach, key=lambda found: float(np.mean(found["cost"]))))
        return None

    def _sets(self) -> dict[str, tuple[int, ...]]:
        planned, _, _ = self._plans.decide(self._mix * (1 + self._scene.headroom), None, False, None)
        return rivals.variant_sets(self._scene, self._mix, planned)

    def _sweep(self, arrivals: str, kind: str) -> list[dict[str, Any]]:
        points, seeds = _POINTS[kind], list(SEEDS)[:FEW_SEEDS]
        found = []
        for name, variants in self._sets().items():
            days = self._ruled(arrivals, kind, variants, points, seeds)
            cost = days.cost.reshape(-1, len(seeds)).mean(axis=1)
            overall = days.overall.reshape(-1, len(seeds)).mean(axis=1)
            for number in range(len(points.values)):
                point = {"set": name, "point": number, "text": f"{name}: {points.text(number)}"}
                found.append({**point, "cost": float(cost[number]), "attainment": float(overall[number])})
        return found

    def _points(self, arrivals: str, kind: str, chosen: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Swept points, with all seeds."""
        found = []
        for name, variants in self._sets().items():
            mine = [item for item in chosen if item["set"] == name]
            if not mine:
                continue
            points = replace(_POINTS[kind], values=_POINTS[kind].values[[item["point"] for item in mine]])
            days = self._ruled(arrivals, kind, variants, points, SEEDS)
            size = len(SEEDS)
            for number, item in enumerate(mine):
                found.append({**_told(days, slice(number * size, (number + 1) * size)), "text": item["text"]})
        return found

    def _ruled(
        self, arrivals: str, kind: str, variants: tuple[int, ...], points: rivals.Points, seeds: Sequence[int]
    ) -> Days:
        """Only the options of the set take part, by their numbers among themselves."""
        scene, lanes = self._scene.confined(variants), points.lanes(len(seeds))
        tables = self._tabled().confined(variants)
        own = tuple(sorted(variants).index(option) for option in variants)
        streams = np.tile(self._streams(arrivals, seeds), (len(points.values), 1, 1))
        usual = np.full(len(lanes), 0.85 / (1 + scene.headroom))
        first = np.repeat(self._first[None], len(lanes), axis=0)
        start = rivals.filled(scene, own, first, lanes[:, 0] if kind == "first" else usual)
        shares = rivals.by_capacity(scene, own, start, first)
        if kind == "hpa":
            peak = rivals.filled(scene, own, self._expected.max(axis=0)[None], usual[:1])[0]
            rule = rivals.hpa(scene, own, points, len(seeds), start, peak)
        else:
            rule = rivals.cheapest_first(scene, own, points, len(seeds))
        return play(scene, tables, streams, start, shares, rule)

    # --- What comes of them ------------------------------------------------------------------------------------------

    def compared(self, arrivals: str) -> tuple[list[Figure], Table]:
        """Plimsoll beside everything else."""
        own = self.plimsoll(arrivals)
        peak = self._part(f"{arrivals}-peak", lambda: _told(self._fixed(arrivals, self._expected.max(axis=0))))
        mean = self._part(f"{arrivals}-mean", lambda: _told(self._fixed(arrivals, self._mix)))
        oracle = self.oracle(arrivals)
        rows: list[tuple[str, dict[str, Any] | None, str]] = [
            ("Plimsoll, defaults", own, "headroom 0.1, cool-down 600 s")
        ]
        rows += [("(a) fixed, for the peak", peak, ""), ("(b) fixed, best for the mean", mean, "")]
        figures = [self._against(arrivals, own, peak, "(a) a fixed fleet for the peak", -25.0)]
        ruled: dict[str, dict[str, Any] | None] = {}
        for kind, title in (("hpa", "(c) HPA on waiting requests"), ("first", "(d) cheapest variant first")):
            found = ruled[title] = self.rule(arrivals, kind)
            rows.append((title, found, found["text"] if found else "no point reaches the attainment"))
            if found is not None:
                figures.append(self._against(arrivals, own, found, f"{title}, tuned", -10.0))
        rows.append(("(e) knows the future", oracle, f"line {oracle['line']:g}" if oracle else "no line reaches it"))
        if oracle is not None:
            figures.append(self._against(arrivals, own, oracle, "(e) a fleet that knows the future", 15.0))
            text = f"{self._scene.name}, {arrivals}: the least that any fleet with (e)'s line costs"
            figures.append(Figure(text, oracle["bound"], "$ a day"))
        for title, found in ruled.items():
            if oracle is not None and found is not None:
                ratio = float(np.mean(oracle["cost"]) / np.mean(found["cost"]))
                text = f"{self._scene.name}, {arrivals}: cost of (e) against {title}, tuned"
                figures.append(Figure(text, 100 * (ratio - 1), "%"))
        columns = ("fleet", "$ a day", "requests within all targets", "by class", "starts a day", "at")
        return figures, Table(
            f"{self._scene.name}, {arrivals} arrivals: mean of {len(SEEDS)} seeds with 95 % intervals",
            columns,
            [(name, *_cells(item), text) for name, item, text in rows],
        )

    def _against(self, arrivals: str, own: Any, other: Any, name: str, target: float) -> Figure:  # noqa: ANN401
        ratio = float(np.mean(own["cost"]) / np.mean(other["cost"]))
        return Figure(f"{self._scene.name}, {arrivals}: Plimsoll's cost against {name}", 100 * (ratio - 1), "%", target)

    def split(self) -> tuple[list[Figure], Table]:
        """What each part of Plimsoll gives: without it, with as much headroom as its attainment then takes."""
        scene = self._scene
        own = self.plimsoll(POISSON)
        aim, cost = (float(np.mean(own[name][:FEW_SEEDS])) for name in ("overall", "cost"))
        singles = [set_ for set_ in self._sets().values() if len(set_) == 1]
        peak, _, _ = self._plans.decide(self._expected.max(axis=0) * (1 + scene.headroom), None, False, None)
        level = replace(FOLLOWING, forecast=replace(FOLLOWING.forecast, deviations=0.0))
        without = {
            "heterogeneity (one variant only)": [Habits(only=one) for one in singles],
            "forecasting (the present level only)": [Habits(rule=level, ahead=False)],
            "re-planning (the peak plan's variants only)": [Habits(only=tuple(np.flatnonzero(peak).tolist()))],
        }
        figures: list[Figure] = []
        rows: list[tuple[str, ...]] = []
        for name, choices in without.items():
            best: tuple[float, float, float] | None = None
            for number, habits in enumerate(choices):
                for headroom in HEADROOMS:
                    part = f"without-{name.split(' ')[0]}-{number}-{headroom:g}"
                    found = self._part(part, partial(self._ablated, habits, headroom))
                    reached = float(np.mean(found["overall"]))
                    spent = float(np.mean(found["cost"]))
                    if reached >= aim:
                        if best is None or spent < best[0]:
                            best = (spent, reached, headroom)
                        break  # more headroom costs more
            if best is None:
                rows.append((name, "-", "-", "no headroom reaches the attainment"))
                continue
            figures.append(
                Figure(f"{scene.name}: without {name}, cost above Plimsoll's", 100 * (best[0] / cost - 1), "%")
            )
            rows.append((name, f"{best[0]:,.1f}", f"{best[1]:.2%}", f"headroom {best[2]:g}"))
        rows.insert(0, ("nothing", f"{cost:,.1f}", f"{aim:.2%}", f"headroom {scene.headroom:g}"))
        bare = self._part("without-headroom", partial(self._ablated, OPERATOR, 0.0))
        spent, reached = (float(np.mean(bare[name])) for name in ("cost", "overall"))
        rows.insert(1, ("headroom", f"{spent:,.1f}", f"{reached:.2%}", "another attainment"))
        columns = ("without", "$ a day", "requests within all targets", "at")
        return figures, Table(f"{scene.name}: what each part gives; Poisson, {FEW_SEEDS} seeds", columns, rows)

    def _ablated(self, habits: Habits, headroom: float) -> dict[str, Any]:
        days = self._operated(POISSON, range(1, FEW_SEEDS + 1), replace(habits, headroom=headroom))
        return _told(days)

    def validated(self) -> tuple[list[Figure], Table]:
        """One seed of what is reported, request by request."""
        seed = SEEDS[0]
        oracle = self.oracle(POISSON)
        line = LINES[-1] if oracle is None else oracle["line"]
        plays: dict[str, Callable[[], Days]] = {
            "Plimsoll, defaults": lambda: self._operated(POISSON, [seed], OPERATOR, keep=True),
            "(e) knows the future": lambda: self._follow(POISSON, [seed], self._foreseen(line), keep=True),
        }
        rows: list[tuple[str, ...]] = []
        figures: list[Figure] = []
        for name, make in plays.items():
            found = self._part(f"validated-{name.split(' ')[0].strip(',()')}", partial(self._simulated, make, seed))
            model, events = found["model"], found["events"]
            rows.append(
                (
                    name,
                    f"{events['requests']:,}",
                    f"{model['cost'][0]:,.1f}",
                    f"{events['cost']:,.1f}",
                    f"{model['overall'][0]:.2%}",
                    f"{events['attainment']:.2%}",
                    f"{events['not_served']}",
                )
            )
            gap = abs(model["overall"][0] - events["attainment"]) * 100
            figures.append(Figure(f"{self._scene.name}: {name}, model's error of the attainment", gap, "points"))
            if name.startswith("Plimsoll"):
                text = f"{self._scene.name}: requests lost through changes, by the event simulator"
                figures.append(Figure(text, float(events["not_served"]), "", 0.0))
        columns = (
            "fleet",
            "requests",
            "$ a day, model",
            "simulated",
            "within all targets, model",
            "simulated",
            "not served",
        )
        return figures, Table(
            f"{self._scene.name}: the model beside the event simulator; Poisson, one seed", columns, rows
        )

    def _simulated(self, make: Callable[[], Days], seed: int) -> dict[str, Any]:
        days = make()
        found = simulated(self._scene, days, 0, ARRIVALS[POISSON], seed)
        return {"model": _told(days), "events": asdict(found)}


_POINTS = {"hpa": rivals.HPA_POINTS, "first": rivals.FIRST_POINTS}
_NOTES = [
    """Closed loop: a day of Azure's conversation and coding (14 May 2024) and of ServeGen's m-large and deepseek-r1
    (first day), scaled, on 8 A100, 24 A40 and 4 L40S with Llama-3.1-8B in bf16 and fp8; once more with 16 L40S.
    Replicas start in 120 s. Plimsoll sees the last minute of arrivals every 15 s, its routers read their ConfigMap 90 s
    late, and what is not routed to stays for 150 s; the rules' routers follow what is Ready at once, and their pods end
    at once.""",
    """Closed loop: (a) and (b) are the planner's own plans for the classes' peaks and means with its headroom. Of (c),
    (d) and (e) the cheapest point counts that reaches Plimsoll's attainment: (c) and (d) are swept on that very day
    with two seeds over each pool's best variant, all of these together and the best fixed mix, and played with five;
    (e)'s replicas are filled to ever lower lines. Many more requests are within all targets than the 95 % that the SLOs
    ask for, so the last tenths of a percent decide what a point costs.""",
    f"""Closed loop: days are played in steps of {STEP_SECONDS:g} s by the performance model; beside it stands the event
    simulator for one seed.""",
]


def _told(days: Days, lanes: slice = slice(None)) -> dict[str, Any]:
    return {
        "cost": days.cost[lanes].tolist(),
        "overall": days.overall[lanes].tolist(),
        "classes": days.attainment[lanes].mean(axis=0).tolist(),
        "starts": days.starts[lanes].tolist(),
    }


def _fields(scene: Scene) -> dict[str, Floats]:
    tables = Tables.of(scene)
    return {item.name: getattr(tables, item.name) for item in fields(tables)}


def _listed(plan: rivals.Foreseen) -> dict[str, Any]:
    return {"replicas": plan.replicas.tolist(), "shares": plan.shares.tolist(), "bound": plan.bound}


def _cells(item: dict[str, Any] | None) -> tuple[str, str, str, str]:
    if item is None:
        return ("-", "-", "-", "-")
    classes = " / ".join(f"{value:.2%}" for value in item["classes"])
    return _interval(item["cost"], ",.1f"), _interval(item["overall"], ".2%"), classes, f"{np.mean(item['starts']):.0f}"


def _interval(values: Sequence[float], form: str) -> str:
    half = T_OF_FOUR * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return f"{float(np.mean(values)):{form}} ± {half:{form}}"
