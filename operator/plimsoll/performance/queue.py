"""Continuous batching as a queue whose pace depends on how many requests run together.

The engine works in rounds: every running request gets a token, and prompts that wait are prefilled beside them. With a
share p of the time going to prefills, a request that needs y rounds in the company of n stays y * d(n) / (1 - p), where
d(n) is a decode step. That is processor sharing with a pace that depends on the state, so the number in service has
the weights of a birth-death chain whatever the distribution of the answers' lengths; beyond the batch limit requests
wait in order of arrival, for times that depend on how much lengths and arrivals vary (Allen-Cunneen, Cosmetatos).
Clustered arrivals, and prefills that hold up those who would leave, widen the distribution (Whitt's peakedness).
"""

from dataclasses import dataclass

import numpy as np

from plimsoll.performance.prefill import MOST_BUSY, Prefill
from plimsoll.performance.replicas import Replicas
from plimsoll.performance.shapes import FloatArray
from plimsoll.performance.tails import Cumulants

LEAST_LOAD, MOST_LOAD = 1e-6, 0.9995


@dataclass(frozen=True, slots=True)
class Load:
    """J replicas at rest under a rate. (J,) unless stated; seconds."""

    replicas: Replicas
    rate: FloatArray
    running: FloatArray
    """Mean requests in slots."""
    idle: FloatArray
    """Chance that nothing runs."""
    full_chance: FloatArray
    """Chance that an arrival has to wait for a slot."""
    full_wait: FloatArray
    """Mean wait of those."""
    typical: Prefill
    """In typical company."""
    cases: tuple[Prefill, Prefill]
    """Among few and among many, for those who find a slot."""
    many_chance: FloatArray
    """Chance of the latter."""
    pace: Cumulants
    """Of the time per token, over the tokens of all answers."""
    relaxation: FloatArray
    """Rate at which the company forgets, per second."""
    full_pace: FloatArray
    """Time per token with all slots taken."""

    @classmethod
    def of(cls, replicas: Replicas, rate: FloatArray) -> "Load":
        """Under `rate` (J,), above 0 and below saturation."""
        engines, company, step = replicas.engines, replicas.company, replicas.step
        traffic = engines.traffic
        arrivals = traffic.arrivals
        rate = np.maximum(rate, LEAST_LOAD * replicas.saturation_rate)
        here = rate[:, None]
        # Where as many leave as arrive.
        leaving = company / step
        extra = busy = np.zeros_like(here)
        for _ in range(2):
            likely, likely_step = _crossing(leaving, here * traffic.rounds / (1.0 - busy), company, step)
            extra = engines.extra_per_prompt(likely, here * likely_step / (1.0 - busy))
            busy = np.minimum(here * extra, MOST_BUSY)
        free = 1.0 - busy
        # Dearest when saturated; where prompts wake experts that are idle otherwise, when few run.
        dearest = np.maximum(replicas.saturated_extra[:, None], extra)
        # In larger company fewer of a prompt's tokens are free, and more prompts share a round.
        further = np.minimum(1.3 * likely + 4.0, np.maximum(replicas.batch[:, None], likely + 0.5))
        more = np.minimum(engines.extra_per_prompt(further, here * engines.step_seconds(further) / free), dearest)
        slope = np.maximum(more - extra, 0.0) / (further - likely)
        free_at = 1.0 - np.clip(here * np.minimum(extra + slope * (company - likely), dearest), 0.0, MOST_BUSY)
        likely, likely_step, extra, slope, free, dearest = (
            one[:, 0] for one in (likely, likely_step, extra, slope, free, dearest)
        )
        typical = Prefill.of(engines, rate, likely, extra, replicas.batch)
        stay = traffic.rounds[:, 0] * likely_step / free
        clustered = arrivals.dispersion(rate * stay)
        first, second, _ = typical.extra
        share = traffic.output_lesser[:, 0]
        # An arrival adds itself and, while its prompt is prefilled, those who would have left: 1 / (1 - busy) in all.
        scatter = (clustered + np.square(rate) * (second - np.square(first))) / np.square(free)
        peaked = np.maximum(1.0 + (scatter - 1.0) * share, 0.5)
        # Those who wait for a slot are not prefilled meanwhile.
        queued = np.maximum(1.0 + (clustered - 1.0) * share, 0.5)
        # A chain of the same drift and the wider scatter: up at z λ, down at (z - 1) λ + μ(n).
        pace = step / free_at
        late = np.minimum(
            typical.head_start.mean[:, None],
            traffic.decode_steps * np.maximum(typical.fullest[:, None] - pace, 0.0),
        )
        stays = traffic.rounds * pace + late
        down = np.maximum((peaked - 1.0)[:, None] * here + company / stays, 1e-3 * here)
        weights = replicas.sums(np.log((peaked * rate)[:, None] / down))
        top = np.maximum(weights.max(axis=1), 0.0)
        weights = np.exp(weights - top[:, None])
        last = weights[:, -1].copy()
        load = np.minimum(rate / replicas.saturation_rate, MOST_LOAD)
        fade = queued * load / ((queued - 1.0) * load + 1.0)
        beyond = last * fade / (1.0 - fade)
        weights *= replicas.counts
        idle = np.exp(-top)
        total = weights.sum(axis=1) + idle + beyond
        weights /= total[:, None]
        idle, last, beyond = idle / total, last / total, beyond / total
        weights[:, -1] += beyond
        full = last + beyond
        squares = np.square(company)
        running = _rows(weights, company)
        variance = np.maximum(_rows(weights, squares) - np.square(running), 1e-9)
        seen = weights * leaving * free_at
        seen /= np.maximum(seen.sum(axis=1), 1e-300)[:, None]
        # Prompts fare differently among few and among many: two cases stand for the company of those who find a slot.
        rest = np.maximum(1.0 - full, 1e-9)
        middle = np.maximum(running - full * replicas.batch, 0.0) / rest
        width = np.maximum(_rows(weights, squares) - full * np.square(replicas.batch), 0.0) / rest - np.square(middle)
        # What rounding leaves of no width at all is none: its root would be seen in the latencies.
        width = np.where(width > 1e-12 * np.square(replicas.batch), width, 0.0)
        few = np.maximum(middle - np.sqrt(width), 0.3 * middle)
        many = np.minimum(middle + width / np.maximum(middle - few, 1e-9), replicas.batch)
        # Clustered arrivals find those before them, too.
        before = np.minimum(arrivals.companions(rate * stay), replicas.batch)
        found = np.clip(last * before * fade ** (-0.5 * (before + 1.0)), 0.0, 0.9)
        return cls(
            replicas=replicas,
            rate=rate,
            running=running,
            idle=idle,
            full_chance=full + (1.0 - full) * found,
            full_wait=_variation(replicas, load) / np.maximum(replicas.saturation_rate - rate, 1e-12),
            typical=typical,
            cases=(
                Prefill.of(
                    engines,
                    rate,
                    few,
                    np.minimum(np.maximum(extra + slope * (few - likely), 0.3 * extra), dearest),
                    few,
                ),
                Prefill.of(
                    engines,
                    rate,
                    many,
                    np.minimum(extra + slope * np.maximum(many - likely, 0.0), dearest),
                    many,
                ),
            ),
            many_chance=np.clip((middle - few) / np.maximum(many - few, 1e-9), 0.0, 1.0),
            pace=_moments(seen, pace),
            relaxation=peaked * rate / variance,
            full_pace=step[:, -1] / free_at[:, -1],
        )


