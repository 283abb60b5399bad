"""A fleet under load that a real Prometheus shows: a node dies, prices change, GPUs come, a pool is drained.

One LLMDeployment goes through all of it; each test leaves it at rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from devcluster.nodes import gpu_node
from devcluster.witness import Witness
from plimsoll.rendering import labels
from tests.control_plane.bench import Bench, Manifest, llm_deployment, placement_of, policy, pool, ready, settled
from tests.control_plane.observing import NAME, NAMESPACE, Observed, observed

COOL_DOWN_SECONDS = 10
PROPAGATION_SECONDS = 2
RATE = 400
"""Per minute, to three L40S or one H100: a move takes away less than what a person must release."""
LATE_SIGHT_SECONDS = 0.5
"""A watch tells of a change so much later than it happened, at most."""
NEW_NODES = [gpu_node(f"h200-{number}", "NVIDIA-H200", 8, 143771) for number in range(2)]


@pytest.fixture(scope="module")
def fleet(installed: Bench, nodes: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    """On the L40S, beside H100 that are too dear."""
    around = (
        policy(rebalance={"coolDownSeconds": COOL_DOWN_SECONDS}, routing={"propagationSeconds": PROPAGATION_SECONDS}),
        pool("l40s", "L40S", "1.10"),
        pool("h100", "H100-SXM-80GB", "9.00"),
    )
    with observed(installed, tmp_path_factory.mktemp("events"), *around, rate=RATE) as made:
        made.fresh("True", "Fresh")
        yield made
    names = [node["metadata"]["name"] for node in NEW_NODES]
    installed.cluster.kubectl("delete", "node", "--ignore-not-found", *names)


@pytest.fixture
def witness(fleet: Observed) -> Iterator[Witness]:
    """Judges afterwards that all the time what was routed to served, and nothing was taken away by mistake."""
    with Witness(fleet.bench.cluster) as found:
        yield found
    assert found.stray_routes() == []
    assert found.misrouted() == []
    assert found.pruned_early(PROPAGATION_SECONDS - LATE_SIGHT_SECONDS) == []
    assert found.pods_taken_away() == []


def serving(fleet: Observed) -> list[Manifest]:
    """Its Ready pods."""
    return [pod for pod in fleet.bench.all("pods", selector=f"{labels.LLM_DEPLOYMENT}={NAME}") if ready(pod)]


def alone_in(fleet: Observed, pool_name: str) -> bool:
    """Whether it is planned for one pool, and nothing of it is anywhere else any more."""
    pods = fleet.bench.all("pods", selector=f"{labels.LLM_DEPLOYMENT}={NAME}")
    return fleet.pools() == {pool_name} and {placement_of(pod) for pod in pods} == fleet.placements().keys()


def uids(pods: list[Manifest]) -> set[str]:
    return {pod["metadata"]["uid"] for pod in pods}


def test_replicas_on_a_node_that_dies_are_replaced_and_nothing_else_moves(fleet: Observed, witness: Witness) -> None:
    before, bench = serving(fleet), fleet.bench
    ((node, lost),) = Counter(pod["spec"]["nodeName"] for pod in before).most_common(1)
    others = [pod for pod in before if pod["spec"]["nodeName"] != node]
    assert lost
    bench.cluster.set_node_ready(node, ready=False)

    def elsewhere() -> list[Manifest]:
        return [pod for pod in serving(fleet) if pod["spec"]["nodeName"] != node]

    bench.wait("as many replicas elsewhere", lambda: len(elsewhere()) == len(before), seconds=30)
    assert uids(others) <= uids(elsewhere())
    # Its provider takes it away; the pod garbage collector would delete its pods after 40 s.
    bench.cluster.kubectl("delete", "node", node)
    gone = [pod["metadata"]["name"] for pod in bench.own("pods") if pod["spec"].get("nodeName") == node]
    options = ("--force", "--grace-period=0", "--ignore-not-found", f"--namespace={NAMESPACE}")
    bench.cluster.kubectl("delete", "pod", *gone, *options)
    bench.wait("no more than before", lambda: len(serving(fleet)) == len(before))
    bench.settle()
    assert uids(others) <= uids(serving(fleet))
    assert fleet.pools() == {"l40s"}


def test_a_price_that_falls_moves_replicas_while_another_llmdeployment_joins(fleet: Observed, witness: Witness) -> None:
    bench = fleet.bench
    before = {placement_of(pod) for pod in serving(fleet)}
    bench.apply(pool("h100", "H100-SXM-80GB", "0.50"))
    bench.wait("a transition", lambda: not settled(bench.get("llmdeployment", NAME, NAMESPACE)))
    bench.apply(llm_deployment("joined", NAMESPACE, placement={"pools": ["l40s"]}))
    assert before & {placement_of(pod) for pod in serving(fleet)}, "it was over before another joined"
    bench.wait("on the cheaper GPUs alone", lambda: alone_in(fleet, "h100"))
    assert len(bench.settle()) == 2


def test_a_new_gpu_type_is_used_once_it_is_there(fleet: Observed, witness: Witness) -> None:
    bench = fleet.bench
    bench.cluster.apply(NEW_NODES)
    bench.apply(pool("h200", "H200-SXM-141GB", "0.20"))
    bench.wait("on the new GPUs alone", lambda: alone_in(fleet, "h200"))
    bench.settle()
    assert {pod["spec"]["nodeName"][:5] for pod in serving(fleet)} == {"h200-"}


def test_a_drained_pool_is_left(fleet: Observed, witness: Witness) -> None:
    bench = fleet.bench
    nodes = [node["metadata"]["name"] for node in NEW_NODES]
    assert {pod["spec"]["nodeName"] for pod in serving(fleet)} <= set(nodes)
    bench.cluster.kubectl("drain", *nodes, "--delete-emptydir-data", "--timeout=60s")
    bench.wait("on the next cheapest GPUs alone", lambda: alone_in(fleet, "h100"))
    bench.settle()
    assert float(fleet.traffic()["unserved"]) == 0
