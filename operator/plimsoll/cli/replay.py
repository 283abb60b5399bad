"""`plimsoll replay`: planner and simulator together over a trace, with a new plan at every interval."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from plimsoll.api.placementpolicy import PlacementPolicy
from plimsoll.cli.figures import replay_document
from plimsoll.cli.manifests import FileError, read_inputs
from plimsoll.cli.plan import exit_status, print_problems
from plimsoll.cli.report import report_writer
from plimsoll.cli.simulate import (
    TrafficOptions,
    interval_seconds,
    print_document,
    progress,
    warn_of_length,
)
from plimsoll.cli.table import wide_console
from plimsoll.cli.tables import print_deployments, print_replay, print_run
from plimsoll.cli.traffic import parse_duration
from plimsoll.planning import Evaluator, PlanRejectedError
from plimsoll.planning.demand import survey
from plimsoll.planning.replay import StaticFleet, replay, static_fleet
from plimsoll.planning.scenario import planned_fleet


def run_replay(
    paths: Sequence[Path], options: TrafficOptions, interval: str | None, output: str, report: Path | None
) -> int:
    """Print what the operator would have done as `table`, `json` or `yaml`; returns the exit status."""
    write_report, choice = report_writer(report), options.parsed()
    given = None if interval is None else parse_duration(interval, "--interval")
    inputs = read_inputs(paths)
    if not inputs.resources and not inputs.invalid:
        raise FileError(f"{', '.join(map(str, paths))}: no object of plimsoll.dev in there")
    snapshot = inputs.snapshot()
    policy = (snapshot.policy or PlacementPolicy.implied()).spec
    replan = given or float(policy.planning.interval_seconds)
    evaluator = Evaluator()
    try:
        # Its classes and what is wrong with the input; the plans that run follow the demand, so it predicts nothing.
        declared = planned_fleet(snapshot, evaluator, time.monotonic, predictions=False)
        print_problems(inputs, declared.plan)
        traffic = choice.traffic(declared.classes)
        warn_of_length(traffic, 3)
        seen = survey(traffic.requests(), traffic.duration_seconds, replan)
        if not seen.requests:
            raise FileError(
                "no request arrives in that time; a longer --duration or a greater --rate-scale is accepted"
            )
        series = interval_seconds(traffic.duration_seconds)
        with progress("replaying", traffic.duration_seconds) as advance:
            found = replay(
                snapshot,
                traffic.requests,
                seen,
                duration_seconds=traffic.duration_seconds,
                replan_seconds=replan,
                series_seconds=series,
                seed=choice.seed,
                evaluator=evaluator,
                clock=time.monotonic,
                on_progress=advance,
            )
        static: dict[str, StaticFleet] = {}
        for name, demand in (("peak", seen.peak), ("mean", seen.mean)):
            with progress(f"static fleet for the {name}", traffic.duration_seconds) as advance:
                static[name] = static_fleet(
                    snapshot,
                    demand,
                    traffic.requests,
                    series_seconds=series,
                    seed=choice.seed,
                    evaluator=evaluator,
                    clock=time.monotonic,
                    on_progress=advance,
                )
    except PlanRejectedError as error:
        raise click.ClickException(f"the plan broke a limit and was rejected (please report this): {error}") from error
    document: dict[str, Any] = {
        "apiVersion": "plimsoll.dev/replay/v1",
        "seed": choice.seed,
        "replanSeconds": replan,
        **replay_document(declared, traffic, found, static),
    }
    write_report(document)
    print_document(document, output, _print)
    return exit_status(inputs, declared.plan)


def _print(document: Mapping[str, Any]) -> None:
    console = wide_console()
    print_deployments(console, document)
    print_replay(console, document)
    print_run(console, document)
