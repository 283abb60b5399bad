"""One planning round: snapshot in, fleet plan out. Pure; controller, CLI and tests call this same function."""

import math
from collections.abc import Container, Iterable, Sequence
from dataclasses import replace

import numpy as np

from plimsoll.allocation.problem import ANY_NUMBER
from plimsoll.api.inferenceslo import InferenceSLOSpec
from plimsoll.api.placementpolicy import PlacementPolicy, PlacementPolicySpec
from plimsoll.catalog import Catalog, UnknownName, load_catalog
from plimsoll.performance import checkpoint_bytes
from plimsoll.planning.assemble import Assembly, search_interrupted
from plimsoll.planning.chained import is_chained
from plimsoll.planning.chained_fleet import joined
from plimsoll.planning.changing import Basis, changing
from plimsoll.planning.choices import all_choices
from plimsoll.planning.decide import Decision, decide
from plimsoll.planning.digest import declared_digest, inputs_digest
from plimsoll.planning.evaluate import Evaluator
from plimsoll.planning.facts import catalog_of
from plimsoll.planning.fleet import (
    Fleet,
    Kept,
    Known,
    PlacementKey,
    build_fleet,
    demand,
    known_placements,
    storage_price_per_gigabyte_hour,
)
from plimsoll.planning.grouplimits import with_limits
from plimsoll.planning.node_loss import ATTEMPTS, must_do_without
from plimsoll.planning.node_loss import findings as node_loss_findings
from plimsoll.planning.pause import policy_pause_findings
from plimsoll.planning.plan import (
    DeploymentPlan,
    DeploymentState,
    Finding,
    FleetPlan,
    Severity,
)
from plimsoll.planning.pool_plans import Uses, gpus_of, pool_plan
from plimsoll.planning.pools import Pools, resolve_pools
from plimsoll.planning.round import Round
from plimsoll.planning.search import UNPROVEN, Clock, search_for, stopped
from plimsoll.planning.shortlist import WHOLE, shortlist
from plimsoll.planning.snapshot import ObjectRef, Snapshot, Workload
from plimsoll.planning.speeds import speeds
from plimsoll.planning.starts import findings as start_findings
from plimsoll.planning.starts import without_failed
from plimsoll.planning.stock import Demand, measure_stock
from plimsoll.planning.tenants import resolve_tenants
from plimsoll.planning.together import Together, Whole


def plan_fleet(snapshot: Snapshot, evaluator: Evaluator | None = None, clock: Clock = stopped) -> FleetPlan:
    """Decide for the whole fleet.

    Args:
        evaluator: remembers results between rounds; a fresh one gives the same plan, only slower.
        clock: watches the policy's time limit; without one the search ends by itself.

    Raises:
        PlanRejectedError: when the independent checker finds the decision to break a limit.
    """
    evaluator = evaluator or Evaluator()
    facts, known = _that_matter(snapshot), evaluator.planned
    if known is not None and known[0] == facts:
        return known[1]
    whole = decide_whole(snapshot, evaluator, clock)
    plan = whole_plan(whole, snapshot)
    if known is not None:
        plan = _as_known(plan, known[1])
    # What the clock or a breakdown has decided is no function of the facts.
    evaluator.planned = None if plan.interrupted or whole.faulty else (facts, plan)
    return plan


def decide_whole(snapshot: Snapshot, evaluator: Evaluator, clock: Clock = stopped) -> Whole:
    """The decision about chained LLMDeployments and all others, with what it rests on.

    Raises:
        PlanRejectedError: when an independent check finds that the decision breaks a rule.
    """

    def decided(facts: Snapshot, aside: bool) -> Round:
        return decide_fleet(facts, evaluator.aside() if aside else evaluator, clock)

    return Together(snapshot, decided, clock).whole()


