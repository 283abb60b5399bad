"""What every LLMDeployment of a fleet may choose from, asked of the models once for all of them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from plimsoll.api.inferenceslo import InferenceSLOSpec
from plimsoll.api.llmdeployment import LLMDeployment, LLMDeploymentSpec
from plimsoll.api.placementpolicy import PlacementPolicySpec
from plimsoll.api.traffic import TrafficClass
from plimsoll.catalog import Catalog
from plimsoll.planning.dominance import OptionKey, key_of_workload
from plimsoll.planning.evaluate import Evaluator
from plimsoll.planning.keeping import keep_running
from plimsoll.planning.node_loss import spread
from plimsoll.planning.objectives import ResolvedClass, observed_by_class, resolve_classes
from plimsoll.planning.options import Choices, choose, further_questions, questions
from plimsoll.planning.pause import holds, pause_findings
from plimsoll.planning.permissions import permission_findings
from plimsoll.planning.places import Places
from plimsoll.planning.plan import Finding
from plimsoll.planning.pools import Pools, likeness
from plimsoll.planning.snapshot import ObjectRef, Snapshot, Workload
from plimsoll.planning.speeds import Speeds
from plimsoll.planning.tenants import Tenants, clamped
from plimsoll.planning.variants import Fits, Variants, enumerate_variants

_FACTS = "what is known of pools and speeds"


def all_choices(
    snapshot: Snapshot,
    slos: Mapping[tuple[str, str], InferenceSLOSpec | None],
    pools: Pools,
    policy: PlacementPolicySpec,
    catalog: Catalog,
    known_speeds: Speeds,
    evaluator: Evaluator,
    tenants: Tenants,
) -> list[Choices]:
    """What each LLMDeployment may choose from. Where nothing that matters has changed it is what it was."""
    profiles = tuple(profile.spec for profile in snapshot.profiles)
    offers = {name: pool.offer for name, pool in pools.usable.items()}
    facts = (offers, pools.rejected, profiles, snapshot.corrections, snapshot.several_nodes)
    facts = evaluator.recall(_FACTS, facts, tuple) or facts  # the very same, so that a thousand are quick to compare
    observed = observed_by_class(snapshot)
    running, alike, places = _running_options(snapshot), likeness(pools.usable), Places(snapshot, pools)
    found: dict[ObjectRef, Choices] = {}
    inputs: dict[ObjectRef, _Asked] = {}
    fresh: list[tuple[LLMDeployment, ObjectRef, tuple[ResolvedClass, ...], Variants]] = []
    fits: Fits = {}
    for deployment in snapshot.deployments:
        ref = ObjectRef("LLMDeployment", deployment.namespace, deployment.name)
        classes, findings = resolve_classes(deployment, slos, policy, observed)
        classes, cuts = clamped(deployment, classes, tenants)
        findings = (
            *pause_findings(deployment, snapshot),
            *findings,
            *cuts,
            *permission_findings(deployment, policy, tenants),
            *_policy_findings(deployment, snapshot),
            *places.stranded(deployment),
        )
        if any(map(holds, findings)):
            found[ref] = Choices(classes, (), (), findings)
            continue
        inputs[ref] = _Asked(deployment.spec, classes, findings, facts)
        known = evaluator.recall(ref, inputs[ref], Choices)
        if known is None:
            known = evaluator.recall(ref, inputs[ref], Choices, _same_but_for_rates)
            known = None if known is None else replace(known, classes=classes)
        if known is not None and known.hold_for(running.get(ref, frozenset())):
            found[ref] = known
        else:
            variants = enumerate_variants(
                deployment,
                classes,
                pools,
                catalog,
                known_speeds,
                evaluator,
                alike,
                several_nodes=snapshot.several_nodes,
                fits=fits,
            )
            variants = replace(variants, findings=(*findings, *variants.findings))
            fresh.append((deployment, ref, classes, variants))
    # All at once, since the model computes many shapes in the time of one.
    alone = evaluator.answer_each([questions(classes, variants) for _, _, classes, variants in fresh])
    asked = [
        further_questions(classes, variants, running.get(ref, frozenset()), own, alike)
        for (_, ref, classes, variants), own in zip(fresh, alone, strict=True)
    ]
    together = evaluator.answer_each([further.values() for further in asked])
    for (deployment, ref, classes, variants), own, points, answers in zip(fresh, alone, asked, together, strict=True):
        at_points = dict(zip(points, answers, strict=True))
        found[ref] = choose(deployment, classes, variants, running.get(ref, frozenset()), own, at_points, alike)
    evaluator.remember({_FACTS: (facts, facts)} | {ref: (inputs[ref], found[ref]) for ref in inputs})
    workloads: dict[ObjectRef, list[Workload]] = {}
    for workload in snapshot.workloads:
        workloads.setdefault(ObjectRef("LLMDeployment", workload.namespace, workload.deployment), []).append(workload)
    refs = [(item, ObjectRef("LLMDeployment", item.namespace, item.name)) for item in snapshot.deployments]
    if policy.availability.tolerate_node_loss:
        found = {ref: spread(deployment, found[ref]) for deployment, ref in refs}
    return [keep_running(deployment, found[ref], workloads.get(ref, ())) for deployment, ref in refs]


@dataclass(frozen=True, slots=True)
class _Asked:
    """All that an LLMDeployment's choices depend on, but for what runs."""

    spec: LLMDeploymentSpec
    classes: tuple[ResolvedClass, ...]
    findings: tuple[Finding, ...]
    known: tuple[object, ...]
    """What is known of pools and speeds."""

    def without_rates(self) -> tuple[object, ...]:
        """Rates decide how many replicas there are, and not what there is to choose from."""
        traffic = [_at_no_rate(item) for item in self.spec.traffic]
        classes = [
            replace(item, declared=_at_no_rate(item.declared), requests_per_minute=0.0, planned_rate_per_second=0.0)
            for item in self.classes
        ]
        return self.spec.model_copy(update={"traffic": traffic}), classes


def _same_but_for_rates(one: _Asked, other: _Asked) -> bool:
    same = (one.findings, one.known) == (other.findings, other.known)
    return same and one.without_rates() == other.without_rates()


def _at_no_rate(traffic: TrafficClass) -> TrafficClass:
    return traffic.model_copy(update={"requests_per_minute": 0})


def _running_options(snapshot: Snapshot) -> dict[ObjectRef, frozenset[OptionKey]]:
    """Options that run, by LLMDeployment, as their workloads say."""
    options: dict[ObjectRef, set[OptionKey]] = {}
    for workload in snapshot.workloads:
        ref = ObjectRef("LLMDeployment", workload.namespace, workload.deployment)
        key = key_of_workload(workload)
        if key is not None:
            options.setdefault(ref, set()).add(key)
    return {ref: frozenset(keys) for ref, keys in options.items()}


def _policy_findings(deployment: LLMDeployment, snapshot: Snapshot) -> list[Finding]:
    """An invalid policy holds everything: limits that people wrote are unknown."""
    if not any(item.ref.kind == "PlacementPolicy" for item in snapshot.invalid):
        return []
    ref = ObjectRef("LLMDeployment", deployment.namespace, deployment.name)
    return [Finding(ref, "PolicyInvalid", "PlacementPolicy default is invalid; nothing changes until it is mended")]
