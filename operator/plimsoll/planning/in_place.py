"""Exchange in place: what a deployment could have on the GPUs of its own running replicas, where no other is free.

New replicas fit beside running ones (decision 4). Where that leaves a deployment short, it is asked alone what it could
have if everything of it that runs were gone. That answer does not depend on how far an exchange has come, so it is the
same in every round until it is in place. It is followed only if the exchange may begin at all (`stages.allows`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from plimsoll.allocation import Allocation, AllocationProblem, check, cost_of, solve_greedy, subset
from plimsoll.allocation.packing import pack
from plimsoll.allocation.problem import Bools
from plimsoll.planning.beside import exchanged, short_deployments, then_running
from plimsoll.planning.fleet import Fleet
from plimsoll.planning.lost import going
from plimsoll.planning.plan import InPlace, Room
from plimsoll.planning.pools import Pools
from plimsoll.planning.search import TOLERANCE
from plimsoll.planning.snapshot import NodeFacts, PodFacts, Snapshot, Workload


@dataclass(frozen=True, slots=True, eq=False)
class Exchange:
    """What a deployment could have in place."""

    problem: AllocationProblem
    """Where its own replicas are gone."""
    allocation: Allocation
    """Of the whole fleet: for all others what was decided."""
    in_place: InPlace


class Exchanges:
    """Asks for one deployment after the other; what one is given is not there for the next."""

    def __init__(
        self, snapshot: Snapshot, fleet: Fleet, allocation: Allocation, pools: Pools, disruption: float
    ) -> None:
        self._fleet, self._problem, self._disruption = fleet, fleet.problem, disruption
        self._allocation = allocation
        self._numbers = {name: number for number, name in enumerate(fleet.node_names)}
        self._closed = {item.name for item in snapshot.nodes or () if item.unschedulable_reason or going(item)}
        self._resources = {name: pool.resource_name for name, pool in pools.usable.items()}
        self._nodes: Mapping[str, NodeFacts] = {item.name: item for item in snapshot.nodes or ()}
        self._pods: dict[tuple[str, str], list[PodFacts]] = {}
        for pod in snapshot.pods:
            if pod.placement:
                self._pods.setdefault((pod.namespace, pod.placement), []).append(pod)
                if pod.deployment:
                    self._pods.setdefault((pod.namespace, f"/{pod.deployment}"), []).append(pod)

    def found(self, number: int, own: Sequence[Workload], own_rent: float = 0.0) -> Exchange | None:
        """What the deployment could have; None where that serves no more, or its replicas leave no place for it.

        Args:
            own: its running placements.
            own_rent: what is counted as spent by those of them that are no options.
        """
        only = np.arange(len(self._problem.deployment_min_replicas)) == number
        pods = self._pods_of(number, own)
        problem = self._without(only, pods, own_rent)
        others = self._others(problem, only)
        part = subset(problem, others, only)
        answer = solve_greedy(part.problem)
        if short_deployments(part.problem, answer)[number] or not answer.replicas.any():
            return None
        allocation = exchanged(problem, self._allocation, part.merged(answer), only)
        if check(problem, allocation):
            return None
        names = {
            int(option): self._fleet.candidates[int(option)].name
            for option in np.flatnonzero(allocation.replicas * only[problem.option_deployment])
        }
        running = {item.name: item.replicas for item in own}
        missing = {
            option: count
            for option, name in names.items()
            if (count := int(allocation.replicas[option]) - running.get(name, 0)) > 0
        }
        room, replicas_going = self._room(only, missing), _going(own, pods)
        for option in missing:
            if not (room[option] or replicas_going or self._leaves_holes(option, pods, set(names.values()))):
                return None
        rooms = tuple(Room(names[option], count) for option, count in sorted(room.items()) if count)
        return Exchange(problem, allocation, InPlace(self._disruption, rooms, replicas_going))

    def take(self, exchange: Exchange) -> None:
        """It is followed."""
        self._problem, self._allocation = exchange.problem, exchange.allocation

    def _pods_of(self, number: int, own: Sequence[Workload]) -> list[PodFacts]:
        """Of the deployment, those of workloads that are gone included."""
        deployment = self._fleet.deployments[number]
        keys = [(item.namespace, item.name) for item in own]
        keys.append((deployment.namespace, f"/{deployment.name}"))
        found = {pod.uid: pod for key in keys for pod in self._pods.get(key, ())}
        return [pod for _, pod in sorted(found.items())]

    def _without(self, only: Bools, pods: Sequence[PodFacts], own_rent: float) -> AllocationProblem:
        """The problem where nothing of the deployment runs."""
        problem = self._problem
        gone = only[problem.option_deployment[problem.running[:, 0]]]
        held = {(self._fleet.candidates[option].name, node) for option, node, _ in problem.running[gone].tolist()}
        free = problem.node_free.copy()
        for option, node, count in problem.running[gone].tolist():
            if node >= 0 and self._fleet.node_names[node] in self._closed:
                # It takes nothing new: what runs there was only its own to keep.
                free[node] = np.maximum(free[node] - problem.option_demand[option] * count, 0.0)
        for pod in pods:
            node = self._numbers.get(pod.node)
            if node is None or pod.node in self._closed:
                continue
            if (pod.placement, node) in held and not pod.deleting:
                continue  # what runs of known options counts as free already
            resource = self._resources[self._fleet.pool_names[int(problem.node_pool[node])]]
            asked = (pod.requests.get(resource, 0.0), pod.requests.get("cpu", 0.0), pod.requests.get("memory", 0.0))
            most = self._nodes[pod.node].allocatable
            all_of_it = (most.get(resource, 0.0), most.get("cpu", 0.0), most.get("memory", 0.0))
            free[node] = np.minimum(free[node] + asked, all_of_it)
        return replace(
            problem,
            node_free=free,
            running=problem.running[~gone],
            budget_per_hour=problem.budget_per_hour + own_rent,
        )

    def _others(self, problem: AllocationProblem, only: Bools) -> Allocation:
        """What all others have and what they still run, together."""
        mine = only[problem.option_deployment]
        decided = self._allocation
        replicas = np.where(mine, 0, np.maximum(then_running(problem, decided), problem.running_replicas()))
        counts: dict[tuple[int, int], int] = {}
        for rows in (decided.packing, problem.running[problem.running[:, 1] >= 0]):
            for option, node, count in rows.tolist():
                if not mine[option] and not problem.pool_unlimited[problem.option_pool[option]]:
                    counts[option, node] = max(counts.get((option, node), 0), count)
        packing = np.array([(*key, count) for key, count in sorted(counts.items())], dtype=np.int64).reshape(-1, 3)
        share = np.where(mine[problem.pair_option], 0.0, decided.share)
        unserved = np.where(only[problem.class_deployment], 1.0, decided.unserved)
        return Allocation(replicas, share, unserved, packing, cost_of(problem, replicas, share, unserved))

    def _room(self, only: Bools, wanted: Mapping[int, int]) -> dict[int, int]:
        """How many of these further replicas of each option fit now, beside all that runs, one after the other."""
        whole = self._problem
        own = np.flatnonzero(only[whole.option_deployment])
        rows = whole.running[only[whole.option_deployment[whole.running[:, 0]]]].copy()
        rows[:, 0] = np.searchsorted(own, rows[:, 0])
        part = replace(subset(whole, self._others(whole, only), only).problem, running=rows)
        replicas, found = part.running_replicas(), {}
        for option, most in sorted(wanted.items()):
            place = int(np.searchsorted(own, option))
            pool, count = int(part.option_pool[place]), 0
            while count < most:
                replicas[place] += 1
                used = float((part.replica_gpus() * replicas)[part.option_pool == pool].sum())
                if used > part.pool_gpu_limit[pool] + TOLERANCE or pack(part, replicas) is None:
                    replicas[place] -= 1
                    break
                count += 1
            found[option] = count
        return found

    def _leaves_holes(self, option: int, pods: Sequence[PodFacts], staying: set[str]) -> bool:
        """Whether one pod that is given up leaves room for one new pod, on whatever node it is."""
        problem = self._problem
        if problem.option_nodes[option] > 1:
            return False
        pool = self._fleet.pool_names[int(problem.option_pool[option])]
        wanted = problem.option_demand[option]
        for pod in pods:
            node = self._numbers.get(pod.node)
            if node is None or pod.node in self._closed or (pod.placement in staying and not pod.deleting):
                continue
            resource = self._resources[pool]
            there = (pod.requests.get(resource, 0.0), pod.requests.get("cpu", 0.0), pod.requests.get("memory", 0.0))
            same = self._fleet.pool_names[int(problem.node_pool[node])] == pool
            if same and all(has >= need for has, need in zip(there, wanted.tolist(), strict=True)):
                return True
        return False


def _going(own: Sequence[Workload], pods: Sequence[PodFacts]) -> int:
    """Pods that were asked to go and are there still."""
    deleting = sum(pod.deleting for pod in pods)
    staying: dict[str, int] = {}
    for pod in pods:
        if not pod.deleting:
            staying[pod.placement] = staying.get(pod.placement, 0) + 1
    wanted = {item.name: item.replicas * int(item.option.get("nodes", 1)) for item in own}
    return deleting + sum(max(0, count - wanted.get(name, 0)) for name, count in staying.items())
