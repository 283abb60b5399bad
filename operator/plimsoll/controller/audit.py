"""Comparing the store with the API server: the gate before the first plan, and the broom afterwards.

A watch tells what changes, not that it is complete: a kind without objects gives no event at all, and a deletion
during a lost connection gives none either. A metadata list answers both, without asking for whole objects.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from plimsoll.controller.client import ApiError, Listed
from plimsoll.controller.kinds import NODE, POD, Kind
from plimsoll.controller.metrics import Metrics
from plimsoll.controller.store import Store

_log = logging.getLogger(__name__)
_FIRST_WAIT, _LAST_WAIT = 0.2, 5.0
_GRACE_SECONDS = 2.0
"""What the watch may lag behind a list."""


class Drifted(Exception):  # noqa: N818  (a verdict, not a mistake of the caller)
    """The feed does not tell what happens; only a new start mends that."""


class Lister(Protocol):
    """What auditing needs of the client."""

    async def list_metadata(self, kind: Kind) -> list[Listed]: ...


@dataclass(frozen=True, slots=True)
class Drift:
    """Differences of one kind, as uids."""

    kind: Kind
    missing: frozenset[str]
    """They exist, and the store has not heard of them (yet)."""
    ghosts: frozenset[str]
    """The store knows them, and they are gone."""
    stale: frozenset[str] = frozenset()
    """The store knows an older version."""

    def __bool__(self) -> bool:
        return bool(self.missing or self.ghosts or self.stale)


async def compare(lister: Lister, store: Store, kind: Kind, grace_seconds: float = 0.0) -> Drift:
    """Differences of one kind that the watch does not settle within the grace.

    What was known before the list began and is not in it no longer exists.
    """
    before = store.uids(kind)
    versions = {item.uid: item.version for item in await lister.list_metadata(kind)}
    drift = _against(store, kind, before, versions)
    if drift and grace_seconds:
        await asyncio.sleep(grace_seconds)
        drift = _against(store, kind, before, versions)
    return drift


def _against(store: Store, kind: Kind, before: frozenset[str], versions: Mapping[str, str]) -> Drift:
    known = store.uids(kind)
    listed = frozenset(versions)
    return Drift(kind, listed - known, (before - listed) & known, store.stale(kind, versions))


async def audit(
    lister: Lister, store: Store, kinds: Sequence[Kind], metrics: Metrics, grace_seconds: float | None = None
) -> tuple[Drift, ...]:
    """Drop ghosts, count drift and return it. What is missing or stale comes with the watch, if that works."""
    grace_seconds = _GRACE_SECONDS if grace_seconds is None else grace_seconds
    found = await asyncio.gather(*(compare(lister, store, kind, grace_seconds) for kind in kinds))
    for drift in found:
        for uid in drift.ghosts:
            store.drop(drift.kind, uid)
        for type_, uids in (("missing", drift.missing), ("ghost", drift.ghosts), ("stale", drift.stale)):
            if uids:
                metrics.audit_drift.labels(drift.kind.name, type_).inc(len(uids))
                _log.warning("audit: %d %s objects of kind %s", len(uids), type_, drift.kind.name)
    return tuple(drift for drift in found if drift)


def refuse_repetition(earlier: Sequence[Drift], later: Sequence[Drift]) -> None:
    """Judge two audits in a row.

    One that finds something may have come at a bad moment. A watch that has had a whole interval to bring an object
    and did not, or that loses deletions of a kind again and again, has stopped.

    Raises:
        Drifted: the same drift was found twice.
    """
    known = {drift.kind: drift for drift in earlier}
    for drift in later:
        before = known.get(drift.kind)
        if before is None:
            continue
        same = (drift.missing & before.missing) | (drift.stale & before.stale)
        if same or (drift.ghosts and before.ghosts):
            what = f"{len(same)} objects are still unknown or out of date" if same else "deletions are lost again"
            raise Drifted(f"two audits in a row found the same of kind {drift.kind.name}: {what}")


async def until_synced(lister: Lister, store: Store, kinds: Sequence[Kind]) -> None:
    """Return when the store has every object that the API server lists, of every kind.

    A plan from a half-filled store would take placements away; this is what prevents it. It waits for ever.
    """
    await _until(lister, store, kinds, lambda drift: not drift.missing)


async def until_current(lister: Lister, store: Store, kinds: Sequence[Kind]) -> None:
    """Return when the store has the newest version of everything that operators write.

    Who takes over must know what the one before wrote last. No operator writes nodes and pods, which change all the
    time and are the most by far. It waits for ever.
    """
    written = [kind for kind in kinds if kind not in (NODE, POD)]
    await _until(lister, store, written, lambda drift: not (drift.missing or drift.stale))


async def _until(lister: Lister, store: Store, kinds: Sequence[Kind], good: Callable[[Drift], bool]) -> None:
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
            if not good(drift):
                still.append(kind)
            for uid in drift.ghosts:
                store.drop(kind, uid)
        waiting = still
        if waiting:
            await asyncio.sleep(wait)
            wait = min(_LAST_WAIT, wait * 1.5)
