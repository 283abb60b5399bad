"""Prompts that wait for the engine's steps and ride in them: gated rounds, or a queue where prompts fill whole steps.

All prompts that came during one round are prefilled in the next, beside a token for every running request. A round
thus takes d + Σ S over the prompts of the round before, where S is the extra time of a prompt; its moments follow from
that recursion. Where prompts outgrow the tokens of a step, rounds take several steps, first come first served.
"""

from dataclasses import dataclass

import numpy as np

from plimsoll.performance.replicas import Engines
from plimsoll.performance.shapes import FloatArray
from plimsoll.performance.tails import Cumulants, cumulants_of

MOST_BUSY = 0.9995


@dataclass(frozen=True, slots=True)
class Prefill:
    """What an arrival meets that finds a free slot in a given company. (J,) unless stated; seconds."""

    delay: Cumulants
    """Before its own prompt: the round under way, prompts ahead; and prompts that share its steps."""
    queue: Cumulants
    """The same over all arrivals, at least: prompts ahead that cost what they must, in a queue of one server."""
    own: Cumulants
    """The steps of its own prompt."""
    company: FloatArray
    """That company."""
    head_start: Cumulants
    """Extra seconds that its answer suffers from prompts that came since its own arrival, beyond the average."""
    base: FloatArray
    """Seconds of a step without prompts."""
    fullest: FloatArray
    """Seconds of a step that is full of prompts: no token after the first takes longer."""
    echo: FloatArray
    """busy / (1 - busy): by how much more a delay grows through prompts that come meanwhile."""
    extra: tuple[FloatArray, FloatArray, FloatArray]
    """First three moments of the extra seconds of a prompt."""

    @classmethod
    def of(
        cls, engines: Engines, rate: FloatArray, company: FloatArray, extra: FloatArray, slots: FloatArray
    ) -> "Prefill":
        """Under `rate` (J,) in `company` (J,), where a prompt costs `extra` (J,) seconds on average.

        `slots` (J,) requests at most are ahead.
        """
        traffic = engines.traffic
        arrivals = traffic.arrivals
        tokens, weights = traffic.input_nodes, traffic.input_weights
        here = company[:, None]
        base = engines.step_seconds(here)[:, 0]
        pairs = 0.5 * np.square(tokens)
        alone = engines.extra_seconds(here, tokens, pairs)
        typical = alone * (extra / np.maximum(alone @ weights, 1e-300))[:, None]
        room = engines.chunk_tokens(here)
        held = np.zeros_like(here)
        for _ in range(2):
            # Prompts that fill steps cost these steps whole, not only what they add to them.
            near = tokens + held
            filling = np.clip((near / room - 0.7) / 0.6, 0.0, 1.0) * np.maximum(1.0 - 0.5 * room / near, 0.0)
            service = typical + base[:, None] * filling * tokens / room
            square = np.square(service)
            s1, s2, s3, s4 = (
                service @ weights,
                square @ weights,
                (square * service) @ weights,
                (square * square) @ weights,
            )
            busy = np.minimum(rate * s1, MOST_BUSY)
            clustered = arrivals.dispersion(2.0 * rate * (base + s1) / np.square(1.0 - busy)) - 1.0
            seen = _seen_rounds(base, (s1, s2 + s1 * s1 * clustered, s3, s4), rate, busy)
            held = (rate * seen[0])[:, None] * traffic.input_mean
        shared = 1.0 - np.clip((tokens + held) / room - 0.5, 0.0, 1.0) @ weights
        # Of the steps that it rides in: two that share one save a step, but the first waits for the second.
        whole = np.maximum(tokens / room, np.minimum(2.0 * tokens / room, 1.0))
        own = cumulants_of(engines.own_prompt_seconds(here, tokens), weights)
        some = np.maximum(s1, 1e-30)
        # A prompt that shares steps with others costs more than one alone, whose first tokens are nearly free.
        joint = np.maximum((engines.extra_seconds(here, 2.0 * tokens, 4.0 * pairs) - alone) @ weights, s1)
        # Prompts that fit one batch pass all stages of a pipeline together.
        stages = engines.terms.stages
        together = 1.0 - np.clip((tokens + held) * stages / room - 0.5, 0.0, 1.0) @ weights
        others = together * (stages[:, 0] - 1.0)
        # Of clustered arrivals, some came in the same round, some before. Regular ones count as if they came at random.
        now = np.maximum(arrivals.companions(0.5 * rate * seen[0]), 0.0)
        before = np.maximum(arrivals.companions(2.0 * rate * seen[0] / (1.0 - busy)) - now, 0.0)
        both = 0.5 * (1.0 + shared)
        friends = 2.0 * both * now * joint * (1.0 + others) + 0.5 * (1.0 + busy) * before * s1
        wide = arrivals.dispersion(2.0 * rate * seen[0] / (1.0 - busy)) - 1.0
        delay = _ride(seen, busy, shared) + _companions(
            rate * both * seen[0], (s1, s2 + s1 * s1 * wide, s3), joint / some
        )
        delay += Cumulants(
            friends,
            friends * s2 / some + np.square(friends),
            friends * s3 / some + 3.0 * np.square(friends) * s2 / some + 2.0 * friends**3,
        )
        count = rate * seen[0]
        delay += Cumulants(count * s1 * others, count * s2 * np.square(others), count * s3 * others**3)
        # All prompts ahead are of requests in slots, or came with this one: that bounds the delay near saturation.
        ahead = slots + np.maximum(arrivals.companions(np.full_like(company, np.inf)), 0.0)
        most = 2.0 * base + ahead * np.maximum(joint, s1) * (1.0 + others)
        delay = delay.scaled(np.minimum(1.0, most / delay.mean))
        echo = np.minimum(rate * extra, MOST_BUSY)
        echo = echo / (1.0 - echo)
        stretch = 1.0 + echo
        since = delay.mean - 0.5 * shared * seen[0] + own.mean - base * stretch
        behind = np.maximum(rate * since, 0.0)
        behind += arrivals.companions(rate * traffic.rounds[:, 0] * base * stretch) - shared * now
        spread = own + delay
        return cls(
            delay=delay,
            queue=_queue(alone + base[:, None] * whole, weights, rate, clustered),
            own=own,
            company=company,
            head_start=Cumulants(
                behind * extra * stretch,
                behind * s2 * stretch**3 + np.square(echo) * spread.variance,
                behind * s3 * stretch**4 + echo**3 * spread.third,
            ),
            base=base,
            fullest=base + engines.fullest_extra_seconds(here)[:, 0],
            echo=echo,
            extra=(extra, np.square(typical) @ weights, typical**3 @ weights),
        )


