"""The planner on the fleet: the greedy solver alone, whole planning rounds, and `plimsoll plan` as a process."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar
from unittest import mock

from benchmarks import fleet
from benchmarks.progress import say
from benchmarks.results import Figure
from benchmarks.running import everything_running
from plimsoll.allocation import AllocationProblem, solve_greedy
from plimsoll.planning import Evaluator, plan_fleet
from plimsoll.planning.decide import decide
from plimsoll.planning.plan import DeploymentState, FleetPlan
from plimsoll.planning.snapshot import Snapshot

ROOT = Path(__file__).parents[1]
RUNS = 5
T = TypeVar("T")


def run() -> tuple[list[Figure], list[str]]:
    """Figures, and what they mean."""
    say("plimsoll plan -f examples/fleet")
    command = _times(RUNS, _plan_as_process)
    say("building the fleet")
    manifests = fleet.deployments()
    snapshot = fleet.snapshot(manifests)
    evaluator = Evaluator()
    say("first plan")
    first, (plan, problem) = _timed(lambda: _plan(snapshot, evaluator))
    say("greedy solver alone")
    solver = _times(RUNS, lambda: solve_greedy(problem))
    say("the same fleet again, everything running")
    settled = everything_running(snapshot, plan)
    rest, again = _timed(lambda: plan_fleet(settled, evaluator))
    say("one edit")
    changed = _edited(settled, plan)
    edit, _ = _timed(lambda: plan_fleet(changed, evaluator))
    figures = [
        Figure("GH alone, first plan's problem, median of 5", statistics.median(solver), "s", 1.0),
        Figure("GH alone, first plan's problem, least of 5", min(solver), "s"),
        Figure("first planning round, nothing remembered", first, "s"),
        Figure("planning round with everything running, no change", rest, "s"),
        Figure("planning round after one edit, everything running", edit, "s"),
        Figure(
            "`plimsoll plan -f examples/fleet/` with Python's start, median of 5", statistics.median(command), "s", 2.0
        ),
        Figure("`plimsoll plan -f examples/fleet/` with Python's start, least of 5", min(command), "s"),
        Figure("traffic classes", problem.classes, ""),
        Figure("options", problem.options, ""),
        Figure("pairs of class and option", problem.pairs, ""),
        Figure("placements", sum(len(item.placements) for item in plan.deployments), ""),
        Figure("GPUs in use", sum(item.gpus for item in plan.deployments), ""),
        Figure("cost per hour", plan.cost_per_hour, "$"),
        Figure("unserved traffic", 100 * _unserved(plan), "%"),
        Figure("LLMDeployments short of capacity", _short(plan), ""),
        Figure("replicas that a round at rest would change", _moved(plan, again), "", 0),
    ]
    size = (
        f"{len(snapshot.deployments)} LLMDeployments, {len(snapshot.pools)} GPUNodePools, {len(snapshot.slos)} "
        f"InferenceSLOs, {len(snapshot.nodes or ())} nodes (benchmarks/fleet.py)."
    )
    meaning = (
        "A planning round is a call of `plan_fleet`; rounds after the first remember how fast the options are. "
        "A process counts from its start to its end, Python's start-up included."
    )
    return figures, [size, meaning]


def _plan(snapshot: Snapshot, evaluator: Evaluator) -> tuple[FleetPlan, AllocationProblem]:
    """The plan, and the allocation problem that it solved."""
    with mock.patch("plimsoll.planning.planner.decide", wraps=decide) as spy:
        plan = plan_fleet(snapshot, evaluator)
    problem: AllocationProblem = spy.call_args.args[0]
    return plan, problem


def _edited(snapshot: Snapshot, plan: FleetPlan) -> Snapshot:
    """The traffic of the largest LLMDeployment doubled."""
    chosen = max(plan.deployments, key=lambda item: (sum(part.replicas for part in item.placements), item.ref))
    manifests = fleet.deployments()
    changed = fleet.snapshot(
        fleet.doubled(item) if item["metadata"]["name"] == chosen.ref.name else item for item in manifests
    )
    return replace(snapshot, deployments=changed.deployments)


def _plan_as_process() -> None:
    command = [sys.executable, "-m", "plimsoll.cli.main", "plan", "-f", "examples/fleet/"]
    subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)


def _unserved(plan: FleetPlan) -> float:
    """Share of all requests."""
    classes = [item for deployment in plan.deployments for item in deployment.classes]
    return sum(item.requests_per_minute * item.unserved for item in classes) / sum(
        item.requests_per_minute for item in classes
    )


def _short(plan: FleetPlan) -> int:
    return sum(item.state is not DeploymentState.PLANNED for item in plan.deployments)


def _moved(before: FleetPlan, after: FleetPlan) -> int:
    """Replicas started or stopped between two plans."""
    counts = [
        {(str(item.ref), part.name): part.replicas for item in plan.deployments for part in item.placements}
        for plan in (before, after)
    ]
    return sum(abs(counts[0].get(key, 0) - counts[1].get(key, 0)) for key in {*counts[0], *counts[1]})


def _times(runs: int, work: Callable[[], object]) -> list[float]:
    return [_timed(work)[0] for _ in range(runs)]


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result
