"""Measured round trips between regions: read from the ConfigMap that people's probes write, each minute."""

import asyncio
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from plimsoll.controller.client import ApiError
from plimsoll.controller.kinds import CONFIG_MAP, Kind
from plimsoll.controller.store import Store
from plimsoll.planning.distances import in_force, stale
from plimsoll.planning.snapshot import MeasuredTrip
from plimsoll.rendering.round_trips import NAME, measurements_from_config_map

_SECONDS = 60.0
_log = logging.getLogger(__name__)


class Reader(Protocol):
    """What reading needs of the client."""

    async def find(self, kind: Kind, namespace: str, name: str) -> Mapping[str, Any] | None: ...


class Distances:
    """Keeps the store's measured round trips up to date."""

    def __init__(self, reader: Reader, store: Store, namespace: str) -> None:
        self._reader, self._store, self._namespace = reader, store, namespace
        self._trips: tuple[MeasuredTrip, ...] = ()
        self._told = ""

    async def run(self) -> None:
        """Read again and again, until cancelled."""
        while True:
            await asyncio.sleep(_SECONDS)
            await self.turn()

    async def turn(self, now: datetime | None = None) -> None:
        """Read once. Where the API server does not answer, everything stays as it is."""
        now = now or datetime.now(UTC)
        try:
            found = await self._reader.find(CONFIG_MAP, self._namespace, NAME)
        except ApiError as error:
            self._tell(f"it cannot be read: {error}")
            return
        measured, problems = measurements_from_config_map(found) if found is not None else ((), ())
        old = stale(measured, now)
        self._tell("; ".join((*problems, *([f"{old} measurements are older than a day"] if old else []))))
        self._trips = in_force(self._trips, measured, now)
        self._store.learn_distances(self._trips)

    def _tell(self, trouble: str) -> None:
        """Log what is wrong when it changes."""
        if trouble and trouble != self._told:
            _log.warning("ConfigMap %s: %s", NAME, trouble)
        self._told = trouble
