"""Token lengths of traffic classes by what their engines counted, held so that plans stay still. Pure."""

from dataclasses import astuple, dataclass

from plimsoll.performance import TokenLengths
from plimsoll.planning.attainment import Histogram, Latencies
from plimsoll.planning.demand import LEAST_REQUESTS, LENGTH_DRIFT
from plimsoll.planning.plan import DeploymentPlan, FleetPlan
from plimsoll.planning.watching import ClassKey

INPUT, OUTPUT = "input", "output"
_MOST_SHORTER = 0.15
"""In one cool-down, for the reason of `DemandRule.most_shrink`."""


@dataclass(frozen=True, slots=True)
class HeldLengths:
    """What is planned for, in whole tokens, and since when."""

    lengths: TokenLengths
    since: float


def seen_lengths(fleet: FleetPlan, histograms: Latencies) -> dict[ClassKey, TokenLengths]:
    """Of classes whose placements serve no other class, and that had enough requests.

    Args:
        histograms: of tokens in place of seconds: `input` and `output` by placement.
    """
    found: dict[ClassKey, TokenLengths] = {}
    for plan in fleet.deployments:
        for item in plan.classes:
            parts = [histograms.get((plan.ref.namespace, name), {}) for name in _own(plan, item.name)]
            inputs, outputs = (_merged([part[kind] for part in parts if kind in part]) for kind in (INPUT, OUTPUT))
            if inputs is None or outputs is None or min(inputs.requests, outputs.requests) < LEAST_REQUESTS:
                continue
            (input_mean, input_p95), (output_mean, output_p95) = map(_figures, (inputs, outputs))
            found[plan.ref.namespace, plan.ref.name, item.name] = TokenLengths(
                input_mean, output_mean, input_p95, output_p95
            )
    return found


def held(
    before: HeldLengths | None,
    declared: TokenLengths,
    seen: TokenLengths,
    seconds: float,
    cool_down_seconds: float,
) -> HeldLengths | None:
    """After lengths were seen that many requests of a whole cool-down had. None: still as declared.

    Figures that differ by less than 15 % stay. Longer ones count at once; shorter ones by 15 % at most, and a cool-down
    after the last change at the earliest.
    """
    known = declared if before is None else before.lengths
    pairs = list(zip(astuple(known), astuple(seen), strict=True))
    if all(abs(new - old) <= LENGTH_DRIFT * old for old, new in pairs):
        return before
    shorter = before is None or seconds - before.since >= cool_down_seconds
    moved = [new if new > old else max(new, (1 - _MOST_SHORTER) * old) if shorter else old for old, new in pairs]
    after = TokenLengths(*(float(max(1, round(value))) for value in moved))
    return before if after == known else HeldLengths(after, seconds)


def _own(plan: DeploymentPlan, traffic: str) -> list[str]:
    """Placements of the class; none where one of them serves another class as well."""
    serving = [item for item in plan.placements if any(share.traffic == traffic for share in item.shares)]
    return [item.name for item in serving] if all(len(item.shares) == 1 for item in serving) else []


def _merged(parts: list[Histogram]) -> Histogram | None:
    if not parts:
        return None
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.plus(part)
    return whole


def _figures(histogram: Histogram) -> tuple[float, float]:
    """Mean and 95th percentile. Straight lines within wide buckets may put the percentile below the mean."""
    return histogram.mean, max(histogram.mean, histogram.percentile(95))
