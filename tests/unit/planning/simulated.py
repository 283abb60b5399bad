"""A simulated cluster that does what a step says, for tests of whole transitions."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from plimsoll.planning import step_for
from plimsoll.planning.plan import DeploymentPlan, Placement
from plimsoll.planning.snapshot import PodFacts, Snapshot
from plimsoll.planning.stages import stage_for
from plimsoll.planning.transition import ObservedRouting, RoutingTable
from tests.unit.planning.fleets import GPU, plan, plan_of, requests, workload

PROPAGATION_SECONDS = 150.0
TURN_SECONDS = 30.0
START_TURNS = 3
"""Turns that a new pod takes until it is Ready."""


@dataclass
class Pod:
    """One pod of the simulated cluster."""

    name: str
    node: str = ""
    left: int = START_TURNS
    """Turns until it is Ready; below 0: it never is."""
    leaving: bool = False
    """It holds its GPUs for one more turn."""

    @property
    def ready(self) -> bool:
        return bool(self.node) and self.left == 0 and not self.leaving


@dataclass
class Cluster:
    """A cluster that does what it is told: pods are bound at once where they fit, and are Ready some turns later."""

    facts: Snapshot
    routing: RoutingTable | None = None
    routing_age: float = 0.0
    pods: dict[str, list[Pod]] = field(default_factory=dict)
    """By placement. One that is gone has no entry; its last pods are in `going`."""
    going: list[tuple[str, Pod]] = field(default_factory=list)
    known: dict[str, Placement] = field(default_factory=dict)
    owner: DeploymentPlan | None = None
    each: dict[str, float] = field(default_factory=dict)
    """Placement -> requests per minute of one replica, as first planned."""
    broken: set[str] = field(default_factory=set)
    """Placements whose new pods are never Ready."""
    killed: random.Random | None = None
    """Where a turn of the operator ends, if it is killed now and then."""
    lingers: bool = False
    """Pods take a turn to go."""
    made: int = 0
    most_gpus: int = 0
    """Held at once so far."""

    def copy(self) -> "Cluster":
        """The same cluster, to go its own way."""
        pods = {name: [replace(pod) for pod in own] for name, own in self.pods.items()}
        return replace(self, pods=pods, going=[], known=dict(self.known), each=dict(self.each), broken=set())

    def snapshot(self) -> Snapshot:
        workloads, pods = [], []
        for name, own in self.pods.items():
            placement = self.known[name]
            staying = [pod for pod in own if not pod.leaving]
            workloads.append(workload(self.owner, placement, len(staying), sum(pod.ready for pod in staying)))
        for name, pod in self._all():
            asked = requests(self.known[name])
            facts = PodFacts(pod.name, "chat", pod.name, pod.node, asked, name, pod.ready, pod.leaving)
            pods.append(replace(facts, deployment="assistant"))
        return replace(self.facts, workloads=tuple(workloads), pods=(*self.facts.pods, *pods))

    def turn(self) -> DeploymentPlan:
        """One turn of the operator, then some seconds of the cluster's life."""
        if self.owner is None:
            self.owner = plan_of(plan(self.facts))
        facts = self.snapshot()
        decided = plan_of(plan(facts))
        self.known.update({item.name: item for item in decided.placements})
        observed = None if self.routing is None else ObservedRouting(self.routing, self.routing_age)
        rebalance = facts.policy.spec.rebalance if facts.policy is not None else None
        stage = stage_for(decided, facts.workloads, rebalance.surge if rebalance is not None else None)
        step = step_for(
            stage.plan,
            facts.workloads,
            observed,
            PROPAGATION_SECONDS,
            max_shift=float(rebalance.max_share_shift) if rebalance is not None else 1.0,
        )
        actions = [lambda name=name, count=count: self._scale(name, count) for name, count in step.replicas.items()]
        actions.append(lambda: self._route(step.routing))
        actions.extend(lambda name=name: self._delete(name) for name in step.prune)
        if self.killed is not None:
            del actions[self.killed.randrange(len(actions) + 1) :]
        for action in actions:
            action()
        self._live()
        return decided

    def _scale(self, name: str, count: int) -> None:
        own = self.pods.setdefault(name, [])
        staying = sorted((pod for pod in own if not pod.leaving), key=lambda pod: (not pod.node, not pod.ready))
        for pod in staying[count:]:
            self._end(name, pod)
        for _ in range(count - len(staying)):
            self.made += 1
            own.append(Pod(f"{name}-{self.made}", left=-1 if name in self.broken else START_TURNS))

    def _end(self, name: str, pod: Pod) -> None:
        self.pods[name].remove(pod)
        if self.lingers and pod.node:
            pod.leaving = True
            self.going.append((name, pod))

    def _delete(self, name: str) -> None:
        for pod in list(self.pods[name]):
            self._end(name, pod)
        del self.pods[name]

    def _route(self, table: RoutingTable | None) -> None:
        if table == self.routing:
            return
        assert table is not None
        assert self.routing is None or table.epoch == self.routing.epoch + 1
        assert any(item.backends for item in table.classes)
        self.routing, self.routing_age = table, 0.0

    def _all(self) -> Iterator[tuple[str, Pod]]:
        yield from self.going
        for name, own in self.pods.items():
            for pod in own:
                yield name, pod

    def _live(self) -> None:
        self.routing_age += TURN_SECONDS
        self.going.clear()
        for name, pod in self._all():
            if not pod.node:
                pod.node = self._bind(self.known[name])
            elif pod.left > 0:
                pod.left -= 1
        held = sum(self.known[name].option.parallelism.gpus for name, pod in self._all() if pod.node)
        self.most_gpus = max(self.most_gpus, held)

    def _bind(self, placement: Placement) -> str:
        free = {item.name: item.allocatable[GPU] for item in self.facts.nodes or () if _may(item, placement)}
        for name, pod in self._all():
            if pod.node in free:
                free[pod.node] -= self.known[name].option.parallelism.gpus
        fits = [name for name, left in free.items() if left >= placement.option.parallelism.gpus]
        return min(fits, key=lambda name: (free[name], name), default="")

    def ready(self, name: str) -> int:
        return sum(pod.ready for pod in self.pods.get(name, ()))

    def replicas(self) -> dict[str, int]:
        """Pods by placement."""
        return {name: len(own) for name, own in self.pods.items()}

    def capacity(self) -> float:
        """Requests per minute that the Ready replicas of routed placements can take at their planned load."""
        assert self.routing is not None
        names = {backend.placement for item in self.routing.classes for backend in item.backends}
        return sum(self.ready(name) * self.each[name] for name in names if name in self.each)

    def learn(self, decided: DeploymentPlan) -> None:
        """What a replica can take, of placements that serve."""
        rate = decided.classes[0].requests_per_minute
        for item in decided.placements:
            if item.shares and item.utilization > 0:
                full = rate * item.shares[0].value / item.replicas / item.utilization
                self.each.setdefault(item.name, full)


