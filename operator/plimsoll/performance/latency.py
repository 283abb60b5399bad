"""Latencies on replicas under load, as distributions over the requests.

Those of all that come, or of one class of them: `own`, the lengths of its requests.
"""

from math import exp, inf, log

import numpy as np

from plimsoll.performance.queue import Load
from plimsoll.performance.replicas import Engines, StackedTraffic
from plimsoll.performance.shapes import FloatArray
from plimsoll.performance.tails import Cumulants, Mixture, cumulants_of

MOST_FULL = 0.95
"""Largest share of the time that goes to prefills, with all slots taken."""


def first_token(load: Load, own: StackedTraffic | None = None) -> Mixture:
    """(J, 5) time to first token: among few and among many, and after a short, middling or long wait for a slot."""
    engines = load.replicas.engines
    prompts = own or engines.traffic
    busy, idle = 1.0 - load.idle, load.idle
    cases = []
    for case in load.cases:
        # At an idle replica there is no round to wait for.
        ride, queue = case.delay, load.typical.queue
        delay = Cumulants(
            busy * ride.mean,
            busy * (ride.variance + idle * np.square(ride.mean)),
            busy * (ride.third + 3.0 * idle * ride.mean * ride.variance + idle * (1.0 - 2.0 * busy) * ride.mean**3),
        )
        longer = queue.mean > delay.mean
        cases.append(
            Cumulants(
                np.where(longer, queue.mean, delay.mean),
                np.where(longer, queue.variance, delay.variance),
                np.where(longer, queue.third, delay.third),
            )
            + (case.own if own is None else _prompts(engines, case.company[:, None], own))
        )
    # Who gets a slot at last has the prompts ahead that others among as many have, but no round to wait for.
    among = load.cases[-1].delay
    queued = among.scaled(np.maximum(1.0 - 0.5 * load.full_pace / among.mean, 0.0))
    last = _prompts(engines, load.replicas.batch[:, None], prompts)
    cases += [Cumulants.fixed(*wait).scaled(load.full_wait) + queued + last for wait in _WAITS]
    return _mixed(load, cases)


def per_token(load: Load, own: StackedTraffic | None = None) -> Mixture:
    """(J, I) mean time per output token of a request: I lengths of answers."""
    engines = load.replicas.engines
    traffic = own or engines.traffic
    lengths, weights = traffic.output_nodes, traffic.output_weights
    if not traffic.decodes:
        none = np.zeros_like(load.rate)
        return _single(Cumulants(alone_per_token(engines), none, none))
    later = np.maximum(lengths - 1.0, 1.0)
    pace = _pace(load, later) + _late(load, later)
    return Mixture(np.broadcast_to(weights, pace.mean.shape), pace, load.replicas.slowest)


def end_to_end(load: Load, own: StackedTraffic | None = None) -> Mixture:
    """(J, 5) end-to-end time, with the cases of the time to first token."""
    first, traffic = first_token(load, own), own or load.replicas.engines.traffic
    if not traffic.decodes:
        return first
    lengths, weights = traffic.output_nodes, traffic.output_weights
    later = np.maximum(lengths - 1.0, 0.0)
    pace = _pace(load, later)
    usual = load.pace.mean
    squares = np.square(later)
    uneven = squares * pace.variance
    scatter = Cumulants(
        np.zeros_like(usual),
        uneven @ weights,
        (squares * later * pace.third) @ weights
        + 3.0 * usual * _rows(uneven, weights * (later - (later @ weights)[:, None])),
    )
    prompt = _answers(traffic).scaled(usual)
    # Who waited for a slot starts among as many as can be.
    memory = np.maximum(load.relaxation[:, None] * later * usual[:, None], 1e-9)
    slower = np.maximum(load.full_pace - usual, 0.0)[:, None] * -np.expm1(-memory) / memory
    late = cumulants_of(later * (usual[:, None] + slower), weights)
    head = _late(load, traffic.decode_steps).scaled(traffic.decode_steps)
    head = Cumulants(head.mean[:, 0], head.variance[:, 0], head.third[:, 0])
    answer, late = prompt + scatter + head, late + scatter + head
    parts = first.parts
    cases = []
    for case in range(parts.mean.shape[1]):
        one = Cumulants(parts.mean[:, case], parts.variance[:, case], parts.third[:, case])
        cases.append(one + (answer if case < len(load.cases) else late))
    return _mixed(load, cases)


def alone_first_token(engines: Engines) -> Mixture:
    """(J, 1) time to first token at an idle replica."""
    traffic = engines.traffic
    return _single(_prompts(engines, np.zeros((1, 1)), traffic))


def alone_first_token_percentile(engines: Engines, percentile: float) -> FloatArray:
    """(J,) time to first token at an idle replica: that of a prompt of that percentile, as longer ones take longer."""
    return engines.own_prompt_seconds(np.zeros((1, 1)), engines.traffic.input_percentile(percentile))[:, 0]


def _prompts(engines: Engines, company: FloatArray, traffic: StackedTraffic) -> Cumulants:
    """(J,) cumulants of the prefill of a prompt in `company` (J, 1)."""
    return cumulants_of(engines.own_prompt_seconds(company, traffic.input_nodes), traffic.input_weights)


def _answers(traffic: StackedTraffic) -> Cumulants:
    """(J,) cumulants of the tokens after the first."""
    return Cumulants(traffic.decode_steps[:, 0], traffic.output_variance[:, 0], traffic.output_third[:, 0])


def _rows(first: FloatArray, second: FloatArray) -> FloatArray:
    return np.asarray(np.einsum("ij,ij->i", first, second))


def alone_per_token(engines: Engines) -> FloatArray:
    """(J,) time per output token of a request that is alone: the same for all."""
    return engines.step_seconds(np.ones((1, 1)))[:, 0]


