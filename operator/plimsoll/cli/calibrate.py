"""`plimsoll calibrate`: measurements in, ModelProfiles out; figures go to standard error."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import yaml
from rich.console import Console

from plimsoll.api.common import API_VERSION
from plimsoll.api.parse import InvalidResource, parse
from plimsoll.catalog import Catalog, UnknownName, load_catalog
from plimsoll.cli.benchmark_files import Buckets, read_measurements
from plimsoll.cli.manifests import FileError, read_inputs
from plimsoll.cli.measurements import Defaults, Measurement, known_gpu, observations
from plimsoll.cli.prometheus import Query, read_metrics, read_prometheus
from plimsoll.cli.table import new_table
from plimsoll.performance import AnalysisMissing, Calibration, CalibrationError, Observation, calibrate
from plimsoll.performance.calibration import Errors, LeftOut
from plimsoll.planning.facts import catalog_of

_METRICS = {".prom", ".txt", ".metrics"}
_SHOWN = 8
_MOST_ERROR = 0.5
"""Median error in the sample beyond which a fit describes something else than what was measured."""
_MOST_P90_ERROR = 1.0
"""Likewise of the 90th percentile; also the most that a ModelProfile can state."""
_LIKELY = (
    "is a time in another unit than its column's name says (seconds under a name that ends in _ms), or are the model, "
    "the GPU, the precision or the degrees others than those measured?"
)
_MILLISECONDS = {"step_seconds": "stepMilliseconds", "sequence_seconds": "sequenceMilliseconds"}
_WORDS = {"ttft": "TTFT", "tpot": "TPOT", "endToEnd": "end to end"}


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line says."""

    files: Sequence[Path]
    manifests: Sequence[Path]
    defaults: Defaults
    buckets: Buckets
    prometheus: Query | None
    metrics_prefix: str
    before: Path | None
    output: Path | None
    source: str | None
    check: bool


def run_calibrate(request: Request) -> int:
    """Fit and print; returns the exit status: 0, or 1 when there is nothing to write.

    Raises:
        FileError: no row can be used, an option names an unknown GPU, or a fit misses its own rows.
    """
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        console.width = 140
    rows, origin = _measurements(request)
    catalog = _catalog(request.manifests)
    _check_gpu(request.defaults.gpu, catalog)
    for option, given in (("--model", request.defaults.model), ("--gpu", request.defaults.gpu)):
        _print_overruled(console, option, given, rows)
    found, left_out = observations(rows, request.defaults, catalog)
    groups: dict[tuple[str, str], list[Observation]] = {}
    for row in found:
        groups.setdefault((row.shape.model.name, row.shape.gpu.name), []).append(row)
    if not groups:
        _print_left_out(console, left_out)
        raise FileError(f"none of {len(rows)} rows can be used; the first: {left_out[0].source}: {left_out[0].reason}")
    fits: list[Calibration] = []
    for (model, gpu), members in groups.items():
        try:
            fits.append(calibrate(members))
        except CalibrationError as error:
            console.print(f"[yellow]{model} on {gpu}: {error}[/yellow]", soft_wrap=True)
        except AnalysisMissing as error:
            raise click.ClickException(str(error)) from error
    for fit in fits:
        _print_fit(console, fit)
    _print_left_out(console, left_out)
    if wrong := [fit for fit in fits if _misses(fit)]:
        raise FileError(f"{origin}: {'; '.join(map(_miss, wrong))}. Nothing is written: {_LIKELY}")
    if request.check:
        return 0 if fits else 1
    documents = profiles(fits, request.source or origin)
    if not documents:
        console.print("nothing to write: the rows say no more than what is published for the GPU")
        return 1
    text = yaml.safe_dump_all(documents, sort_keys=False)
    if request.output is None:
        click.echo(text, nl=False)
    else:
        try:
            request.output.write_text(text, encoding="utf-8")
        except OSError as error:
            raise FileError(f"{request.output}: cannot be written: {error.strerror}") from error
    return 0