def _may(item, placement: Placement) -> bool:
    return placement.option.pool in item.labels["nvidia.com/gpu.product"].lower().split("-")


def settled(cluster: Cluster, decided: DeploymentPlan) -> bool:
    wanted = {item.name: item.replicas for item in decided.placements}
    return wanted == cluster.replicas() == {name: cluster.ready(name) for name in cluster.pods}


def converge(cluster: Cluster, needed: float, turns: int = 60) -> list[float]:
    """Turns until nothing changes; the routed capacity after each. It must never fall below what is needed."""
    seen: list[float] = []
    quiet = 0
    for _ in range(turns):
        before = (
            {name: [(pod.name, pod.node, pod.left) for pod in own] for name, own in cluster.pods.items()},
            cluster.routing,
        )
        decided = cluster.turn()
        cluster.learn(decided)
        if cluster.routing is not None:
            seen.append(cluster.capacity())
            assert seen[-1] >= needed * (1 - 1e-6), f"{seen}: below {needed}"
        after = (
            {name: [(pod.name, pod.node, pod.left) for pod in own] for name, own in cluster.pods.items()},
            cluster.routing,
        )
        same = before == after and cluster.routing_age > PROPAGATION_SECONDS + TURN_SECONDS
        quiet = quiet + 1 if same else 0
        if quiet == 3:
            assert settled(cluster, decided), (cluster.pods, decided.placements)
            return seen
    raise AssertionError(f"does not come to rest: {cluster.pods}")
