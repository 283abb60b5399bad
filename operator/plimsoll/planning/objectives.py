"""Traffic classes with their objectives: what was promised, and what is planned for with the policy's headroom."""

from collections.abc import Mapping
from dataclasses import dataclass

from plimsoll.api.inferenceslo import InferenceSLOSpec
from plimsoll.api.inferenceslo import LatencyTarget as DeclaredTarget
from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.api.placementpolicy import PlacementPolicySpec
from plimsoll.api.traffic import TokenLengths as DeclaredLengths
from plimsoll.api.traffic import TrafficClass
from plimsoll.performance import POISSON, Arrivals, LatencyTarget, LatencyTargets, TokenLengths
from plimsoll.performance.lengths import MAX_SPREAD
from plimsoll.planning.plan import Finding, Severity
from plimsoll.planning.snapshot import ObjectRef, Snapshot, TrafficDemand

NOTHING_OBSERVED: Mapping[tuple[str, str, str], TrafficDemand] = {}


@dataclass(frozen=True, slots=True)
class ResolvedClass:
    """A traffic class with its objective and what is planned for it."""

    declared: TrafficClass
    slo: InferenceSLOSpec
    slo_field: str
    """Where the objective comes from, for messages: `InferenceSLO interactive` or `the default SLO`."""
    lengths: TokenLengths
    targets: LatencyTargets
    """As promised."""
    planned_targets: LatencyTargets
    """Tightened by the policy's headroom."""
    requests_per_minute: float
    """Declared or observed."""
    planned_rate_per_second: float
    """With the policy's headroom."""
    arrivals: Arrivals = POISSON
    """At each replica as at all together: a random share of a stream is less bursty, so this is on the safe side."""


def observed_by_class(snapshot: Snapshot) -> dict[tuple[str, str, str], TrafficDemand]:
    """What is observed, by namespace, LLMDeployment and traffic class."""
    return {(item.namespace, item.deployment, item.traffic): item for item in snapshot.demand}


def resolve_classes(
    deployment: LLMDeployment,
    slos: Mapping[tuple[str, str], InferenceSLOSpec | None],
    policy: PlacementPolicySpec,
    demand: Mapping[tuple[str, str, str], TrafficDemand] = NOTHING_OBSERVED,
) -> tuple[tuple[ResolvedClass, ...], tuple[Finding, ...]]:
    """Attach objectives. An SLO that is missing or does not parse (None) is a finding, never a default.

    A 95th percentile of tokens beyond what a lognormal length can have is a warning.

    Args:
        demand: what is observed, by namespace, LLMDeployment and traffic class.
    """
    resolved: list[ResolvedClass] = []
    findings: list[Finding] = []
    for index, traffic in enumerate(deployment.spec.traffic):
        slo = InferenceSLOSpec(ttft=policy.default_slo.ttft, tpot=policy.default_slo.tpot)
        source = "the default SLO"
        if traffic.slo_ref is not None:
            field = f"spec.traffic[{index}].sloRef.name"
            key = (deployment.namespace, traffic.slo_ref.name)
            if key not in slos:
                known = sorted(name for namespace, name in slos if namespace == deployment.namespace)
                there = f"there are: {', '.join(known)}" if known else "there is none"
                message = f"{field}: no InferenceSLO {traffic.slo_ref.name} in namespace {key[0]}; {there}"
                findings.append(deployment_finding(deployment, "SLONotFound", message, field))
                continue
            found = slos[key]
            if found is None:
                message = f"{field}: InferenceSLO {traffic.slo_ref.name} is invalid; see its own condition"
                findings.append(deployment_finding(deployment, "SLOInvalid", message, field))
                continue
            slo, source = found, f"InferenceSLO {traffic.slo_ref.name}"
        tokens = traffic.tokens
        for name, mean, p95 in (
            ("input", tokens.input, tokens.input_p95),
            ("output", tokens.output, tokens.output_p95),
        ):
            if p95 is not None and p95 > MAX_SPREAD * mean:
                field = f"spec.traffic[{index}].tokens.{name}P95"
                message = (
                    f"{field}: {p95} is more than {MAX_SPREAD:.2f} times the mean of {mean}, which is the most that a "
                    f"lognormal length can have; latencies are planned with {MAX_SPREAD:.2f} times the mean "
                    f"({int(MAX_SPREAD * mean)} tokens): split the class into short and long requests, or raise "
                    f"spec.traffic[{index}].tokens.{name}"
                )
                findings.append(deployment_finding(deployment, "SpreadTooWide", message, field, Severity.WARNING))
        targets = LatencyTargets(ttft=_target(slo.ttft), tpot=_target(slo.tpot), end_to_end=_target(slo.end_to_end))
        kept = 1.0 - float(policy.headroom.latency)
        seen = demand.get((deployment.namespace, deployment.name, traffic.name))
        rate = float(traffic.requests_per_minute) if seen is None else seen.requests_per_minute
        lengths = seen.lengths if seen is not None else None
        resolved.append(
            ResolvedClass(
                declared=traffic,
                slo=slo,
                slo_field=source,
                lengths=lengths or token_lengths(tokens),
                targets=targets,
                planned_targets=LatencyTargets(
                    ttft=_tightened(targets.ttft, kept),
                    tpot=_tightened(targets.tpot, kept),
                    end_to_end=_tightened(targets.end_to_end, kept),
                ),
                requests_per_minute=rate,
                planned_rate_per_second=rate / 60 * (1 + float(policy.headroom.demand)),
                arrivals=POISSON if traffic.arrivals is None else Arrivals(float(traffic.arrivals.burstiness)),
            )
        )
    return tuple(resolved), tuple(findings)


def token_lengths(tokens: DeclaredLengths) -> TokenLengths:
    """Lengths as declared; a 95th percentile that is not is twice the mean."""
    return TokenLengths(
        input_mean=tokens.input,
        output_mean=tokens.output,
        input_p95=tokens.input_p95 or 2 * tokens.input,
        output_p95=tokens.output_p95 or 2 * tokens.output,
    )


def deployment_finding(
    deployment: LLMDeployment, reason: str, message: str, field: str, severity: Severity = Severity.ERROR
) -> Finding:
    """A finding about an LLMDeployment."""
    ref = ObjectRef("LLMDeployment", deployment.namespace, deployment.name)
    return Finding(ref, reason, message, severity, field)


def _target(declared: DeclaredTarget | None) -> LatencyTarget | None:
    if declared is None:
        return None
    return LatencyTarget(seconds=declared.milliseconds / 1000, percentile=declared.percentile)


def _tightened(target: LatencyTarget | None, kept: float) -> LatencyTarget | None:
    return None if target is None else LatencyTarget(target.seconds * kept, target.percentile)
