"""What else people do: fixed fleets, an HPA on waiting requests per variant, cheapest-variant-first, and an oracle.

The rules get what Plimsoll gets: the same start-up times, GPUs and options, and a first fleet for the same rates; their
parameters are swept, and the caller takes the cheapest point that reaches Plimsoll's attainment. They have it easier:
pods that they give up end at once, and routers follow what is Ready without delay, each variant in proportion to what
it can take of the present mix. They know the model's rates per replica, which somebody would have to measure.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from benchmarks.closed_loop.day import Rule, Seen
from benchmarks.closed_loop.scenes import DAY_SECONDS, STEP_SECONDS, Scene
from plimsoll.allocation.milp import Model, Status, solve_lp, solve_milp
from plimsoll.allocation.problem import Floats, Ints

MINUTE_STEPS = round(60 / STEP_SECONDS)
TOLERANCE = 0.1
"""The HPA's: it does nothing while the metric is so near to its target."""


def variant_sets(scene: Scene, mix: Floats, planned: Ints) -> dict[str, tuple[int, ...]]:
    """Each pool's cheapest option that serves all classes, alone; all of these; and those of the best fixed fleet.

    Sets list the option that costs least per request first.

    Args:
        mix: (C,) requests per second of the classes on average over the day.
        planned: (N,) replicas of the best fixed fleet for them.
    """
    work = works(scene, mix)
    price = scene.prices * work
    able = np.flatnonzero(np.isfinite(price))
    best: dict[int, int] = {}
    for option in able[np.argsort(price[able], kind="stable")].tolist():
        best.setdefault(int(scene.base.option_pool[option]), option)
    singles = {f"{scene.candidates[option].label} alone": (option,) for option in best.values()}
    mixed = tuple(sorted(best.values(), key=lambda option: float(price[option])))
    best_mix = tuple(option for option in able[np.argsort(price[able], kind="stable")].tolist() if planned[option])
    sets = {**singles, "all pools": mixed, "the best fixed mix": best_mix}
    return {name: options for name, options in sets.items() if options}


def works(scene: Scene, rates: Floats) -> Floats:
    """(…, N) replicas of each option that would serve rates (…, C) alone, full to the line; inf where it may not."""
    with np.errstate(divide="ignore"):
        each = 1.0 / scene.minimal_rates
    return np.asarray((rates[..., :, None] * each).sum(axis=-2))


def most_replicas(scene: Scene) -> Ints:
    """(N,) by the pool's GPUs."""
    return np.floor(scene.base.pool_gpu_limit[scene.base.option_pool] / scene.gpus).astype(np.int64)


def filled(scene: Scene, variants: tuple[int, ...], rates: Floats, line: Floats) -> Ints:
    """(L, N) replicas for rates (L, C), each variant full to `line` (L,) before the next is used."""
    work, most = works(scene, rates), most_replicas(scene)
    replicas = np.zeros(work.shape, dtype=np.int64)
    left = np.ones(len(work))
    for option in variants:
        count = np.minimum(np.ceil(left * work[:, option] / line - 1e-9), most[option])
        replicas[:, option] = np.maximum(count, 0)
        left = np.maximum(0.0, left - count * line / np.maximum(work[:, option], 1e-12))
    return replicas


def by_capacity(scene: Scene, variants: tuple[int, ...], ready: Ints, rates: Floats) -> Floats:
    """(L, C, N) shares in proportion to what the Ready replicas can take of the present mix."""
    work = works(scene, np.maximum(rates, 1e-6))
    weight = np.zeros(ready.shape)
    chosen = list(variants)
    weight[:, chosen] = ready[:, chosen] / work[:, chosen]
    sums = weight.sum(axis=1, keepdims=True)
    weight = np.divide(weight, sums, out=np.zeros_like(weight), where=sums > 0)
    return np.repeat(weight[:, None, :], rates.shape[1], axis=1)


@dataclass(frozen=True, slots=True)
class Points:
    """A rule's parameters, one per lane group; every point is run with every seed."""

    names: tuple[str, ...]
    values: Floats
    """(points, parameters)"""

    @classmethod
    def grid(cls, **axes: tuple[float, ...]) -> Points:
        return cls(tuple(axes), np.array(list(itertools.product(*axes.values()))))

    def lanes(self, seeds: int) -> Floats:
        """(points x seeds, parameters), the seeds of a point side by side."""
        return np.repeat(self.values, seeds, axis=0)

    def text(self, point: int) -> str:
        """For the report."""
        return ", ".join(f"{name} {value:g}" for name, value in zip(self.names, self.values[point], strict=True))


HPA_POINTS = Points.grid(
    target=(0.5, 1.0, 2.0, 4.0),
    minutes_between_steps_down=(1.0, 5.0, 30.0),
    least_part_of_the_peak=(0.0, 0.2, 0.35, 0.5, 0.65, 0.8),
    window_minutes=(5.0, 15.0, 60.0),
)
FIRST_POINTS = Points.grid(
    line=(0.4, 0.5, 0.6, 0.65, 0.7, 0.725, 0.75, 0.775, 0.8, 0.825, 0.85, 0.875, 0.9, 0.95, 1.0),
    rate_over_minutes=(1.0, 3.0, 10.0),
    window_minutes=(5.0, 10.0, 20.0, 60.0),
)


