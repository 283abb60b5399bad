"""The steps of a transition as a list that people can follow: what is done of it, and what is waited for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from plimsoll.planning.plan import DeploymentPlan
from plimsoll.planning.snapshot import Workload
from plimsoll.planning.transition import Step, backends_of


@dataclass(frozen=True, slots=True)
class Task:
    """One step for one placement or one routing document."""

    text: str
    done: bool


def tasks(plan: DeploymentPlan, before: Mapping[str, int], workloads: Sequence[Workload], step: Step) -> list[Task]:
    """All steps that bring one LLMDeployment from what ran before to its plan, in order.

    Args:
        before: replicas by placement when the plan was made.
        workloads: what runs of it now.
        step: what is safe now.
    """
    running = {item.name: item for item in workloads}
    after = {item.name: item.replicas for item in plan.placements}
    come = {name: count for name, count in sorted(after.items()) if count > before.get(name, 0)}
    go = {name: after.get(name, 0) for name, count in sorted(before.items()) if count > after.get(name, 0)}
    if not come and not go:
        return []
    moved = step.complete and backends_of(step.routing) <= after.keys()
    found = [
        Task(f"start {name} with {count} replicas", name in running and running[name].replicas >= count)
        for name, count in come.items()
    ]
    found += [
        Task(f"wait until {count} replicas of {name} are Ready", name in running and _ready(running[name], count))
        for name, count in come.items()
    ]
    found.append(Task("move requests to the planned shares", moved))
    for name, count in go.items():
        gone = name not in running or running[name].replicas <= count
        text = f"remove {name}" if count == 0 else f"leave {count} replicas of {name}"
        found.append(
            Task(f"wait until no router sends requests to {_what(name, count)}", gone or (step.settled and moved))
        )
        found.append(Task(text, gone))
    return found


def _ready(workload: Workload, count: int) -> bool:
    return workload.ready_replicas >= count


def _what(name: str, count: int) -> str:
    return name if count == 0 else f"what goes of {name}"
