"""The options of `plimsoll calibrate`. What does the work is imported when it runs."""

import re
from pathlib import Path
from typing import Any

import click

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class _Duration(click.ParamType[Any]):
    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        matched = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhd])", str(value))
        if matched is None or float(matched[1]) <= 0:
            self.fail(f'"{value}" is no duration such as 90s, 5m, 6h or 2d', param, ctx)
        return float(matched[1]) * _UNITS[matched[2]]


class _Tokens(click.ParamType[Any]):
    name = "tokens"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            found = tuple(float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f'"{value}" is no list of lengths such as 128,1024', param, ctx)
        if min(found) <= 0:
            self.fail(f'"{value}": lengths above 0 are needed', param, ctx)
        return found


class _Renaming(click.ParamType[Any]):
    name = "renaming"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        given, separator, known = str(value).partition("=")
        if not (given and separator and known):
            self.fail(
                f'"{value}": GIVEN=CATALOG is needed, such as llama3_8b=meta-llama/Llama-3.1-8B-Instruct', param, ctx
            )
        return given, known


@click.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--model", help="Model of rows that name none, as the catalog or a ModelProfile names it.")
@click.option("--gpu", help="GPU product of rows that name none: catalog name or node label.")
@click.option(
    "--tensor", type=click.IntRange(min=1), default=1, show_default=True, help="Tensor degree of rows without."
)
@click.option("--pipeline", type=click.IntRange(min=1), default=1, show_default=True, help="Pipeline degree, likewise.")
@click.option("--precision", default="bf16", show_default=True, help="Precision of rows that name none.")
@click.option(
    "--name",
    "names",
    type=_Renaming(),
    multiple=True,
    metavar="GIVEN=CATALOG",
    help="A model or GPU that the file calls otherwise; repeatable.",
)
@click.option(
    "-f",
    "--filename",
    "manifests",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Manifests with ModelProfiles of models that the catalog lacks; repeatable.",
)
@click.option("--prometheus", metavar="URL", help="Measure running pods: one range query per metric.")
@click.option("--selector", default="", metavar="MATCHERS", help="Of the pods, such as 'namespace=\"chat\"'.")
@click.option("--metrics-prefix", default="vllm:", show_default=True, help="What vLLM's metrics begin with.")
@click.option("--range", "duration", type=_Duration(), default="6h", show_default=True, help="How far to look back.")
@click.option("--step", type=_Duration(), default="5m", show_default=True, help="Interval of one row.")
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    help="File with a bearer token. Default: the environment's PLIMSOLL_PROMETHEUS_TOKEN.",
)
@click.option(
    "--before",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="An earlier /metrics text of the same pod: only what came after it counts.",
)
@click.option(
    "--bucket-inputs", type=_Tokens(), metavar="TOKENS,...", help="Of Mélange's tables: prompt of each bucket."
)
@click.option(
    "--bucket-outputs", type=_Tokens(), metavar="TOKENS,...", help="Of Mélange's tables: answer of each bucket."
)
@click.option(
    "--bucket-tpot-milliseconds",
    type=click.FloatRange(min=0, min_open=True),
    help="Of Mélange's tables: the target per output token that the rates were found under.",
)
@click.option("--source", help="Where the measurements come from, for the profile. Default: names of the files.")
@click.option("--check", is_flag=True, help="Report only.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Default: standard output.")
def calibrate(
    files: tuple[Path, ...],
    model: str | None,
    gpu: str | None,
    tensor: int,
    pipeline: int,
    precision: str,
    names: tuple[tuple[str, str], ...],
    manifests: tuple[Path, ...],
    prometheus: str | None,
    selector: str,
    metrics_prefix: str,
    duration: float,
    step: float,
    token_file: Path | None,
    before: Path | None,
    bucket_inputs: tuple[float, ...] | None,
    bucket_outputs: tuple[float, ...] | None,
    bucket_tpot_milliseconds: float | None,
    source: str | None,
    check: bool,
    output: Path | None,
) -> None:
    """Fit a model's speed on a GPU to measurements; print a ModelProfile, and figures on standard error.

    FILES are tables (.csv), results of `vllm bench serve --save-result`, llm-inferno's, AIBrix' or Mélange's profiles
    (.json, .jsonl), or /metrics of a running pod (.prom, .txt). Formats: docs/calibration.md. Needs the extra
    `analysis`.

    Exit status: 0, or 1 when nothing can be fitted or written.
    """
    import time

    from plimsoll.cli.benchmark_files import Buckets
    from plimsoll.cli.calibrate import Request, run_calibrate
    from plimsoll.cli.measurements import Defaults
    from plimsoll.cli.prometheus import Query

    query = None
    if prometheus is not None:
        now = time.time()
        query = Query(prometheus, selector, metrics_prefix, now - duration, now, step, token_file)
    seconds = None if bucket_tpot_milliseconds is None else bucket_tpot_milliseconds * 1e-3
    request = Request(
        files=files,
        manifests=manifests,
        defaults=Defaults(model, gpu, tensor, pipeline, precision, dict(names)),
        buckets=Buckets(bucket_inputs or (), bucket_outputs or (), seconds),
        prometheus=query,
        metrics_prefix=metrics_prefix,
        before=before,
        output=output,
        source=source,
        check=check,
    )
    raise SystemExit(run_calibrate(request))
