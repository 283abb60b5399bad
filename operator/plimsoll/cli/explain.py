"""`plimsoll explain`: files in, reasons out."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import yaml
from rich.console import Console

from plimsoll.allocation.milp import SolverError
from plimsoll.cli.chained import chained_document, print_chained
from plimsoll.cli.manifests import FileError, read_inputs
from plimsoll.cli.plan import exit_status, print_problems
from plimsoll.cli.table import new_table, totals, wide_console
from plimsoll.cli.text import money, share
from plimsoll.planning import Evaluator, PlanRejectedError
from plimsoll.planning.chained import ChainedPlan
from plimsoll.planning.explain import (
    ClassExplanation,
    DeploymentExplanation,
    LimitExplanation,
    explain_classes,
    explain_limits,
)
from plimsoll.planning.planner import decide_fleet, decide_whole, whole_plan
from plimsoll.planning.snapshot import ObjectRef, Snapshot

_REJECTED = 5
_MEANING = "Dearer and cheaper are meant in whole replicas: the class moves there wholly, everything else stays."


def run_explain(paths: Sequence[Path], deployments: Sequence[str], output: str) -> int:
    """Print why the plan is as it is, as `table`, `yaml` or `json`; returns the exit status."""
    inputs = read_inputs(paths)
    if not inputs.resources and not inputs.invalid:
        raise FileError(f"{', '.join(map(str, paths))}: no object of plimsoll.dev in there")
    snapshot = inputs.snapshot()
    chosen = _chosen(snapshot, deployments) if deployments else None
    try:
        whole = decide_whole(snapshot, Evaluator(), time.monotonic)
    except PlanRejectedError as error:
        raise click.ClickException(f"the plan broke a limit and was rejected (please report this): {error}") from error
    except SolverError as error:
        raise click.ClickException(f"the solver broke down (please report this): {error}") from error
    chained, turn, fleet = whole.chained, whole.round, whole_plan(whole, snapshot)
    chains = [plan for plan in chained.plans if chosen is None or plan.ref in chosen]
    print_problems(inputs, fleet)
    # What binds is asked of the plan that the search comes to when nobody hurries it.
    unhurried = decide_fleet(chained.rest, Evaluator()) if turn.decision.solution.interrupted else turn
    others = None if chosen is None else [ref for ref in chosen if all(ref != plan.ref for plan in chained.deployments)]
    classes = explain_classes(turn, others, _REJECTED)
    limits = explain_limits(unhurried, others)
    if output == "table":
        console = wide_console()
        for plan in chains:
            print_chained(console, chained_document(plan))
            _print_rejected(console, plan)
        if classes:
            console.print(f"{_MEANING}\n", style="dim")
        for item in classes:
            print_deployment(console, item)
        for line in totals(fleet):
            console.print(line, soft_wrap=True)
        for limit in limits:
            console.print(f"  {limit}", soft_wrap=True)
    else:
        document = explanation_document(classes, limits)
        if chains:
            document["chained"] = [_chained_document(plan) for plan in chains]
        if output == "json":
            import json

            click.echo(json.dumps(document, indent=2))
        else:
            click.echo(yaml.safe_dump(document, sort_keys=False), nl=False)
    return exit_status(inputs, fleet)


def _chained_document(plan: ChainedPlan) -> dict[str, Any]:
    rejected = [{"option": one.option, "reason": one.reason} for one in plan.rejected]
    return {**chained_document(plan), "rejected": rejected}


def _print_rejected(console: Console, plan: ChainedPlan) -> None:
    """What chains could also be made of."""
    table = new_table("", "option", "why")
    for one in plan.rejected:
        table.add_row("not taken", one.option, one.reason)
    if plan.rejected:
        console.print(table)
    console.print()


def _chosen(snapshot: Snapshot, names: Sequence[str]) -> list[ObjectRef]:
    known = {f"{item.namespace}/{item.name}": item for item in snapshot.deployments}
    for name in names:
        if name not in known:
            raise FileError(f"no LLMDeployment {name} in the files; there are: {', '.join(known) or 'none'}")
    return [ObjectRef("LLMDeployment", known[name].namespace, known[name].name) for name in names]


def explanation_document(
    classes: Sequence[DeploymentExplanation], limits: Sequence[LimitExplanation]
) -> dict[str, Any]:
    """The explanation as plain data; money as strings."""
    return {
        "apiVersion": "plimsoll.dev/explanation/v1",
        "deployments": [
            {
                "namespace": item.ref.namespace,
                "name": item.ref.name,
                "traffic": [_class_document(part) for part in item.classes],
            }
            for item in classes
        ],
        "limits": [
            {
                "limit": item.limit,
                "step": item.step,
                "savesPerHour": money(item.worth.saving_per_hour),
                "servesMoreRequestsPerMinute": round(item.worth.served_requests_per_hour / 60, 3),
            }
            for item in limits
        ],
    }


def _class_document(item: ClassExplanation) -> dict[str, Any]:
    return {
        "name": item.name,
        "unserved": f"{item.unserved:.3f}",
        "chosen": [
            {
                "option": one.option,
                "placement": one.placement,
                "share": f"{one.share:.3f}",
                "replicas": one.replicas,
                "costPerHour": money(one.price_per_hour),
            }
            for one in item.chosen
        ],
        "rejected": [{"option": one.option, "reason": one.reason} for one in (*item.eligible, *item.excluded)],
    }


def print_deployment(console: Console, item: DeploymentExplanation) -> None:
    """Per class what serves it, and what does not and why."""
    console.print(f"[bold]{item.ref.namespace}/{item.ref.name}[/bold]")
    if not item.classes:
        console.print("  nothing is decided about it: see what `plimsoll plan` reports")
    for part in item.classes:
        unserved = f", {share(part.unserved)} unserved" if part.unserved > 0 else ""
        console.print(f"class {part.name}{unserved}")
        table = new_table("", "option", "why")
        for one in part.chosen:
            what = f"{one.replicas} × at {money(one.price_per_hour)} per hour"
            table.add_row("chosen", one.option, f"serves {share(one.share)}: {what}")
        for word, others in (("not taken", part.eligible), ("impossible", part.excluded)):
            for other in others:
                table.add_row(word, other.option, other.reason)
        console.print(table)
    console.print()
