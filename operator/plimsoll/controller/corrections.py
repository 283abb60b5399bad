"""Observed latencies correct predictions: read Prometheus each interval, learn, keep what was learnt, and tell."""

import asyncio
import logging
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from plimsoll.api.llmdeployment_status import ObservedLatency
from plimsoll.controller.client import ApiError
from plimsoll.controller.events import Recorder
from plimsoll.controller.figures import observed_latency
from plimsoll.controller.kinds import CONFIG_MAP, RESOURCES, Kind
from plimsoll.controller.metrics import Metrics
from plimsoll.controller.observing import look_for_ever
from plimsoll.controller.settings import Settings
from plimsoll.controller.status import renewed
from plimsoll.controller.store import Store
from plimsoll.performance import Estimate
from plimsoll.planning.observed import Learnt, Lesson, ObservedPlacement, ReplicaKind, in_force, learn
from plimsoll.planning.plan import FleetPlan
from plimsoll.rendering.corrections import NAME, corrections_config_map, learnt_from_config_map
from plimsoll.telemetry.prometheus import Prometheus, PrometheusError
from plimsoll.telemetry.replicas import read_figures

MANAGER = "plimsoll-corrections"
_RARELY_SECONDS = 600.0
"""Between two writes that change no plan: of estimates, and of the observed latencies of a placement."""
_RETRY_SECONDS = 5.0
_PHASES = ("prefill", "decode")
_log = logging.getLogger(__name__)


class Keeper(Protocol):
    """What keeping needs of the client."""

    async def find(self, kind: Kind, namespace: str, name: str) -> Mapping[str, Any] | None: ...

    async def apply(self, manifest: Mapping[str, Any], manager: str) -> dict[str, Any]: ...