def profiles(fits: Sequence[Calibration], source: str) -> list[dict[str, Any]]:
    """One ModelProfile per model, with the coefficients that the rows change.

    Raises:
        ClickException: a coefficient is beyond what a ModelProfile takes.
    """
    by_model: dict[str, list[dict[str, Any]]] = {}
    for fit in fits:
        if fit.changed:
            entry = {
                "accelerator": fit.gpu,
                **dict(_coefficient(name, value) for name, value in fit.changed.items()),
                "source": source[:256],
                "fit": {
                    "rows": fit.rows,
                    "medianError": _share(fit.errors.median),
                    "p90Error": _share(fit.errors.p90),
                },
            }
            by_model.setdefault(fit.model, []).append(entry)
    documents = []
    for model, entries in by_model.items():
        document = {
            "apiVersion": API_VERSION,
            "kind": "ModelProfile",
            "metadata": {"name": _object_name(model)},
            "spec": {"model": model, "coefficients": entries},
        }
        try:
            parse(document)
        except InvalidResource as error:
            problems = "; ".join(str(problem) for problem in error.problems)
            raise click.ClickException(f"the fit of {model} is beyond what a ModelProfile takes: {problems}") from error
        documents.append(document)
    return documents


def _misses(fit: Calibration) -> bool:
    return fit.errors.median > _MOST_ERROR or fit.errors.p90 > _MOST_P90_ERROR


def _miss(fit: Calibration) -> str:
    return (
        f"the fit of {fit.model} on {fit.gpu} misses its own rows by {fit.errors.median:,.0%} (median) and "
        f"{fit.errors.p90:,.0%} (90th percentile); at most {_MOST_ERROR:.0%} and {_MOST_P90_ERROR:.0%} are accepted"
    )


def _check_gpu(given: str | None, catalog: Catalog) -> None:
    try:
        if given is not None:
            known_gpu(given, catalog)
    except UnknownName as error:
        known = "" if error.nearest else f"; known: {', '.join(sorted(catalog.gpus))}"
        raise FileError(f"--gpu: {error}{known}") from error


def _print_overruled(console: Console, option: str, given: str | None, rows: Sequence[Measurement]) -> None:
    """An option speaks for the rows that say nothing themselves; where others do, that is told."""
    said = [name for row in rows if (name := row.gpu if option == "--gpu" else row.model) is not None]
    others = sorted({name for name in said if name != given})
    if given is None or not others:
        return
    shown = ", ".join(others[:_SHOWN]) + (", ..." if len(others) > _SHOWN else "")
    console.print(
        f"[yellow]{option} {given}[/yellow] is not used for {len(said)} of {len(rows)} rows, which name their own "
        f"({shown}); --name GIVEN=CATALOG says what a name means",
        soft_wrap=True,
    )


def _measurements(request: Request) -> tuple[list[Measurement], str]:
    """Rows of all files and of Prometheus, and where they come from."""
    rows: list[Measurement] = []
    origin = [path.name for path in request.files]
    for path in request.files:
        if path.suffix.lower() in _METRICS:
            rows += read_metrics(path, request.metrics_prefix, request.before)
        else:
            rows += read_measurements(path, request.buckets)
    if request.prometheus is not None:
        rows += read_prometheus(request.prometheus)
        origin.append("Prometheus")
    if not rows:
        raise FileError("nothing to fit: give files of measurements, or --prometheus")
    return rows, ", ".join(origin)


def _catalog(manifests: Sequence[Path]) -> Catalog:
    """The catalog, with the models of ModelProfiles among the manifests."""
    return catalog_of(read_inputs(manifests).snapshot()) if manifests else load_catalog()


