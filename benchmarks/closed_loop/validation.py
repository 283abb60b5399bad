"""The same fleets and arrivals through the event simulator, request by request."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.closed_loop.day import Days
from benchmarks.closed_loop.scenes import STEP_SECONDS, STEPS, Scene, class_seed
from plimsoll.simulation import FleetChange, Placement, Scenario, engine_of, merged, simulate, synthetic


@dataclass(frozen=True, slots=True)
class Simulated:
    """What the event simulator says."""

    cost: float
    attainment: float
    """Part of the requests that kept every target."""
    by_class: tuple[float, ...]
    requests: int
    not_served: int
    """Lost, refused, or with nowhere to go."""
    too_long: int
    """For the replica that they came to, whatever changed."""


def simulated(scene: Scene, days: Days, lane: int, burstiness: float, seed: int) -> Simulated:
    """A fleet's day as it was decided: replicas and routing of every step, start-up times by the simulator itself."""
    changes: list[FleetChange] = []
    before: tuple[Placement, ...] | None = None
    first: tuple[Placement, ...] = ()
    for step in range(STEPS):
        now = _placements(scene, days, lane, step)
        if before is None:
            first = now
        elif now != before:
            changes.append(FleetChange(step * STEP_SECONDS, now))
        before = now
    streams = (
        synthetic(
            item.name, item.curve, item.inputs, item.outputs, burstiness=burstiness, seed=class_seed(seed, number)
        )
        for number, item in enumerate(scene.classes)
    )
    names = [item.name for item in scene.classes]
    report = simulate(
        Scenario(first, tuple(changes)),
        merged(*streams),
        targets=dict(zip(names, scene.targets, strict=True)),
        seed=seed,
        interval_seconds=600.0,
    )
    found = [report.classes[name] for name in names]
    arrived = sum(item.arrived for item in found)
    return Simulated(
        report.cost,
        sum(item.within_targets for item in found) / arrived,
        tuple(item.within_targets / item.arrived for item in found),
        arrived,
        sum(item.refused + item.unroutable + item.lost for item in found),
        sum(item.too_long for item in found),
    )


def _placements(scene: Scene, days: Days, lane: int, step: int) -> tuple[Placement, ...]:
    found = []
    for option in np.flatnonzero(days.alive[step, lane] > 0).tolist():
        candidate = scene.candidates[option]
        shares = {
            item.name: round(float(days.shares[step, lane, number, option]), 9)
            for number, item in enumerate(scene.classes)
        }
        found.append(
            Placement(
                candidate.name,
                engine_of(candidate.shape, candidate.option.max_num_seqs),
                int(days.alive[step, lane, option]),
                shares,
                float(scene.prices[option]),
                float(scene.start_seconds[option]),
                candidate.option.parallelism.gpus,
            )
        )
    return tuple(found)
