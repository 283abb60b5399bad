"""How traffic classes fare against their objectives, as Prometheus shows it: in metrics, and roughly in status."""

import logging
import time
from collections.abc import Callable, Mapping

from plimsoll.api.llmdeployment_status import SLOWindow
from plimsoll.api.units import rounded
from plimsoll.controller.metrics import Metrics
from plimsoll.controller.observing import look_for_ever
from plimsoll.controller.settings import Settings
from plimsoll.controller.store import Fare, Store
from plimsoll.planning.attainment import WINDOWS, Attainment, Latencies, attainments
from plimsoll.planning.plan import FleetPlan
from plimsoll.planning.watching import ClassKey
from plimsoll.telemetry.histograms import LATENCIES, read_histograms
from plimsoll.telemetry.prometheus import Prometheus, PrometheusError

_RARELY_SECONDS = 600.0
"""Between two writes of the status of a class: status is no stream of metrics."""
_MOVE = 0.2
_SLIGHT = 0.1
"""Moves of a burn rate that nobody needs to see."""
_MOST_BURN = 9999.0
_RENEWALS = 60
"""A window is read anew after this part of its length, and in the beginning after as long as it has been looked at."""
_log = logging.getLogger(__name__)


class Objectives:
    """Attainment and burn rates. `run` for ever."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        metrics: Metrics,
        plan: Callable[[], FleetPlan | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._store, self._metrics, self._plan, self._clock = settings, store, metrics, plan, clock
        self._began = clock()
        self._read: dict[str, tuple[float, Latencies]] = {}
        """When each window was read, and what it held."""
        self._shown: dict[ClassKey, tuple[float, Fare]] = {}

    async def run(self) -> None:
        """Look every interval, until cancelled."""
        await look_for_ever("objectives", self._settings.slo_interval_seconds, self.turn)

    async def turn(self) -> None:
        """One look. Without an answer of Prometheus the last figures stay in status, and metrics go."""
        fleet, now = self._plan(), self._clock()
        if fleet is None:
            return
        try:
            async with Prometheus(self._settings.prometheus) as prometheus:
                for name, seconds in WINDOWS.items():
                    if self._due(name, seconds, now):
                        self._read[name] = now, await read_histograms(prometheus.instant, seconds, LATENCIES)
        except PrometheusError as error:
            # That it is away is told by what reads the demand.
            _log.debug("no report on the objectives: %s", error)
            self._read.clear()
        snapshot = self._store.snapshot()
        found = {name: attainments(fleet, snapshot, latencies) for name, (_, latencies) in self._read.items()}
        self._measure(fleet, found)
        self._show(fleet, found, now)

    def _due(self, name: str, seconds: float, now: float) -> bool:
        if name not in self._read:
            return True
        read_at = self._read[name][0]
        return now - read_at >= min(seconds / _RENEWALS, read_at - self._began)

    def _measure(self, fleet: FleetPlan, found: Mapping[str, Mapping[ClassKey, Attainment]]) -> None:
        metrics = self._metrics
        for gauge in (metrics.slo_attainment, metrics.slo_burn_rate, metrics.slo_latency):
            gauge.clear()
        for window, classes in found.items():
            for key, item in classes.items():
                if item.share is not None and item.burn_rate is not None:
                    metrics.slo_attainment.labels(*key, window).set(item.share)
                    metrics.slo_burn_rate.labels(*key, window).set(item.burn_rate)
        recent = found.get("5m", {})
        for plan in fleet.deployments:
            for traffic in plan.classes:
                key = (plan.ref.namespace, plan.ref.name, traffic.name)
                for figure in traffic.latency:
                    labels = (*key, figure.metric)
                    metrics.slo_latency.labels(*labels, "predicted").set(figure.predicted_milliseconds / 1000)
                    if figure.target_milliseconds is not None:
                        metrics.slo_latency.labels(*labels, "target").set(figure.target_milliseconds / 1000)
                    observed = recent[key].observed_seconds.get(figure.metric) if key in recent else None
                    if observed is not None:
                        metrics.slo_latency.labels(*labels, "observed").set(observed)

    def _show(self, fleet: FleetPlan, found: Mapping[str, Mapping[ClassKey, Attainment]], now: float) -> None:
        present = _classes(fleet)
        self._shown = {key: item for key, item in self._shown.items() if key in present}
        for key in present:
            fare = _fare({name: classes[key] for name, classes in found.items() if key in classes})
            since, shown = self._shown.get(key, (now, None))
            waited = now - since >= _RARELY_SECONDS
            if fare.windows and (shown is None or _has_more(shown, fare) or (waited and _moved(shown, fare))):
                self._shown[key] = now, fare
        self._store.judge({key: fare for key, (_, fare) in self._shown.items()})


def _classes(fleet: FleetPlan) -> set[ClassKey]:
    return {(plan.ref.namespace, plan.ref.name, item.name) for plan in fleet.deployments for item in plan.classes}


def _fare(found: Mapping[str, Attainment]) -> Fare:
    windows = tuple(
        SLOWindow(window=name, attainment=rounded(share, 3), burn_rate=rounded(min(_MOST_BURN, burn or 0.0), 1))
        for name in WINDOWS
        if name in found
        for share, burn in [(found[name].share, found[name].burn_rate)]
        if share is not None
    )
    recent = found["5m"].observed_seconds if "5m" in found else {}
    return Fare(windows, {metric: _two_digits(1000 * seconds) for metric, seconds in recent.items()})


def _has_more(shown: Fare, found: Fare) -> bool:
    return {item.window for item in shown.windows} < {item.window for item in found.windows}


def _moved(shown: Fare, found: Fare) -> bool:
    burns: list[dict[str, float]] = [
        {item.window: float(item.burn_rate) for item in fare.windows} for fare in (shown, found)
    ]
    latencies = [shown.observed_milliseconds, found.observed_milliseconds]
    if any(one.keys() != other.keys() for one, other in (burns, latencies)):
        return True
    return any(abs(new - old) > max(_SLIGHT, _MOVE * old) for old, new in _pairs(*burns)) or any(
        abs(new - old) > _MOVE * old for old, new in _pairs(*latencies)
    )


def _pairs(before: Mapping[str, float], after: Mapping[str, float]) -> list[tuple[float, float]]:
    return [(value, after[name]) for name, value in before.items()]


def _two_digits(milliseconds: float) -> int:
    return round(float(f"{milliseconds:.2g}"))
