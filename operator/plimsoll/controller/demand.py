"""Demand as Prometheus shows it: read every few seconds, followed, handed to the planner, and told."""

import logging
import time
from collections.abc import Callable, Mapping

from pydantic import ValidationError

from plimsoll.api.llmdeployment_status import LLMDeploymentStatus
from plimsoll.api.placementpolicy import PlacementPolicy
from plimsoll.controller.kinds import RESOURCES
from plimsoll.controller.metrics import Metrics
from plimsoll.controller.observing import look_for_ever
from plimsoll.controller.settings import Settings
from plimsoll.controller.store import Sight, Store
from plimsoll.performance import TokenLengths
from plimsoll.planning.arrivals import Reading, readings
from plimsoll.planning.following import Followed, beginning
from plimsoll.planning.objectives import token_lengths
from plimsoll.planning.observed_lengths import HeldLengths, held, seen_lengths
from plimsoll.planning.plan import FleetPlan
from plimsoll.planning.recalled import METRICS_FRESH, recalled
from plimsoll.planning.snapshot import ObjectRef, Snapshot
from plimsoll.planning.watching import PATIENCE_INTERVALS, ClassKey, Watched, watched
from plimsoll.telemetry.histograms import LENGTHS, read_histograms
from plimsoll.telemetry.load import read_load
from plimsoll.telemetry.prometheus import Prometheus, PrometheusError

_NO_REPLICA = "NoReadyReplicas"
_WINDOW_INTERVALS = 4
_LENGTHS_SECONDS = 60.0
"""Between two looks at token lengths, which move slowly."""
_FRESH = Sight("True", "Fresh", "demand is what Prometheus shows")
_NOT_MEASURED = Sight("Unknown", "NotMeasured", "nothing was measured yet; demand is as declared")
_log = logging.getLogger(__name__)


