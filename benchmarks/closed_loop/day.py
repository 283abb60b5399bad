"""A day in steps of 15 s, by the performance model: many fleets side by side.

Each option's replicas carry an exponentially smoothed load (a request stays for its mean end-to-end time); attainment
at a load is that of the performance model's percentiles, and what exceeds saturation waits in line and is late. What a
model of means and lines cannot know, the event simulator checks (`validation.py`).

Sizes: L fleets (lanes), C classes, N options.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from benchmarks.closed_loop.scenes import STEP_SECONDS, STEPS, Scene
from plimsoll.allocation.problem import Floats, Ints
from plimsoll.performance import LatencyTarget, LatencyTargets, Prediction, predict

LOAD_STEP = 0.05
MOST_LOAD = 2.0
PERCENTILES = (50, 75, 90, 95, 98, 99)
_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True, eq=False)
class Tables:
    """What each class meets on each option, by the load of its replicas in multiples of the planned line."""

    attainment: Floats
    """(C, N, loads)"""
    waiting_seconds: Floats
    """(C, N, loads): by how much the mean time to first token exceeds that of an idle replica."""
    saturation: Floats
    """(C, N): load beyond which a queue grows."""
    stay_seconds: Floats
    """(C,): mean end-to-end time at a usual load."""

    @classmethod
    def of(cls, scene: Scene) -> Tables:
        loads = np.arange(0.0, MOST_LOAD + LOAD_STEP / 2, LOAD_STEP)
        shape = (len(scene.classes), scene.base.options, len(loads))
        attainment, waiting = np.zeros(shape), np.zeros(shape)
        saturation = np.ones(shape[:2])
        stay = np.full(shape[:2], np.nan)
        for number, option in zip(*np.nonzero(scene.minimal_rates), strict=True):
            rate = scene.minimal_rates[number, option]
            at_line = _predicted(scene, number, option, rate, None)
            saturation[number, option] = 1.0 / at_line.utilization
            stay[number, option] = at_line.mean_end_to_end_seconds
            idle = _predicted(scene, number, option, 0.0, None).ttft_seconds
            for index, load in enumerate(loads.tolist()):
                most = min(load, 0.995 * saturation[number, option])
                if load > saturation[number, option] + LOAD_STEP:
                    attainment[number, option, index] = attainment[number, option, index - 1]
                    waiting[number, option, index] = waiting[number, option, index - 1]
                    continue
                found = [_predicted(scene, number, option, rate * most, percentile) for percentile in PERCENTILES]
                attainment[number, option, index] = _within(found, scene.targets[number])
                mean = _predicted(scene, number, option, rate * most, None).ttft_seconds
                waiting[number, option, index] = max(0.0, mean - idle)
        return cls(attainment, waiting, saturation, np.nanmedian(stay, axis=1))

    def confined(self, options: tuple[int, ...]) -> Tables:
        """Of `Scene.confined`."""
        chosen = sorted(options)
        return Tables(
            self.attainment[:, chosen], self.waiting_seconds[:, chosen], self.saturation[:, chosen], self.stay_seconds
        )


def _predicted(scene: Scene, number: int, option: int, rate: float, percentile: int | None) -> Prediction:
    """At that percentile, or the means."""
    candidate, lengths = scene.candidates[option], scene.classes[number].lengths
    target = None if percentile is None else LatencyTarget(1.0, percentile)
    targets = LatencyTargets(target, target, target)
    return predict(candidate.shape, lengths, targets, rate, candidate.option.max_num_seqs)


def _within(found: list[Prediction], targets: LatencyTargets) -> float:
    """Part of the requests within every target: the least of the targets' parts, between percentiles as of a lognormal
    time."""
    parts = []
    scores = [_NORMAL.inv_cdf(percentile / 100) for percentile in PERCENTILES]
    for name, target in (("ttft", targets.ttft), ("tpot", targets.tpot), ("end_to_end", targets.end_to_end)):
        if target is None:
            continue
        times = np.log([getattr(item, f"{name}_seconds") for item in found])
        aim = float(np.log(target.seconds))
        if not np.isfinite(times).all():
            return 0.0
        if aim <= times[0]:
            spread = max((times[2] - times[0]) / (scores[2] - scores[0]), 1e-3)
            parts.append(_NORMAL.cdf((aim - times[0]) / spread))
        elif aim >= times[-1]:
            spread = max((times[-1] - times[-2]) / (scores[-1] - scores[-2]), 1e-3)
            parts.append(_NORMAL.cdf(scores[-1] + (aim - times[-1]) / spread))
        else:
            parts.append(_NORMAL.cdf(float(np.interp(aim, times, scores))))
    return min(parts, default=1.0)


@dataclass(slots=True, eq=False)
class Seen:
    """What a rule may look at: the step before, of L fleets."""

    step: int
    ready: Ints
    """(L, N)"""
    alive: Ints
    """(L, N): with those that start."""
    rates: Floats
    """(L, C) requests per second that arrived."""
    waiting: Floats
    """(L, N) requests per option that wait for their first token."""


Rule = Callable[[Seen], tuple[Ints, Floats]]
"""From what is seen to the replicas that are wanted (L, N) and the shares of classes (L, C, N) that routers follow."""


@dataclass(frozen=True, slots=True, eq=False)
class Days:
    """How L fleets came through the day."""

    cost: Floats
    """(L,) dollars: GPUs from a replica's creation to its end."""
    attainment: Floats
    """(L, C) part of the requests that kept every target."""
    overall: Floats
    """(L,) the same over all requests."""
    starts: Ints
    """(L,) replicas that were started."""
    alive: Ints
    """(STEPS, L, N)"""
    shares: Floats
    """(STEPS, L, C, N)"""
    late: Floats
    """(STEPS, L, C) requests that missed a target."""