def whole_plan(whole: Whole, snapshot: Snapshot) -> FleetPlan:
    """The plan of the snapshot that was decided about."""
    plan = joined(assembled(whole.round), whole.chained, snapshot)
    if not whole.interrupted or plan.interrupted:
        return plan
    return replace(plan, interrupted=True, findings=(*plan.findings, search_interrupted(whole.round.policy)))


def _that_matter(snapshot: Snapshot) -> Snapshot:
    """The facts without those that change while pods start or traffic drifts, and that no plan depends on."""
    pods = tuple(
        replace(pod, ready=False, starting_since=0.0) if pod.ready or pod.starting_since else pod
        for pod in snapshot.pods
    )
    workloads = tuple(replace(item, ready_replicas=0) for item in snapshot.workloads)
    # What arrives now splits shares between plans, and whether that is believed stands in `resting`.
    demand = tuple(replace(item, current_per_minute=0.0, fresh=True) for item in snapshot.demand)
    return replace(snapshot, pods=pods, workloads=workloads, demand=demand)


def _as_known(plan: FleetPlan, known: FleetPlan) -> FleetPlan:
    """The plan with the very parts of an earlier one where they are equal: whoever looks at them sees that at once."""
    before = {item.ref: item for item in known.deployments}
    parts = (before[item.ref] if before.get(item.ref) == item else item for item in plan.deployments)
    return replace(plan, deployments=tuple(parts))