def _variation(replicas: Replicas, load: FloatArray) -> FloatArray:
    """(J,) wait of those who wait for a slot, over that of an M/M/m queue.

    Between fixed lengths (Cosmetatos' approximation of M/D/m) and exponential ones; beyond these, and for the arrivals,
    Allen and Cunneen's.
    """
    traffic, servers = replicas.engines.traffic, replicas.batch
    varied = traffic.output_varied[:, 0]
    crowd = (1.0 - load) * (servers - 1.0) * (np.sqrt(4.0 + 5.0 * servers) - 2.0) / (16.0 * load * servers)
    fixed = np.minimum(0.5 * (1.0 + crowd), 1.0)
    lengths = np.where(varied <= 1.0, varied + (1.0 - varied) * fixed, 0.5 * (1.0 + varied))
    return np.asarray(lengths + 0.5 * (traffic.arrivals.squared - 1.0))


def _crossing(
    rising: FloatArray, wanted: FloatArray, company: FloatArray, step: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """(J, 1) company at which `rising` (J, N) reaches `wanted` (J, 1), and the step there."""
    rows = np.arange(len(rising))
    at = np.minimum((rising < wanted).sum(axis=1), rising.shape[1] - 1)
    before = np.maximum(at - 1, 0)
    low, high = rising[rows, before], rising[rows, at]
    share = np.clip((wanted[:, 0] - low) / np.maximum(high - low, 1e-300), 0.0, 1.0)
    number = company[rows, before] + share * (company[rows, at] - company[rows, before])
    seconds = step[rows, before] + share * (step[rows, at] - step[rows, before])
    # Below one request the company is the share of the time that there is one.
    number = np.where(at == 0, np.minimum(wanted[:, 0] / rising[:, 0], 1.0), number)
    return number[:, None], seconds[:, None]


def _rows(weights: FloatArray, values: FloatArray) -> FloatArray:
    return np.asarray(np.einsum("ij,ij->i", weights, values))


def _moments(weights: FloatArray, values: FloatArray) -> Cumulants:
    """(J,) cumulants of (J, N) values with weights of their own."""
    mean = _rows(weights, values)
    away = values - mean[:, None]
    square = weights * np.square(away)
    return Cumulants(mean, square.sum(axis=1), _rows(square, away))