def _coefficient(name: str, value: float) -> tuple[str, str]:
    """As a ModelProfile has it: milliseconds, four digits."""
    if name in _MILLISECONDS:
        return _MILLISECONDS[name], _digits(value * 1e3)
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest), _digits(value)


def _digits(value: float) -> str:
    text = f"{float(f'{value:.4g}'):.6f}"
    return text.rstrip("0").rstrip(".")


def _share(value: float) -> str:
    return _digits(round(value, 4))


def _object_name(model: str) -> str:
    name = re.sub(r"[^a-z0-9]+", "-", model.rsplit("/", 1)[-1].lower()).strip("-")
    return (name or "model")[:63].rstrip("-")


def _print_fit(console: Console, fit: Calibration) -> None:
    console.print(f"[bold]{fit.model} on {fit.gpu}[/bold]   {fit.rows} rows")
    table = new_table("coefficient", "published", "fitted", "90 % interval", "")
    for item in fit.fitted:
        name, unit = _MILLISECONDS.get(item.name, item.name), 1e3 if item.name in _MILLISECONDS else 1.0
        words = "measured" if item.measured else "moved, not determined alone" if item.changed else "as published"
        figures = (item.published, item.value, item.low, item.high)
        published, value, low, high = (f"{figure * unit:.3g}" for figure in figures)
        shown = _coefficient(item.name, item.value)[0] if name == item.name else name
        table.add_row(shown, published, value if item.changed else published, f"{low} to {high}", words)
    console.print(table)
    console.print(f"  prior: {fit.prior}", soft_wrap=True)
    if far := [item.name for item in fit.fitted if item.far]:
        console.print(
            f"  [red]far from the published[/red]: {', '.join(far)}; are names, degrees, precision and units right?",
            soft_wrap=True,
        )
    errors = new_table("error", "median", "90th percentile", "of figures")
    errors.add_row("with published coefficients", *_columns(fit.published_errors))
    errors.add_row("fitted, in the sample", *_columns(fit.errors))
    for name, found in fit.errors_by_figure.items() if len(fit.errors_by_figure) > 1 else ():
        errors.add_row(f"  {_WORDS[name]}", *_columns(found))
    if fit.left_out_errors is not None:
        errors.add_row("each point from the others", *_columns(fit.left_out_errors))
    if fit.errors_of_all.figures > fit.errors.figures:
        errors.add_row("with the rows that were left out as wrong", *_columns(fit.errors_of_all))
    console.print(errors)
    unseen = fit.left_out_errors
    if unseen is not None and unseen.median >= fit.published_errors.median and fit.changed:
        console.print(
            "  [yellow]no gain[/yellow]: rows that it has not seen, the fit predicts no better than the published "
            "coefficients do",
            soft_wrap=True,
        )
    _print_left_out(console, fit.left_out)
    for gap in fit.gaps:
        console.print(f"  [yellow]missing[/yellow]: {gap.missing}; uncertain: {gap.uncertain}", soft_wrap=True)
    console.print()


def _columns(errors: Errors) -> tuple[str, str, str]:
    return f"{errors.median:.1%}", f"{errors.p90:.1%}", str(errors.figures)


def _print_left_out(console: Console, left_out: Sequence[LeftOut]) -> None:
    if not left_out:
        return
    reasons: dict[str, list[str]] = {}
    for item in left_out:
        reasons.setdefault(item.reason, []).append(item.source)
    for reason, sources in list(reasons.items())[:_SHOWN]:
        more = f" and {len(sources) - 1} more" if len(sources) > 1 else ""
        console.print(f"  [yellow]left out[/yellow]: {sources[0]}{more}: {reason}", soft_wrap=True, markup=True)
    if len(reasons) > _SHOWN:
        rest = sum(len(sources) for sources in list(reasons.values())[_SHOWN:])
        console.print(f"  [yellow]left out[/yellow]: {rest} rows for {len(reasons) - _SHOWN} other reasons")


__all__ = ["Request", "profiles", "run_calibrate"]
