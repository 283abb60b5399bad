"""Between plans traffic is split again where a placement would be too full, and only then; no pod moves."""

from collections.abc import Mapping
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.planning.plan import ClassPlan, DeploymentPlan, DeploymentState, Placement, ReplicaRate, Share
from plimsoll.planning.shares import BUSY, CALM, WORTH, split_again
from plimsoll.planning.transition import Backend, RoutedClass, RoutingTable, largest_remainder
from tests.unit.planning.fleets import LLAMA_70B, deployment, objective, plan, plan_of, policy, pool, snapshot, traffic
from tests.unit.planning.test_transition_steps import OPTION, TWO_CLASSES

CLASSES = ("default", "long")


def placement(name: str, replicas: int, rates: Mapping[str, float], shares: Mapping[str, float]) -> Placement:
    """Rates are requests per minute of one replica."""
    return Placement(
        name,
        OPTION,
        replicas,
        tuple(Share(key, value) for key, value in shares.items() if value > 0),
        1.0,
        0.5,
        "",
        rates=tuple(ReplicaRate(key, value) for key, value in rates.items()),
    )


def planned(*placements: Placement, state: DeploymentState = DeploymentState.PLANNED) -> DeploymentPlan:
    classes = tuple(ClassPlan(name, 100.0, 0.0, (), ()) for name in CLASSES)
    return DeploymentPlan(deployment(traffic=TWO_CLASSES), state, placements, classes, ())


def two() -> DeploymentPlan:
    """`small` is made for the class `default`, `large` for `long`, and each can do the other's work less well."""
    return planned(
        placement("small", 2, {"default": 60.0, "long": 6.0}, {"default": 1.0}),
        placement("large", 2, {"default": 80.0, "long": 40.0}, {"long": 1.0}),
    )


def ready(plan_: DeploymentPlan) -> dict[str, int]:
    return {item.name: item.replicas for item in plan_.placements}


def fullest(plan_: DeploymentPlan, arriving: Mapping[str, float]) -> float:
    """The used part of the time of the fullest placement: reckoned from the plan alone."""
    used = []
    for item in plan_.placements:
        rates = {rate.traffic: rate.requests_per_minute for rate in item.rates}
        load = sum(arriving[share.traffic] * share.value / rates[share.traffic] for share in item.shares)
        used.append(load / item.replicas)
    return max(used)


def table(plan_: DeploymentPlan) -> RoutingTable:
    """What routers are told of the plan's shares."""
    classes = []
    for name in CLASSES:
        parts = [
            (item.name, share.value) for item in plan_.placements for share in item.shares if share.traffic == name
        ]
        weights = largest_remainder([value for _, value in parts], 1000)
        backends = tuple(Backend(part, "m", weight, 64) for (part, _), weight in zip(parts, weights, strict=True))
        classes.append(RoutedClass(name, (), 100, "0", backends))
    return RoutingTable(1, tuple(classes))


def test_a_placement_that_would_be_too_full_gives_traffic_to_one_with_room() -> None:
    plan_, arriving = two(), {"default": 130.0, "long": 20.0}
    assert fullest(plan_, arriving) > 1.0
    found = split_again(plan_, ready(plan_), arriving, table(plan_))
    assert fullest(found, arriving) < BUSY
    assert [(item.name, item.replicas) for item in found.placements] == [("small", 2), ("large", 2)]
    assert sum(share.value for item in found.placements for share in item.shares) == 2.0


def test_a_placement_found_to_be_slower_than_predicted_gives_traffic_away() -> None:
    plan_, arriving = two(), {"default": 80.0, "long": 20.0}
    assert split_again(plan_, ready(plan_), arriving, table(plan_)) is plan_
    slower = planned(
        placement("small", 2, {"default": 40.0, "long": 4.0}, {"default": 1.0}),
        placement("large", 2, {"default": 80.0, "long": 40.0}, {"long": 1.0}),
    )
    found = split_again(slower, ready(slower), arriving, table(slower))
    assert fullest(found, arriving) < fullest(slower, arriving) - WORTH


