"""Tenants: which limits of the PlacementPolicy hold in which namespace, and what they cut from objectives."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from plimsoll.api.inferenceslo import InferenceSLOSpec
from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.api.placementpolicy import POLICY_NAME, PlacementPolicySpec
from plimsoll.api.pods import LabelRequirement, LabelSelector
from plimsoll.api.tenants import Tenant
from plimsoll.planning.namespaces import NamespaceFacts, labels_of
from plimsoll.planning.objectives import ResolvedClass, deployment_finding
from plimsoll.planning.plan import Finding, Severity
from plimsoll.planning.snapshot import ObjectRef


@dataclass(frozen=True, slots=True)
class Tenants:
    """Tenants by namespace, in the policy's order; with its index in `spec.tenants`."""

    by_namespace: Mapping[str, tuple[tuple[int, Tenant], ...]]

    def of(self, namespace: str) -> tuple[tuple[int, Tenant], ...]:
        """Tenants that select a namespace: the limits of all of them hold there."""
        return self.by_namespace.get(namespace, ())

    def findings(self) -> tuple[Finding, ...]:
        """Namespaces that several tenants select: mostly a slip, so it is said."""
        policy = ObjectRef("PlacementPolicy", "", POLICY_NAME)
        return tuple(
            Finding(
                policy,
                "TenantsOverlap",
                f"spec.tenants: namespace {namespace} is selected by {', '.join(item.name for _, item in found)}: "
                "the limits of all of them hold there",
                Severity.WARNING,
                "spec.tenants",
            )
            for namespace, found in sorted(self.by_namespace.items())
            if len(found) > 1
        )


def resolve_tenants(policy: PlacementPolicySpec, namespaces: Sequence[NamespaceFacts], used: Iterable[str]) -> Tenants:
    """Which tenants select the namespaces in use."""
    known = {item.name: item for item in namespaces}
    return Tenants(
        {
            name: tuple(
                (index, tenant)
                for index, tenant in enumerate(policy.tenants)
                if selects(tenant.namespace_selector, labels_of(name, known))
            )
            for name in sorted(set(used))
        }
    )


def selects(selector: LabelSelector, labels: Mapping[str, str]) -> bool:
    """Whether a selector takes these labels, as Kubernetes has it."""
    equal = all(labels.get(key) == value for key, value in selector.match_labels.items())
    return equal and all(_meets(requirement, labels) for requirement in selector.match_expressions)


def _meets(requirement: LabelRequirement, labels: Mapping[str, str]) -> bool:
    value = labels.get(requirement.key)
    match requirement.operator:
        case "In":
            return value in requirement.values
        case "NotIn":
            return value not in requirement.values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None


def clamped(
    deployment: LLMDeployment, classes: Sequence[ResolvedClass], tenants: Tenants
) -> tuple[tuple[ResolvedClass, ...], tuple[Finding, ...]]:
    """The classes with what their objectives ask beyond a tenant's limits cut down to these, and a warning for each."""
    findings: list[Finding] = []
    result: list[ResolvedClass] = []
    for item in classes:
        slo = item.slo
        for index, tenant in tenants.of(deployment.namespace):
            for cut in _cuts(slo, tenant):
                slo = cut.slo
                message = (
                    f"{item.slo_field} of class {item.declared.name}: {cut.field} {cut.given} is above "
                    f"{cut.limit_field} {cut.limit} of tenant {tenant.name} "
                    f"(PlacementPolicy default spec.tenants[{index}]); planned with {cut.limit}"
                )
                findings.append(deployment_finding(deployment, "Clamped", message, cut.field, Severity.WARNING))
        result.append(replace(item, slo=slo) if slo is not item.slo else item)
    return tuple(result), tuple(dict.fromkeys(findings))


@dataclass(frozen=True, slots=True)
class _Cut:
    slo: InferenceSLOSpec
    """As it counts."""
    field: str
    given: object
    limit_field: str
    limit: object


def _cuts(slo: InferenceSLOSpec, tenant: Tenant) -> Iterable[_Cut]:
    """What is cut, one after the other: each builds on those before."""
    most = tenant.max_priority
    if most is not None and slo.priority > most:
        given, slo = slo.priority, slo.model_copy(update={"priority": most})
        yield _Cut(slo, "spec.priority", given, "maxPriority", most)
    penalty, dearest = slo.unserved.penalty_per_thousand_requests, tenant.max_unserved_penalty_per_thousand_requests
    if penalty is not None and dearest is not None and penalty > dearest:
        unserved = slo.unserved.model_copy(update={"penalty_per_thousand_requests": dearest})
        slo = slo.model_copy(update={"unserved": unserved})
        name = "maxUnservedPenaltyPerThousandRequests"
        yield _Cut(slo, "spec.unserved.penaltyPerThousandRequests", penalty, name, dearest)
    late, latest = (
        slo.latency_penalty_per_thousand_request_seconds,
        tenant.max_latency_penalty_per_thousand_request_seconds,
    )
    if latest is not None and late > latest:
        slo = slo.model_copy(update={"latency_penalty_per_thousand_request_seconds": latest})
        name = "maxLatencyPenaltyPerThousandRequestSeconds"
        yield _Cut(slo, "spec.latencyPenaltyPerThousandRequestSeconds", late, name, latest)
