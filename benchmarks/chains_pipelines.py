"""Chains as the operator runs them: disjoint, the cheapest that keep the targets, made anew after losses.

The gateway's shares are not simulated: a session takes the fastest chain with a free place, else one queue.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from plimsoll.chains import Chain, Placement
from plimsoll.chains.pipelines import pipeline_set
from plimsoll.chains.problem import Ints
from plimsoll.performance import LatencyTarget, LatencyTargets
from plimsoll.simulation.dispatch import ComposedChains, Dispatcher, Queued
from plimsoll.simulation.methods import ChainSetting
from plimsoll.simulation.sessions import ChainFleet

TARGET_SECONDS = 90.0
"""95 % of the answers are to be complete by then."""
FULL_PRICE, SLICE_PRICE = 7.0, 1.0


def as_operated(setting: ChainSetting) -> ChainFleet:
    """A fleet for one run: it remembers which chains stand."""
    operated, problem = _Operated(setting), setting.problem
    nothing = np.zeros(problem.servers, dtype=np.int64)
    start = operated.replaced(Placement(nothing, nothing), np.ones(problem.servers, dtype=bool))[-1]
    return ChainFleet(problem, start, operated.dispatcher, replace=operated.replaced, load_seconds=setting.load_seconds)


@dataclass(slots=True)
class _Operated:
    setting: ChainSetting
    chains: tuple[Chain, ...] = ()

    def replaced(self, present: Placement, exists: NDArray[np.bool_]) -> list[Placement]:
        """Whole chains stay; others are made of the rest where the load wants them."""
        problem = self.setting.problem
        kept = [chain for chain in self.chains if bool((present.count[list(chain.route.servers)] > 0).all())]
        slices = problem.most_blocks < problem.blocks
        found = pipeline_set(
            replace(problem, memory_bytes=np.where(exists, problem.memory_bytes, 0.0)),
            [slices.astype(np.int64), np.zeros(problem.servers, dtype=np.int64)],
            np.where(slices, SLICE_PRICE, FULL_PRICE),
            LatencyTargets(end_to_end=LatencyTarget(TARGET_SECONDS, 95)),
            self.setting.arrivals_per_second,
            kept=kept,
        )
        self.chains = () if found is None else found.chains
        if found is None:
            return [Placement(present.first, np.zeros_like(present.count))]
        return [found.placement]

    def dispatcher(self, hosted: Placement, slots: Ints) -> Dispatcher:
        """Over the chains of which every server has loaded."""
        ready = [chain for chain in self.chains if bool((hosted.count[list(chain.route.servers)] > 0).all())]
        return Queued(slots, lambda free: ComposedChains(ready, free), self.setting.problem.clients)