class Highest:
    """The most that was wanted within each lane's last so many steps (van Herk's running maximum)."""

    def __init__(self, window_minutes: Floats) -> None:
        """One window per lane (L,)."""
        steps = np.maximum(1, np.round(window_minutes * MINUTE_STEPS)).astype(int)
        self._groups = [(int(size), np.flatnonzero(steps == size)) for size in np.unique(steps)]
        self._blocks: list[list[Ints]] = [[] for _ in self._groups]
        self._ends: list[Ints | None] = [None for _ in self._groups]
        self._most: list[Ints] = [np.zeros(0, dtype=np.int64) for _ in self._groups]

    def after(self, wanted: Ints) -> Ints:
        """(L, N) with what is wanted now (L, N)."""
        found = np.empty_like(wanted)
        for number, (size, lanes) in enumerate(self._groups):
            own, block = wanted[lanes], self._blocks[number]
            self._most[number] = np.maximum(self._most[number], own) if block else own
            block.append(own)
            most, ends = self._most[number], self._ends[number]
            found[lanes] = most if ends is None or len(block) == size else np.maximum(most, ends[len(block)])
            if len(block) == size:
                self._ends[number] = np.maximum.accumulate(np.stack(block)[::-1])[::-1]
                block.clear()
        return found


def hpa(scene: Scene, variants: tuple[int, ...], points: Points, seeds: int, start: Ints, peak: Ints) -> Rule:
    """autoscaling/v2 for each variant: average waiting requests per pod against a target, looked at every 15 s.

    Up by the default policy: to twice as many or by four pods, whichever is more. Down by one pod every so many
    minutes, to the highest number that was wanted within the stabilisation window.

    Args:
        peak: (N,) replicas for the day's peak; a part of them is the least number.
    """
    lanes = points.lanes(seeds)
    target, between, part, window = lanes[:, :1], lanes[:, 1], lanes[:, 2:3], lanes[:, 3]
    least = np.maximum(np.ceil(part * peak[None]), 0).astype(np.int64)
    chosen = np.zeros(scene.base.options, dtype=bool)
    chosen[list(variants)] = True
    least = np.where(chosen[None] & (start > 0), np.maximum(least, 1), np.where(chosen[None], least, 0))
    most = most_replicas(scene)[None]
    highest = Highest(window)
    between_steps = np.maximum(1, np.round(between * MINUTE_STEPS)).astype(int)

    def rule(seen: Seen) -> tuple[Ints, Floats]:
        alive = seen.alive
        ratio = seen.waiting / np.maximum(alive, 1) / target
        same = np.abs(ratio - 1.0) <= TOLERANCE
        wanted = np.where(same, alive, np.ceil(alive * ratio)).astype(np.int64)
        wanted = np.where(chosen, np.clip(wanted, least, most), 0)
        steady = highest.after(wanted)
        up = np.minimum(wanted, np.maximum(2 * alive, alive + 4))
        may_shrink = (seen.step % between_steps == 0)[:, None]
        down = np.maximum(steady, alive - 1)
        found = np.where(wanted > alive, up, np.where((steady < alive) & may_shrink, down, alive))
        return np.minimum(found, most), by_capacity(scene, variants, seen.ready, seen.rates)

    return rule


def cheapest_first(scene: Scene, variants: tuple[int, ...], points: Points, seeds: int) -> Rule:
    """Replicas for the smoothed rate: the variant that costs least per request first, the next where its GPUs end.

    Up at once; down to the most that was wanted within the window, the dearest first.
    """
    lanes = points.lanes(seeds)
    line, over, highest = lanes[:, 0], lanes[:, 1:2], Highest(lanes[:, 2])
    gain = STEP_SECONDS / (over * 60.0 + STEP_SECONDS)
    smoothed: list[Floats] = []

    def rule(seen: Seen) -> tuple[Ints, Floats]:
        before = smoothed.pop() if smoothed else seen.rates.copy()
        smoothed.append(before + gain * (seen.rates - before))
        wanted = highest.after(filled(scene, variants, smoothed[0], line))
        return wanted, by_capacity(scene, variants, seen.ready, seen.rates)

    return rule


def fixed(replicas: Ints, shares: Floats) -> Rule:
    """The same fleet (N,) and shares (C, N) all day."""

    def rule(seen: Seen) -> tuple[Ints, Floats]:
        lanes = len(seen.ready)
        return np.repeat(replicas[None], lanes, axis=0), np.repeat(shares[None], lanes, axis=0)

    return rule


