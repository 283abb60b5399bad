"""Chains while nodes come and go: what is routed can serve, no GPU is taken twice, and it comes to rest."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.planning.transition import backends_of
from tests.unit.planning.chain_cluster import REGIONS, Running, cluster, deployment, node

EVENTS = st.one_of(
    st.tuples(st.sampled_from(["lose", "unready", "back"]), st.integers(0, 11)),
    st.tuples(st.just("rate"), st.sampled_from([10, 20, 45, 90])),
)


def happen(running: Running, event: tuple[str, int]) -> None:
    what, number = event
    name = f"{REGIONS[number % 3]}-{number // 3}"
    nodes = running.snapshot.nodes or ()
    if what == "rate":
        running.snapshot = replace(running.snapshot, deployments=(deployment(number),))
    elif what == "back":
        fresh = node(REGIONS[number % 3], number // 3)
        running.snapshot = replace(running.snapshot, nodes=(*(one for one in nodes if one.name != name), fresh))
    else:
        running.lose(name, deleted=what == "lose")
        # The pods of a node that is gone go with it, sooner or later.
        pods = tuple(pod for pod in running.snapshot.pods if what == "unready" or pod.node != name)
        running.snapshot = replace(running.snapshot, pods=pods)


def usable(running: Running) -> set[str]:
    return {one.name for one in running.snapshot.nodes or () if not one.unschedulable_reason}


@settings(max_examples=5)
@given(st.lists(EVENTS, min_size=1, max_size=4))
def test_whatever_happens_to_nodes_what_is_routed_can_serve(events: list[tuple[str, int]]) -> None:
    running = Running(cluster(deployment(20)))
    running.settle()
    for event in events:
        before = {chain.name for chain in running.table.chains} if running.table is not None else set()
        happen(running, event)
        running.turn()
        assert running.table is not None
        able = {
            chain.name
            for chain in running.table.chains
            if all(server.node in usable(running) for server in chain.servers)
        }
        routed = {chain.name for chain in running.table.chains}
        # A document is never published empty: where nothing can serve, the last one stays.
        assert routed == able or not able & before
        fleet = running.settle()
        taken = [pod.node for pod in running.snapshot.pods]
        assert len(taken) == len(set(taken)), "a GPU is taken twice"
        (plan,) = fleet.deployments
        if plan.state == "Planned":
            assert running.table is not None
            assert {item.name for item in plan.placements} == backends_of(running.table)
            assert {item.name for item in running.snapshot.workloads} == backends_of(running.table)
