"""How plans are brought about: where a change takes stages, and where it is possible only in place.

Adds to the plans of one round what `stages.py` needs to know: what the running replicas can take, how many new ones fit
now. And asks for those that are short whether they could have what they need on the GPUs of their own replicas.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from plimsoll.allocation import Allocation, Solution
from plimsoll.api.placementpolicy import PlacementPolicySpec
from plimsoll.planning.assemble import Assembly
from plimsoll.planning.decide import Decision
from plimsoll.planning.evaluate import Evaluator
from plimsoll.planning.facts import catalog_of
from plimsoll.planning.fleet import Fleet, Kept
from plimsoll.planning.in_place import Exchange, Exchanges
from plimsoll.planning.plan import DeploymentPlan, DeploymentState, Finding, RunningRates, Severity
from plimsoll.planning.pools import Pools
from plimsoll.planning.running_chains import chain_of
from plimsoll.planning.running_rates import running_rates
from plimsoll.planning.search import UNPROVEN, Search
from plimsoll.planning.snapshot import ObjectRef, Snapshot, Workload
from plimsoll.planning.speeds import Speeds
from plimsoll.planning.stages import allows

REFUSED = "InPlaceRefused"
"""Reason of the finding that says why replicas are not exchanged in place."""


@dataclass(frozen=True, slots=True, eq=False)
class Basis:
    """What a round knew when it decided."""

    snapshot: Snapshot
    fleet: Fleet
    decision: Decision
    policy: PlacementPolicySpec
    pools: Pools
    kept: Kept
    speeds: Speeds
    evaluator: Evaluator
    search: Search
    rent: Mapping[ObjectRef, float]
    """What is counted as spent by running placements of a deployment that are no options."""


@dataclass(frozen=True, slots=True, eq=False)
class Changes:
    """The plans as they are brought about."""

    plans: tuple[DeploymentPlan, ...]
    allocation: Allocation
    in_place: bool
    """Some deployment has what it needs in place only, so no bound holds for the whole."""


def changing(basis: Basis, plans: Sequence[DeploymentPlan]) -> Changes:
    """The plans of the deployments of the fleet's problem, in its order, with how each is brought about."""
    own: dict[ObjectRef, list[Workload]] = {}
    for item in basis.snapshot.workloads:
        own.setdefault(ObjectRef("LLMDeployment", item.namespace, item.deployment), []).append(item)
    exchanges: Exchanges | None = None
    disruption = float(basis.policy.rebalance.max_disruption)
    found: list[DeploymentPlan] = []
    allocation, in_place = basis.decision.allocation, False
    for number, plan in enumerate(plans):
        running = own.get(plan.ref, [])
        if any(map(chain_of, running)):
            found.append(plan)  # it was in mode Chained until now: stages.py
            continue
        if not running or (plan.state is not DeploymentState.SHORT and basis.policy.rebalance.max_surge is None):
            found.append(plan)
            continue
        if plan.state is DeploymentState.PLANNED:
            found.append(
                replace(plan, running_rates=_rates(basis, number, running)) if _changes(plan, running) else plan
            )
            continue
        if disruption <= 0 or basis.search.time_is_up():
            found.append(plan)
            continue
        exchanges = exchanges or Exchanges(basis.snapshot, basis.fleet, allocation, basis.pools, disruption)
        exchange = exchanges.found(number, running, basis.rent.get(plan.ref, 0.0))
        if exchange is None:
            found.append(plan)
            continue
        other = _exchanged(basis, number, exchange, running)
        refused = allows(other, running)
        if refused:
            finding = Finding(plan.ref, REFUSED, refused, Severity.WARNING)
            found.append(replace(plan, findings=(*plan.findings, finding)))
        else:
            exchanges.take(exchange)
            allocation, in_place = exchange.allocation, True
            found.append(other)
    return Changes(tuple(found), allocation, in_place)


def _exchanged(basis: Basis, number: int, exchange: Exchange, running: Sequence[Workload]) -> DeploymentPlan:
    short = basis.decision.short & (np.arange(len(basis.decision.short)) != number)
    decision = Decision(Solution(exchange.allocation, UNPROVEN), short, notes=basis.decision.notes)
    fleet = replace(basis.fleet, problem=exchange.problem)
    assembly = Assembly(fleet, decision, basis.evaluator, basis.policy, basis.kept, basis.speeds, number)
    return replace(
        assembly.deployment_plan(number), in_place=exchange.in_place, running_rates=_rates(basis, number, running)
    )


def _rates(basis: Basis, number: int, running: Sequence[Workload]) -> tuple[RunningRates, ...]:
    return running_rates(
        basis.fleet.deployments[number],
        basis.fleet.choices[number],
        running,
        basis.pools,
        catalog_of(basis.snapshot),
        basis.speeds,
        basis.evaluator,
    )


def _changes(plan: DeploymentPlan, running: Sequence[Workload]) -> bool:
    """Whether something runs that the plan gives up."""
    planned = {item.name: item.replicas for item in plan.placements}
    return any(item.replicas > planned.get(item.name, 0) for item in running)
