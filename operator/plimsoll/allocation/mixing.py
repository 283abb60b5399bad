"""Mean limits with options that miss them alone: reserve-aware mixing (M2's dead end).

A class's mean limits hold when its shares' terms sum to at most a bound. Every step here keeps that, so a class can
stop at any time. Self-sufficient options come first (the caller); what they left below the limits is slack
that others may use, and two options that miss different limits can carry each other.
"""

from dataclasses import dataclass

import numpy as np

from plimsoll.allocation.fleet import Allowance
from plimsoll.allocation.problem import Floats, Ints
from plimsoll.allocation.workload import ROUNDING, Workload

LIMIT_TOLERANCE = 1e-12
MIXED_OPTIONS = 64
"""At most this many options of each kind are tried against each other, the cheapest."""


@dataclass(frozen=True, slots=True)
class Mix:
    first: int
    second: int
    ratio: float
    """Part of the first option in the mix."""
    share: float
    """The most that the mix may take of the class."""


def slack_shares(workload: Workload, row: int, options: Ints, wanted: float) -> Floats:
    """The most that each option may take of the class so that its mean limits hold, shape of `options`."""
    bound = np.full(len(options), np.inf)
    reserved = np.full(len(options), np.inf)
    if not len(options):
        return bound
    for terms, means, limit in zip(
        workload.mean_terms[:, row], workload.means[:, row], workload.mean_bounds[:, row], strict=True
    ):
        slack = max(0.0, float(limit - means))
        own = terms[options]
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
    delay, error = (workload.mean_terms[:, row] - workload.mean_bounds[:, row, None])[:, options]
    unit = workload.price[options] * workload.work[:, row, options].max(axis=0) + workload.traffic_cost[row, options]
    cheapest = np.argsort(unit, kind="stable")
    slow = cheapest[((delay > 0) & (error < 0))[cheapest]][:MIXED_OPTIONS, None]
    wrong = cheapest[((error > 0) & (delay < 0))[cheapest]][None, :MIXED_OPTIONS]
    if not slow.size or not wrong.size:
        return None
    most = -delay[wrong] / (delay[slow] - delay[wrong])
    least = error[wrong] / (error[wrong] - error[slow])
    ratio = np.where(unit[slow] <= unit[wrong], most, least)
    reach = workload.room(options) + np.maximum(allowance.replicas[options] - workload.lacking(options), 0)
    load = workload.work[:, row, options]
    share = np.ones(ratio.shape)
    for resource in range(len(load)):
        for option, part in ((slow, ratio), (wrong, 1.0 - ratio)):
            share = np.minimum(share, reach[resource][option] / np.maximum(load[resource][option] * part, 1e-12))
    # What the class has of its limits is used up by the mix where the limits count all of its traffic.
    slack = np.maximum(workload.mean_bounds[:, row] - workload.means[:, row], 0.0)
    for kind, room in enumerate(slack.tolist()):
        terms = workload.mean_terms[kind, row, options]
        mixed = terms[slow] * ratio + terms[wrong] * (1.0 - ratio)
        share = np.where(mixed > LIMIT_TOLERANCE, np.minimum(share, room / np.maximum(mixed, LIMIT_TOLERANCE)), share)
    cost = unit[slow] * ratio + unit[wrong] * (1.0 - ratio)
    possible = (least <= most) & (share > ROUNDING)
    if workload.exclusive:
        pair = workload.pair[options]
        possible &= pair[slow] != pair[wrong]
    if not possible.any():
        return None
    rank = np.lexsort((cost.ravel(), -share.ravel(), ~possible.ravel()))[0]
    first, second = np.unravel_index(rank, ratio.shape)
    return Mix(
        int(options[slow[first, 0]]),
        int(options[wrong[0, second]]),
        float(ratio[first, second]),
        float(share[first, second]),
    )
