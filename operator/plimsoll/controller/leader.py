"""Leader election by a Lease: one operator process acts, the others stand by with a warm store.

Whether another's Lease is still kept is judged by when it was last *seen to change*, on this process's own clock. What
time the other believes it is does not matter. A leader that could not renew for so long that another may soon take over
ends at once; that leaves nothing half done, since any restart rebuilds everything.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Any, NoReturn, Protocol

from plimsoll.controller.client import ApiError
from plimsoll.controller.kinds import Kind
from plimsoll.controller.metrics import Metrics

LEASE = Kind("Lease", "coordination.k8s.io", "v1", "leases")
MANAGER = "plimsoll-leader"
Manifest = Mapping[str, Any]
_log = logging.getLogger(__name__)


class Keeper(Protocol):
    """What an election needs of a client: one without a queue, since a renewal must not wait behind other requests."""

    async def read(self, kind: Kind, namespace: str, name: str) -> Manifest | None: ...

    async def create(self, kind: Kind, manifest: Manifest, manager: str) -> dict[str, Any]: ...

    async def replace(self, kind: Kind, manifest: Manifest, manager: str) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Timing:
    """How long what lasts. A leader gives up before another may take over: requests under way still need time."""

    lease_seconds: float = 15.0
    renew_deadline_seconds: float = 10.0
    retry_seconds: float = 2.0


@dataclass(frozen=True, slots=True)
class Record:
    """What a Lease says, and since when it has said so by this process's clock."""

    holder: str
    """Empty: released."""
    term: int
    """How often the Lease has changed hands. With the holder it names one process."""
    lease_seconds: float
    version: str
    seen_at: float


class Step(Enum):
    """What to do about the Lease."""

    CREATE = auto()
    TAKE = auto()
    RENEW = auto()
    WAIT = auto()
    LOST = auto()


def decide(record: Record | None, identity: str, term: int | None, now: float) -> Step:
    """The next step of a process that leads in `term`, or that does not lead (None)."""
    if record is None:
        return Step.CREATE
    if term is not None:
        return Step.RENEW if (record.holder, record.term) == (identity, term) else Step.LOST
    # A Lease in this very name is of an earlier process of the same pod: no two of them run at once.
    if record.holder in ("", identity) or now >= expires(record):
        return Step.TAKE
    return Step.WAIT


def expires(record: Record) -> float:
    """When another may take the Lease, unless it is seen to change before."""
    return record.seen_at + record.lease_seconds


def seen(before: Record | None, manifest: Manifest, now: float) -> Record:
    """The record of a Lease as it was just read; it keeps its age when it has not changed."""
    metadata, spec = manifest["metadata"], manifest.get("spec") or {}
    version = str(metadata.get("resourceVersion", ""))
    return Record(
        holder=str(spec.get("holderIdentity") or ""),
        term=int(spec.get("leaseTransitions") or 0),
        lease_seconds=float(spec.get("leaseDurationSeconds") or 0),
        version=version,
        seen_at=before.seen_at if before is not None and before.version == version else now,
    )


