"""Limits of tenants and of namespaces as limits of the allocation problem, each with its words."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from plimsoll.allocation import Limit, limited
from plimsoll.allocation.limits import use_of
from plimsoll.allocation.problem import Ints
from plimsoll.planning.fleet import Fleet, GroupLimit
from plimsoll.planning.namespaces import LimitRangeFacts, QuotaFacts
from plimsoll.planning.plan import LimitKind
from plimsoll.planning.quotas import (
    ReplicaRequests,
    amount,
    counts,
    default_limits,
    demands_limits,
    refusals,
)
from plimsoll.planning.search import TOLERANCE
from plimsoll.planning.snapshot import PodFacts, Snapshot, Workload
from plimsoll.planning.tenants import Tenants

N = TypeVar("N", PodFacts, QuotaFacts, LimitRangeFacts)
TENANT, QUOTA, RANGE = "TenantLimitReached", "QuotaExceeded", "LimitRangeExceeded"


def with_limits(fleet: Fleet, snapshot: Snapshot, tenants: Tenants, undecided: Sequence[Workload]) -> Fleet:
    """The fleet with the limits of its tenants and namespaces; what runs without being decided about takes of them."""
    found = (*_tenant_limits(fleet, snapshot, tenants, undecided), *_namespace_limits(fleet, snapshot))
    return replace(fleet, problem=limited(fleet.problem, [item.limit for item in found]), limits=found)


def _options_by_namespace(fleet: Fleet) -> dict[str, list[int]]:
    options: dict[str, list[int]] = {}
    for number, owner in enumerate(fleet.problem.option_deployment.tolist()):
        options.setdefault(fleet.deployments[owner].namespace, []).append(number)
    return options


# --- Tenants ---------------------------------------------------------------------------------------------------------


def _tenant_limits(
    fleet: Fleet, snapshot: Snapshot, tenants: Tenants, undecided: Sequence[Workload]
) -> Iterator[GroupLimit]:
    """Of GPUs and rent. As with the budget, old replicas beside new ones do not count while a move goes on."""
    by_namespace = _options_by_namespace(fleet)
    prices = {pool.name: float(pool.spec.price_per_gpu_hour) for pool in snapshot.pools}
    selected: dict[int, list[str]] = {}
    known = {}
    for namespace, found in tenants.by_namespace.items():
        for index, tenant in found:
            selected.setdefault(index, []).append(namespace)
            known[index] = tenant
    for index, namespaces in sorted(selected.items()):
        tenant = known[index]
        options = [option for namespace in namespaces for option in by_namespace.get(namespace, ())]
        gpus = {option: float(fleet.candidates[option].option.parallelism.gpus) for option in options}
        rent = {option: float(fleet.problem.option_price_per_hour[option]) for option in options}
        running = [(item, _gpus(item)) for item in undecided if item.namespace in namespaces]
        held_gpus = float(sum(count for _, count in running))
        held_rent = sum(count * prices.get(item.option.get("pool", ""), 0.0) for item, count in running)
        for name, most, amounts, kept, unit in (
            ("maxGPUs", tenant.max_gpus, gpus, held_gpus, "GPUs"),
            ("budgetPerHour", tenant.budget_per_hour, rent, held_rent, "per hour"),
        ):
            if most is not None:
                limit = Limit(max(0.0, float(most) - kept), amounts, at_once=False)
                text = f"PlacementPolicy default spec.tenants[{index}].{name} {most}"
                yield GroupLimit(limit, TENANT, f"tenant {tenant.name}", text, kept, unit)


def _gpus(workload: Workload) -> int:
    return workload.replicas * int(workload.option.get("tensor", 1)) * int(workload.option.get("pipeline", 1))


# --- Namespaces ------------------------------------------------------------------------------------------------------


def _namespace_limits(fleet: Fleet, snapshot: Snapshot) -> Iterator[GroupLimit]:
    if not snapshot.quotas and not snapshot.limit_ranges:
        return
    pods, ranges_of = _by_namespace(snapshot.pods), _by_namespace(snapshot.limit_ranges)
    quotas_of = _by_namespace(snapshot.quotas)
    for namespace, options in sorted(_options_by_namespace(fleet).items()):
        ranges, quotas = ranges_of.get(namespace, []), quotas_of.get(namespace, [])
        if not ranges and not quotas:
            continue
        replicas = {option: _replica(fleet, option) for option in options}
        for (name, why), refused in _refused(ranges, replicas).items():
            yield GroupLimit(Limit(0.0, dict.fromkeys(refused, 1.0)), RANGE, f"LimitRange {name}", why)
        others = _used_by_others(fleet, pods.get(namespace, []), options)
        for quota in quotas:
            counted = {option: replica for option, replica in replicas.items() if counts(quota, replica.priority_class)}
            yield from _object_limits(fleet, quota, counted)
            yield from _quota_limits(quota, counted, default_limits(ranges), others)


def _by_namespace(items: Iterable[N]) -> dict[str, list[N]]:
    found: dict[str, list[N]] = {}
    for item in items:
        found.setdefault(item.namespace, []).append(item)
    return found


def _object_limits(fleet: Fleet, quota: QuotaFacts, counted: Mapping[int, ReplicaRequests]) -> Iterator[GroupLimit]:
    """No further placement where a quota for numbers of objects is used up."""
    running = fleet.problem.running_replicas()
    fresh = {option: 1.0 for option in counted if not running[option]}
    if fresh and quota.full:
        entry = quota.full[0]
        text = f"spec.hard {entry} {quota.hard[entry]:g} leaves no room for another placement"
        yield GroupLimit(Limit(0.0, fresh), QUOTA, f"ResourceQuota {quota.name}", text)


def _quota_limits(
    quota: QuotaFacts,
    counted: Mapping[int, ReplicaRequests],
    defaults: Mapping[str, float],
    others: Mapping[str, float],
) -> Iterator[GroupLimit]:
    name = f"ResourceQuota {quota.name}"
    for resource, hard in quota.hard.items():
        if demands_limits(resource, defaults) and counted:
            text = (
                f"spec.hard {resource} makes pods without such a limit be refused, and replicas have none: give the "
                f"namespace a LimitRange with a default, or limit requests.{_pod_resource(resource)} instead"
            )
            yield GroupLimit(Limit(0.0, dict.fromkeys(counted, 1.0)), QUOTA, name, text)
            continue
        takes = {option: amount(resource, replica, defaults) for option, replica in counted.items()}
        amounts = {option: value for option, value in takes.items() if value}
        if amounts:
            kept = others.get(_pod_resource(resource), 0.0)
            text = f"spec.hard {resource} {_shown(resource, hard)}"
            yield GroupLimit(Limit(max(0.0, hard - kept), amounts), QUOTA, name, text, kept, _unit(resource))


def _replica(fleet: Fleet, option: int) -> ReplicaRequests:
    """Of one piece of a replica, which is a pod."""
    demand = fleet.problem.option_demand[option]
    resource = fleet.candidates[option].option.gpu_resource
    owner = fleet.deployments[int(fleet.problem.option_deployment[option])]
    return ReplicaRequests(
        pods=int(fleet.problem.option_nodes[option]),
        requests={resource: float(demand[0]), "cpu": float(demand[1]), "memory": float(demand[2])},
        priority_class=owner.spec.engine.pod_template.priority_class_name,
    )


def _refused(
    ranges: Sequence[LimitRangeFacts], replicas: Mapping[int, ReplicaRequests]
) -> dict[tuple[str, str], list[int]]:
    found: dict[tuple[str, str], list[int]] = {}
    for option, replica in replicas.items():
        for why in refusals(ranges, replica.requests):
            found.setdefault(why, []).append(option)
    return found


def _used_by_others(fleet: Fleet, pods: Sequence[PodFacts], options: Sequence[int]) -> dict[str, float]:
    """Requests and number of the namespace's pods that are no replicas of these options, or that go."""
    own = {fleet.candidates[option].name for option in options}
    used: dict[str, float] = {}
    for pod in pods:
        if pod.placement in own and not pod.deleting:
            continue
        used["pods"] = used.get("pods", 0.0) + 1
        for name, value in pod.requests.items():
            used[name] = used.get(name, 0.0) + value
    return used


