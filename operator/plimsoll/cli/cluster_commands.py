"""The commands that ask a cluster: `kubectl plimsoll …`. Flags are those of kubectl."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    from plimsoll.cli.cluster import Target

Command = TypeVar("Command", bound=Callable[..., None])


def cluster_options(command: Command) -> Command:
    """Which cluster: kubectl's own flags. Without them the cluster that kubectl would ask."""
    for option in (
        click.option("--context", metavar="NAME", help="Context of the kubeconfig. Default: the current one."),
        click.option(
            "--kubeconfig",
            type=click.Path(path_type=Path, exists=True, dir_okay=False),
            help="Default: $KUBECONFIG, else ~/.kube/config.",
        ),
    ):
        command = option(command)
    return command


def namespace_option(text: str) -> Callable[[Command], Command]:
    """`-n`, with what it means for the command."""
    return click.option("-n", "--namespace", metavar="NAME", help=text)


def target_of(kubeconfig: Path | None, context: str | None, namespace: str | None = None) -> "Target":
    """The flags as a value."""
    from plimsoll.cli.cluster import Target

    return Target(kubeconfig, context, namespace)


_output = click.option(
    "-o", "--output", type=click.Choice(["table", "yaml", "json"]), default="table", show_default=True
)
_yes = click.option("-y", "--yes", is_flag=True, help="Do not ask.")


@click.command()
@click.argument("plan")
@_yes
@cluster_options
def approve(plan: str, yes: bool, kubeconfig: Path | None, context: str | None) -> None:
    """Approve the PlacementPlan PLAN: shows what it changes, asks, and lets the operator carry it out.

    Approved is what is shown: the operator refuses the plan when the cluster has changed so far that it would decide
    otherwise now, or when what was recorded of it was edited. Needs the rights to list and patch placementplans, and to
    get ConfigMaps in the operator's namespace.
    """
    from plimsoll.cli.cluster_plans import run_decide

    raise SystemExit(run_decide(target_of(kubeconfig, context), plan, "Approved", yes=yes))


@click.command()
@click.argument("plan")
@_yes
@cluster_options
def reject(plan: str, yes: bool, kubeconfig: Path | None, context: str | None) -> None:
    """Reject the PlacementPlan PLAN: what runs stays, and the same is not proposed again.

    A rejected plan may still be approved as long as it is what would be decided.
    """
    from plimsoll.cli.cluster_plans import run_decide

    raise SystemExit(run_decide(target_of(kubeconfig, context), plan, "Rejected", yes=yes))


@click.command()
@_output
@cluster_options
def history(output: str, kubeconfig: Path | None, context: str | None) -> None:
    """List the plans that the cluster keeps, the newest first."""
    from plimsoll.cli.cluster_plans import run_history

    raise SystemExit(run_history(target_of(kubeconfig, context), output))


@click.command()
@namespace_option("Only this namespace's LLMDeployments. Default: all.")
@_output
@cluster_options
def status(namespace: str | None, output: str, kubeconfig: Path | None, context: str | None) -> None:
    """Show the fleet: every LLMDeployment, every pool, and what waits for a person."""
    from plimsoll.cli.cluster_fleet import run_status

    raise SystemExit(run_status(target_of(kubeconfig, context, namespace), output))


def _pausing(command: Command) -> Command:
    for option in (
        click.argument("deployment", metavar="[NAMESPACE/]LLMDEPLOYMENT", default=""),
        click.option("--all", "everything", is_flag=True, help="The whole fleet, by the PlacementPolicy."),
        namespace_option("Of the LLMDeployment. Default: the context's."),
        cluster_options,
    ):
        command = option(command)
    return command


@click.command()
@_pausing
def pause(
    deployment: str, everything: bool, namespace: str | None, kubeconfig: Path | None, context: str | None
) -> None:
    """Stop the operator's hands: nothing of the LLMDeployment (or, with --all, of the fleet) is changed until resumed.

    Sets the annotation plimsoll.dev/paused. What runs goes on; statuses are still written.
    """
    from plimsoll.cli.cluster_fleet import run_pause

    target = target_of(kubeconfig, context, namespace)
    raise SystemExit(run_pause(target, deployment, paused=True, everything=everything))


@click.command()
@_pausing
def resume(
    deployment: str, everything: bool, namespace: str | None, kubeconfig: Path | None, context: str | None
) -> None:
    """Take a pause away."""
    from plimsoll.cli.cluster_fleet import run_pause

    target = target_of(kubeconfig, context, namespace)
    raise SystemExit(run_pause(target, deployment, paused=False, everything=everything))


COMMANDS = (approve, reject, history, status, pause, resume)
