"""Measured operating points as files have them, and how they become observations of a known model on a known GPU."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from plimsoll.catalog import GPU, Catalog, UnknownName
from plimsoll.performance import Latencies, Observation, Parallelism, ReplicaShape, parallelism_problem
from plimsoll.performance.calibration import LeftOut


@dataclass(frozen=True, slots=True)
class Measurement:
    """One row. Seconds and tokens; None where the file does not say."""

    source: str
    """File and line, for messages."""
    input_tokens: float
    output_tokens: float
    model: str | None = None
    gpu: str | None = None
    tensor: int | None = None
    pipeline: int | None = None
    precision: str | None = None
    batch: float | None = None
    """Requests that began together."""
    concurrency: float | None = None
    """Requests kept running, each followed by the next: a closed loop."""
    running: float | None = None
    """Requests that ran together on average, as one of them sees it, while they came and went by themselves."""
    requests_per_second: float | None = None
    """Arrivals; where nothing piles up, the throughput."""
    ttft: float | None = None
    tpot: float | None = None
    end_to_end: float | None = None
    output_tokens_per_second: float | None = None


@dataclass(frozen=True, slots=True)
class Defaults:
    """What files leave out, and other names for what they name."""

    model: str | None = None
    gpu: str | None = None
    tensor: int = 1
    pipeline: int = 1
    precision: str = "bf16"
    names: Mapping[str, str] = field(default_factory=dict)
    """Name in the file -> name in the catalog."""


_ALONE = 2.0
"""Requests of a closed loop, beyond which first tokens do not count: equal requests fall into step and wait for each
other's prompts (up to three times as long in the simulator)."""


class Incomplete(ValueError):  # noqa: N818  (says what is wrong; read as a sentence at the call site)
    """A row from which no observation can be made; the message says what is missing."""


def observations(
    rows: Iterable[Measurement], defaults: Defaults, catalog: Catalog
) -> tuple[list[Observation], list[LeftOut]]:
    """Observations, and rows that are none with the reason: unknown names, degrees that do not divide, no figures."""
    shapes: dict[tuple[object, ...], ReplicaShape] = {}
    found: list[Observation] = []
    left_out: list[LeftOut] = []
    for row in rows:
        try:
            key = (row.model, row.gpu, row.tensor, row.pipeline, row.precision)
            if key not in shapes:
                shapes[key] = _shape(row, defaults, catalog)
            found.append(_observation(row, shapes[key]))
        except (Incomplete, UnknownName) as error:
            left_out.append(LeftOut(row.source, str(error)))
    return found, left_out


def _shape(row: Measurement, defaults: Defaults, catalog: Catalog) -> ReplicaShape:
    model = catalog.model(_named("model", row.model, defaults.model, defaults.names))
    gpu = known_gpu(_named("gpu", row.gpu, defaults.gpu, defaults.names), catalog)
    precision = catalog.precision(row.precision or defaults.precision)
    parallelism = Parallelism(row.tensor or defaults.tensor, row.pipeline or defaults.pipeline)
    problem = parallelism_problem(model, gpu, parallelism)
    if problem is not None:
        raise Incomplete(problem)
    return ReplicaShape(model, precision, gpu, parallelism, model.context_length)


def _named(what: str, given: str | None, default: str | None, names: Mapping[str, str]) -> str:
    """The row's own name counts before the default, unless it is renamed."""
    if given is not None and given in names:
        return names[given]
    name = given or default
    if name is None:
        raise Incomplete(f"it names no {what}: give --{what}")
    return name


def known_gpu(name: str, catalog: Catalog) -> GPU:
    """A GPU product by name, or by the value of the node label.

    Raises:
        UnknownName: the catalog has none of that name.
    """
    try:
        return catalog.gpu(name)
    except UnknownName:
        labelled = catalog.gpu_by_product_label(name)
        if labelled is None:
            raise
        return labelled


def _observation(row: Measurement, shape: ReplicaShape) -> Observation:
    company, batch = _company(row)
    known = Latencies(row.ttft, row.tpot, row.end_to_end)
    if (
        known.tpot is None
        and known.end_to_end is None
        and row.output_tokens_per_second
        and row.requests_per_second is None
    ):
        # Little: each of the requests that run takes so long.
        known = Latencies(row.ttft, None, company * row.output_tokens / row.output_tokens_per_second)
    if row.concurrency is not None and row.concurrency > _ALONE and (known.tpot or known.end_to_end):
        known = Latencies(None, known.tpot, known.end_to_end)
    if known.tpot is not None and (known.ttft is not None or not batch):
        known = Latencies(known.ttft, known.tpot, None)  # the third follows from these, or has the wait in it
    if row.output_tokens <= 1:
        known = Latencies(known.ttft or known.end_to_end)
    if not known.figures():
        raise Incomplete("it has neither ttft, tpot, itl, end_to_end nor a throughput to tell it from")
    return Observation(shape, row.input_tokens, row.output_tokens, company, batch, known, row.source)


def _company(row: Measurement) -> tuple[float, bool]:
    """How many run together, as one of them sees it, and whether they began together."""
    if row.batch is not None:
        return row.batch, True
    if row.concurrency is not None:
        return max(1.0, row.concurrency), False
    if row.running is not None:
        return max(1.0, row.running), False
    if row.requests_per_second is None:
        raise Incomplete("it has neither batch, concurrency nor a request rate")
    stay = row.end_to_end
    if stay is None and row.tpot is not None:
        stay = (row.ttft or 0.0) + max(0.0, row.output_tokens - 1.0) * row.tpot
    if stay is None:
        raise Incomplete(
            "a request rate alone does not tell how many run together: end_to_end, or ttft and tpot, are needed"
        )
    # Poisson arrivals find the mean number there, and each sees itself beside them.
    return 1.0 + row.requests_per_second * stay, False