class Demand:
    """What arrives, for the planner. `load` once, then `run`."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        metrics: Metrics,
        plan: Callable[[], FleetPlan | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._store, self._metrics, self._plan, self._clock = settings, store, metrics, plan, clock
        self._watched = Watched()
        self._lengths: dict[ClassKey, HeldLengths] = {}
        self._lengths_read: float | None = None
        self._trouble = ""

    def load(self) -> None:
        """Take up what was planned for before this process started, as statuses say."""
        now = self._clock()
        classes: dict[ClassKey, Followed] = {}
        sights: dict[tuple[str, str], Sight] = {}
        for place, item in self._store.live_by_name(RESOURCES["LLMDeployment"]).items():
            try:
                status = LLMDeploymentStatus.model_validate(item["status"])
            except ValidationError:
                continue
            known = next((one for one in status.conditions if one.type == METRICS_FRESH), None)
            if known is not None:
                sights[place] = Sight(known.status, known.reason, known.message)
            for demand in recalled(*place, status):
                classes[*place, demand.traffic] = beginning(demand.requests_per_minute, now)
                if demand.lengths is not None:
                    self._lengths[*place, demand.traffic] = HeldLengths(demand.lengths, now)
        self._watched = Watched(classes)
        self._hand_over(self._store.snapshot(), sights)

    async def run(self) -> None:
        """Look every interval, until cancelled."""
        await look_for_ever("demand", self._settings.demand_interval_seconds, self.turn)

    async def turn(self) -> None:
        """One look."""
        fleet, snapshot, interval = self._plan(), self._store.snapshot(), self._settings.demand_interval_seconds
        if fleet is None:
            return
        found: tuple[Reading, ...] = ()
        seen: Mapping[ClassKey, TokenLengths] = {}
        cool_down = float((snapshot.policy or PlacementPolicy.implied()).spec.rebalance.cool_down_seconds)
        due = self._lengths_read is None or self._clock() - self._lengths_read >= _LENGTHS_SECONDS
        try:
            async with Prometheus(self._settings.prometheus) as prometheus:
                load = await read_load(
                    prometheus.instant, self._clock(), _WINDOW_INTERVALS * interval, self._settings.arrivals_query
                )
                if due:
                    window = max(cool_down, _LENGTHS_SECONDS)
                    seen = seen_lengths(fleet, await read_histograms(prometheus.instant, window, LENGTHS))
                    self._lengths_read = self._clock()
        except PrometheusError as error:
            self._heard(str(error))
        else:
            self._heard("")
            found = readings(fleet, snapshot, load)
        now = self._clock()
        self._watched = watched(self._watched, fleet, snapshot, found, now, interval)
        self._learn(snapshot, seen, now, cool_down)
        self._hand_over(snapshot, self._sights(snapshot, now))
        self._measure(snapshot, found)

    def _learn(
        self, snapshot: Snapshot, seen: Mapping[ClassKey, TokenLengths], now: float, cool_down_seconds: float
    ) -> None:
        """Hold the lengths of classes whose metrics are in order."""
        kept: dict[ClassKey, HeldLengths] = {}
        for deployment in snapshot.deployments:
            ref = ObjectRef("LLMDeployment", deployment.namespace, deployment.name)
            for traffic in deployment.spec.traffic:
                key = (ref.namespace, ref.name, traffic.name)
                known = self._lengths.get(key)
                if key in seen and ref not in self._watched.troubles:
                    known = held(known, token_lengths(traffic.tokens), seen[key], now, cool_down_seconds)
                if known is not None:
                    kept[key] = known
        self._lengths = kept

    def _hand_over(self, snapshot: Snapshot, sights: Mapping[tuple[str, str], Sight]) -> None:
        policy = (snapshot.policy or PlacementPolicy.implied()).spec
        lengths = {key: item.lengths for key, item in self._lengths.items()}
        demand = self._watched.demand(lengths) if policy.demand.source == "Observed" else ()
        self._store.expect(demand, sights)

    def _sights(self, snapshot: Snapshot, now: float) -> dict[tuple[str, str], Sight]:
        """What the conditions say. A trouble that does not last is not told."""
        sights: dict[tuple[str, str], Sight] = {}
        for deployment in snapshot.deployments:
            ref = ObjectRef("LLMDeployment", deployment.namespace, deployment.name)
            place = (ref.namespace, ref.name)
            known, trouble = self._store.sights.get(place), self._watched.troubles.get(ref)
            measured = any((*place, traffic.name) in self._watched.classes for traffic in deployment.spec.traffic)
            if not measured and (trouble is None or trouble.reason == _NO_REPLICA):
                sights[place] = _NOT_MEASURED
            elif trouble is None:
                sights[place] = _FRESH
            elif now - trouble.since >= PATIENCE_INTERVALS * self._settings.demand_interval_seconds:
                sights[place] = Sight("False", trouble.reason, trouble.message)
            else:
                sights[place] = known or _NOT_MEASURED
        return sights

    def _heard(self, trouble: str) -> None:
        """Note whether Prometheus answered; the log says it when that changes."""
        self._metrics.telemetry_up.labels("prometheus").set(0 if trouble else 1)
        if trouble and not self._trouble:
            _log.warning("Prometheus does not answer, demand does not shrink: %s", trouble)
        elif self._trouble and not trouble:
            _log.info("Prometheus answers, demand is followed again")
        self._trouble = trouble

    def _measure(self, snapshot: Snapshot, found: tuple[Reading, ...]) -> None:
        self._metrics.traffic.clear()
        self._metrics.metrics_fresh.clear()
        for (namespace, name), sight in self._store.sights.items():
            self._metrics.metrics_fresh.labels(namespace, name).set(sight.status == "True")
        for deployment in snapshot.deployments:
            for traffic in deployment.spec.traffic:
                key = (deployment.namespace, deployment.name, traffic.name)
                self._metrics.traffic.labels(*key, "declared").set(traffic.requests_per_minute)
                if key in self._watched.classes:
                    self._metrics.traffic.labels(*key, "planned").set(self._watched.classes[key].planned_per_minute)
        for reading in found:
            for traffic_name, window in reading.windows.items():
                labels = (reading.deployment.namespace, reading.deployment.name, traffic_name, "observed")
                self._metrics.traffic.labels(*labels).set(window.requests_per_minute)