def decide_fleet(snapshot: Snapshot, evaluator: Evaluator, clock: Clock = stopped) -> Round:
    """The decision about LLMDeployments in replicas, beside the chained ones, and what it rests on."""
    if any(map(is_chained, snapshot.deployments)):
        return decide_whole(snapshot, evaluator, clock).round
    policy = (snapshot.policy or PlacementPolicy.implied()).spec
    tolerates = policy.availability.tolerate_node_loss > 0
    catalog = catalog_of(snapshot)
    pools = resolve_pools(snapshot.pools, snapshot.nodes, load_catalog())
    slos: dict[tuple[str, str], InferenceSLOSpec | None] = {
        (item.ref.namespace, item.ref.name): None for item in snapshot.invalid if item.ref.kind == "InferenceSLO"
    }
    slos.update({(slo.namespace, slo.name): slo.spec for slo in snapshot.slos})
    broken_pools = {item.ref.name: "it is invalid" for item in snapshot.invalid if item.ref.kind == "GPUNodePool"}
    pools = Pools(pools.usable, pools.findings, {**pools.rejected, **broken_pools})
    known_speeds, findings = speeds(snapshot.profiles, snapshot.corrections, catalog)
    tenants = resolve_tenants(policy, snapshot.namespaces, (item.namespace for item in snapshot.deployments))
    choices = all_choices(snapshot, slos, pools, policy, catalog, known_speeds, evaluator, tenants)
    open_pairs = [
        (deployment, choice)
        for deployment, choice in zip(snapshot.deployments, choices, strict=True)
        if not choice.held
    ]
    known = known_placements(
        [deployment for deployment, _ in open_pairs], [choice for _, choice in open_pairs], snapshot.workloads
    )
    demands = {
        key: Demand(
            one.candidate.pool.name,
            demand(one.candidate.option),
            one.candidate.option.nodes,
            per_node=one.candidate.option.pods_per_node or ANY_NUMBER,
        )
        for key, one in known.items()
    }
    by_name = [pools.usable[name] for name in sorted(pools.usable)]
    stock = measure_stock(by_name, snapshot.pods, snapshot.workloads, demands)
    decided = {(deployment.namespace, deployment.name) for deployment, _ in open_pairs}
    undecided = [item for item in snapshot.workloads if (item.namespace, item.deployment) not in decided]
    evaluator.texts.turn()
    declared = declared_digest(snapshot, evaluator.texts)
    # What runs must not change the seed: a plan that is applied would be searched for in another way.
    search = search_for(policy, int(declared[:8], 16), evaluator.memory, clock, evaluator.rested)
    evaluator.rested.turn()
    evaluator.blocks.turn()
    tolerant = {deployment.reference for deployment, _ in open_pairs} if tolerates else set()
    resting = np.array(
        [ObjectRef("LLMDeployment", item.namespace, item.name) in snapshot.resting for item, _ in open_pairs],
        dtype=bool,
    )
    attempts = 0
    listed = shortlist(
        [choice for _, choice in open_pairs],
        pools.usable,
        stock,
        _in_use(known.values()),
    )
    while True:
        kept = _kept(snapshot, undecided, catalog, policy)
        fleet = build_fleet(
            [deployment for deployment, _ in open_pairs],
            [choice for _, choice in open_pairs],
            pools.usable,
            stock,
            policy,
            known,
            kept,
            tolerant,
            listed,
            evaluator.blocks,
        )
        fleet = without_failed(with_limits(fleet, snapshot, tenants, undecided), snapshot.failures)
        decision = decide(fleet.problem, search, resting)
        if listed is not WHOLE and not search.time_is_up():
            longer = listed.longer(fleet.problem, decision.allocation, fleet.pool_names, pools.usable)
            if longer is not None:
                listed = longer
                continue
        without = must_do_without(fleet, decision, hurried=attempts >= ATTEMPTS or search.time_is_up())
        if without:
            attempts += 1
            tolerant -= without
            continue
        outlived = _outlived(snapshot, fleet, decision, known, undecided)
        limits = (policy.budget.per_hour, policy.storage.limit_gib, policy.tenants or None)
        if not outlived or limits == (None, None, None):
            break
        undecided += outlived
    if tolerates:
        decision = replace(decision, notes=node_loss_findings(fleet, decision, tolerant))
    if snapshot.failures:
        refs = [ObjectRef("LLMDeployment", item.namespace, item.name) for item in fleet.deployments]
        failed = start_findings(snapshot.failures, dict(zip(refs, decision.short.tolist(), strict=True)))
        notes = {name: (*failed.get(name, ()), *decision.notes.get(name, ())) for name in {*failed, *decision.notes}}
        decision = replace(decision, notes=notes)
    return Round(
        snapshot=snapshot,
        digest=inputs_digest(snapshot, declared, evaluator.texts),
        policy=policy,
        pools=pools,
        choices=tuple(choices),
        fleet=fleet,
        kept=kept,
        search=search,
        decision=decision,
        assembly=Assembly(fleet, decision, evaluator, policy, kept, known_speeds),
        basis=Basis(
            snapshot,
            fleet,
            decision,
            policy,
            pools,
            kept,
            known_speeds,
            evaluator,
            search,
            _rent_of_obsolete(snapshot, undecided, decided, catalog, policy),
        ),
        findings=(*findings, *tenants.findings()),
    )


def _in_use(known: Iterable[Known]) -> dict[int, frozenset[str]]:
    """Pools where each deployment runs something."""
    found: dict[int, set[str]] = {}
    for one in known:
        found.setdefault(one.deployment, set()).add(one.candidate.pool.name)
    return {number: frozenset(names) for number, names in found.items()}


def _outlived(
    snapshot: Snapshot, fleet: Fleet, decision: Decision, known: Container[PlacementKey], counted: Sequence[Workload]
) -> list[Workload]:
    """Workloads that run although they are no options any more, of deployments that are short: they are not removed,
    so what they cost and store is not there for others. Without those that were counted before."""
    short = {
        (deployment.namespace, deployment.name)
        for deployment, is_short in zip(fleet.deployments, decision.short.tolist(), strict=True)
        if is_short
    }
    return [
        item
        for item in snapshot.workloads
        if (item.namespace, item.deployment) in short
        and (item.namespace, item.name) not in known
        and item not in counted
    ]


