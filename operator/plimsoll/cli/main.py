"""`plimsoll`: the commands. Each imports what it needs when it runs, so that `plimsoll plan` starts fast."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import click

from plimsoll import __version__
from plimsoll.cli.calibrate_options import calibrate
from plimsoll.cli.cluster_commands import COMMANDS, cluster_options, namespace_option, target_of

Command = TypeVar("Command", bound=Callable[..., None])
_HELP = {"help_option_names": ["-h", "--help"]}
_ELSE_CLUSTER = " Default: no file, but the plan that the cluster keeps."


@click.group(context_settings=_HELP)
@click.version_option(__version__, message="plimsoll %(version)s")
def main() -> None:
    """Places large language models on heterogeneous GPU nodes at the lowest cost that their SLOs allow."""


main.add_command(calibrate)
for cluster_command in COMMANDS:
    main.add_command(cluster_command)


def _inputs(command: Command) -> Command:
    """The options that say which files describe the cluster."""
    return _described(command, required=True)


def _inputs_or_cluster(command: Command) -> Command:
    """The same; without -f a cluster is asked."""
    return _described(cluster_options(command), required=False)


def _described(command: Command, *, required: bool) -> Command:
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
            required=required,
            help=f"File or folder of manifests; may be given several times.{'' if required else _ELSE_CLUSTER}",
        ),
    ):
        command = option(command)
    return command


def _files(paths: tuple[Path, ...], nodes: Path | None, running: Path | None) -> tuple[Path, ...]:
    return (*paths, *(path for path in (nodes, running) if path is not None))


def _only_with_files(**given: object) -> None:
    wrong = [f"--{name}" for name, value in given.items() if value]
    if wrong:
        raise click.UsageError(f"{', '.join(wrong)} belong to files, which -f names")


_output = click.option(
    "-o", "--output", type=click.Choice(["table", "yaml", "json"]), default="table", show_default=True
)


class _PlanCommand(click.Command):
    """With `--diff`, 2 says that there are changes, so a wrong use of the command must not."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        difference = any(argument.split("=")[0] == "--diff" for argument in args)
        with _usage_errors_as_failures(ctx, wanted=difference):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> None:
        with _usage_errors_as_failures(ctx, wanted=ctx.params.get("base") is not None):
            super().invoke(ctx)


class _WrongUse(click.UsageError):
    exit_code = 1


@contextmanager
def _usage_errors_as_failures(ctx: click.Context, *, wanted: bool) -> Iterator[None]:
    try:
        yield
    except click.UsageError as error:
        if not wanted:
            raise
        raise _WrongUse(error.format_message(), ctx) from error


@main.command(cls=_PlanCommand)
@click.argument("name", metavar="[PLAN]", default="")
@_inputs_or_cluster
@click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "wide", "yaml", "json"]),
    default="table",
    show_default=True,
    help="wide: of a cluster's plan all, not only what it changes.",
)
@click.option("--render", is_flag=True, help="Print the Kubernetes objects that the operator would apply, as YAML.")
@click.option(
    "--diff",
    "base",
    metavar="BASE",
    type=click.Path(path_type=Path),
    help="With -f: compare with the plan of this file or folder, and print what changes as Markdown.",
)
def plan(
    name: str,
    paths: tuple[Path, ...],
    nodes: Path | None,
    running: Path | None,
    output: str,
    render: bool,
    base: Path | None,
    kubeconfig: Path | None,
    context: str | None,
) -> None:
    """Decide from files exactly as the operator would, or show what the operator has decided in a cluster.

    With -f: no cluster is asked. Exit status: 0 when everything is planned, 1 when an input is wrong or some demand
    cannot be served; with --diff 0 when the plan does not change, 2 when it changes, 1 as before or when the command is
    used wrongly. Without -f: the PlacementPlan of that name, or the newest, and what it changes.
    """
    if not paths:
        from plimsoll.cli.cluster_plans import run_cluster_plan

        _only_with_files(nodes=nodes, running=running, render=render, diff=base)
        raise SystemExit(run_cluster_plan(target_of(kubeconfig, context), name, output))
    if name or kubeconfig or context:
        raise click.UsageError("-f decides from files: PLAN, --kubeconfig and --context have no place beside it")

    from plimsoll.cli.plan import run_plan

    if base is not None:
        from plimsoll.cli.plan_diff import run_plan_diff

        if render or output != "table":
            raise click.ClickException("--diff prints Markdown: leave out --render and --output")
        raise SystemExit(run_plan_diff(base, paths, _files((), nodes, running)))
    raise SystemExit(run_plan(_files(paths, nodes, running), "render" if render else output))


