"""What the stock makes of replicas of several pods: whole ones run, halves are in the way."""

from plimsoll.api.gpunodepool import GPUNodePool
from plimsoll.catalog import load_catalog
from plimsoll.planning.pools import Pool, resolve_pools
from plimsoll.planning.snapshot import PodFacts, Workload
from plimsoll.planning.stock import Demand, Stock, measure_stock
from tests.unit.planning.fleets import GPU, nodes, pool

HALF = Demand("l40s", (4.0, 5.0, 2.0**30), pods=2)
KEY = ("chat", "large")


def pod(number: int, node_name: str, *, unschedulable: bool = False) -> PodFacts:
    asked = {GPU: HALF.resources[0], "cpu": HALF.resources[1], "memory": HALF.resources[2]}
    return PodFacts(f"uid-{number}", "chat", f"large-{number}", node_name, asked, "large", unschedulable=unschedulable)


def measured(count: int, pods: list[PodFacts], replicas: int = 1, demand: Demand = HALF) -> Stock:
    declared = pool()
    assert isinstance(declared, GPUNodePool)
    usable: Pool = resolve_pools([declared], nodes(count), load_catalog()).usable["l40s"]
    return measure_stock([usable], pods, [Workload("chat", "large", "uid", "large", replicas, 0)], {KEY: demand})


def gpus(stock: Stock) -> list[float]:
    return [node.free[0] for node in stock.nodes]


def test_a_replica_runs_when_all_its_pods_do() -> None:
    stock = measured(2, [pod(0, "l40s-0"), pod(1, "l40s-1")])
    assert stock.running == ((*KEY, "l40s-0", 1), (*KEY, "l40s-1", 1))
    assert gpus(stock) == [4.0, 4.0]


def test_a_pod_that_is_about_to_be_bound_completes_its_replica() -> None:
    stock = measured(2, [pod(0, "l40s-0")])
    assert stock.running == ((*KEY, "l40s-0", 1), (*KEY, "l40s-1", 1))


def test_a_half_whose_other_half_fits_nowhere_is_in_the_way() -> None:
    stock = measured(2, [pod(0, "l40s-0"), pod(1, "", unschedulable=True)])
    assert stock.running == ()
    assert gpus(stock) == [0.0, 4.0]


def test_a_half_that_cannot_be_completed_leaves_no_place_reserved() -> None:
    stock = measured(2, [pod(0, "l40s-0")], replicas=2)
    assert sum(count for *_, count in stock.running) == 2
    assert gpus(stock) == [4.0, 4.0]


def test_pods_that_start_keep_to_their_limit_per_node() -> None:
    small = Demand("l40s", (1.0, 2.0, 2.0**30), per_node=1)
    stock = measured(3, [], replicas=2, demand=small)
    assert stock.running == ((*KEY, "l40s-0", 1), (*KEY, "l40s-1", 1))
