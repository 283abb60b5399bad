"""`plimsoll simulate`: files and traffic in, what users would see out."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from plimsoll.cli.chained import planned_classes, print_chained_run, simulate_chained
from plimsoll.cli.figures import run_document, series_document
from plimsoll.cli.manifests import FileError, read_inputs
from plimsoll.cli.plan import exit_status, print_problems
from plimsoll.cli.report import report_writer
from plimsoll.cli.table import wide_console
from plimsoll.cli.tables import print_deployments, print_run
from plimsoll.cli.traffic import ArrivalChoice, TraceChoice, Traffic, parse_duration, parse_rate_scale, traffic_for
from plimsoll.planning import Evaluator, PlanRejectedError
from plimsoll.planning.planner import decide_whole
from plimsoll.planning.scenario import PlannedClass, PlannedFleet, planned_fleet
from plimsoll.simulation import ProgressCallback, Scenario, simulate

MANY_REQUESTS = 2_000_000
"""From here on it is said beforehand that the run takes long."""
_REQUESTS_PER_SECOND = 8000.0
"""Of the simulator on one ordinary core, roughly; only for that warning."""


@dataclass(frozen=True, slots=True)
class TrafficOptions:
    """What the commands say about traffic, unparsed."""

    traces: Sequence[str] = ()
    trace_format: str | None = None
    arrivals: str = "declared"
    duration: str | None = None
    rate_scale: str = "1"
    seed: int = 0

    def parsed(self) -> "TrafficChoice":
        """What they mean.

        Raises:
            FileError: an option is wrong.
        """
        return TrafficChoice(
            traces=tuple(TraceChoice.parse(text) for text in self.traces),
            trace_format=self.trace_format,
            arrivals=ArrivalChoice.parse(self.arrivals),
            duration_seconds=None if self.duration is None else parse_duration(self.duration, "--duration"),
            rate_scale=parse_rate_scale(self.rate_scale),
            seed=self.seed,
        )


@dataclass(frozen=True, slots=True)
class TrafficChoice:
    """Which requests are to be simulated."""

    traces: tuple[TraceChoice, ...]
    trace_format: str | None
    arrivals: ArrivalChoice
    duration_seconds: float | None
    rate_scale: float | None
    seed: int

    def traffic(self, classes: Mapping[str, PlannedClass]) -> Traffic:
        """The requests for planned classes.

        Raises:
            FileError: a trace cannot be read or names what is not planned.
        """
        if not classes:
            raise FileError("nothing is planned, so there is no traffic to simulate; see `plimsoll plan`")
        traffic = traffic_for(
            classes,
            self.traces,
            self.arrivals,
            trace_format=self.trace_format,
            duration_seconds=self.duration_seconds,
            rate_scale=self.rate_scale,
            seed=self.seed,
        )
        if not traffic.expected_requests:
            raise FileError("no request arrives: every class declares 0 requests per minute, and there is no --trace")
        return traffic


def run_simulate(
    paths: Sequence[Path], options: TrafficOptions, warm_up: str | None, output: str, report: Path | None
) -> int:
    """Print what a simulation of the plan found as `table`, `json` or `yaml`; returns the exit status."""
    write_report, choice = report_writer(report), options.parsed()
    warm_up_seconds = 0.0 if warm_up is None else parse_duration(warm_up, "--warm-up")
    inputs = read_inputs(paths)
    if not inputs.resources and not inputs.invalid:
        raise FileError(f"{', '.join(map(str, paths))}: no object of plimsoll.dev in there")
    try:
        chained = decide_whole(inputs.snapshot(), Evaluator(), time.monotonic).chained
        fleet = planned_fleet(chained.rest, clock=time.monotonic)
    except PlanRejectedError as error:
        raise click.ClickException(f"the plan broke a limit and was rejected (please report this): {error}") from error
    print_problems(inputs, fleet.plan, chained)
    traffic = choice.traffic({**fleet.classes, **planned_classes(chained.plans)})
    warn_of_length(traffic, 1)
    if warm_up_seconds >= traffic.duration_seconds:
        raise FileError(f"--warm-up {warm_up}: less than the run's {traffic.duration_seconds:.0f} s is accepted")
    interval = interval_seconds(traffic.duration_seconds)
    document: dict[str, Any] = {
        "apiVersion": "plimsoll.dev/simulation/v1",
        "seed": choice.seed,
        "warmUpSeconds": warm_up_seconds,
        "durationSeconds": round(traffic.duration_seconds, 3),
    }
    if fleet.classes:
        document |= _replicated(fleet, traffic, choice.seed, interval, warm_up_seconds)
    if chained.plans:
        document["chained"] = [
            simulate_chained(
                plan,
                traffic.requests(),
                seed=choice.seed,
                interval_seconds=interval,
                warm_up_seconds=warm_up_seconds,
            )
            for plan in chained.plans
        ]
    write_report(document)
    print_document(document, output, _print)
    return exit_status(inputs, fleet.plan, chained)


def _replicated(
    fleet: PlannedFleet, traffic: Traffic, seed: int, interval: float, warm_up_seconds: float
) -> dict[str, Any]:
    """Requests through replicas."""
    with progress("simulating", traffic.duration_seconds) as advance:
        found = simulate(
            Scenario(tuple(fleet.placements.values())),
            (request for request in traffic.requests() if request.traffic_class in fleet.classes),
            targets=fleet.targets,
            seed=seed,
            interval_seconds=interval,
            warm_up_seconds=warm_up_seconds,
            on_progress=advance,
        )
    gpus = {key: item.gpus_per_replica for key, item in fleet.placements.items()}
    return {**run_document(fleet, traffic, found), "series": series_document(found, fleet.targets, gpus)}


def _print(document: Mapping[str, Any]) -> None:
    console = wide_console()
    for chained in document.get("chained", ()):
        print_chained_run(console, chained)
    if "deployments" in document:
        print_deployments(console, document)
        print_run(console, document)


def print_document(document: Mapping[str, Any], output: str, print_table: Callable[[Mapping[str, Any]], None]) -> None:
    """To standard output."""
    if output == "table":
        print_table(document)
    elif output == "json":
        import json

        click.echo(json.dumps(document, indent=2))
    else:
        click.echo(yaml.safe_dump(dict(document), sort_keys=False), nl=False)


def interval_seconds(duration_seconds: float) -> float:
    """Of the time series: a minute, or what makes 288 of them in a long run."""
    return max(60.0, duration_seconds / 288.0) if duration_seconds > 600.0 else max(1.0, duration_seconds / 30.0)


def warn_of_length(traffic: Traffic, runs: int) -> None:
    """Say beforehand when a run takes minutes."""
    requests = traffic.expected_requests * runs
    if requests >= MANY_REQUESTS:
        minutes = requests / _REQUESTS_PER_SECOND / 60.0
        click.echo(
            f"{click.style('warning', fg='yellow')}: about {requests:,.0f} requests are simulated, which takes about "
            f"{minutes:.0f} minutes; --rate-scale and --duration make it less",
            err=True,
        )


@contextmanager
def progress(what: str, seconds: float) -> Iterator[ProgressCallback | None]:
    """A bar over simulated time on standard error, on a terminal only."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%  {task.fields[requests]:,} requests"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=seconds, requests=0)

        def advance(simulated_seconds: float, requests: int) -> None:
            bar.update(task, completed=min(simulated_seconds, seconds), requests=requests)

        yield advance
