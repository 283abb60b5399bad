"""How observed latencies correct predicted ones: slowly, within bounds, and never on doubtful evidence.

One factor for the prefill and one for the decode steps of a kind of replica (model, precision, GPU, parallelism). They
scale step times (`StepTerms.scaled`) and not latencies, so queues, capacities and all classes of the replica follow.
"""

from dataclasses import dataclass, replace
from math import exp, expm1, isfinite, log


@dataclass(frozen=True, slots=True)
class Correction:
    """What step times are multiplied by; 1 where the model is believed."""

    prefill: float = 1.0
    """Compute of prompt tokens."""
    decode: float = 1.0
    """Everything else: weights, KV cache, overheads, decoded tokens."""


UNCORRECTED = Correction()


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was observed in one interval, and what was predicted for it with the factor in force. Both are means."""

    observed_seconds: float
    predicted_seconds: float
    requests: float
    """That the observation is the mean of."""
    utilization: float
    """Predicted, 0..1."""
    age_seconds: float
    """Since the last sample."""


@dataclass(frozen=True, slots=True)
class CorrectionRule:
    """How cautious the correction is."""

    lowest: float = 0.5
    highest: float = 2.0
    usual_requests: float = 5000.0
    """Requests after which 63 % of a lasting difference is believed."""
    most_per_interval: float = 0.02
    """Largest change (of the logarithm) that one interval can cause, whatever it says."""
    hysteresis: float = 0.03
    """The factor in force follows the estimate only when their logarithms differ by more: plans stay as they are."""
    least_requests: float = 50.0
    most_utilization: float = 0.8
    """Above it a small error of the step time is a large one of the latency."""
    oldest_seconds: float = 300.0
    implausible: float = 5.0
    """Ratios of observed to predicted beyond this, or its inverse, are mistakes: another model, a wrong unit."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What has been learnt of one factor."""

    value: float = 1.0
    """The estimate; moves with every interval that counts."""
    in_force: float = 1.0
    """What predictions are made with."""
    requests: float = 0.0
    """That it rests on."""
    ignored: str | None = None
    """Why the last interval did not count; None when it did."""


CAUTIOUS = CorrectionRule()


def doubt(evidence: Evidence, rule: CorrectionRule = CAUTIOUS) -> str | None:
    """Why evidence does not count, as a sentence with figures; None when it does."""
    observed, predicted = evidence.observed_seconds, evidence.predicted_seconds
    if not (isfinite(observed) and observed > 0.0):
        return f"the observed latency is {observed} s, which is none"
    if not (isfinite(predicted) and predicted > 0.0):
        return f"the predicted latency is {predicted} s: there is nothing to compare with"
    if not evidence.requests >= rule.least_requests:
        return f"{evidence.requests:.0f} requests were observed, {rule.least_requests:.0f} are needed"
    if not 0.0 <= evidence.age_seconds <= rule.oldest_seconds:
        return f"the observation is {evidence.age_seconds:.0f} s old, at most {rule.oldest_seconds:.0f} s count"
    if not 0.0 <= evidence.utilization <= rule.most_utilization:
        return f"at {evidence.utilization:.0%} load queues hide the speed; at most {rule.most_utilization:.0%} count"
    ratio = observed / predicted
    if not 1.0 / rule.implausible <= ratio <= rule.implausible:
        return f"observed is {ratio:.3g} times predicted, which is implausible: more than {rule.implausible:g}-fold"
    return None


def corrected(estimate: Estimate, evidence: Evidence, rule: CorrectionRule = CAUTIOUS) -> Estimate:
    """The estimate after one interval.

    Its logarithm moves towards the factor at which prediction and observation would agree, by a share that grows with
    the requests and never by more than `most_per_interval`. Doubtful evidence changes nothing but `ignored`.
    """
    ignored = doubt(evidence, rule)
    if ignored is not None:
        return replace(estimate, ignored=ignored)
    before = log(estimate.value)
    agreeing = log(estimate.in_force) + log(evidence.observed_seconds / evidence.predicted_seconds)
    believed = -expm1(-evidence.requests / rule.usual_requests)
    step = max(-rule.most_per_interval, min(rule.most_per_interval, believed * (agreeing - before)))
    value = min(rule.highest, max(rule.lowest, exp(before + step)))
    moved = abs(log(value / estimate.in_force)) > rule.hysteresis
    return Estimate(value, value if moved else estimate.in_force, estimate.requests + evidence.requests, None)
