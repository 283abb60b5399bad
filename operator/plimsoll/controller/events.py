"""Kubernetes Events about custom resources: one per change, never a stream.

An event is written when a condition says something else than the live status (`conditions.changed`), so a restart
repeats nothing. Losing one does no harm; the condition has the same text.
"""

import hashlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from plimsoll.api import Condition
from plimsoll.controller.client import ApiError
from plimsoll.controller.kinds import Kind
from plimsoll.controller.metrics import Metrics
from plimsoll.controller.throttle import TokenBucket

EVENT = Kind("Event", "events.k8s.io", "v1", "events")
CONTROLLER = "plimsoll.dev/operator"
_REPEAT_SECONDS = 120.0
_BAD_WHEN_TRUE = frozenset({"Stalled"})
_EXPECTED = frozenset({"WaitingForPods", "AwaitingApproval"})
"""Reasons that are no cause for alarm."""
_TOLD = frozenset({"Planned", "Ready", "Stalled", "SLOMet"})
"""Conditions whose changes are told; the others change with every step of a transition."""
_log = logging.getLogger(__name__)


class EventWriter(Protocol):
    """What recording needs of the client."""

    async def create(self, kind: Kind, manifest: Mapping[str, Any], manager: str) -> dict[str, Any]: ...


class Recorder:
    """Writes events, deduplicated and rate-limited. Never fails."""

    def __init__(
        self, writer: EventWriter, metrics: Metrics, clock: Callable[[], float] = time.monotonic, instance: str = ""
    ) -> None:
        self._writer, self._metrics, self._clock = writer, metrics, clock
        self._instance = instance or os.environ.get("HOSTNAME", "plimsoll")
        self._bucket = TokenBucket(5.0, 50, clock)
        self._told: dict[tuple[str, str, str], float] = {}
        self._forget_at = clock()

    async def tell(self, regarding: Mapping[str, Any], condition: Condition) -> None:
        """Write an event about a changed condition of an object (`apiVersion`, `kind`, `metadata`)."""
        if condition.type not in _TOLD:
            return
        good = (condition.status == "True") != (condition.type in _BAD_WHEN_TRUE) or condition.reason in _EXPECTED
        await self.note(regarding, condition.type, condition.reason, condition.message, good=good)

    async def note(
        self, regarding: Mapping[str, Any], action: str, reason: str, message: str, *, good: bool = True
    ) -> None:
        """Write an event about an object."""
        metadata = regarding["metadata"]
        key = (str(metadata["uid"]), reason, message)
        if self._repeats(key):
            return
        if self._bucket.reserve() > 0:
            self._metrics.events.labels("dropped").inc()
            return
        namespace = str(metadata.get("namespace") or "default")
        now = datetime.now(UTC)
        unique = hashlib.sha256("\0".join((*key, now.isoformat())).encode()).hexdigest()[:16]
        manifest = {
            "apiVersion": EVENT.api_version,
            "kind": EVENT.name,
            "metadata": {"name": f"{metadata['name'][:200]}.{unique}", "namespace": namespace},
            "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "reportingController": CONTROLLER,
            "reportingInstance": self._instance[:128],
            "action": action,
            "reason": reason[:128],
            "note": message[:1000],
            "type": "Normal" if good else "Warning",
            "regarding": {
                "apiVersion": regarding["apiVersion"],
                "kind": regarding["kind"],
                "name": metadata["name"],
                "uid": metadata["uid"],
                **({"namespace": metadata["namespace"]} if metadata.get("namespace") else {}),
            },
        }
        try:
            await self._writer.create(EVENT, manifest, "plimsoll-events")
        except ApiError as error:
            self._metrics.events.labels("error").inc()
            _log.warning("event about %s %s: %s", regarding["kind"], metadata["name"], error)
        else:
            self._metrics.events.labels("ok").inc()

    def _repeats(self, key: tuple[str, str, str]) -> bool:
        now = self._clock()
        if now >= self._forget_at:
            self._told = {told: at for told, at in self._told.items() if now - at < _REPEAT_SECONDS}
            self._forget_at = now + _REPEAT_SECONDS
        if now - self._told.get(key, -_REPEAT_SECONDS) < _REPEAT_SECONDS:
            return True
        self._told[key] = now
        return False