def _queue(service: FloatArray, weights: FloatArray, rate: FloatArray, clustered: FloatArray) -> Cumulants:
    """The wait at one server, first come first served (Pollaczek and Khinchine), as a Gamma distribution."""
    square = np.square(service)
    s1, s2, s3 = service @ weights, square @ weights, (square * service) @ weights
    s2 = s2 + s1 * s1 * np.maximum(clustered, 0.0)
    free = 1.0 - np.minimum(rate * s1, MOST_BUSY)
    mean = rate * s2 / (2.0 * free)
    variance = mean * mean + rate * s3 / (3.0 * free)
    return Cumulants(mean, variance, 2.0 * variance * variance / np.maximum(mean, 1e-300))


def _ride(seen: tuple[FloatArray, FloatArray, FloatArray], busy: FloatArray, shared: FloatArray) -> Cumulants:
    """What is left of the round under way, and on average the prompts that come in it and count.

    Those of the part that is over are ahead; where they share steps (`shared`), those of the part that is left, too.
    So of a round C that is over by 1 - U, uniform, the arrival spends C (U + busy (1 - U) + busy U shared).
    """
    slope = 1.0 - busy * (1.0 - shared)
    v1 = slope / 2 + busy
    v2 = np.square(slope) / 3 + slope * busy + np.square(busy)
    v3 = slope**3 / 4 + np.square(slope) * busy + 1.5 * slope * np.square(busy) + busy**3
    m1, m2, m3 = seen[0] * v1, seen[1] * v2, seen[2] * v3
    return Cumulants(m1, m2 - m1 * m1, m3 - 3.0 * m1 * m2 + 2.0 * m1**3)


def _companions(count: FloatArray, service: tuple[FloatArray, FloatArray, FloatArray], dearer: FloatArray) -> Cumulants:
    """How far the prompts of that round scatter about their average, and what they cost more for being together."""
    s1, s2, s3 = service
    return Cumulants(count * s1 * (dearer - 1.0), count * s2 * np.square(dearer), count * s3 * dearer**3)


def _seen_rounds(
    base: FloatArray, service: tuple[FloatArray, FloatArray, FloatArray, FloatArray], rate: FloatArray, busy: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Moments of the round that an arrival finds under way: long ones are found more often.

    From the recursion: a round is `base` and a compound sum over the arrivals of the round before.
    """
    _, d2, d3, d4 = (rate * moment for moment in service)
    mean = base / (1.0 - busy)
    busy2 = busy * busy
    base2 = base * base
    sum2 = d2 * mean
    second = (base2 + 2.0 * base * busy * mean + sum2) / (1.0 - busy2)
    sum2 = sum2 + busy2 * second
    sum3 = d3 * mean + 3.0 * d2 * busy * second
    third = (base2 * base + 3.0 * base2 * busy * mean + 3.0 * base * sum2 + sum3) / (1.0 - busy2 * busy)
    sum3 = sum3 + busy2 * busy * third
    sum4 = d4 * mean + (4.0 * d3 * busy + 3.0 * d2 * d2) * second + 6.0 * d2 * busy2 * third
    fourth = base2 * base2 + 4.0 * base2 * base * busy * mean + 6.0 * base2 * sum2 + 4.0 * base * sum3 + sum4
    return second / mean, third / mean, fourth / (1.0 - busy2 * busy2) / mean
