"""Replicas that do not start: which are late, how long their placement is left alone, and what that means for a plan.

A change is rolled back by deciding without what failed: the placement may keep what is Ready of it, and no more. After
three of them for the same spec nothing new is tried at all, since the fault is then hardly theirs.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from plimsoll.planning.fleet import Fleet
from plimsoll.planning.lost import going
from plimsoll.planning.plan import DeploymentPlan, Finding, Severity
from plimsoll.planning.snapshot import NodeFacts, ObjectRef, PodFacts, StartFailure, Workload

REASON = "StartFailed"
TRIES = 3
"""Placements that may fail for one spec before nothing new is tried."""
FIRST_WAIT = 4.0
"""A placement is left alone for so many times its timeout, and twice as long after each further failure."""
LONGEST_WAIT_SECONDS = 6 * 3600.0


@dataclass(frozen=True, slots=True)
class Late:
    """A placement with replicas that should have been Ready by now."""

    placement: str
    ready: int
    timeout_seconds: float


@dataclass(frozen=True, slots=True)
class Starting:
    """What starts of one LLMDeployment."""

    late: tuple[Late, ...]
    next_seconds: float | None
    """After how many seconds something else will be late; None when nothing will."""


def starting(
    plan: DeploymentPlan,
    workloads: Sequence[Workload],
    pods: Iterable[PodFacts],
    nodes: Mapping[str, NodeFacts],
    timeouts: Mapping[str, float],
    now: float,
) -> Starting:
    """Which placements of the plan are late. None is where nothing else serves: there is nothing to go back to.

    Args:
        pods: of this deployment.
        timeouts: seconds that a pod of each planned placement may take.
        now: seconds since 1970.
    """
    ready = {item.name: item.ready_replicas for item in workloads}
    if not any(ready.values()):
        return Starting((), None)
    late: dict[str, Late] = {}
    soon: list[float] = []
    for pod in pods:
        node = nodes.get(pod.node)
        if not pod.starting_since or pod.placement not in timeouts or pod.placement not in ready:
            continue
        if node is None or going(node):
            continue  # the node's fault, and dealt with as such
        left = pod.starting_since + timeouts[pod.placement] - now
        if left > 0:
            soon.append(left)
        else:
            late[pod.placement] = Late(pod.placement, ready[pod.placement], timeouts[pod.placement])
    planned = {item.name for item in plan.placements}
    found = tuple(item for name, item in sorted(late.items()) if name in planned)
    return Starting(found, min(soon, default=None))


def wait_seconds(timeout_seconds: float, attempts: int) -> float:
    """How long a placement is left alone after so many failures."""
    return min(LONGEST_WAIT_SECONDS, FIRST_WAIT * timeout_seconds * 2.0 ** (attempts - 1))


def without_failed(fleet: Fleet, failures: Sequence[StartFailure]) -> Fleet:
    """The fleet's problem where what failed to start has no more replicas than were Ready."""
    if not failures:
        return fleet
    problem = fleet.problem
    most, running = problem.option_max_replicas.copy(), problem.running_replicas()
    for number, deployment in enumerate(fleet.deployments):
        mine = [
            item for item in failures if (item.namespace, item.deployment) == (deployment.namespace, deployment.name)
        ]
        if not mine:
            continue
        ready = {item.placement: item.ready for item in mine}
        own = fleet.options_of(number)
        if sum(item.counts for item in mine) >= TRIES:
            most[own] = np.minimum(most[own], running[own])
        for option in range(own.start, own.stop):
            name = fleet.candidates[option].name
            if name in ready:
                most[option] = min(int(most[option]), ready[name])
    return replace(fleet, problem=replace(problem, option_max_replicas=most))


def findings(failures: Iterable[StartFailure], short: Mapping[ObjectRef, bool]) -> dict[str, tuple[Finding, ...]]:
    """What people should know, by namespace/name; errors for those that are short."""
    found: dict[str, list[Finding]] = {}
    for item in failures:
        ref = ObjectRef("LLMDeployment", item.namespace, item.deployment)
        severity = Severity.ERROR if short.get(ref, False) else Severity.WARNING
        found.setdefault(f"{item.namespace}/{item.deployment}", []).append(Finding(ref, REASON, item.text, severity))
    return {name: tuple(items) for name, items in found.items()}