@main.command()
@click.argument("name", metavar="[[NAMESPACE/]LLMDEPLOYMENT]", default="")
@_inputs_or_cluster
@click.option(
    "--deployment",
    "deployments",
    metavar="NAMESPACE/NAME",
    multiple=True,
    help="With -f: only this LLMDeployment; repeatable.",
)
@click.option("--plan", "plan_name", metavar="PLAN", help="Without -f: the PlacementPlan. Default: the newest.")
@namespace_option("Without -f: of the LLMDeployment. Default: the context's.")
@_output
def explain(
    name: str,
    paths: tuple[Path, ...],
    nodes: Path | None,
    running: Path | None,
    deployments: tuple[str, ...],
    plan_name: str | None,
    namespace: str | None,
    output: str,
    kubeconfig: Path | None,
    context: str | None,
) -> None:
    """Tell why the plan is as it is: what else could serve each traffic class, and why it does not.

    With -f also what one more of a limit is worth, which is found by searching again with a little more of it. Without
    -f: of one LLMDeployment, as the operator kept it with the PlacementPlan.
    """
    if not paths:
        from plimsoll.cli.cluster_fleet import run_cluster_explain

        _only_with_files(nodes=nodes, running=running, deployment=deployments)
        if not name:
            raise click.UsageError("name an LLMDeployment of the cluster, or give files with -f")
        target = target_of(kubeconfig, context, namespace)
        raise SystemExit(run_cluster_explain(target, name, plan_name or "", output))
    if name or kubeconfig or context or plan_name or namespace:
        raise click.UsageError("-f decides from files: choose LLMDeployments with --deployment, and name no cluster")

    from plimsoll.cli.explain import run_explain

    raise SystemExit(run_explain(_files(paths, nodes, running), deployments, output))


def _traffic(command: Command) -> Command:
    """The options that say which requests are simulated."""
    for option in (
        click.option(
            "--report",
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="FILE.html",
            help="Write a report with plots, one self-contained file, and its figures beside it as FILE.json.",
        ),
        click.option(
            "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Equal seeds, equal runs."
        ),
        click.option(
            "--rate-scale",
            default="1",
            show_default=True,
            metavar="FACTOR|declared",
            help="Multiplies all rates; `declared`: a trace gets the mean rate that its classes declare.",
        ),
        click.option(
            "--duration",
            metavar="TIME",
            help="Simulated time, such as 90s, 30m, 2h, 1d. Default: the traces' length, at most 1d; else 1h.",
        ),
        click.option(
            "--arrivals",
            default="declared",
            show_default=True,
            metavar="declared|poisson|gamma:CV|diurnal[:PEAK]|ramp:FROM-TO",
            help="Of classes that no trace reaches, at the declared rates and token lengths, and with the declared "
            "burstiness unless poisson or gamma:CV says otherwise (within ServeGen's windows, too). diurnal:1.6 has a "
            "peak of 1.6 times the mean, ramp:0.5-2 goes from half to twice the declared rate.",
        ),
        click.option(
            "--trace-format",
            type=click.Choice(["azure", "burstgpt", "mooncake", "servegen"]),
            help="Of all traces. Default: told from the first line of each.",
        ),
        click.option(
            "--trace",
            "traces",
            multiple=True,
            metavar="FILE[#CATEGORY/MODEL][:NAMESPACE/NAME[/CLASS]]",
            help="Requests from a file: Azure 2023 CSV, BurstGPT CSV, Mooncake JSON lines, or ServeGen's rates CSV (of "
            "CATEGORY/MODEL). It drives the named LLMDeployment or class, else all that no other trace names, in "
            "proportion to the declared rates. Repeatable.",
        ),
    ):
        command = option(command)
    return command


@main.command()
@_inputs
@_traffic
@click.option("--warm-up", metavar="TIME", help="Requests that arrive before do not count in latencies. Default: none.")
@_output
def simulate(
    paths: tuple[Path, ...],
    nodes: Path | None,
    running: Path | None,
    traces: tuple[str, ...],
    trace_format: str | None,
    arrivals: str,
    duration: str | None,
    rate_scale: str,
    seed: int,
    report: Path | None,
    warm_up: str | None,
    output: str,
) -> None:
    """Plan, then send requests through the planned fleet in simulated time: what users would see, and what it costs.

    Exit status as of `plimsoll plan`: 1 when an input is wrong or some demand cannot be served.
    """
    from plimsoll.cli.simulate import TrafficOptions, run_simulate

    options = TrafficOptions(traces, trace_format, arrivals, duration, rate_scale, seed)
    raise SystemExit(run_simulate(_files(paths, nodes, running), options, warm_up, output, report))


