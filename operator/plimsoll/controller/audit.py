"""Comparing the store with the API server: the gate before the first plan, and the broom afterwards.

A watch tells what changes, not that it is complete: a kind without objects gives no event at all, and a deletion
during a lost connection gives none either. A metadata list answers both, without asking for whole objects.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from plimsoll.controller.client import ApiError, Listed
from plimsoll.controller.kinds import Kind
from plimsoll.controller.metrics import Metrics
from plimsoll.controller.store import Store

_log = logging.getLogger(__name__)
_FIRST_WAIT, _LAST_WAIT = 0.2, 5.0


class Lister(Protocol):
    """What auditing needs of the client."""

    async def list_metadata(self, kind: Kind) -> list[Listed]: ...


@dataclass(frozen=True, slots=True)
class Drift:
    """Differences of one kind."""

    kind: Kind
    missing: frozenset[str]
    """Uids that exist and that the store has not heard of (yet)."""
    ghosts: frozenset[str]
    """Uids that the store knows and that are gone."""


async def compare(lister: Lister, store: Store, kind: Kind) -> Drift:
    """Differences of one kind. What was known before the list began and is not in it no longer exists."""
    before = store.uids(kind)
    listed = frozenset(item.uid for item in await lister.list_metadata(kind))
    return Drift(kind, missing=listed - store.uids(kind), ghosts=before - listed)


async def audit(lister: Lister, store: Store, kinds: Sequence[Kind], metrics: Metrics) -> None:
    """Drop ghosts and count drift. What is missing comes with the watch."""
    for drift in await asyncio.gather(*(compare(lister, store, kind) for kind in kinds)):
        for uid in drift.ghosts:
            store.drop(drift.kind, uid)
        for type_, uids in (("missing", drift.missing), ("ghost", drift.ghosts)):
            if uids:
                metrics.audit_drift.labels(drift.kind.name, type_).inc(len(uids))
                _log.warning("audit: %d %s objects of kind %s", len(uids), type_, drift.kind.name)


async def until_synced(lister: Lister, store: Store, kinds: Sequence[Kind]) -> None:
    """Return when the store has every object that the API server lists, of every kind.

    A plan from a half-filled store would take placements away; this is what prevents it. It waits for ever.
    """
    waiting, wait = list(kinds), _FIRST_WAIT
    while waiting:
        still: list[Kind] = []
        for kind in waiting:
            try:
                drift = await compare(lister, store, kind)
            except ApiError as error:
                _log.warning("cannot list %s: %s", kind.plural, error)
                still.append(kind)
                continue
            if drift.missing:
                still.append(kind)
            for uid in drift.ghosts:
                store.drop(kind, uid)
        waiting = still
        if waiting:
            await asyncio.sleep(wait)
            wait = min(_LAST_WAIT, wait * 1.5)