class Corrections:
    """What was learnt of the speed of replicas. `load` once, then `run`."""

    def __init__(
        self,
        settings: Settings,
        keeper: Keeper,
        store: Store,
        recorder: Recorder,
        metrics: Metrics,
        plan: Callable[[], FleetPlan | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._keeper, self._store = settings, keeper, store
        self._recorder, self._metrics, self._plan, self._clock = recorder, metrics, plan, clock
        self._learnt: Mapping[ReplicaKind, Learnt] = {}
        self._kept: Mapping[ReplicaKind, Learnt] = {}
        self._kept_at = -_RARELY_SECONDS
        self._shown: dict[tuple[str, str], tuple[ObservedLatency, float]] = {}
        self._trouble = ""
        self._reasons: set[tuple[ReplicaKind, str, str]] = set()

    async def load(self) -> None:
        """Take up what an earlier run has learnt. Returns when the API server has answered."""
        while True:
            try:
                found = await self._keeper.find(CONFIG_MAP, self._settings.namespace, NAME)
            except ApiError as error:
                _log.warning("ConfigMap %s: %s", NAME, error)
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            break
        if found is not None:
            self._learnt, problems = learnt_from_config_map(found)
            self._kept = self._learnt
            for problem in problems:
                _log.warning("ConfigMap %s: left out: %s", NAME, problem)
            self._kept_at = self._clock()
        self._store.learn(in_force(self._learnt), {})
        self._measure()

    async def run(self) -> None:
        """Learn every interval, until cancelled."""
        await look_for_ever("corrections", self._settings.correction_interval_seconds, self.turn)

    async def turn(self) -> None:
        """One interval. Without a plan or an answer of Prometheus everything stays as it is."""
        fleet = self._plan()
        if fleet is None:
            return
        try:
            async with Prometheus(self._settings.prometheus) as prometheus:
                figures = await read_figures(prometheus.instant, self._settings.correction_interval_seconds)
        except PrometheusError as error:
            self._heard(str(error))
            return
        self._heard("")
        before = self._learnt
        # In a thread: hundreds of placements take seconds.
        lesson = await asyncio.to_thread(learn, fleet, self._store.snapshot(), figures, before)
        self._learnt = lesson.learnt
        self._show(lesson)
        self._store.learn(in_force(self._learnt), {place: latency for place, (latency, _) in self._shown.items()})
        self._measure()
        self._say_what_is_ignored()
        await self._tell(before, lesson)
        await self._keep()

    # --- Telling -----------------------------------------------------------------------------------------------------

    def _heard(self, trouble: str) -> None:
        """Note whether Prometheus answered; the log says it when that changes."""
        self._metrics.telemetry_up.labels("prometheus").set(0 if trouble else 1)
        if trouble and not self._trouble:
            _log.warning("Prometheus does not answer, corrections stay as they are: %s", trouble)
        elif self._trouble and not trouble:
            _log.info("Prometheus answers again")
        self._trouble = trouble

    def _show(self, lesson: Lesson) -> None:
        now = self._clock()
        for item in lesson.observed:
            place = (item.deployment.namespace, item.placement)
            found = observed_latency(item.ttft_seconds, item.tpot_seconds, datetime.now(UTC))
            shown, since = self._shown.get(place, (None, -_RARELY_SECONDS))
            chosen = renewed(shown, found)
            if chosen is found and now - since >= _RARELY_SECONDS:
                self._shown[place] = (found, now)
        present = {(pod.namespace, pod.placement) for pod in self._store.snapshot().pods}
        self._shown = {place: item for place, item in self._shown.items() if place in present}

    def _measure(self) -> None:
        for kind, item in self._learnt.items():
            if item.rests_on_requests:
                labels = (kind.model, kind.precision, kind.accelerator, f"t{kind.tensor}p{kind.pipeline}")
                for phase in _PHASES:
                    estimate: Estimate = getattr(item, phase)
                    self._metrics.correction_factor.labels(*labels, phase).set(estimate.in_force)
                    self._metrics.correction_estimate.labels(*labels, phase).set(estimate.value)

    def _say_what_is_ignored(self) -> None:
        for kind, item in self._learnt.items():
            for phase in _PHASES:
                reason = getattr(item, phase).ignored
                # Figures differ each time; the reason is told once.
                told = (kind, phase, re.sub(r"[-+.\d]+(e[-+]?\d+)?", "", reason or ""))
                if reason is not None and told not in self._reasons:
                    self._reasons.add(told)
                    _log.info("what is observed of %s teaches nothing of %s: %s", kind, phase, reason)

    async def _tell(self, before: Mapping[ReplicaKind, Learnt], lesson: Lesson) -> None:
        """An event on each LLMDeployment whose predictions move."""
        live = self._store.live_by_name(RESOURCES["LLMDeployment"])
        told: set[tuple[str, str, str]] = set()
        for item in lesson.observed:
            text = _moved(item, before, lesson.learnt)
            key = (item.deployment.namespace, item.deployment.name, text)
            target = live.get(key[:2])
            if text and target is not None and key not in told:
                told.add(key)
                _log.info("%s: %s", item.deployment, text)
                await self._recorder.note(target, "Corrected", "SpeedCorrected", text)

    # --- Keeping -----------------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        now = self._clock()
        manifest = corrections_config_map(self._learnt, self._settings.namespace)
        moved = in_force(self._learnt) != in_force(self._kept)
        if manifest == corrections_config_map(self._kept, self._settings.namespace) or (
            not moved and now - self._kept_at < _RARELY_SECONDS
        ):
            return
        try:
            await self._keeper.apply(manifest, MANAGER)
        except ApiError as error:
            _log.warning("ConfigMap %s: %s", NAME, error)
        else:
            self._kept, self._kept_at = self._learnt, now


def _moved(item: ObservedPlacement, before: Mapping[ReplicaKind, Learnt], after: Mapping[ReplicaKind, Learnt]) -> str:
    """Which factors in force have moved, for people; empty when none has."""
    now = after[item.kind]
    earlier = before.get(item.kind)
    parts = []
    for phase in _PHASES:
        new: Estimate = getattr(now, phase)
        old = getattr(earlier, phase).in_force if earlier is not None else new.in_force
        if new.in_force != old:
            parts.append(f"{phase} ×{old:.2f} to ×{new.in_force:.2f} after {new.requests:.0f} requests")
    return f"observed latencies move predictions for {item.kind}: {', '.join(parts)}" if parts else ""
