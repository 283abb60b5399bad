"""Which forecast the planned demand rests on: exponential smoothing against a library, on real days of traffic.

`python -m benchmarks forecast` replays the Azure weeks and ServeGen's fortnights minute by minute, with requests
drawn at random around the curves (as they are, four times as variable as Poisson; and scaled down to 300 per
minute, Poisson). Constants were chosen on the first half of each curve; figures are of the second. An upper
estimate made now is held against the curve of so many minutes later. Every method's upper estimate is its forecast
plus a multiple of its own spread, the multiple chosen on the first half for all curves together, so that 5 % of the
minutes there exceed it; what counts is by how much it is then above the curve on the second half, and how often it
is passed there.

The library's rows need statsmodels, which the operator does not: without it they are left out. It is fitted anew
every 500 minutes to the last two hours, and all methods are held against those minutes.
"""

from __future__ import annotations

import csv
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from benchmarks.data import data_folder
from benchmarks.progress import say
from benchmarks.results import Figure, Table
from plimsoll.planning.following import Window, beginning, followed
from plimsoll.planning.forecast import SMOOTHING, Forecast

Floats = NDArray[np.float64]
AZURE = ("azure_llm_2024_requests_per_minute.csv", "azure_lmm_2025_text_requests_per_minute.csv")
SERVEGEN = "servegen/servegen_total_rate_10min.csv"
HORIZON_MINUTES = (5, 10)
NOISES = (("as it is, variance 4 x Poisson", None, 4.0), ("300 per minute, Poisson", 300.0, 1.0))
START = 240
"""Minutes that methods have to settle in."""
EVERY = 500
"""Minutes between two fits of the library, and between two comparisons; no divisor of a day."""
HISTORY = 120
LEAST_MINUTES = 10_000
ALLOWED = 0.05
HEADROOM = 0.1
"""The policy's default."""

Point = tuple[float, float]
"""Forecast and its spread."""


def curves() -> dict[str, Floats]:
    """Requests per minute, minute by minute: straight lines between the points of the data, of a week at least.

    Raises:
        FileNotFoundError: the data are not there.
    """
    points: dict[str, list[tuple[float, float]]] = {}
    for name in AZURE:
        with (data_folder() / "azure_llm_2024_2025_digitized" / name).open(encoding="utf-8") as file:
            for row in csv.DictReader(file):
                moment = datetime.fromisoformat(row["timestamp_utc"]).timestamp()
                points.setdefault(row["series"], []).append((moment, float(row["requests_per_min_mid"])))
    with (data_folder() / SERVEGEN).open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            rate = 60 * float(row["total_rate_req_per_s"])
            points.setdefault(f"servegen {row['model']}", []).append((float(row["t_seconds"]) + 300, rate))
    found = {}
    for name, series in points.items():
        seconds, rates = np.array(series).T
        found[name] = np.interp(np.arange(0.0, seconds[-1] - seconds[0], 60.0), seconds - seconds[0], rates)
    return {name: curve for name, curve in found.items() if len(curve) >= LEAST_MINUTES}


def drawn(curve: Floats, mean: float | None, variance: float, seed: int) -> tuple[Floats, Floats]:
    """The curve, scaled to a mean, and what arrives minute by minute."""
    scaled = curve if mean is None else curve * (mean / curve.mean())
    return scaled, np.maximum(0.0, np.random.default_rng(seed).normal(scaled, np.sqrt(variance * scaled)))


def smoothed(seen: Floats) -> Iterator[Forecast]:
    """After each minute."""
    state = Forecast.beginning(0.0, float(seen[0]))
    for minute, rate in enumerate(seen):
        state = state.after(60.0 * minute, float(rate))
        yield state


def ours(seen: Floats, minutes: int) -> list[Point]:
    """By the operator's smoothing."""
    ahead = 60.0 * minutes
    return [
        (
            max(state.level, state.at(ahead)),
            float(np.sqrt(state.variance_per_second * (ahead + SMOOTHING.level_seconds))),
        )
        for state in smoothed(seen)
    ]


def last_value(seen: Floats, minutes: int) -> list[Point]:
    """The mean of the last five minutes; spread: of its changes over the horizon in the last two hours."""
    means = np.convolve(seen, np.ones(5) / 5)[: len(seen)]
    found = []
    for minute in range(len(seen)):
        past = means[max(5, minute - HISTORY) : minute + 1]
        spread = float(np.std(past[minutes:] - past[:-minutes])) if len(past) > 2 * minutes else 0.0
        found.append((float(means[minute]), spread))
    return found


