"""Plans that survive the loss of any one node (`PlacementPolicy.spec.availability.tolerateNodeLoss`).

The scheduler chooses nodes, so what is promised must hold wherever it puts pods. A placement may put at most so many
pods on one node, and as many of its replicas are spare: without them the others still carry all its traffic, and more
than these no node can take away. docs/decisions/0009-node-loss.md says why this rule.
"""

from collections.abc import Collection, Iterable
from dataclasses import replace

import numpy as np

from plimsoll.allocation import AllocationProblem, solve_greedy, subset, with_node
from plimsoll.allocation.problem import Floats
from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.planning.beside import by_deployment, short_deployments
from plimsoll.planning.decide import Decision, without_limits
from plimsoll.planning.fleet import Fleet, pods_per_node, spare_replicas
from plimsoll.planning.options import Choices, Way
from plimsoll.planning.plan import Finding, Severity
from plimsoll.planning.search import TOLERANCE
from plimsoll.planning.snapshot import ObjectRef
from plimsoll.planning.stock import UNBOUNDED

REASON = "NodeLossNotTolerated"
_FIELD = "spec.availability.tolerateNodeLoss"
ATTEMPTS = 8
"""Searches after which everybody gives way at once."""
_MOST_NODES = 4
"""That are tried when it is said what would do."""
_HOSTNAME = "kubernetes.io/hostname"


def spread(deployment: LLMDeployment, choices: Choices) -> Choices:
    """The choices with every option also as one that puts at most 1, 2, 4, ... pods on a node."""
    own = deployment.spec.engine.pod_template.topology_spread_constraints
    if any(item.topology_key == _HOSTNAME and item.when_unsatisfiable == "DoNotSchedule" for item in own):
        # A pod can have one such constraint only; without a second one a node may take all that fit it.
        return choices
    return replace(choices, ways=tuple(_spread(choices.ways)), candidates={})


def _spread(ways: Iterable[Way]) -> Iterable[Way]:
    for way in ways:
        most = pods_per_node(way.option, way.pools[0])
        few = 1
        while few < most:
            yield replace(way, option=replace(way.option, pods_per_node=few))
            few *= 2
        yield way


def must_do_without(fleet: Fleet, decision: Decision, *, hurried: bool) -> set[str]:
    """Deployments (namespace/name) that are planned without, since else somebody would go short for it.

    First those that are short for their own spare replicas; all that are in the way of others where that does not help,
    or when `hurried`, since every attempt is a search of its own.
    """
    problem = fleet.problem
    if not (problem.option_spare.any() and decision.short.any()):
        return set()
    bare = replace(problem, option_spare=np.zeros_like(problem.option_spare))
    missing = _missing(problem, decision.allocation.unserved)
    worse = missing > _missing(problem, solve_greedy(bare).unserved) + TOLERANCE * np.maximum(1.0, missing)
    tolerant = by_deployment(problem, problem.option_spare) > 0
    chosen = worse & tolerant
    if worse.any() and (hurried or not chosen.any()):
        pools = np.unique(problem.option_pool[worse[problem.option_deployment]])
        beside = np.isin(problem.option_pool, pools).astype(np.float64)
        chosen = tolerant & (by_deployment(problem, beside) > 0)
    return {fleet.deployments[number].reference for number in np.flatnonzero(chosen).tolist()}


def _missing(problem: AllocationProblem, unserved: Floats) -> Floats:
    """Requests per hour (D) beyond the limits."""
    requests = problem.class_rate_per_hour * np.maximum(unserved - problem.class_unserved_limit, 0.0)
    size = len(problem.deployment_min_replicas)
    return np.bincount(problem.class_deployment, requests, minlength=size).astype(np.float64)


def findings(fleet: Fleet, decision: Decision, tolerant: Collection[str]) -> dict[str, tuple[Finding, ...]]:
    """For each deployment (namespace/name) that is served and not `tolerant`: what would do."""
    found: dict[str, tuple[Finding, ...]] = {}
    for number, deployment in enumerate(fleet.deployments):
        offered = (fleet.problem.option_deployment == number).any()
        if deployment.reference in tolerant or decision.short[number] or not offered:
            continue
        ref = ObjectRef("LLMDeployment", deployment.namespace, deployment.name)
        message = (
            f"PlacementPolicy default {_FIELD}: 1 is not kept: the loss of one node could leave {ref.name} short of "
            f"replicas; {_remedy(fleet, decision, number)}"
        )
        found[deployment.reference] = (Finding(ref, REASON, message, Severity.WARNING, _FIELD),)
    return found


def _remedy(fleet: Fleet, decision: Decision, number: int) -> str:
    """What would make room for the deployment's spare replicas beside all others."""
    alone = np.arange(len(fleet.deployments)) == number
    part = _of_one(subset(fleet.problem, decision.allocation, alone).problem, number)
    own = fleet.candidates[fleet.options_of(number)]
    spare = np.array([spare_replicas(candidate.option, candidate.pool) for candidate in own], dtype=np.int64)
    wanted = without_limits(replace(part, option_spare=spare), budget=True, storage=True, groups=True)
    if _served(wanted):
        return "there are nodes for what it needs, but it is more than budget, storage or a limit of its group allow"
    most = fleet.deployments[number].spec.placement.replicas.max
    if most is not None and _served(without_limits(wanted, budget=True, replicas=True)):
        return f"there are nodes for spare replicas, but spec.placement.replicas.max is {most}"
    pools = {candidate.pool.name: candidate for candidate in own}
    for name in sorted(pools):
        pool = int(part.option_pool[own.index(pools[name])])
        if part.pool_unlimited[pool]:
            continue
        gpus = pools[name].pool.gpus_per_node
        larger, added = wanted, 0
        while added < _MOST_NODES:
            larger, added = with_node(larger, pool, np.array([gpus, UNBOUNDED, UNBOUNDED])), added + 1
            if _served(larger):
                nodes = f"node with {gpus} free GPUs" if added == 1 else f"nodes with {gpus} free GPUs each"
                return f"{added} more {nodes} in GPUNodePool {name} would do"
    return "its pools lack nodes that it could spread over"


def _of_one(part: AllocationProblem, number: int) -> AllocationProblem:
    """The part of one deployment as a problem of nobody else."""
    return replace(
        part,
        class_deployment=np.zeros_like(part.class_deployment),
        option_deployment=np.zeros_like(part.option_deployment),
        deployment_min_replicas=part.deployment_min_replicas[number : number + 1],
        deployment_max_replicas=part.deployment_max_replicas[number : number + 1],
    )


def _served(problem: AllocationProblem) -> bool:
    return not short_deployments(problem, solve_greedy(problem)).any()
