"""Fits coefficients to measurements of one model on one GPU: robust, with priors, errors, intervals and gaps.

Least squares of log(predicted / measured) in the logarithms of the coefficients. The loss is quadratic up to the
expected error of a figure and linear beyond, so single wrong figures pull little; rows that are far off all the same
are left out of a second fit, and named. Priors are the published coefficients of the GPU: what rows say nothing about
stays where it is. Needs SciPy (`pip install 'plimsoll[analysis]'`).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from plimsoll.catalog import GPU
from plimsoll.performance.coefficients import Coefficients, CoefficientSet, coefficient_set
from plimsoll.performance.gaps import Gap, gaps
from plimsoll.performance.observations import Observation, predicted
from plimsoll.performance.shapes import FloatArray
from plimsoll.performance.steps import RooflineSteps

NAMES = tuple(Coefficients.__dataclass_fields__)
SHARES = frozenset(name for name in NAMES if name.endswith("efficiency"))
"""Of a peak: at most 1."""
EXPECTED_ERROR: Mapping[tuple[str, bool], float] = {
    ("ttft", True): 0.05,
    ("tpot", True): 0.05,
    ("endToEnd", True): 0.05,
    ("ttft", False): 0.2,
    ("tpot", False): 0.05,
    ("endToEnd", False): 0.07,
}
"""By figure, and whether the requests began together: otherwise the first token also waits for what is under way."""
_Z90 = 1.645
_WRONG = 6.0
"""Times the expected error, beyond which a row is left out, ..."""
_MOST_WRONG = 0.2
"""... of at most this share of the rows: with more, it is the model that is wrong."""
_DETERMINED = 0.7
"""A coefficient counts as measured when its interval is at most this part of the prior's."""
_ENOUGH = 3
"""Determined coefficients, from which on the others are held as published."""
_MOVED = 0.01
_FAR = 3.0
_HELD = 1e-3
_FOLDS = 24
_LOWEST_LOGARITHM = -16.0
_KV_LIKE_WEIGHTS = 0.05
"""Both are streams from the same memory, so their efficiencies differ as they do in the published set, so closely."""


class CalibrationError(ValueError):
    """Measurements that nothing can be fitted to; the message says what is wrong."""


class AnalysisMissing(ImportError):  # noqa: N818  (says what is wrong; read as a sentence at the call site)
    """SciPy is not installed."""

    def __init__(self) -> None:
        super().__init__("fitting needs SciPy, which the extra `analysis` installs: pip install 'plimsoll[analysis]'")


@dataclass(frozen=True, slots=True)
class Prior:
    """Where coefficients lie before anything is measured: centres, and standard deviations of their logarithms."""

    centre: Coefficients
    spread: Mapping[str, float]
    source: str


@dataclass(frozen=True, slots=True)
class FittedCoefficient:
    """One coefficient with its 90 % interval."""

    name: str
    published: float
    value: float
    low: float
    high: float
    measured: bool
    """The rows determine it; otherwise it is the published one, give or take."""

    far: bool
    """So far from the published one that a wrong name, degree or unit is likelier."""

    @property
    def changed(self) -> bool:
        """Whether it says more than the published one. Rows may move two together and determine neither."""
        return self.measured or abs(self.value / self.published - 1.0) > _MOVED