def run(
    scene: Scene, tables: Tables, arrivals: Floats, start: Ints, first_shares: Floats, rule: Rule, *, keep: bool = False
) -> Days:
    """Play the day.

    Args:
        arrivals: (L, STEPS, C) requests.
        start: (L, N) replicas that are Ready at midnight.
        first_shares: (L, C, N)
        keep: whether to return what was alive and routed in every step.
    """
    lanes, _, classes = arrivals.shape
    options = scene.base.options
    rate, prices = scene.minimal_rates, scene.prices
    work_per_request = np.divide(1.0, rate, out=np.zeros_like(rate), where=rate > 0)
    gains = STEP_SECONDS / (np.maximum(tables.stay_seconds, STEP_SECONDS) + STEP_SECONDS)
    delays = np.maximum(1, np.round(scene.start_seconds / STEP_SECONDS).astype(int))
    pipeline = np.zeros((int(delays.max()) + 1, lanes, options), dtype=np.int64)
    ready = start.astype(np.int64).copy()
    carried = arrivals[:, 0, :, None] / STEP_SECONDS * first_shares * work_per_request
    queue = np.zeros((lanes, options))
    waiting = np.zeros((lanes, options))
    cost, kept, came = np.zeros(lanes), np.zeros((lanes, classes)), np.zeros((lanes, classes))
    starts = np.zeros(lanes, dtype=np.int64)
    history: list[Ints] = []
    routed: list[Floats] = []
    late: list[Floats] = []
    grid = tables.attainment.shape[2] - 1
    numbers, places = np.arange(classes)[None, :, None], np.arange(options)[None, None, :]
    rates = arrivals[:, 0] / STEP_SECONDS
    for step in range(STEPS):
        ready += pipeline[0]
        pipeline = np.roll(pipeline, -1, axis=0)
        pipeline[-1] = 0
        alive = ready + pipeline.sum(axis=0)
        wanted, shares = rule(Seen(step, ready, alive, rates, waiting))
        grow = np.maximum(wanted - alive, 0)
        if grow.any():
            for option in np.flatnonzero(grow.any(axis=0)):
                pipeline[delays[option] - 1, :, option] += grow[:, option]
            starts += grow.sum(axis=1)
        give_up = np.maximum(alive - wanted, 0)
        if give_up.any():
            for slot in range(len(pipeline) - 1, -1, -1):
                taken = np.minimum(give_up, pipeline[slot])
                pipeline[slot] -= taken
                give_up = give_up - taken
            ready = ready - give_up
        alive = ready + pipeline.sum(axis=0)
        here = shares * (ready > 0)[:, None, :]
        sums = here.sum(axis=2, keepdims=True)
        # What has nowhere to go is late; what has goes where something is Ready.
        routable = sums[:, :, 0] > 0
        here = np.divide(here * shares.sum(axis=2, keepdims=True), sums, out=np.zeros_like(here), where=sums > 0)
        rates = arrivals[:, step] / STEP_SECONDS
        carried += gains[None, :, None] * (rates[:, :, None] * here * work_per_request - carried)
        work = carried.sum(axis=1)
        load = np.divide(work, ready, out=np.zeros_like(work), where=ready > 0)
        weight = np.divide(carried, work[:, None, :], out=np.zeros_like(carried), where=work[:, None, :] > 0)
        edge = np.where(work > 0, (weight * tables.saturation[None]).sum(axis=1), 1.0)
        queue = np.maximum(0.0, queue + (load - edge) * ready * STEP_SECONDS)
        line = np.divide(queue, ready * edge, out=np.zeros_like(queue), where=ready > 0)
        point = np.minimum(np.minimum(load, edge) / LOAD_STEP, grid - 1e-9)[:, None, :]
        low = point.astype(int)
        part = point - low
        attained = tables.attainment[numbers, places, low] * (1 - part)
        attained = attained + tables.attainment[numbers, places, low + 1] * part
        attained = attained * np.clip(1.0 - line / 1.0, 0.0, 1.0)[:, None, :]
        delay = tables.waiting_seconds[numbers, places, low] * (1 - part)
        delay = delay + tables.waiting_seconds[numbers, places, low + 1] * part
        flows = rates[:, :, None] * here
        waiting = (flows * (delay + line[:, None, :])).sum(axis=1)
        in_time = arrivals[:, step] * np.where(routable, (here * attained).sum(axis=2), 0.0)
        kept += in_time
        came += arrivals[:, step]
        cost += alive @ prices * STEP_SECONDS / 3600.0
        if keep:
            history.append(alive.copy())
            routed.append(shares.copy())
            late.append(arrivals[:, step] - in_time)
    return Days(
        cost,
        kept / came,
        kept.sum(axis=1) / came.sum(axis=1),
        starts,
        np.stack(history) if keep else np.zeros((0, lanes, options), dtype=np.int64),
        np.stack(routed) if keep else np.zeros((0, lanes, classes, options)),
        np.stack(late) if keep else np.zeros((0, lanes, classes)),
    )
