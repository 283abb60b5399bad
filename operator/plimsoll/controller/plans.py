"""PlacementPlans in the cluster: writes them down, reads what people say to them, and keeps what is in force.

The order makes every crash harmless: an approved plan is marked as in force before anything of it is applied, and what
is in force is read back from its details after a restart.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Protocol

from plimsoll.api.common import Status
from plimsoll.api.placementplan import DetailsReference, PlanProgress
from plimsoll.controller import records
from plimsoll.controller.approval import Followed, Mode, Standing, automatic, following, manual, recommended
from plimsoll.controller.client import ApiError
from plimsoll.controller.kinds import CONFIG_MAP, RESOURCES, Kind
from plimsoll.controller.records import Record
from plimsoll.controller.status import Progress
from plimsoll.controller.store import Store
from plimsoll.planning.archive import ArchiveError, archived, content_digest, restored
from plimsoll.planning.plan import FleetPlan
from plimsoll.planning.snapshot import ObjectRef, Snapshot
from plimsoll.planning.starts import REASON as START_FAILED
from plimsoll.planning.tasks import tasks
from plimsoll.rendering.details import compressed_parts, details_config_map, details_content, details_name

MANAGER = "plimsoll-status"
Manifest = Mapping[str, Any]
WriteStatus = Callable[[Manifest, Status, Status], Awaitable[bool]]
_log = logging.getLogger(__name__)
_PLAN = RESOURCES["PlacementPlan"]
_DECIDED = (*records.IN_FORCE, "Refused")


class PlanWriter(Protocol):
    """What keeping plans needs of the client."""

    async def apply(self, manifest: Manifest, manager: str, *, force: bool = True) -> dict[str, Any]: ...

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> None: ...

    async def find(self, kind: Kind, namespace: str, name: str) -> Manifest | None: ...


class Plans:
    """The plans of one cluster. Remembers what is in force, which a restart reads from the cluster."""

    def __init__(self, writer: PlanWriter, store: Store, write_status: WriteStatus, namespace: str) -> None:
        self._writer, self._store, self._write_status, self._namespace = writer, store, write_status, namespace
        self._followed: dict[ObjectRef, Followed] | None = None
        self._unwritten: list[dict[str, Any]] = []
        """Details of the newest plan that could not be written yet."""

    # --- What is in force --------------------------------------------------------------------------------------------

    async def standing(self, mode: Mode, present: FleetPlan, snapshot: Snapshot, *, fresh: bool) -> Standing:
        """What to follow now. `fresh`: the present plan is of this very snapshot, so it may be compared with others."""
        if mode == "Automatic":
            found = automatic(present, self._followed or {})
            self._followed = dict(found.followed)
            return found
        if mode == "Recommend":
            return recommended(present, self._followed or {})
        complete = True
        try:
            if self._followed is None:
                self._followed = await self._recalled()
            if fresh:
                complete = await self._hear(present)
        except ApiError as error:
            _log.warning("PlacementPlans: %s", error)
            complete = False
        standing_record = records.in_force(self._records())
        agreed = (
            fresh and standing_record is not None and standing_record.decision == records.decision_digest(present) != ""
        )
        found = manual(present, self._followed or {}, snapshot.workloads, agreed=agreed)
        if self._followed is not None:
            self._followed = dict(found.followed)
        approved = standing_record.decision if standing_record is not None and standing_record.approved else ""
        return replace(found, complete=complete, agreed=approved)

    async def _recalled(self) -> dict[ObjectRef, Followed]:
        """What was in force before this process started."""
        record = records.in_force(self._records())
        if record is None:
            return {}
        try:
            fleet = await self._details(record)
        except ArchiveError as error:
            _log.warning("%s is in force and its details cannot be used: %s", record.name, error)
            return {}
        return following(fleet, {})

    async def _details(self, record: Record) -> FleetPlan:
        """The whole decision.

        Raises:
            ArchiveError: it is not there, or not what was recorded.
        """
        # Names are derived, not read: a plan that somebody else made must not point the operator anywhere.
        names = [details_name(record.name, part) for part in range(len(record.details))]
        found = [await self._writer.find(CONFIG_MAP, self._namespace, name) for name in names]
        missing = [name for name, item in zip(names, found, strict=True) if item is None]
        if missing or not names:
            raise DetailsMissingError(f"ConfigMap {', '.join(missing) or 'with details'} is missing")
        fleet = restored(details_content([item for item in found if item is not None], record.details_digest))
        if records.decision_digest(fleet) != record.decision:
            raise ArchiveError("the details are of another decision than the plan's decisionDigest")
        return fleet

    async def _hear(self, present: FleetPlan) -> bool:
        """Deal with what people have approved. Returns False when something should be tried again."""
        existing = self._records()
        decision = records.decision_digest(present)
        chosen = records.current(existing, decision) if decision else None
        fine = True
        for record in existing:
            status = record.status
            if not record.approved or status.state in _DECIDED:
                continue
            if status.state == "Superseded" and status.reason == "Replaced":
                continue
            if record is not chosen:
                newer = f"; {chosen.name} is" if chosen is not None else ""
                text = f"the cluster has changed since: this is not what would be decided now{newer}"
                fine = await self._refuse(record, "Stale", text) and fine
                continue
            try:
                await self._details(record)
            except ArchiveError as error:
                reason = "DetailsMissing" if isinstance(error, DetailsMissingError) else "DigestMismatch"
                fine = await self._refuse(record, reason, f"{error}; the plan is proposed again") and fine
            else:
                # First: were the process killed now, it would go on with this plan and not back to the one before.
                if await self._mark(record, "Applying", "Approved", ""):
                    _log.info("%s is approved and in force", record.name)
                    self._followed = following(present, self._followed or {})
                    for other in existing:
                        if other is not record and other.status.state in records.IN_FORCE:
                            fine = await self._mark(other, "Superseded", "Replaced", "") and fine
                else:
                    fine = False
        return fine

    async def _refuse(self, record: Record, reason: str, text: str) -> bool:
        _log.warning("%s is refused although it was approved: %s", record.name, text)
        return await self._mark(record, "Refused", reason, text)

    # --- Writing them down -------------------------------------------------------------------------------------------

    def names(self) -> tuple[str, str]:
        """Names of the plan in force and of the newest; empty where there is none."""
        existing = self._records()
        followed = records.in_force(existing)
        return followed.name if followed is not None else "", existing[-1].name if existing else ""

    async def keep(
        self, standing: Standing, snapshot: Snapshot, *, busy: bool, progress: Mapping[ObjectRef, Progress]
    ) -> tuple[bool, str, str]:
        """Write down the present decision, the state of all plans, and how far the one in force has come.

        Returns whether that worked, and the names of the plan in force and of the present one (empty: none).
        """
        existing = self._records()
        decision = records.decision_digest(standing.present)
        if not decision:
            return True, *self.names()
        try:
            chosen = records.current(existing, decision)
            if chosen is None:
                chosen = await self._create(records.next_name(existing), standing.present, snapshot)
                existing = self._records()
            await self._write_details()
        except ApiError as error:
            _log.warning("PlacementPlan: %s", error)
            return False, *self.names()
        state, reason = _state(standing, chosen, busy=busy)
        followed = chosen if state in records.IN_FORCE else records.in_force(existing)
        now = datetime.now(UTC)
        fine = await self._mark(chosen, state, reason, "", plan_progress(chosen, progress, state, now))
        back = any(item.reason == START_FAILED for plan in standing.present.deployments for item in plan.findings)
        for record in existing:
            if record is chosen or record.name == chosen.name:
                continue
            if followed is not None and record.name == followed.name:
                if standing.mode == "Manual":
                    moved = "Applying" if busy else "Applied"
                    come = plan_progress(record, progress, moved, now)
                    fine = await self._mark(record, moved, record.status.reason or "", "", come) and fine
            elif record.status.state in (*records.IN_FORCE, "AwaitingApproval", "Recommended"):
                unfinished = "RolledBack" if back and record.status.state == "Applying" else "Replaced"
                why = unfinished if record.status.state in records.IN_FORCE else "Outdated"
                fine = await self._mark(record, "Superseded", why, "") and fine
        for record in records.surplus(self._records()):
            fine = await self._drop(record) and fine
        return fine, followed.name if followed is not None else "", chosen.name

    async def _create(self, name: str, fleet: FleetPlan, snapshot: Snapshot) -> Record:
        # Off the event loop: of a thousand LLMDeployments it takes a good part of a second.
        digest, parts = await asyncio.to_thread(_packed, fleet)
        references = [
            DetailsReference(namespace=self._namespace, name=details_name(name, number)) for number in range(len(parts))
        ]
        manifest = records.manifest(name, fleet, snapshot.workloads, references, digest)
        created = await self._writer.apply(manifest, MANAGER)
        self._store.put(_PLAN, created)
        summary, cost = manifest["spec"]["summary"], manifest["spec"]["costPerHour"]
        _log.info(
            "%s: %d of %d LLMDeployments change, %d GPUs, %s per hour",
            name,
            summary["changedDeployments"],
            summary["deployments"],
            summary["gpus"],
            cost,
        )
        uid = str(created["metadata"]["uid"])
        self._unwritten = [
            details_config_map(name, uid, self._namespace, number, part) for number, part in enumerate(parts)
        ]
        return next(record for record in self._records() if record.name == name)

    async def _write_details(self) -> None:
        while self._unwritten:
            await self._writer.apply(self._unwritten[0], MANAGER)
            del self._unwritten[0]

    async def _mark(
        self, record: Record, state: str, reason: str, message: str, progress: PlanProgress | None = None
    ) -> bool:
        before = record.status
        # Ready pods may come and go later; a plan that was in place once stays Applied.
        if (before.state, state) == ("Applied", "Applying"):
            state = "Applied"
        applied_time = datetime.now(UTC) if state == "Applied" != before.state else before.applied_time
        values = {
            "state": state,
            "reason": reason or None,
            "message": message or None,
            "applied_time": applied_time,
            "progress": progress or before.progress,
        }
        return await self._write_status(record.manifest, before, before.model_copy(update=values))

    async def _drop(self, record: Record) -> bool:
        try:
            await self._writer.delete(_PLAN, "", record.name, record.uid)
        except ApiError as error:
            _log.warning("PlacementPlan %s: %s", record.name, error)
            return False
        self._store.drop(_PLAN, record.uid)
        return True

    def _records(self) -> list[Record]:
        return records.records(self._store.live(_PLAN))


def plan_progress(
    record: Record, progress: Mapping[ObjectRef, Progress], state: str, now: datetime
) -> PlanProgress | None:
    """How far a plan has come; None where that does not change any more, or has not begun."""
    known = record.status.progress
    if state not in records.IN_FORCE or record.status.state == "Applied":
        return None
    before, found = record.before, []
    for ref, item in sorted(progress.items()):
        parts = before.get((ref.namespace, ref.name))
        if parts is not None:
            found += [(ref, task) for task in tasks(item.plan, parts, item.workloads, item.step)]
    if state == "Applied":
        total = known.steps_total if known is not None else len(found)
        return PlanProgress(steps_done=total, steps_total=total)
    waited_for = next((f"{ref}: {task.text}" for ref, task in found if not task.done), None)
    since = known.since if known is not None and known.current == waited_for else now
    return PlanProgress(
        steps_done=sum(task.done for _, task in found),
        steps_total=len(found),
        current=waited_for,
        since=None if waited_for is None else since,
    )


class DetailsMissingError(ArchiveError):
    """The whole decision is not there."""


def _state(standing: Standing, chosen: Record, *, busy: bool) -> tuple[str, str]:
    """State of the present plan, and the reason that goes with it."""
    known = chosen.status
    reason = known.reason or "" if known.state in records.IN_FORCE else ""
    if standing.mode == "Recommend":
        return (known.state, reason) if known.state in records.IN_FORCE else ("Recommended", "")
    if not standing.waiting:
        return "Applying" if busy else "Applied", reason
    rejected = chosen.approval is not None and chosen.approval.decision == "Rejected"
    return ("Rejected", "") if rejected else ("AwaitingApproval", "")


def _packed(fleet: FleetPlan) -> tuple[str, Sequence[bytes]]:
    """Digest and parts of the whole decision; no parts when it is too large to be kept."""
    try:
        content = archived(fleet)
        return content_digest(content), compressed_parts(content)
    except ValueError as error:
        _log.error("the details of the plan are not kept: %s", error)
        return "", ()
