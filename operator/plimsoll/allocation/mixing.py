"""Mean limits with options that miss them alone: reserve-aware mixing (M2's dead end).

A class's mean limits hold when the shares' excesses over the limit sum to at most zero. Every step here keeps that, so
a class can stop at any time. Self-sufficient options come first (the caller); what they left below the limits is slack
that others may use, and two options that miss different limits can carry each other.
"""

from dataclasses import dataclass

import numpy as np

from plimsoll.allocation.fleet import Allowance
from plimsoll.allocation.problem import Floats, Ints
from plimsoll.allocation.workload import ROUNDING, Workload


@dataclass(frozen=True, slots=True)
class Mix:
    first: int
    second: int
    ratio: float
    """Part of the first option in the mix."""


def slack_shares(workload: Workload, row: int, options: Ints, wanted: float) -> Floats:
    """The most that each option may take of the class so that its mean limits hold, shape of `options`."""
    bound = np.full(len(options), np.inf)
    reserved = np.full(len(options), np.inf)
    if not len(options):
        return bound
    for excess in (workload.delay_excess[row], workload.error_excess[row]):
        slack = max(0.0, -float(excess @ workload.share[row]))
        own = excess[options]
        least = float(own.min())
        with np.errstate(divide="ignore", invalid="ignore"):
            bound = np.minimum(bound, np.where(own > 0, slack / own, np.inf))
            # What the best remaining option needs for the rest stays free for it.
            kept = np.where(own > least, (slack - wanted * least) / (own - least), np.inf)
        reserved = np.minimum(reserved, np.maximum(kept, 0.0))
    careful = np.minimum(bound, reserved)
    return careful if (careful > ROUNDING).any() else bound


def best_mix(workload: Workload, row: int, options: Ints, allowance: Allowance) -> Mix | None:
    """Two options, each within the limit that the other misses, mixed so that both limits hold."""
    delay, error = workload.delay_excess[row], workload.error_excess[row]
    slow_ones = [n for n in options.tolist() if delay[n] > 0 and error[n] < 0]
    wrong_ones = [n for n in options.tolist() if error[n] > 0 and delay[n] < 0]
    if not slow_ones or not wrong_ones:
        return None
    reach = workload.room() + allowance.replicas * workload.capacity
    unit = workload.price / workload.capacity * workload.work[row] + workload.latency_cost[row]
    best: tuple[float, float, Mix] | None = None
    for slow in slow_ones:
        for wrong in wrong_ones:
            most = -delay[wrong] / (delay[slow] - delay[wrong])
            least = error[wrong] / (error[wrong] - error[slow])
            if least > most:
                continue
            ratio = float(most if unit[slow] <= unit[wrong] else least)
            load = max(workload.work[row, slow] * ratio, 1e-12), max(workload.work[row, wrong] * (1 - ratio), 1e-12)
            share = min(1.0, reach[slow] / load[0], reach[wrong] / load[1])
            cost = float(unit[slow] * ratio + unit[wrong] * (1 - ratio))
            if share > ROUNDING and (best is None or (-share, cost) < best[:2]):
                best = (-share, cost, Mix(slow, wrong, ratio))
    return best[2] if best else None
