"""`plimsoll`: the commands. Each imports what it needs when it runs, so that `plimsoll plan` starts fast."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from plimsoll import __version__

Command = TypeVar("Command", bound=Callable[..., None])
_HELP = {"help_option_names": ["-h", "--help"]}


@click.group(context_settings=_HELP)
@click.version_option(__version__, message="plimsoll %(version)s")
def main() -> None:
    """Places large language models on heterogeneous GPU nodes at the lowest cost that their SLOs allow."""


def _inputs(command: Command) -> Command:
    """The options that say which files describe the cluster."""
    for option in (
        click.option(
            "--running",
            type=click.Path(path_type=Path),
            help="What runs now: the output of `kubectl get deployments -A -o yaml`. Default: nothing.",
        ),
        click.option(
            "--nodes",
            type=click.Path(path_type=Path),
            help="Stock: the output of `kubectl get nodes,pods -A -o yaml`. Default: Node manifests among the files, "
            "else what the pools declare (nodes.max × gpusPerNode), else unlimited.",
        ),
        click.option(
            "-f",
            "--filename",
            "paths",
            type=click.Path(path_type=Path),
            multiple=True,
            required=True,
            help="File or folder of manifests; may be given several times.",
        ),
    ):
        command = option(command)
    return command


def _files(paths: tuple[Path, ...], nodes: Path | None, running: Path | None) -> tuple[Path, ...]:
    return (*paths, *(path for path in (nodes, running) if path is not None))


_output = click.option(
    "-o", "--output", type=click.Choice(["table", "yaml", "json"]), default="table", show_default=True
)


@main.command()
@_inputs
@_output
@click.option("--render", is_flag=True, help="Print the Kubernetes objects that the operator would apply, as YAML.")
def plan(paths: tuple[Path, ...], nodes: Path | None, running: Path | None, output: str, render: bool) -> None:
    """Decide without a cluster, exactly as the operator would.

    Exit status: 0 when everything is planned, 1 when an input is wrong or some demand cannot be served.
    """
    from plimsoll.cli.plan import run_plan

    raise SystemExit(run_plan(_files(paths, nodes, running), "render" if render else output))


@main.command()
@_inputs
@click.option(
    "--deployment", "deployments", metavar="NAMESPACE/NAME", multiple=True, help="Only this LLMDeployment; repeatable."
)
@_output
def explain(
    paths: tuple[Path, ...], nodes: Path | None, running: Path | None, deployments: tuple[str, ...], output: str
) -> None:
    """Tell why the plan is as it is: what else could serve each traffic class, and what one more of a limit is worth.

    A limit's worth is found by searching again with a little more of it.
    """
    from plimsoll.cli.explain import run_explain

    raise SystemExit(run_explain(_files(paths, nodes, running), deployments, output))


@main.command()
def crds() -> None:
    """Print the CustomResourceDefinitions, for `kubectl apply --server-side -f -`."""
    import yaml

    from plimsoll.api.crd import custom_resource_definitions

    click.echo(yaml.safe_dump_all(custom_resource_definitions(), sort_keys=False), nl=False)


@main.command()
def run() -> None:
    """Run the operator. Settings come from the environment (PLIMSOLL_*); see the chart's values."""
    from plimsoll.controller.run import main as run_operator
    from plimsoll.controller.settings import Settings, SettingsError

    try:
        settings = Settings.from_env()
    except SettingsError as error:
        raise click.ClickException(str(error)) from error
    raise SystemExit(run_operator(settings))


if __name__ == "__main__":
    main()