@dataclass(frozen=True, slots=True, eq=False)
class Foreseen:
    """What is best for a day that is known beforehand."""

    replicas: Ints
    """(windows, N)"""
    shares: Floats
    """(windows, C, N)"""
    bound: float
    """No fleet that keeps the line in every window, and changes between windows only, costs less: dollars a day."""


def foresee(scene: Scene, rates: Floats, line: float) -> Foreseen:
    """The cheapest fleet over time that keeps each window's load below the line.

    Each window's own best fleet comes from an exact program; these sum to the bound. A path through all fleets that are
    the best of some window, by dynamic programming, then weighs what starts cost: a replica's price for its start-up
    time, as it does everybody.

    Args:
        rates: (windows, C) highest rate of each window.
    """
    hours = DAY_SECONDS / len(rates) / 3600.0
    own = [_cheapest(scene, row, line) for row in rates]
    fleets = np.unique(np.stack(own), axis=0)
    rent = fleets @ scene.prices * hours
    least = np.stack(own) @ scene.prices * hours
    start = scene.prices * scene.start_seconds / 3600.0
    step = np.maximum(fleets[None, :] - fleets[:, None], 0) @ start
    split: list[list[Floats | None]] = []
    for row, cheapest in zip(rates, least, strict=True):
        # Who costs so much more than the best of a window is hardly on the best path.
        split.append(
            [
                _split(scene, row, line, fleet) if cost <= 1.15 * cheapest else None
                for fleet, cost in zip(fleets, rent, strict=True)
            ]
        )
    total = np.where([one is not None for one in split[0]], rent, np.inf)
    came: list[Ints] = []
    for window in range(1, len(rates)):
        able = np.array([one is not None for one in split[window]])
        ways = total[:, None] + step
        came.append(np.argmin(ways, axis=0))
        total = np.where(able, ways.min(axis=0) + rent, np.inf)
    path = [int(np.argmin(total))]
    for back in reversed(came):
        path.append(int(back[path[-1]]))
    path.reverse()
    shares = [split[window][fleet] for window, fleet in enumerate(path)]
    return Foreseen(fleets[path], np.stack([one for one in shares if one is not None]), float(least.sum()))


def _cheapest(scene: Scene, rates: Floats, line: float) -> Ints:
    """(N,) replicas that serve rates (C,) below the line for the least rent."""
    model, replicas, _ = _window(scene, rates)
    columns = model.add_columns(scene.prices, 0.0, most_replicas(scene).astype(float), integer=True)
    model.add_entries(replicas, columns, -line)
    for pool in np.unique(scene.base.option_pool):
        mine = np.flatnonzero(scene.base.option_pool == pool)
        model.add_row(columns[mine], scene.gpus[mine].astype(float), upper=float(scene.base.pool_gpu_limit[pool]))
    result = solve_milp(model, relative_gap=1e-4)
    if result.values is None:
        raise RuntimeError(f"{scene.name}: {rates} requests per second are more than the cluster can serve")
    return np.round(result.values[columns]).astype(np.int64)


def _split(scene: Scene, rates: Floats, line: float, replicas: Ints) -> Floats | None:
    """(C, N) shares by which the replicas serve the rates below the line, as evenly as can be; None: they cannot."""
    model, rows, share = _window(scene, rates)
    fullest = model.add_columns(1.0, 0.0, line + 1e-9, count=1)
    model.add_entries(rows, fullest, -replicas.astype(float))
    result = solve_lp(model)
    if result.status is not Status.OPTIMAL:
        return None
    found = np.zeros(scene.minimal_rates.shape)
    found[scene.base.pair_class, scene.base.pair_option] = result.values[share]
    return found


def _window(scene: Scene, rates: Floats) -> tuple[Model, Ints, Ints]:
    """All of each class is served. Returns the rows (N,) with the options' loads, at most 0, and the shares (P,)."""
    base, model = scene.base, Model()
    share = model.add_columns(0.0, 0.0, 1.0, count=base.pairs)
    served = model.add_rows(1.0, 1.0, count=base.classes)
    model.add_entries(served[base.pair_class], share, 1.0)
    loads = model.add_rows(-np.inf, 0.0, count=base.options)
    model.add_entries(loads[base.pair_option], share, base.pair_load[:, 0] * rates[base.pair_class])
    return model, loads, share


def foreseen_rule(scene: Scene, plan: Foreseen) -> Rule:
    """Replicas are created so that they serve when their window begins; shares change with the windows."""
    windows = len(plan.replicas)
    per_window = round(DAY_SECONDS / windows / STEP_SECONDS)
    lead = round(float(scene.start_seconds.max()) / STEP_SECONDS)

    def rule(seen: Seen) -> tuple[Ints, Floats]:
        now = min(seen.step // per_window, windows - 1)
        soon = min((seen.step + lead) // per_window, windows - 1)
        lanes = len(seen.ready)
        replicas = np.maximum(plan.replicas[now], plan.replicas[soon])
        return np.repeat(replicas[None], lanes, axis=0), np.repeat(plan.shares[now][None], lanes, axis=0)

    return rule
