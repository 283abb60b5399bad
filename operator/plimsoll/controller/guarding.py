"""The blast-radius guard at work: counts the cluster, asks planning/guard.py, and keeps what must outlive a restart.

What was there before a loss stands in no status: the statuses of pools follow the loss as it happens, and workloads say
what is wanted, not what was Ready. So the baseline is kept in a small ConfigMap beside the operator, written only when
it changes. A restart, or another leader, in the middle of a loss reads it before its first step. It bears no time,
since at rest nobody would renew it: what vanished while no operator ran is held, too, however long that was.
"""

import asyncio
import json
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from plimsoll.catalog import load_catalog
from plimsoll.controller import records
from plimsoll.controller.client import ApiError
from plimsoll.controller.foreign import Place
from plimsoll.controller.kinds import CONFIG_MAP, Kind
from plimsoll.planning.guard import Census, Hold, Intent, Memory, Served, judge
from plimsoll.planning.plan import DeploymentPlan, DeploymentState, Finding, FleetPlan, Severity
from plimsoll.planning.snapshot import ObjectRef, Snapshot, Workload
from plimsoll.planning.transition import ObservedRouting, backends_of

NAME = "plimsoll-guard"
"""Of the ConfigMap, in the operator's namespace."""
RELEASE = "plimsoll.dev/release"
"""Annotation of the PlacementPolicy: digest of the decision that may take away what the guard holds back."""
REASON = "BlastRadiusHeld"
_KEY = "guard.json"
_MANAGER = "plimsoll-guard"
_SHORTEST = 8
_SHOWN = 12
_RETRY_SECONDS = 5.0
_POLICY = ObjectRef("PlacementPolicy", "", "default")
_log = logging.getLogger(__name__)