@dataclass(frozen=True, slots=True)
class Errors:
    """Absolute errors of figures, as shares of what was measured."""

    figures: int
    median: float
    p90: float


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A row that the fit does not use, and why."""

    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class Calibration:
    """Coefficients of one model on one GPU, and how far they can be trusted."""

    model: str
    gpu: str
    rows: int
    """That were used."""
    coefficients: Coefficients
    fitted: tuple[FittedCoefficient, ...]
    published_errors: Errors
    """Of the published coefficients, on the rows used."""
    errors: Errors
    """In the sample."""
    errors_by_figure: Mapping[str, Errors]
    errors_of_all: Errors
    """With the rows that were left out."""
    left_out_errors: Errors | None
    """Of each operating point, predicted from the others; None with fewer than three points."""
    left_out: tuple[LeftOut, ...]
    gaps: tuple[Gap, ...]
    prior: str

    @property
    def changed(self) -> dict[str, float]:
        """What a profile has to say, by name: the coefficients that the rows determine, or move."""
        return {item.name: item.value for item in self.fitted if item.changed}


def prior_for(gpu: GPU) -> Prior:
    """The published coefficients of a GPU, trusted less where they are pooled over other GPUs.

    Spreads: what engine versions change most (overheads of steps and sequences) may move most.
    """
    found = coefficient_set(gpu)
    return Prior(found.coefficients, _spread(found), f"{found.name}: {found.source}")


def _spread(found: CoefficientSet) -> dict[str, float]:
    wide = 1.0 if found.rows else 1.5
    spread = {
        "weights_efficiency": 0.1,
        "kv_efficiency": 0.1,
        "query_group_cost": 0.15,
        "compute_efficiency": 0.15,
        "prefill_efficiency": 0.3,
        "step_seconds": 0.4,
        "sequence_seconds": 0.4,
        "allreduce_factor": 0.15,
        "quantised_efficiency": 0.1,
    }
    return {name: wide * value for name, value in spread.items()}


def calibrate(observations: Sequence[Observation], prior: Prior | None = None) -> Calibration:
    """Fit one model on one GPU.

    Raises:
        AnalysisMissing: SciPy is not installed.
        CalibrationError: no row can be used, or rows are of several models or GPUs.
    """
    if not observations:
        raise CalibrationError("there is no row to fit")
    kinds = {(row.shape.model.name, row.shape.gpu.name) for row in observations}
    if len(kinds) > 1:
        raise CalibrationError(f"rows are of several models or GPUs: {', '.join(f'{m} on {g}' for m, g in kinds)}")
    ((model, gpu),) = kinds
    prior = prior or prior_for(observations[0].shape.gpu)
    usable, left_out = _usable(observations)
    if not usable:
        raise CalibrationError(f"no row of {model} on {gpu} can be used; {left_out[0].source}: {left_out[0].reason}")
    fit = _Fit(prior)
    found = fit.run(usable)
    kept = _without_wrong(usable, found)
    if len(kept) < len(usable):
        found = fit.run(kept, found)
        known = {id(row) for row in kept}
        left_out += [_as_wrong(row, found) for row in usable if id(row) not in known]
    fitted = fit.intervals(kept, found)
    if sum(item.measured for item in fitted) >= _ENOUGH:
        # What the rows do not determine would only follow their noise; the others are fitted again around it.
        fit = fit.holding({item.name for item in fitted if not item.measured})
        found = fit.run(kept, found)
        fitted = tuple(_held(item, asdict(found)[item.name]) for item in fitted)
    found = replace(prior.centre, **{item.name: item.value for item in fitted if item.changed})
    ratios = _ratios(kept, found)
    return Calibration(
        model=model,
        gpu=gpu,
        rows=len(kept),
        coefficients=found,
        fitted=fitted,
        published_errors=_errors([ratio for _, ratio in _ratios(kept, prior.centre)]),
        errors=_errors([ratio for _, ratio in ratios]),
        errors_by_figure={
            name: _errors([ratio for figure, ratio in ratios if figure == name])
            for name in dict.fromkeys(figure for figure, _ in ratios)
        },
        errors_of_all=_errors([ratio for _, ratio in _ratios(usable, found)]),
        left_out_errors=_left_out_errors(fit, kept, found),
        left_out=tuple(left_out),
        gaps=gaps(kept),
        prior=prior.source,
    )


def _usable(observations: Sequence[Observation]) -> tuple[list[Observation], list[LeftOut]]:
    usable: list[Observation] = []
    left_out: list[LeftOut] = []
    for row in observations:
        if not row.measured.figures():
            left_out.append(LeftOut(row.source, "it has no latency"))
        elif not row.fits:
            reason = f"its KV cache does not fit ({row.kv_tokens:.0f} tokens), so that requests wait for memory"
            left_out.append(LeftOut(row.source, reason))
        else:
            usable.append(row)
    return usable, left_out


def _without_wrong(rows: Sequence[Observation], found: Coefficients) -> list[Observation]:
    """Without those that are far off, unless these are many."""
    worst = [
        max(abs(np.log(ratio)) / EXPECTED_ERROR[name, row.batch] for name, ratio in _ratios([row], found))
        for row in rows
    ]
    usual = max(1.0, float(np.median(worst)))
    wrong = [number for number, value in enumerate(worst) if value > _WRONG * usual]
    if len(wrong) > _MOST_WRONG * len(rows):
        return list(rows)
    return [row for number, row in enumerate(rows) if number not in set(wrong)]


def _as_wrong(row: Observation, found: Coefficients) -> LeftOut:
    name, ratio = max(_ratios([row], found), key=lambda item: abs(np.log(item[1])))
    return LeftOut(row.source, f"its {name} is {1 / ratio:.2g} times what the other rows lead one to expect")


def _ratios(rows: Sequence[Observation], coefficients: Coefficients) -> list[tuple[str, float]]:
    """Name, and predicted / measured, of each figure."""
    steps = RooflineSteps(coefficients)
    terms: dict[int, Any] = {}
    ratios: list[tuple[str, float]] = []
    for row in rows:
        # Rows of one replica share the very same shape more often than not; computing terms costs most of a fit.
        known = terms.get(id(row.shape))
        if known is None:
            known = terms[id(row.shape)] = steps.terms(row.shape)
        expected = dict(predicted(known, row).figures())
        ratios += [(name, expected[name] / value) for name, value in row.measured.figures()]
    return ratios


def _errors(ratios: Sequence[float]) -> Errors:
    missed = np.abs(np.array(ratios) - 1.0)
    return Errors(len(missed), float(np.median(missed)), float(np.quantile(missed, 0.9)))


def _held(item: FittedCoefficient, again: float) -> FittedCoefficient:
    """The coefficient after the fit in which those that are not determined were held; its interval moves along."""
    if not item.measured:
        return replace(item, value=item.published)
    moved = again / item.value
    return replace(item, value=again, low=item.low * moved, high=item.high * moved)


@dataclass(frozen=True, slots=True)
class _Fit:
    prior: Prior

    def holding(self, names: Collection[str]) -> "_Fit":
        """The same with these coefficients as published."""
        spread = {name: _HELD if name in names else value for name, value in self.prior.spread.items()}
        return _Fit(replace(self.prior, spread=spread))

    def run(self, rows: Sequence[Observation], start: Coefficients | None = None) -> Coefficients:
        """The coefficients that agree best with rows and prior."""
        upper = np.array([0.0 if name in SHARES else np.inf for name in NAMES])
        begin = np.clip(_logarithms(start or self.prior.centre), _LOWEST_LOGARITHM + 1e-6, upper - 1e-6)
        least_squares = _least_squares()
        found = least_squares(self._residuals(rows), begin, bounds=(_LOWEST_LOGARITHM, upper), xtol=1e-6, ftol=1e-6)
        return _coefficients(found.x)

    def intervals(self, rows: Sequence[Observation], found: Coefficients) -> tuple[FittedCoefficient, ...]:
        """90 % intervals from the curvature; wider when the rows scatter by more than expected."""
        at = _logarithms(found)
        errors = self._data(rows, at)
        jacobian = _jacobian(lambda logarithms: self._data(rows, logarithms), at)
        weights = 1.0 / np.sqrt(1.0 + np.square(errors))  # of the soft loss: far figures say little
        scatter = max(1.0, float(np.sum(weights * np.square(errors))) / max(1, len(errors) - len(NAMES)))
        of_prior = _jacobian(self._from_prior, at)
        before = of_prior.T @ of_prior
        after = before + (jacobian.T * weights) @ jacobian / scatter
        prior_spread = np.sqrt(np.diag(np.linalg.inv(before)))
        spread = np.sqrt(np.diag(np.linalg.inv(after)))
        published = asdict(self.prior.centre)
        return tuple(
            FittedCoefficient(
                name=name,
                published=published[name],
                value=value,
                low=float(value * np.exp(-_Z90 * spread[number])),
                high=min(float(value * np.exp(_Z90 * spread[number])), 1.0 if name in SHARES else np.inf),
                measured=bool(spread[number] <= _DETERMINED * prior_spread[number]),
                far=bool(abs(np.log(value / published[name])) > _FAR * self.prior.spread[name]),
            )
            for number, (name, value) in enumerate(asdict(found).items())
        )

    def _residuals(self, rows: Sequence[Observation]) -> Callable[[FloatArray], FloatArray]:
        def residuals(logarithms: FloatArray) -> FloatArray:
            return np.concatenate([_softened(self._data(rows, logarithms)), self._from_prior(logarithms)])

        return residuals

    def _data(self, rows: Sequence[Observation], logarithms: FloatArray) -> FloatArray:
        ratios = _ratios(rows, _coefficients(logarithms))
        expected = [EXPECTED_ERROR[name, row.batch] for row in rows for name, _ in row.measured.figures()]
        return np.asarray(np.log([ratio for _, ratio in ratios]) / expected)

    def _from_prior(self, logarithms: FloatArray) -> FloatArray:
        away = logarithms - _logarithms(self.prior.centre)
        spread = np.array([self.prior.spread[name] for name in NAMES])
        weights, cache = NAMES.index("weights_efficiency"), NAMES.index("kv_efficiency")
        return np.append(away / spread, (away[cache] - away[weights]) / _KV_LIKE_WEIGHTS)


def _left_out_errors(fit: _Fit, rows: Sequence[Observation], found: Coefficients) -> Errors | None:
    """Repetitions of an operating point are left out together; many points in at most `_FOLDS` parts."""
    points: dict[tuple[object, ...], list[Observation]] = {}
    for row in rows:
        shape = row.shape
        key = (shape.precision.name, shape.parallelism, row.input_tokens, row.output_tokens, row.company, row.batch)
        points.setdefault(key, []).append(row)
    if len(points) < 3:
        return None
    groups = list(points.values())
    folds = [[row for group in groups[number::_FOLDS] for row in group] for number in range(min(_FOLDS, len(groups)))]
    ratios: list[float] = []
    for fold in folds:
        without = {id(row) for row in fold}
        others = fit.run([row for row in rows if id(row) not in without], found)
        ratios += [ratio for _, ratio in _ratios(fold, others)]
    return _errors(ratios)


def _logarithms(coefficients: Coefficients) -> FloatArray:
    return np.log(np.maximum([asdict(coefficients)[name] for name in NAMES], 1e-6))


def _coefficients(logarithms: FloatArray) -> Coefficients:
    return Coefficients(**{name: float(value) for name, value in zip(NAMES, np.exp(logarithms), strict=True)})


def _softened(errors: FloatArray) -> FloatArray:
    """Squares of it are the soft absolute loss: quadratic within an expected error, linear beyond."""
    return np.asarray(np.sign(errors) * np.sqrt(2.0 * (np.sqrt(1.0 + np.square(errors)) - 1.0)))


def _jacobian(function: Callable[[FloatArray], FloatArray], at: FloatArray) -> FloatArray:
    step = 1e-4
    columns = []
    for number in range(len(at)):
        higher, lower = at.copy(), at.copy()
        higher[number] += step
        lower[number] -= step
        columns.append((function(higher) - function(lower)) / (2.0 * step))
    return np.array(columns).T


def _least_squares() -> Callable[..., Any]:
    try:
        from scipy.optimize import least_squares
    except ImportError as error:
        raise AnalysisMissing from error
    found: Callable[..., Any] = least_squares
    return found