def test_what_the_plan_says_stays_while_it_does() -> None:
    plan_ = two()
    for arriving in ({"default": 100.0, "long": 60.0}, {"default": 0.0, "long": 0.0}):
        assert split_again(plan_, ready(plan_), arriving, table(plan_)) is plan_


def test_nothing_is_split_that_is_not_known_or_not_settled() -> None:
    plan_, arriving = two(), {"default": 130.0, "long": 20.0}
    assert split_again(plan_, ready(plan_), {"default": 130.0}, table(plan_)) is plan_
    assert split_again(plan_, {"small": 2, "large": 1}, arriving, table(plan_)) is plan_
    short = replace(plan_, state=DeploymentState.SHORT)
    assert split_again(short, ready(short), arriving, table(short)) is short


def test_noise_at_the_line_does_not_move_routing_to_and_fro() -> None:
    plan_, routed = two(), table(two())
    tables = []
    for step in range(40):
        arriving = {"default": 104.0 * (1.1 if step % 2 else 0.9), "long": 20.0}
        routed = table(split_again(plan_, ready(plan_), arriving, routed))
        tables.append(routed)
    assert len({str(item) for item in tables[1:]}) == 1
    calm = {"default": 120.0 * CALM - 1.0, "long": 20.0}
    assert split_again(plan_, ready(plan_), calm, routed) is plan_, "once it is calm the plan's own shares are back"


def test_shares_that_have_a_price_or_a_limit_on_errors_stay_as_planned() -> None:
    """What only the planner can weigh does not move between plans."""
    answers = [{"model": LLAMA_70B, "value": "0.02"}, {"model": "meta-llama/Llama-3.1-8B-Instruct", "value": "0.09"}]
    models = [{"name": LLAMA_70B}, {"name": "meta-llama/Llama-3.1-8B-Instruct"}]
    facts = snapshot(
        pool(accelerator="H100-SXM-80GB", per_hour="2.50"),
        objective("exact", maxTaskError="0.05"),
        deployment(models=models, traffic=[traffic(rate=300, taskError=answers, sloRef={"name": "exact"})]),
        policy(),
        nodes=None,
    )
    for item in plan_of(plan(facts)).placements:
        assert bool(item.rates) == (item.option.model == LLAMA_70B)


RATES = st.sampled_from([5.0, 20.0, 60.0, 100.0])


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_split_serves_the_same_and_fills_no_placement_more_than_the_plan_would(data: st.DataObject) -> None:
    names = ("one", "two", "three")[: data.draw(st.integers(2, 3))]
    rates = {name: {key: data.draw(RATES) for key in CLASSES if data.draw(st.integers(0, 4))} for name in names}
    shares: dict[str, dict[str, float]] = {name: {} for name in names}
    served = {}
    for key in CLASSES:
        able = [name for name in names if key in rates[name]]
        parts = [data.draw(st.integers(0, 3)) for _ in able]
        served[key] = data.draw(st.sampled_from([1.0, 0.8])) if sum(parts) else 0.0
        for name, part in zip(able, parts, strict=True):
            shares[name][key] = part / max(1, sum(parts)) * served[key]
    plan_ = planned(*(placement(name, data.draw(st.integers(1, 4)), rates[name], shares[name]) for name in names))
    arriving = {key: data.draw(st.sampled_from([0.0, 10.0, 80.0, 300.0])) for key in CLASSES}
    found = split_again(plan_, ready(plan_), arriving, None)
    for key in CLASSES:
        total = sum(share.value for item in found.placements for share in item.shares if share.traffic == key)
        assert abs(total - served[key]) < 1e-5
    assert ready(found) == ready(plan_)
    assert fullest(found, arriving) <= fullest(plan_, arriving) + 1e-6
    assert found is plan_ or fullest(found, arriving) <= fullest(plan_, arriving) - WORTH + 1e-4
    again = split_again(plan_, ready(plan_), arriving, table(found))
    assert fullest(again, arriving) <= fullest(found, arriving) + WORTH + 1e-2, (
        "what is in force is good enough to stay"
    )
