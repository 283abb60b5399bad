"""A placement that moved just now grows where it must and gives nothing up; what is lost is replaced at once."""

from dataclasses import replace

import pytest

from plimsoll.planning.lost import lost_pods, with_replacements
from plimsoll.planning.pace import LastMove, rest
from plimsoll.planning.plan import DeploymentState
from plimsoll.planning.snapshot import ObjectRef, PodFacts, Snapshot, Taint
from tests.unit.planning.fleets import (
    GPU,
    applied,
    deployment,
    exchanged,
    nodes,
    plan,
    plan_of,
    pool,
    replicas,
    snapshot,
)

ASSISTANT, OTHER = ObjectRef("LLMDeployment", "chat", "assistant"), ObjectRef("LLMDeployment", "chat", "other")


def running(rate: int = 900, **facts: object) -> Snapshot:
    asked = snapshot(pool(), pool("l4", "L4", "0.60"), deployment(rate=rate), nodes=[*nodes(4), *nodes(4, "L4")])
    return replace(applied(asked, plan(asked)), **facts)


def test_less_traffic_takes_nothing_from_who_rests() -> None:
    busy = running()
    quieter = exchanged(busy, deployment(rate=200))
    assert sum(replicas(plan(quieter)).values()) < sum(replicas(plan(busy)).values())
    resting = replace(quieter, resting=(ASSISTANT,))
    assert replicas(plan(resting)) == replicas(plan(busy))
    assert replicas(plan(replace(quieter, resting=(OTHER,)))) == replicas(plan(quieter))


def test_a_cheaper_pool_waits_until_the_rest_is_over() -> None:
    busy = running()
    cheap = exchanged(busy, pool("l4", "L4", "0.05"))
    assert replicas(plan(cheap)) != replicas(plan(busy))
    assert replicas(plan(replace(cheap, resting=(ASSISTANT,)))) == replicas(plan(busy))


def test_more_traffic_is_served_at_once_beside_all_that_runs() -> None:
    busy = running(300)
    before = replicas(plan(busy))
    more = replace(exchanged(busy, deployment(rate=1500)), resting=(ASSISTANT,))
    found = plan(more)
    assert plan_of(found).state is DeploymentState.PLANNED
    assert sum(replicas(found).values()) > sum(before.values())
    assert all(replicas(found)[name] >= count for name, count in before.items())
    assert replicas(plan(applied(more, found))) == replicas(found)


def test_a_rest_begins_with_the_end_of_a_move_and_does_not_bind_what_people_change() -> None:
    moved = LastMove(ASSISTANT, 200.0, answered=True)
    assert rest([moved], [ASSISTANT], [], 600.0).resting == (ASSISTANT,)
    assert rest([moved], [ASSISTANT], [], 600.0).over_in_seconds == 400.0
    assert rest([replace(moved, settled_seconds=700.0)], [ASSISTANT], [], 600.0).resting == ()
    assert rest([replace(moved, settled_seconds=None)], [ASSISTANT], [], 600.0).resting == (), "it still moves"
    assert rest([moved], [], [], 600.0).resting == (), "its demand is declared"
    assert rest([replace(moved, answered=False)], [ASSISTANT], [], 600.0).resting == (), "somebody has changed it"


def test_doubtful_metrics_take_nothing_away_for_as_long_as_they_last() -> None:
    moved = LastMove(ASSISTANT, 7000.0, answered=True)
    found = rest([moved], [ASSISTANT], [ASSISTANT], 600.0)
    assert (found.resting, found.over_in_seconds) == ((ASSISTANT,), None)


def one_node_going(facts: Snapshot, how: str) -> Snapshot:
    """The first node with a replica is lost, or announced to go."""
    name = next(pod.node for pod in facts.pods if pod.placement)
    change = {"unschedulable_reason": how} if "/" not in how else {"taints": (Taint(how, "", "NoSchedule"),)}
    return replace(
        facts, nodes=tuple(replace(item, **change) if item.name == name else item for item in facts.nodes or ())
    )


@pytest.mark.parametrize("how", ["not ready", "deleting", "aws-node-termination-handler/spot-itn"])
def test_replicas_on_a_node_that_goes_are_replaced_before_kubernetes_ends_them(how: str) -> None:
    asked = snapshot(pool(), deployment(rate=400), nodes=nodes(4, gpus=1))
    facts = one_node_going(applied(asked, plan(asked)), how)
    found = plan_of(plan(facts))
    (placement,) = found.placements
    lost = lost_pods(facts)
    assert lost == {("chat", placement.name): 1}
    wanted = with_replacements({placement.name: placement.replicas}, found, lost)
    assert wanted == {placement.name: placement.replicas + 1}
    assert with_replacements(wanted, found, lost) == wanted, "not one more with every turn"
    full = replace(facts, pods=(*facts.pods, PodFacts("u", "research", "t", "l40s-3", {GPU: 1.0}, ready=True)))
    assert plan_of(plan(full)).state is DeploymentState.SHORT, "there is no room for what is lost, and that is said"


def test_a_replica_on_a_cordoned_node_counts_until_somebody_drains_it() -> None:
    asked = snapshot(pool(), deployment(rate=400), nodes=nodes(4, gpus=1))
    facts = one_node_going(applied(asked, plan(asked)), "cordoned")
    assert lost_pods(facts) == {}
    assert replicas(plan(facts)) == replicas(plan(asked))
