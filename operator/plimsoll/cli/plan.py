"""`plimsoll plan`: files in, decision out."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import yaml

from plimsoll.allocation.milp import SolverError
from plimsoll.cli.chained import chained_document, print_chained
from plimsoll.cli.manifests import FileError, Inputs, read_inputs
from plimsoll.cli.table import print_plan, wide_console
from plimsoll.cli.text import plan_document
from plimsoll.planning import Evaluator, PlanRejectedError, step_for
from plimsoll.planning.chained_fleet import ChainedFleet
from plimsoll.planning.plan import DeploymentPlan, DeploymentState, Finding, FleetPlan, Placement, Severity
from plimsoll.planning.planner import decide_whole, whole_plan
from plimsoll.planning.snapshot import Workload
from plimsoll.rendering.labels import option_annotations, option_from_annotations
from plimsoll.rendering.render import render_deployment
from plimsoll.rendering.verify import verify


def run_plan(paths: Sequence[Path], output: str) -> int:
    """Print the decision as `table`, `yaml`, `json` or `render`; returns the exit status."""
    inputs = read_inputs(paths)
    if not inputs.resources and not inputs.invalid:
        raise FileError(f"{', '.join(map(str, paths))}: no object of plimsoll.dev in there")
    try:
        whole = decide_whole(inputs.snapshot(), Evaluator(), time.monotonic)
        chained, fleet = whole.chained, whole_plan(whole, inputs.snapshot())
    except PlanRejectedError as error:
        raise click.ClickException(f"the plan broke a limit and was rejected (please report this): {error}") from error
    except SolverError as error:
        raise click.ClickException(f"the solver broke down (please report this): {error}") from error
    print_problems(inputs, fleet, chained)
    document = plan_document(fleet)
    if chained.plans:
        document["chained"] = [chained_document(plan) for plan in chained.plans]
    if output == "table":
        for plan in chained.plans:
            print_chained(wide_console(), chained_document(plan))
        print_plan(fleet, [plan.ref for plan in chained.plans])
    elif output == "render":
        click.echo(yaml.safe_dump_all(_manifests(inputs, fleet), sort_keys=False), nl=False)
    elif output == "json":
        import json

        click.echo(json.dumps(document, indent=2))
    else:
        click.echo(yaml.safe_dump(document, sort_keys=False), nl=False)
    return exit_status(inputs, fleet, chained)


def exit_status(inputs: Inputs, fleet: FleetPlan, chained: ChainedFleet | None = None) -> int:
    """1 when an input is wrong or some demand cannot be served."""
    failed = inputs.invalid or any(finding.severity is Severity.ERROR for finding in _findings(fleet, chained))
    return 1 if failed else 0


def _findings(fleet: FleetPlan, chained: ChainedFleet | None) -> list[Finding]:
    """Without duplicates: pools are looked at for chains and for replicas."""
    own = () if chained is None else (*chained.failed, *(item for plan in chained.plans for item in plan.findings))
    return sorted({*fleet.all_findings(), *own})


def print_problems(inputs: Inputs, fleet: FleetPlan, chained: ChainedFleet | None = None) -> None:
    """Findings go to standard error, so that the output stays machine-readable; each names file, object and field."""
    for finding in _findings(fleet, chained):
        source = inputs.sources.get(finding.object)
        place = f"{source}: " if source is not None else ""
        word = click.style(finding.severity.value, fg="red" if finding.severity is Severity.ERROR else "yellow")
        click.echo(f"{word}: {place}{finding.object}: {finding.message} [{finding.reason}]", err=True)
    for pool in fleet.pools:
        if pool.unlimited:
            click.echo(
                f"{click.style('warning', fg='yellow')}: GPUNodePool {pool.name}: the stock is not known: "
                "taken as unlimited; give --nodes, Node manifests, or spec.nodes.max with spec.gpusPerNode",
                err=True,
            )


def _all_ready(plan: DeploymentPlan, placement: Placement, running: Mapping[tuple[str, str], int]) -> Workload:
    """The placement as it will run. Where demand stays unserved, nothing that runs is taken away."""
    least = running.get((plan.ref.namespace, placement.name), 0) if plan.state is DeploymentState.SHORT else 0
    replicas = max(placement.replicas, least)
    said = option_from_annotations(option_annotations(placement.option))
    return Workload(plan.ref.namespace, placement.name, "", plan.ref.name, replicas, replicas, said)


def _manifests(inputs: Inputs, fleet: FleetPlan) -> list[dict[str, Any]]:
    """All objects of the plan, as if everything were already Ready."""
    running = {(item.namespace, item.name): item.replicas for item in inputs.workloads}
    manifests: list[dict[str, Any]] = []
    for deployment in fleet.deployments:
        step = step_for(
            deployment, [_all_ready(deployment, item, running) for item in deployment.placements], None, 0.0
        )
        rendered = render_deployment(fleet, deployment, step, "", gateway_api=True)
        verify(deployment, step, rendered)
        manifests.extend(rendered)
    return manifests