def _pod_resource(resource: str) -> str:
    """What of a pod an entry of a quota counts. Of others' limits the requests are known, which are no more."""
    return resource.removeprefix("count/").removeprefix("requests.").removeprefix("limits.")


def _unit(resource: str) -> str:
    return {"cpu": "cores", "memory": "bytes", "pods": "pods"}.get(_pod_resource(resource), "GPUs")


def _shown(resource: str, value: float) -> str:
    return f"{value / 2**30:.4g}Gi" if _pod_resource(resource) == "memory" else f"{value:g}"


# --- Which of them bind ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Exhausted:
    """A limit that keeps a deployment from being served, and the sum that would do."""

    limit: GroupLimit
    wanted: float


def exhausted(fleet: Fleet, deployment: int, replicas: Ints, wanted: Ints) -> list[Exhausted]:
    """Limits that the replicas (N) which would serve all go beyond, among those of the deployment's growing options."""
    grows = np.flatnonzero((fleet.problem.option_deployment == deployment) & (wanted > replicas)).tolist()
    sums = use_of(fleet.problem, wanted)
    return [
        Exhausted(item, item.kept + float(sums[number]))
        for number, item in enumerate(fleet.limits)
        if any(option in item.limit.amount for option in grows) and sums[number] > item.limit.capacity + TOLERANCE
    ]


def said(found: Sequence[Exhausted]) -> str:
    """The limits, each with what would do."""
    parts = []
    for each in found:
        item = each.limit
        text = f"{item.name}: {item.text}"
        if item.unit:
            others = f", of which others take {_amount(item.kept, item.unit)}" if item.kept > 0 else ""
            text += f" is used up{others}; {_amount(each.wanted, item.unit)} would do"
        parts.append(text)
    return "; ".join(parts)


def _amount(value: float, unit: str) -> str:
    match unit:
        case "bytes":
            return f"{math.ceil(value / 2**30)}Gi"
        case "per hour":
            return f"{math.ceil(value * 100 - TOLERANCE) / 100:.2f} per hour"
        case _:
            return f"{math.ceil(value - TOLERANCE)} {unit}"


def used_up(fleet: Fleet, replicas: Ints) -> Iterator[tuple[LimitKind, str]]:
    """Limits of which no option can have another replica."""
    used = use_of(fleet.problem, replicas)
    for number, item in enumerate(fleet.limits):
        smallest = min(item.limit.amount.values(), default=math.inf)
        if item.limit.capacity - used[number] < smallest - TOLERANCE:
            yield (LimitKind.TENANT if item.reason == TENANT else LimitKind.QUOTA), item.name.rpartition(" ")[2]