def assembled(turn: Round) -> FleetPlan:
    """The plan with names, figures and reasons."""
    snapshot, pools, assembly = turn.snapshot, turn.pools, turn.assembly
    changes = changing(turn.basis, assembly.deployment_plans())
    planned = {plan.ref: plan for plan in changes.plans}
    held = (
        DeploymentPlan(deployment, DeploymentState.HELD, (), (), choice.findings)
        for deployment, choice in zip(snapshot.deployments, turn.choices, strict=True)
        if choice.held
    )
    plans = sorted((*planned.values(), *held), key=lambda plan: plan.ref)
    held_names = {(plan.ref.namespace, plan.ref.name) for plan in plans if plan.state is DeploymentState.HELD}
    running_on = [item for item in snapshot.workloads if (item.namespace, item.deployment) in held_names]
    uses = Uses(snapshot, plans, running_on)
    held_cost = _kept(snapshot, running_on, catalog_of(snapshot), turn.policy).cost_per_hour
    solution = turn.decision.solution
    bound = UNPROVEN if changes.in_place else solution.lower_bound_per_hour
    return FleetPlan(
        digest=turn.digest,
        deployments=tuple(plans),
        pools=tuple(pool_plan(name, pool, pools, uses) for name, pool in sorted(pools.usable.items())),
        findings=(
            *_invalid_findings(snapshot),
            *policy_pause_findings(snapshot.policy),
            *_unusable_pool_findings(pools),
            *turn.findings,
            *assembly.policy_findings(),
        ),
        cost_per_hour=sum(plan.cost_per_hour for plan in plans) + held_cost,
        objective_per_hour=changes.allocation.cost.total,
        lower_bound_per_hour=max(0.0, bound) if math.isfinite(bound) else None,
        interrupted=solution.interrupted,
        limits=assembly.binding_limits(),
    )


def _kept(snapshot: Snapshot, workloads: Iterable[Workload], catalog: Catalog, policy: PlacementPolicySpec) -> Kept:
    """What these running placements cost and store, as their annotations say what they are."""
    prices = {pool.name: float(pool.spec.price_per_gpu_hour) for pool in snapshot.pools}
    rent, stored = 0.0, {}
    for item in workloads:
        said = item.option
        rent += gpus_of(item) * prices.get(said.get("pool", ""), 0.0)
        variant = (item.namespace, item.deployment, said.get("model"), said.get("precision"), said.get("pool"))
        stored[variant] = _weights_gigabytes(said.get("model", ""), said.get("precision", ""), catalog)
    gigabytes = sum(stored.values())
    return Kept(rent, gigabytes * storage_price_per_gigabyte_hour(policy), gigabytes)


def _rent_of_obsolete(
    snapshot: Snapshot,
    undecided: Iterable[Workload],
    decided: Container[PlacementKey],
    catalog: Catalog,
    policy: PlacementPolicySpec,
) -> dict[ObjectRef, float]:
    """What workloads cost that are no options of a deployment that is decided about, where that is counted as kept."""
    own: dict[ObjectRef, list[Workload]] = {}
    for item in undecided:
        if (item.namespace, item.deployment) in decided:
            own.setdefault(ObjectRef("LLMDeployment", item.namespace, item.deployment), []).append(item)
    return {ref: _kept(snapshot, items, catalog, policy).cost_per_hour for ref, items in own.items()}


def _weights_gigabytes(model: str, precision: str, catalog: Catalog) -> float:
    """Of a running model variant; 0 for one that nobody describes any more."""
    try:
        return checkpoint_bytes(catalog.model(model), catalog.precision(precision)) / 1e9
    except UnknownName:
        return 0.0


def _invalid_findings(snapshot: Snapshot) -> list[Finding]:
    return [
        Finding(item.ref, "Invalid", str(problem), Severity.ERROR, problem.field)
        for item in snapshot.invalid
        for problem in item.problems
    ]


def _unusable_pool_findings(pools: Pools) -> list[Finding]:
    return [finding for finding in pools.findings if finding.object.name not in pools.usable]
