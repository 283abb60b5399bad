"""What a Lease says and what to do about it. Pure.

Whether another's Lease is still kept is judged by when it was last *seen to change*, on this process's own clock. What
time the other believes it is does not matter.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

Manifest = Mapping[str, Any]


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