def alone_end_to_end(engines: Engines) -> Mixture:
    """(J, 1) end-to-end time of a request that is alone."""
    traffic, first = engines.traffic, alone_first_token(engines).parts
    if not traffic.decodes:
        return alone_first_token(engines)
    answer = _answers(traffic).scaled(alone_per_token(engines))
    return _single(Cumulants(first.mean[:, 0], first.variance[:, 0], first.third[:, 0]) + answer)


def full_per_token(engines: Engines, batch: FloatArray) -> Mixture:
    """(J, I) time per output token with all of `batch` (J,) slots taken, as prompts come where answers end."""
    traffic = engines.traffic
    lengths, weights = traffic.output_nodes, traffic.output_weights
    later = np.maximum(lengths - 1.0, 1.0)
    rate, seconds = engines.saturated(batch[:, None])
    company = rate * seconds * traffic.rounds
    prompts, shares = traffic.input_nodes, traffic.input_weights
    extra = engines.extra_seconds(company, prompts, 0.5 * np.square(prompts))
    average = engines.extra_per_prompt(company, rate * seconds)
    extra = extra * (average / np.maximum((extra @ shares)[:, None], 1e-300))
    stretch = 1.0 / (1.0 - np.minimum(rate * average, MOST_FULL))
    s2, s3 = (np.square(extra) @ shares)[:, None], (extra**3 @ shares)[:, None]
    pace = Cumulants(
        seconds + np.zeros_like(later),
        rate * seconds * s2 * np.square(stretch) / later,
        rate * seconds * s3 * stretch**3 / np.square(later),
    )
    return Mixture(np.broadcast_to(weights, pace.mean.shape), pace, engines.slowest_step_seconds(batch))


def _pace(load: Load, later: FloatArray) -> Cumulants:
    """(J, I) cumulants of the time per token of answers with `later` (J, I) tokens after the first.

    The company changes while an answer lasts, as a process that forgets exponentially; prefills hit it at random.
    """
    usual, rate = load.pace.mean[:, None], load.rate[:, None]
    memory = np.maximum(load.relaxation[:, None] * later * usual, 1e-9)
    kept = np.where(memory > 1e-3, 2.0 * (memory + np.expm1(-memory)) / np.square(memory), 1.0 - memory / 3.0)
    tokens = np.maximum(later, 1.0)
    s1, s2, s3 = (moment[:, None] for moment in load.typical.extra)
    stretch = 1.0 + load.typical.echo[:, None]
    clustered = load.replicas.engines.traffic.arrivals.dispersion(rate * tokens * usual) - 1.0
    hits = rate * usual * stretch * stretch / tokens
    uneven, skewed = hits * (s2 + s1 * s1 * clustered), hits * stretch * s3 / tokens
    # Most uneven are answers of which each has either steps full of prompts only, or none with any.
    base, fullest = load.typical.base[:, None], load.typical.fullest[:, None]
    most = np.maximum((usual - base) * (fullest - usual), 1e-12)
    share = np.sqrt(most / np.maximum(uneven, most))
    return Cumulants(
        usual + np.zeros_like(tokens),
        load.pace.variance[:, None] * kept + uneven * np.square(share),
        load.pace.third[:, None] * np.square(kept) + skewed * share**3,
    )


def _late(load: Load, later: FloatArray) -> Cumulants:
    """(J, I) cumulants of what prompts that were there before cost answers with `later` (J, I) tokens after the first.

    Per token. No step is more than full of prompts, however many wait.
    """
    head = load.typical.head_start
    tokens = np.maximum(later, 1.0)
    usual = (head.mean + 2.0 * np.sqrt(np.maximum(head.variance, 0.0)))[:, None] / tokens
    most = np.maximum(load.typical.fullest - load.pace.mean, 0.0)[:, None]
    share = most / np.maximum(np.maximum(usual, most), 1e-300) / tokens
    return Cumulants(head.mean[:, None], head.variance[:, None], head.third[:, None]).scaled(share)


def _strata(*bounds: float) -> tuple[list[float], list[tuple[float, float, float]]]:
    """Chances and cumulants of a unit exponential time within ranges of its percentiles."""
    chances, cumulants = [], []
    for low, high in zip((0.0, *bounds), (*bounds, 1.0), strict=True):
        start, end = -log(1.0 - low), inf if high == 1.0 else -log(1.0 - high)
        mass, *raw = (_beyond(power, start) - _beyond(power, end) for power in range(4))
        mean, second, third = (moment / mass for moment in raw)
        chances.append(high - low)
        cumulants.append((mean, second - mean**2, third - 3.0 * mean * second + 2.0 * mean**3))
    return chances, cumulants


def _beyond(power: int, start: float) -> float:
    """Integral of x^power exp(-x) from `start` on."""
    if start == inf:
        return 0.0
    return (start**power * exp(-start)) + (power * _beyond(power - 1, start) if power else 0.0)


_WAIT_CHANCES, _WAITS = _strata(0.5, 0.85)


def _mixed(load: Load, cases: list[Cumulants]) -> Mixture:
    full, many = load.full_chance, load.many_chance
    chances = [(1.0 - full) * (1.0 - many), (1.0 - full) * many, *(full * chance for chance in _WAIT_CHANCES)]
    columns = (np.stack([getattr(case, name) for case in cases], axis=1) for name in ("mean", "variance", "third"))
    return Mixture(np.stack(chances, axis=1), Cumulants(*columns))


def _single(of: Cumulants) -> Mixture:
    return Mixture(np.ones((len(of.mean), 1)), Cumulants(of.mean[:, None], of.variance[:, None], of.third[:, None]))
