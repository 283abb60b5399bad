"""What budget, tenants and quotas leave for the chains of one LLMDeployment."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.api.placementpolicy import PlacementPolicySpec
from plimsoll.planning.grouplimits import QUOTA, TENANT
from plimsoll.planning.pools import Pools
from plimsoll.planning.snapshot import Snapshot, Workload
from plimsoll.planning.tenants import Tenants

_REQUESTS = "requests."


@dataclass(frozen=True, slots=True)
class RoomLimit:
    """What one limit leaves."""

    reason: str
    """Of the finding where it is too little."""
    text: str
    """What is limited to what, for people."""
    price_per_hour: float = math.inf
    gpus: float = math.inf


@dataclass(frozen=True, slots=True)
class Room:
    """What all limits leave for new chains."""

    limits: tuple[RoomLimit, ...] = ()

    def short_of(self, price_per_hour: float, gpus: int) -> RoomLimit | None:
        """The first limit that does not leave so much. Nothing is always left."""
        for limit in self.limits:
            if price_per_hour > limit.price_per_hour * (1 + 1e-9) or gpus > limit.gpus:
                return limit
        return None


def room_for(
    deployment: LLMDeployment, snapshot: Snapshot, policy: PlacementPolicySpec, tenants: Tenants, pools: Pools
) -> Room:
    """What is left beside all that runs, the LLMDeployment's own chains included."""
    prices = {pool.name: float(pool.spec.price_per_gpu_hour) for pool in snapshot.pools}
    limits: list[RoomLimit] = []
    budget = policy.budget.per_hour
    if budget is not None:
        left = max(0.0, float(budget) - _rent(snapshot.workloads, prices))
        limits.append(RoomLimit("BudgetExceeded", f"spec.budget.perHour {budget} of PlacementPolicy default", left))
    for index, tenant in tenants.of(deployment.namespace):
        own = [item for item in snapshot.workloads if (index, tenant) in tenants.of(item.namespace)]
        where = f"PlacementPolicy default spec.tenants[{index}]"
        if tenant.max_gpus is not None:
            left = max(0.0, tenant.max_gpus - sum(map(_gpus, own)))
            limits.append(RoomLimit(TENANT, f"{where}.maxGPUs {tenant.max_gpus}", gpus=left))
        if tenant.budget_per_hour is not None:
            left = max(0.0, float(tenant.budget_per_hour) - _rent(own, prices))
            limits.append(RoomLimit(TENANT, f"{where}.budgetPerHour {tenant.budget_per_hour}", left))
    resources = {pool.resource_name for pool in pools.usable.values()}
    for quota in snapshot.quotas:
        if quota.namespace != deployment.namespace or quota.scopes:
            continue
        for entry, hard in quota.hard.items():
            resource = entry.removeprefix(_REQUESTS)
            if entry.startswith(_REQUESTS) and resource in resources:
                used = sum(
                    pod.requests.get(resource, 0.0) for pod in snapshot.pods if pod.namespace == deployment.namespace
                )
                text = f"spec.hard {entry} {hard:g} of ResourceQuota {quota.name}"
                limits.append(RoomLimit(QUOTA, text, gpus=max(0.0, hard - used)))
    return Room(tuple(limits))


def _gpus(workload: Workload) -> int:
    return workload.replicas * int(workload.option.get("tensor", 1)) * int(workload.option.get("pipeline", 1))


def _rent(workloads: Iterable[Workload], prices: Mapping[str, float]) -> float:
    return sum(_gpus(item) * prices.get(item.option.get("pool", ""), 0.0) for item in workloads)