def own_clock() -> float:
    """Seconds that no one can set; they go on while the machine sleeps, where the kernel can tell."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Election:
    """One process's part in the election. `run` it, wait for `won`, ask `check` before each write."""

    def __init__(
        self,
        keeper: Keeper,
        namespace: str,
        name: str,
        identity: str,
        metrics: Metrics,
        *,
        end: Callable[[str], NoReturn],
        clock: Callable[[], float] = own_clock,
        timing: Timing | None = None,
    ) -> None:
        """`end` must end the process at once; it gets the reason."""
        self.identity = identity
        self.known = asyncio.Event()
        """Set once the API server has said how things stand: who may not read the Lease can never lead."""
        self.won = asyncio.Event()
        self._keeper, self._namespace, self._name = keeper, namespace, name
        self._metrics, self._end, self._clock = metrics, end, clock
        self._timing = timing or Timing()
        self._lease: Manifest | None = None
        self._record: Record | None = None
        self._term: int | None = None
        self._holds_until = 0.0
        metrics.leader.set(0)

    @property
    def term(self) -> int | None:
        """Which leader this is, counted from 0 by the Lease; None while it does not lead."""
        return self._term

    @property
    def lease(self) -> Manifest | None:
        """The Lease as last seen."""
        return self._lease

    def holds(self) -> bool:
        """Whether no other process can lead now. Time decides, so that a process that was frozen knows it."""
        return self._term is not None and self._clock() < self._holds_until

    def check(self) -> None:
        """Let a write pass. A leader whose Lease may have been taken ends here.

        Raises:
            ApiError: this process stands by, or stops.
        """
        if self.holds():
            return
        if self._term is not None:
            self._end("the Lease was not renewed in time; another operator may lead by now")
        raise ApiError(0, "NotLeading", "this operator does not lead, so it writes nothing")

    async def run(self) -> None:
        """Seek the Lease and then keep it, until cancelled."""
        while True:
            await self.turn()
            await asyncio.sleep(self._pause())

    async def turn(self) -> None:
        """Look at the Lease once, and do what is due."""
        began = self._clock()
        patience = self._timing.renew_deadline_seconds / 2
        if self._term is not None:
            patience = max(0.0, min(patience, self._holds_until - began))
        try:
            async with asyncio.timeout(patience):
                await self._act()
        except (ApiError, TimeoutError) as error:
            _log.warning("Lease %s/%s: %s", self._namespace, self._name, str(error) or "no answer in time")
        if self._term is not None and not self.holds():
            self._end("the Lease could not be renewed in time; another operator may lead by now")

    async def release(self) -> None:
        """Give the Lease back, so that another need not wait until it runs out. Nothing may be written any more."""
        if self._term is None:
            return
        term, self._term = self._term, None
        self._metrics.leader.set(0)
        try:
            async with asyncio.timeout(self._timing.retry_seconds):
                # Read it anew: a renewal may have been under way.
                await self._look()
                if self._record is not None and (self._record.holder, self._record.term) == (self.identity, term):
                    await self._write(holder=None, term=term)
                    _log.info("the Lease is released")
        except (ApiError, TimeoutError) as error:
            _log.warning("the Lease is not released, another operator has to wait until it runs out: %s", error)

    # --- Inside ------------------------------------------------------------------------------------------------------

    def _pause(self) -> float:
        """Until the next turn: jittered, and not beyond the moment at which something is due."""
        pause = self._timing.retry_seconds * random.uniform(0.8, 1.2)  # noqa: S311
        if self._term is not None:
            due = self._holds_until
        elif self._record is not None and self._record.holder:
            due = expires(self._record)
        else:
            return pause
        return max(0.05, min(pause, due - self._clock()))

    async def _act(self) -> None:
        if self._term is None:
            await self._look()
        try:
            await self._take(decide(self._record, self.identity, self._term, self._clock()))
        except ApiError as error:
            if error.status not in (404, 409):
                raise
            # Somebody else wrote it, or an earlier try of ours has arrived after all.
            await self._look()
            if self._term is not None:
                await self._take(decide(self._record, self.identity, self._term, self._clock()))

    async def _look(self) -> None:
        self._lease = await self._keeper.read(LEASE, self._namespace, self._name)
        self.known.set()
        self._record = None if self._lease is None else seen(self._record, self._lease, self._clock())
        if self._record is not None:
            self._metrics.leader_transitions.set(self._record.term)

    async def _take(self, step: Step) -> None:
        if step is Step.WAIT:
            return
        if step is Step.LOST:
            other = self._record.holder if self._record is not None else ""
            self._end(f"another operator leads: {other or 'nobody yet'}")
        # From before it is sent: what counts is when the others may have seen it at the earliest.
        sent = self._clock()
        term = self._term
        if term is None or step is Step.CREATE:
            known = max(term if term is not None else -1, self._record.term if self._record is not None else -1)
            term = known + 1
        await self._write(holder=self.identity, term=term)
        began, self._term = self._term is None, term
        self._holds_until = sent + self._timing.renew_deadline_seconds
        if began:
            self._metrics.leader.set(1)
            _log.info("%s leads now, term %d", self.identity, term)
            self.won.set()

    async def _write(self, *, holder: str | None, term: int) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        before = self._lease or {"metadata": {"name": self._name, "namespace": self._namespace}}
        same = holder is not None and self._term == term
        acquired = (before.get("spec") or {}).get("acquireTime") if same or holder is None else now
        spec = {
            "holderIdentity": holder,
            "leaseDurationSeconds": int(self._timing.lease_seconds),
            "acquireTime": acquired or now,
            "renewTime": now,
            "leaseTransitions": term,
        }
        manifest = {"apiVersion": LEASE.api_version, "kind": LEASE.name, "metadata": before["metadata"], "spec": spec}
        write = self._keeper.create if self._lease is None else self._keeper.replace
        self._lease = await write(LEASE, manifest, MANAGER)
        self._record = seen(self._record, self._lease, self._clock())
        self._metrics.leader_transitions.set(self._record.term)