class Keeper(Protocol):
    """What keeping the baseline needs of the client."""

    async def apply(self, manifest: Mapping[str, Any], manager: str, *, force: bool = True) -> dict[str, Any]: ...

    async def find(self, kind: Kind, namespace: str, name: str) -> Mapping[str, Any] | None: ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether anything may be taken away in this turn."""

    message: str = ""
    """Why not, and how a person releases it; empty when it may."""
    findings: tuple[Finding, ...] = ()
    """About the policy."""

    @property
    def held(self) -> bool:
        return bool(self.message)


class Guarding:
    """Asks the guard each turn. Belongs to the event loop's thread."""

    def __init__(self, keeper: Keeper, namespace: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._keeper, self._namespace, self._clock = keeper, namespace, clock
        self._memory: Memory | None = None
        self._kept: dict[str, Any] | None = None

    async def judge(
        self,
        snapshot: Snapshot,
        fleet: FleetPlan,
        running: Mapping[Place, Sequence[Workload]],
        observed: Mapping[Place, ObservedRouting | None],
        scaled: AbstractSet[Place],
        approved: str = "",
    ) -> Verdict:
        """Whether the plan may take anything away now.

        Args:
            scaled: workloads that somebody else scales; they are not Plimsoll's to take.
            approved: digest of a decision that a person has approved.
        """
        memory = self._memory if self._memory is not None else await self._load()
        intent = intent_of(fleet, running, observed, scaled)
        named, findings = _release(snapshot)
        released = bool(named) and bool(intent.digest) and intent.digest.startswith(named)
        released = released or (bool(approved) and intent.digest == approved)
        self._memory, reasons = judge(memory, census_of(snapshot), intent, self._clock(), released=released)
        await self._keep(self._memory)
        if not reasons:
            return Verdict(findings=findings)
        message = f"{'; '.join(reasons)}; growth goes on and nothing is taken away {_until(snapshot, intent, named)}"
        if not memory.hold and self._memory.hold:
            _log.warning("%s", message)
        return Verdict(message, (*findings, Finding(_POLICY, REASON, message)))

    async def _load(self) -> Memory:
        """What an earlier run has kept. Returns when the API server has answered: a guess would forget a loss."""
        while True:
            try:
                found = await self._keeper.find(CONFIG_MAP, self._namespace, NAME)
            except ApiError as error:
                _log.warning("ConfigMap %s: %s", NAME, error)
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            break
        if found is None:
            return Memory()
        try:
            kept = json.loads(found["data"][_KEY])
            memory = _remembered(kept, self._clock())
        except (KeyError, TypeError, ValueError) as error:
            _log.warning("ConfigMap %s: %s: it is not what the operator writes: %r", NAME, _KEY, error)
            return Memory()
        self._kept = kept
        return memory

    async def _keep(self, memory: Memory) -> None:
        content = _kept(memory)
        if content == self._kept:
            return
        metadata = {"name": NAME, "namespace": self._namespace, "labels": {"app.kubernetes.io/part-of": "plimsoll"}}
        data = {_KEY: json.dumps(content, indent=1)}
        manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
        try:
            await self._keeper.apply(manifest, _MANAGER)
        except ApiError as error:
            _log.warning("ConfigMap %s: %s", NAME, error)
        else:
            self._kept = content


# --- What the guard is asked -----------------------------------------------------------------------------------------


def census_of(snapshot: Snapshot) -> Census:
    """What is there: GPUs of every kind that the catalog or a pool names, and LLMDeployments."""
    resources = {gpu.resource_name for gpu in load_catalog().gpus.values()}
    resources |= {pool.spec.resource_name for pool in snapshot.pools if pool.spec.resource_name}
    counts = [
        sum(amount for name, amount in node.allocatable.items() if name in resources)
        for node in snapshot.nodes or ()
        if node.unschedulable_reason in ("", "cordoned")
    ]
    counts = [count for count in counts if count > 0]
    invalid = sum(item.ref.kind == "LLMDeployment" for item in snapshot.invalid)
    return Census(sum(counts), len(counts), max(counts, default=0.0), len(snapshot.deployments) + invalid)


def intent_of(
    fleet: FleetPlan,
    running: Mapping[Place, Sequence[Workload]],
    observed: Mapping[Place, ObservedRouting | None],
    scaled: AbstractSet[Place],
) -> Intent:
    """What the plan would do to what serves now."""
    served, shrinks = [], False
    for plan in fleet.deployments:
        place = (plan.ref.namespace, plan.ref.name)
        own = [item for item in running.get(place, ()) if (item.namespace, item.name) not in scaled]
        routing = observed.get(place)
        routed = backends_of(routing.table) if routing is not None else frozenset(item.name for item in own)
        serving = sum(item.ready_replicas for item in own if item.name in routed)
        planned = sum(item.replicas for item in plan.placements if (plan.ref.namespace, item.name) not in scaled)
        takes = plan.state is DeploymentState.PLANNED
        shrinks = shrinks or (takes and takes_away(plan, own, scaled))
        served.append(Served(plan.ref, serving, planned if takes else max(serving, planned)))
    return Intent(records.decision_digest(fleet), tuple(served), shrinks)


def takes_away(plan: DeploymentPlan, own: Sequence[Workload], scaled: AbstractSet[Place]) -> bool:
    """Whether more runs than is planned, workloads apart that somebody else scales."""
    wanted = {item.name: item.replicas for item in plan.placements}
    return any(item.replicas > wanted.get(item.name, 0) for item in own if (item.namespace, item.name) not in scaled)


def _release(snapshot: Snapshot) -> tuple[str, tuple[Finding, ...]]:
    """The digest that a person has released, and what is wrong with what they wrote."""
    text = snapshot.policy.metadata.annotations.get(RELEASE, "") if snapshot.policy is not None else ""
    if not text or re.fullmatch(rf"[0-9a-f]{{{_SHORTEST},64}}", text):
        return text, ()
    field = f"metadata.annotations[{RELEASE}]"
    message = (
        f'{field}: "{text[:64]}": must be the digest of a decision, or its first {_SHORTEST} or more of 64 digits, '
        "0-9 and a-f, as the condition says that asks for it; it releases nothing"
    )
    return "", (Finding(_POLICY, "ReleaseInvalid", message, Severity.WARNING, field),)


def _until(snapshot: Snapshot, intent: Intent, named: str) -> str:
    if not intent.digest:
        return "until it is back"
    short = intent.digest[:_SHOWN]
    if snapshot.policy is not None:
        command = f"kubectl annotate placementpolicy default {RELEASE}={short} --overwrite"
    else:
        policy = {
            "apiVersion": "plimsoll.dev/v1alpha1",
            "kind": "PlacementPolicy",
            "metadata": {"name": "default", "annotations": {RELEASE: short}},
            "spec": {},
        }
        command = f"echo '{json.dumps(policy)}' | kubectl apply -f - (there is no PlacementPolicy yet)"
    stale = f"; {RELEASE} names {named[:_SHOWN]}, which is not this plan" if named else ""
    return f"until that has changed or a person agrees to this plan: {command}{stale}"


# --- What outlives a restart -----------------------------------------------------------------------------------------


def _kept(memory: Memory) -> dict[str, Any]:
    baseline = memory.baseline
    return {
        "baseline": asdict(baseline) if baseline is not None else None,
        "held": memory.hold is not None,
        "passed": memory.passed,
    }


def _remembered(kept: Mapping[str, Any], now: float) -> Memory:
    """As if the baseline had been seen just now: a loss is never forgotten earlier for a restart."""
    found = kept["baseline"]
    if found is None:
        return Memory(passed=str(kept["passed"]))
    baseline = Census(float(found["gpus"]), int(found["nodes"]), float(found["largest"]), int(found["deployments"]))
    hold = Hold(now, baseline) if kept["held"] else None
    return Memory(((now, baseline),), hold, str(kept["passed"]))
