"""Whole transitions: plan, step, apply, wait, again; serving never breaks, and the end is the plan."""

from dataclasses import dataclass, field, replace
from functools import cache

import pytest

from plimsoll.planning import step_for
from plimsoll.planning.plan import DeploymentPlan, Placement
from plimsoll.planning.snapshot import NodeFacts, PodFacts, Snapshot
from plimsoll.planning.transition import ObservedRouting, RoutingTable
from tests.unit.planning.fleets import (
    GPU,
    QWEN_7B,
    deployment,
    exchanged,
    nodes,
    plan,
    plan_of,
    policy,
    pool,
    requests,
    snapshot,
    workload,
)

PROPAGATION_SECONDS = 150.0
TURN_SECONDS = 30.0
START_TURNS = 3
"""Turns that a new pod takes until it is Ready."""


@dataclass
class Cluster:
    """A cluster that does what it is told: pods are bound at once where they fit, and are Ready some turns later."""

    facts: Snapshot
    routing: RoutingTable | None = None
    routing_age: float = 0.0
    pods: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    """Placement -> (node, turns until Ready) per pod."""
    known: dict[str, Placement] = field(default_factory=dict)
    owner: DeploymentPlan | None = None
    each: dict[str, float] = field(default_factory=dict)
    """Placement -> requests per minute of one replica, as first planned."""

    def snapshot(self) -> Snapshot:
        workloads, pods = [], []
        for name, own in self.pods.items():
            placement = self.known[name]
            ready = sum(left == 0 for node, left in own if node)
            workloads.append(workload(self.owner, placement, len(own), ready))
            for number, (node, left) in enumerate(own):
                pods.append(
                    PodFacts(f"{name}-{number}", "chat", f"{name}-{number}", node, requests(placement), name, left == 0)
                )
        return replace(self.facts, workloads=tuple(workloads), pods=(*self.facts.pods, *pods))

    def turn(self) -> DeploymentPlan:
        """One turn of the operator, then some seconds of the cluster's life."""
        if self.owner is None:
            self.owner = plan_of(plan(self.facts))
        facts = self.snapshot()
        decided = plan_of(plan(facts))
        self.known.update({item.name: item for item in decided.placements})
        observed = None if self.routing is None else ObservedRouting(self.routing, self.routing_age)
        step = step_for(decided, facts.workloads, observed, PROPAGATION_SECONDS)
        for name, count in step.replicas.items():
            own = self.pods.setdefault(name, [])
            own.sort(key=lambda pod: (not pod[0], pod[1]))
            del own[count:]
            own.extend(("", START_TURNS) for _ in range(count - len(own)))
        for name in step.prune:
            del self.pods[name]
        if step.routing != self.routing:
            assert step.routing is not None
            assert self.routing is None or step.routing.epoch == self.routing.epoch + 1
            assert any(item.backends for item in step.routing.classes)
            self.routing, self.routing_age = step.routing, 0.0
        self._live()
        return decided

    def _live(self) -> None:
        self.routing_age += TURN_SECONDS
        for name, own in self.pods.items():
            for number, (node, left) in enumerate(own):
                own[number] = (node, max(0, left - 1)) if node else (self._bind(self.known[name]), left)

    def _bind(self, placement: Placement) -> str:
        free = {item.name: item.allocatable[GPU] for item in self.facts.nodes or () if _may(item, placement)}
        for name, own in self.pods.items():
            for node, _ in own:
                if node in free:
                    free[node] -= self.known[name].option.parallelism.gpus
        fits = [name for name, left in free.items() if left >= placement.option.parallelism.gpus]
        return min(fits, key=lambda name: (free[name], name), default="")

    def ready(self, name: str) -> int:
        return sum(bool(node) and left == 0 for node, left in self.pods.get(name, ()))

    def capacity(self) -> float:
        """Requests per minute that the Ready replicas of routed placements can take at their planned load."""
        assert self.routing is not None
        names = {backend.placement for item in self.routing.classes for backend in item.backends}
        return sum(self.ready(name) * self.each[name] for name in names if name in self.each)

    def learn(self, decided: DeploymentPlan) -> None:
        rate = decided.classes[0].requests_per_minute
        for item in decided.placements:
            if item.shares and item.utilization > 0:
                full = rate * item.shares[0].value / item.replicas / item.utilization
                self.each.setdefault(item.name, full)


def _may(item: NodeFacts, placement: Placement) -> bool:
    return placement.option.pool in item.labels["nvidia.com/gpu.product"].lower().split("-")


def settled(cluster: Cluster, decided: DeploymentPlan) -> bool:
    wanted = {item.name: item.replicas for item in decided.placements}
    running = {name: len(own) for name, own in cluster.pods.items()}
    return wanted == running == {name: cluster.ready(name) for name in cluster.pods}