class Library:
    """Damped exponential smoothing of statsmodels (ETS(A, Ad, N)), at the minutes that are compared only."""

    def __init__(self) -> None:
        self._known: dict[bytes, dict[int, dict[int, Point]]] = {}

    def __call__(self, seen: Floats, minutes: int) -> list[Point]:
        """As the other methods."""
        fits = self._known.setdefault(seen.tobytes(), {})
        for minute in compared(len(seen), minutes):
            if minute not in fits:
                fits[minute] = self._fitted(seen[minute - HISTORY + 1 : minute + 1])
        return [fits[minute][minutes] if minute in fits else (0.0, 0.0) for minute in range(len(seen))]

    def _fitted(self, past: Floats) -> dict[int, Point]:
        """Forecasts by minutes ahead."""
        from pandas import Series
        from statsmodels.tsa.exponential_smoothing.ets import ETSModel

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit = ETSModel(Series(past), trend="add", damped_trend=True).fit(disp=False)
            shown = fit.get_prediction(start=len(past), end=len(past) + max(HORIZON_MINUTES) - 1)
        means, variances = np.asarray(shown.predicted_mean), np.asarray(shown.forecast_variance)
        return {
            minutes: (max(0.0, float(means[minutes - 1])), float(np.sqrt(variances[minutes - 1])))
            for minutes in HORIZON_MINUTES
        }


def compared(length: int, minutes: int) -> range:
    """The minutes at which methods are held against the curve."""
    return range(START, length - minutes, EVERY)


def run() -> tuple[list[Figure], list[str], list[Table]]:
    """Compare."""
    methods: dict[str, Callable[[Floats, int], list[Point]]] = {
        "mean of the last 5 minutes": last_value,
        "exponential smoothing (the operator's)": ours,
    }
    if find_spec("statsmodels") is not None:
        methods["ETS (A, Ad, N), statsmodels"] = Library()
    rows: list[tuple[str, ...]] = []
    figures: list[Figure] = []
    real = curves()
    for label, mean, variance in NOISES:
        data = {name: drawn(curve, mean, variance, 1) for name, curve in real.items()}
        for minutes in HORIZON_MINUTES:
            for method, points in methods.items():
                say(f"{label}, {minutes} minutes, {method}")
                error, above, passed = _score(points, list(data.values()), minutes)
                rows.append((label, f"{minutes}", method, f"{error:.1%}", f"{above:.1%}", f"{passed:.1%}"))
            short, above, moves = (
                float(np.mean(part))
                for part in zip(*(_held(curve, seen, minutes) for curve, seen in data.values()), strict=True)
            )
            name = f"planned demand with headroom passed after {minutes} min ({label})"
            figures.append(Figure(name, 100 * short, "% of minutes"))
            figures.append(Figure(f"planned demand above the curve ({label}, {minutes} min)", 100 * above, "%"))
            figures.append(Figure(f"moves of the planned demand ({label}, {minutes} min)", moves, "per day"))
    columns = ("arrivals", "minutes ahead", "method", "error (RMSE)", "upper estimate above the curve", "passed")
    return (
        figures,
        [" ".join(part.split()) for part in (__doc__ or "").split("\n\n")[1:]],
        [Table("Forecasts, mean over six curves (second halves)", columns, rows)],
    )


def _score(
    points: Callable[[Floats, int], list[Point]], data: Sequence[tuple[Floats, Floats]], minutes: int
) -> tuple[float, float, float]:
    """Of the second halves: error of the forecast, upper estimate above the curve, part of the minutes that pass it.

    All of them relative to each curve's mean; one multiple of the spread for all curves.
    """
    halves = []
    for first in (True, False):
        parts = []
        for curve, seen in data:
            half = slice(None, len(curve) // 2) if first else slice(len(curve) // 2, None)
            parts.append(np.array(_against(points(seen[half], minutes), curve[half], minutes)) / curve[half].mean())
        halves.append(np.concatenate(parts, axis=1))
    low, high = 0.0, 50.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if _passed(halves[0], middle) > ALLOWED else (low, middle)
    forecast, spread, real = halves[1]
    error = float(np.sqrt(np.mean((forecast - real) ** 2)))
    return error, float((forecast + high * spread).mean() / real.mean() - 1), _passed(halves[1], high)


def _against(points: Sequence[Point], curve: Floats, minutes: int) -> tuple[Floats, Floats, Floats]:
    chosen = compared(len(curve), minutes)
    forecast, spread = np.array([points[minute] for minute in chosen]).T
    return forecast, spread, curve[[minute + minutes for minute in chosen]]


def _passed(held: Floats, multiple: float) -> float:
    forecast, spread, real = held
    return float((forecast + multiple * spread < real).mean())


def _held(curve: Floats, seen: Floats, minutes: int) -> tuple[float, float, float]:
    """Of the second half, with everything that the operator does: how often too low, how far above, moves per day."""
    half = len(curve) // 2
    curve, seen = curve[half:], seen[half:]
    state = beginning(float(seen[0]), -60.0)
    planned = []
    for minute, rate in enumerate(seen):
        state = followed(state, Window(60.0 * minute, float(rate)), 60.0 * minutes)
        planned.append(state.planned_per_minute)
    made, real = np.array(planned[START:-minutes]), curve[START + minutes :]
    moves = np.count_nonzero(np.diff(made)) / len(made) * 1440
    return float((made * (1 + HEADROOM) < real).mean()), float(made.mean() / real.mean() - 1), float(moves)