@main.command()
@_inputs
@_traffic
@click.option(
    "--interval", metavar="TIME", help="Between plans. Default: planning.intervalSeconds of the PlacementPolicy."
)
@_output
def replay(
    paths: tuple[Path, ...],
    nodes: Path | None,
    running: Path | None,
    traces: tuple[str, ...],
    trace_format: str | None,
    arrivals: str,
    duration: str | None,
    rate_scale: str,
    seed: int,
    report: Path | None,
    interval: str | None,
    output: str,
) -> None:
    """Plan again and again over a trace, as the operator would, and simulate what comes of it.

    Each plan knows the demand of the interval before it. Beside it: what a static fleet, sized for the peak or for the
    mean, would have cost and kept. Exit status as of `plimsoll plan`, for the declared demand.
    """
    from plimsoll.cli.replay import run_replay
    from plimsoll.cli.simulate import TrafficOptions

    options = TrafficOptions(traces, trace_format, arrivals, duration, rate_scale, seed)
    raise SystemExit(run_replay(_files(paths, nodes, running), options, interval, output, report))


@main.command()
def crds() -> None:
    """Print the CustomResourceDefinitions, for `kubectl apply --server-side -f -`."""
    import yaml

    from plimsoll.api.crd import custom_resource_definitions

    click.echo(yaml.safe_dump_all(custom_resource_definitions(), sort_keys=False), nl=False)


@main.command()
@click.option("-f", "--filename", "path", type=click.Path(path_type=Path), help="A fleet: YAML with `endpoints`.")
@click.option("--model", help="Model in the catalog, or one of its published checkpoints.")
@click.option("--gpu", envvar="PLIMSOLL_EMULATE_GPU", show_envvar=True, help="GPU in the catalog, or a product label.")
@click.option("--tensor", type=int, help="GPUs that share each layer. [default: 1]")
@click.option("--pipeline", type=int, help="Stages that the layers are divided into. [default: 1]")
@click.option("--precision", help="bf16, fp16, fp8, int8 or int4. [default: the checkpoint's]")
@click.option("--max-num-seqs", type=int, help="Most sequences that run together. [default: 256]")
@click.option("--max-num-batched-tokens", type=int, help="Most tokens of an engine's step. [default: 2048]")
@click.option("--max-model-len", "max_model_length", type=int, help="Longest prompt and answer together.")
@click.option("--gpu-memory-utilization", type=float, help="Part of a GPU's memory that is used. [default: 0.9]")
@click.option("--served-model-name", "served_model_names", multiple=True, help="Name in the API; repeatable.")
@click.option("--host", help="Address to listen on. [default: 127.0.0.1]")
@click.option("--port", type=int, help="Port of the first endpoint; 0: any free ones. [default: 8000]")
@click.option("--count", type=int, help="Equal endpoints, on consecutive ports. [default: 1]")
@click.option("--load-seconds", help="Time from start to ready; auto: as planned for this model. [default: 0]")
@click.option(
    "--while-loading",
    type=click.Choice(["refuse", "unavailable"]),
    help="The port stays closed, as vLLM's does, or answers 503. [default: refuse]",
)
@click.option("--shutdown-timeout", "shutdown_timeout_seconds", type=float, help="Seconds to drain. [default: 30]")
@click.option("--stream-interval", type=int, help="Tokens in a chunk of a stream. [default: 1]")
@click.option(
    "--output-tokens",
    type=(float, float),
    metavar="MEAN P95",
    help="Answers end by themselves at a lognormal length. [default: at the client's max_tokens]",
)
@click.option("--seed", type=int, help="Of drawn lengths. [default: 0]")
@click.option("--allow-faults", is_flag=True, default=None, help="Open /emulator/crash and /emulator/stall to clients.")
@click.option("--speed", type=click.FloatRange(0.0, min_open=True), help="Simulated seconds in a second. [default: 1]")
@click.argument("vllm", nargs=-1, metavar="[-- serve MODEL ...]")
def emulate(path: Path | None, speed: float | None, vllm: tuple[str, ...], **given: object) -> None:
    """Serve emulated vLLM endpoints: the simulator in real time behind vLLM's HTTP interface and metrics.

    \b
    One model:          plimsoll emulate --model NAME --gpu PRODUCT
    A fleet:            plimsoll emulate -f FILE
    As `vllm serve`:    plimsoll emulate --gpu PRODUCT -- serve MODEL --tensor-parallel-size 2 ...
    """
    from plimsoll.cli.emulate import run_emulate, wanted_endpoints

    configs, file_speed = wanted_endpoints(path, vllm, given)
    raise SystemExit(run_emulate(configs, file_speed if speed is None else speed))


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