def converge(cluster: Cluster, needed: float, turns: int = 60) -> list[float]:
    """Turns until nothing changes; the routed capacity after each. It must never fall below what is needed."""
    seen: list[float] = []
    quiet = 0
    for _ in range(turns):
        before = ({name: list(own) for name, own in cluster.pods.items()}, cluster.routing)
        decided = cluster.turn()
        cluster.learn(decided)
        if cluster.routing is not None:
            seen.append(cluster.capacity())
            assert seen[-1] >= needed * (1 - 1e-6), f"{seen}: below {needed}"
        same = before == (cluster.pods, cluster.routing) and cluster.routing_age > PROPAGATION_SECONDS + TURN_SECONDS
        quiet = quiet + 1 if same else 0
        if quiet == 3:
            assert settled(cluster, decided), (cluster.pods, decided.placements)
            return seen
    raise AssertionError(f"does not come to rest: {cluster.pods}")


def started() -> Cluster:
    """A cluster that runs what was planned for 900 requests per minute."""
    first = _started()
    pods = {name: list(own) for name, own in first.pods.items()}
    return replace(first, pods=pods, known=dict(first.known), each=dict(first.each))


@cache
def _started() -> Cluster:
    facts = snapshot(
        pool(),
        deployment(rate=900),
        policy(headroom={"demand": "0.1"}),
        nodes=[*nodes(6), *nodes(1, "H100-SXM-80GB", 8)],
    )
    cluster = Cluster(facts)
    converge(cluster, 0)
    return cluster


def test_a_first_plan_comes_to_rest_and_serves_the_demand():
    cluster = started()
    assert cluster.capacity() >= 900
    assert cluster.routing is not None


@pytest.mark.parametrize(
    "change",
    [
        deployment(rate=900, engine={"extraArgs": ["--enable-prefix-caching"]}),
        deployment(rate=900, model=QWEN_7B),
        deployment(rate=900, placement={"parallelism": {"tensor": [2], "pipeline": [1]}}),
        deployment(rate=900, placement={"replicas": {"min": 9}}),
    ],
    ids=["engine", "model", "parallelism", "floor"],
)
def test_serving_never_breaks_while_a_placement_is_replaced(change):
    cluster = started()
    old = set(cluster.pods)
    cluster.facts = exchanged(cluster.facts, change)
    converge(cluster, 900)
    kept = bool(change.spec.placement.replicas.min == 9)
    assert (set(cluster.pods) == old) is kept


def test_serving_never_breaks_while_traffic_moves_to_another_pool():
    cluster = started()
    cluster.facts = exchanged(cluster.facts, pool("h100", "H100-SXM-80GB", "0.50"))
    converge(cluster, 900)
    assert {cluster.known[name].option.pool for name in cluster.pods} == {"h100"}


def test_growth_and_shrink_follow_the_demand():
    cluster = started()
    before = sum(map(len, cluster.pods.values()))
    cluster.facts = exchanged(cluster.facts, deployment(rate=1800))
    converge(cluster, 900)
    assert cluster.capacity() >= 1800
    assert sum(map(len, cluster.pods.values())) > before
    cluster.facts = exchanged(cluster.facts, deployment(rate=900))
    converge(cluster, 900)
    assert sum(map(len, cluster.pods.values())) == before


def test_an_edit_that_is_taken_back_half_way_ends_where_it_began():
    cluster = started()
    before = {name: len(own) for name, own in cluster.pods.items()}
    original = cluster.facts
    cluster.facts = exchanged(cluster.facts, deployment(rate=900, engine={"extraArgs": ["--enable-prefix-caching"]}))
    for _ in range(2):
        cluster.turn()
    cluster.facts = original
    converge(cluster, 900)
    assert {name: len(own) for name, own in cluster.pods.items()} == before


def test_a_lost_node_is_made_good_elsewhere():
    cluster = started()
    lost = next(node for own in cluster.pods.values() for node, _ in own)
    cluster.facts = replace(cluster.facts, nodes=tuple(item for item in cluster.facts.nodes or () if item.name != lost))
    for own in cluster.pods.values():
        own[:] = [(node, left) if node != lost else ("", START_TURNS) for node, left in own]
    converge(cluster, 0)
    assert cluster.capacity() >= 900


def test_a_deployment_without_traffic_scales_to_zero_and_back():
    cluster = started()
    cluster.facts = exchanged(cluster.facts, deployment(rate=0, placement={"replicas": {"min": 0}}))
    for _ in range(20):
        cluster.turn()
    assert cluster.pods == {}
    cluster.facts = exchanged(cluster.facts, deployment(rate=900))
    converge(cluster, 0)
    assert cluster.capacity() >= 900
