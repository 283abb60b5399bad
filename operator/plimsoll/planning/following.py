"""The demand that is planned for, followed from window to window: up at once, down slowly, still under noise. Pure.

What is planned for is the forecast's upper estimate for when a new replica can serve, held: a plan that follows every
window would move pods for noise. Growth needs two looks in a row that show it, since a window with a moment of a lie at
its edge looks plausible; a shrink a whole cool-down of windows that were all seen and whose two signals, arrivals and
running requests, agreed.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import ceil, log

from plimsoll.planning.forecast import SMOOTHING, Forecast, ForecastRule, level_deviation


@dataclass(frozen=True, slots=True)
class Window:
    """What one traffic class did in one window."""

    seconds: float
    """When it ended, by any clock that only grows."""
    requests_per_minute: float
    """That arrived."""
    plausible: bool = True
    """Running requests are at least what such a rate makes them. Otherwise the window teaches nothing."""
    calm: bool = True
    """They are not many more either, and little waits: only then it counts for a shrink."""
    whole: bool = True
    """Everything was seen; otherwise the rate is a lower bound, which never counts for a shrink."""
    length_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class DemandRule:
    """When the planned demand moves."""

    forecast: ForecastRule = SMOOTHING
    cool_down_seconds: float = 600.0
    """A shrink needs good windows throughout."""
    step: float = 0.05
    """Growth goes to the next of rates that lie so far apart."""
    least_shrink: float = 0.1
    """What is planned for stays while the need is less than this part below."""
    most_shrink: float = 0.15
    """Of what is planned for, in one cool-down. A plan that takes away more than a fifth of what serves is held, as a
    sign of something broken (planning/guard.py)."""
    longest_doubt_seconds: float = 45.0
    """Growth waits no longer than that for a second look: where looks are farther apart, one is enough."""
    current_step: float = 0.1
    """By how much the present rate must move to be another one; a window is believed so far, and as chance allows."""
    longest_gap_seconds: float = 120.0
    """Windows farther apart leave something unseen."""
    busy_per_minute: float = 20.0
    longest_silence_seconds: float = 3600.0
    """A class that was busy and of which nothing at all arrives has lost its way here, or its metrics have: for so long
    that teaches nothing."""
    least_per_minute: float = 1.0
    """What is planned for never falls below: without a replica nothing could be measured."""


FOLLOWING = DemandRule()


@dataclass(frozen=True, slots=True)
class Followed:
    """What is known and planned for after some windows. Rates in requests per minute."""

    seconds: float
    """When it was last looked, whatever was seen."""
    planned_per_minute: float
    """Whole, so that a status can hold it over a restart."""
    current_per_minute: float
    seen_at: float
    """When the last plausible window ended, or this began."""
    fresh: bool = False
    """There was a plausible window lately."""
    forecast: Forecast | None = None
    good_since: float | None = None
    """Since when every window counts for a shrink; None after one that does not. Begins anew with every shrink."""
    peaks: tuple[tuple[float, float], ...] = ()
    """Moments and upper estimates of the cool-down, each above all later ones."""
    silent_since: float | None = None
    """Since when a busy class has been silent."""
    rising: bool = False
    """The last window asked for more than was planned for."""
    doubted: tuple[float, float] | None = None
    """Moment and rate of the last window, where it was the first to do so: it teaches nothing until another agrees."""


def beginning(requests_per_minute: float, seconds: float) -> Followed:
    """Nothing seen yet: what was declared, or was planned for before a restart."""
    return Followed(seconds, requests_per_minute, requests_per_minute, seconds)


def followed(state: Followed, window: Window, horizon_seconds: float, rule: DemandRule = FOLLOWING) -> Followed:
    """After another window. One that is not later than the last changes nothing.

    Args:
        horizon_seconds: until a replica that is decided about now would serve.
    """
    if window.seconds <= state.seconds and (state.forecast is not None or state.doubted is not None):
        return state
    if not window.plausible:
        return _without_doubted(_uncertain(state, window.seconds, rule))
    silent_since = _silent_since(state, window, rule)
    if silent_since is not None and window.seconds - silent_since < rule.longest_silence_seconds:
        return _without_doubted(replace(_uncertain(state, window.seconds, rule), silent_since=silent_since))
    least = 0.0 if window.whole else state.current_per_minute if state.forecast is None else state.forecast.level
    rate = max(window.requests_per_minute, least)
    forecast, upper = _taught(state.forecast, (window.seconds, rate), horizon_seconds, rule)
    planned = state.planned_per_minute
    rising = upper > planned
    doubted = rising and not state.rising and window.seconds - state.seconds <= rule.longest_doubt_seconds
    if rising and state.doubted is not None:
        before, _ = _taught(state.forecast, state.doubted, horizon_seconds, rule)
        forecast, upper = _taught(before, (window.seconds, rate), horizon_seconds, rule)
    calm = window.calm and window.whole
    gap = window.seconds - state.seconds > rule.longest_gap_seconds
    since = window.seconds if state.good_since is None or gap else state.good_since
    peaks = _with_peak(() if gap else state.peaks, (window.seconds, upper), rule.cool_down_seconds)
    if upper > planned:
        planned = planned if doubted else _step_above(upper, rule.step)
    elif calm and window.seconds - since >= rule.cool_down_seconds:
        need = _step_above(peaks[0][1], rule.step)
        if planned - need >= max(rule.least_shrink * planned, _noise(planned, rule)):
            planned = max(need, min(planned - 1, float(ceil(planned * (1 - rule.most_shrink)))))
            since = window.seconds
    current, present = state.current_per_minute, _present(forecast.level, rate, window.length_seconds, rule)
    if state.forecast is None or abs(present - current) > max(rule.current_step * current, _noise(current, rule)):
        current = present
    return Followed(
        seconds=window.seconds,
        planned_per_minute=planned,
        current_per_minute=current,
        seen_at=window.seconds,
        fresh=True,
        forecast=state.forecast if doubted else forecast,
        good_since=since if calm else None,
        peaks=peaks,
        silent_since=silent_since,
        rising=rising,
        doubted=(window.seconds, rate) if doubted else None,
    )


def _taught(
    known: Forecast | None, window: tuple[float, float], horizon_seconds: float, rule: DemandRule
) -> tuple[Forecast, float]:
    """What is known after a window (moment and rate), and the upper estimate that follows."""
    forecast = (known or Forecast.beginning(*window)).after(*window, rule.forecast)
    return forecast, max(rule.least_per_minute, forecast.upper(horizon_seconds, rule.forecast))


def _present(level: float, rate: float, window_seconds: float, rule: DemandRule) -> float:
    """What arrives now: the level, or what the last window surely shows where that is farther away."""
    chance = level_deviation(rate, window_seconds / 2)
    return min(max(level, rate / (1 + rule.current_step) - chance), rate * (1 + rule.current_step) + chance)


def unseen(state: Followed, seconds: float, declared_per_minute: float, rule: DemandRule = FOLLOWING) -> Followed:
    """After an interval without a good window: what was planned for stays, and soon is at least what was declared."""
    state = _uncertain(state, seconds, rule)
    if seconds - state.seen_at <= rule.longest_gap_seconds:
        return state
    return replace(state, planned_per_minute=max(state.planned_per_minute, declared_per_minute))


def _silent_since(state: Followed, window: Window, rule: DemandRule) -> float | None:
    if window.requests_per_minute > 0:
        return None
    busy = state.forecast is not None and state.forecast.level >= rule.busy_per_minute
    return window.seconds if state.silent_since is None and busy else state.silent_since


def _uncertain(state: Followed, seconds: float, rule: DemandRule) -> Followed:
    fresh = state.forecast is not None and seconds - state.seen_at <= rule.longest_gap_seconds
    return replace(state, seconds=seconds, fresh=fresh, good_since=None, peaks=())


def _without_doubted(state: Followed) -> Followed:
    return replace(state, rising=False, doubted=None)


def followed_all(
    state: Followed, windows: Iterable[Window], horizon_seconds: float, rule: DemandRule = FOLLOWING
) -> Followed:
    """After several windows, in their order."""
    for window in windows:
        state = followed(state, window, horizon_seconds, rule)
    return state


def _with_peak(
    peaks: tuple[tuple[float, float], ...], new: tuple[float, float], span_seconds: float
) -> tuple[tuple[float, float], ...]:
    return (*(item for item in peaks if item[0] >= new[0] - span_seconds and item[1] > new[1]), new)


def _noise(rate: float, rule: DemandRule) -> float:
    """Three standard deviations of the level of requests that come at random."""
    return 3 * level_deviation(max(rate, rule.least_per_minute), rule.forecast.level_seconds)


def _step_above(rate: float, step: float) -> float:
    """The least of the rates 1, 1 + step, (1 + step)^2, ..., each rounded up, that is not below."""
    grid = log(1 + step)
    return float(ceil((1 + step) ** ceil(log(rate) / grid - 1e-9) - 1e-9))
