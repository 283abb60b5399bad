"""The fleet's demand from look to look, and what the planner makes of it."""

from importlib import util
from pathlib import Path

import pytest

from plimsoll.planning.arrivals import Reading
from plimsoll.planning.digest import inputs_digest
from plimsoll.planning.following import Window
from plimsoll.planning.plan import FleetPlan
from plimsoll.planning.snapshot import ObjectRef, TrafficDemand
from plimsoll.planning.watching import SILENT, UNREACHABLE, Watched, watched

_spec = util.spec_from_file_location("planning_fleets", Path(__file__).with_name("fleets.py"))
fleets = util.module_from_spec(_spec)
_spec.loader.exec_module(fleets)

REF = ObjectRef("LLMDeployment", "chat", "assistant")
KEY = ("chat", "assistant", "default")
PLAN = FleetPlan("", (), (), (), 0.0)
INTERVAL = 15.0


def facts(rate=600, **policy):
    return fleets.snapshot(fleets.deployment(rate=rate), fleets.pool(), fleets.policy(**policy), nodes=fleets.nodes(4))


def look(before, seconds, rate=None, snapshot=None, **window):
    found = () if rate is None else (Reading(REF, {"default": Window(seconds, rate, **window)}),)
    return watched(before, PLAN, snapshot or facts(), found, seconds, INTERVAL)


def looks(state, count, rate=None, start=0.0, **window):
    for number in range(1, count + 1):
        state = look(state, start + number * INTERVAL, rate, **window)
    return state


def test_a_class_that_was_never_measured_is_as_declared():
    assert looks(Watched(), 100).demand() == ()
    assert look(Watched(), 15.0, 5000.0, plausible=False).demand() == ()


def test_what_is_measured_takes_the_place_of_what_is_declared():
    (found,) = looks(Watched(), 20, 1500.0).demand()
    assert (found.namespace, found.deployment, found.traffic, found.fresh) == (*KEY, True)
    assert 1500 <= found.requests_per_minute < 1700
    assert found.current_per_minute == pytest.approx(1500, rel=0.1)


def test_the_policy_says_how_long_to_wait_with_less():
    quick = facts(rebalance={"coolDownSeconds": 60})
    state = looks(Watched(), 3, 300.0)
    for number in range(4, 9):
        state = look(state, number * INTERVAL, 300.0, quick)
    assert state.classes[KEY].planned_per_minute == 510
    assert looks(Watched(), 8, 300.0).classes[KEY].planned_per_minute == 600


def test_an_outage_is_told_and_keeps_what_was_planned_for():
    before = looks(Watched(), 20, 1500.0)
    after = looks(before, 20, start=300.0)
    assert after.troubles[REF].reason == UNREACHABLE
    assert after.troubles[REF].since == 315.0
    (kept,) = after.demand()
    assert kept.requests_per_minute == before.classes[KEY].planned_per_minute
    assert not kept.fresh
    assert looks(after, 1, 1500.0, start=600.0).troubles == {}


def test_silence_is_told():
    state = looks(looks(Watched(), 20, 1500.0), 20, 0.0, start=300.0)
    assert state.troubles[REF].reason == SILENT


def test_what_has_gone_is_forgotten():
    state = look(looks(Watched(), 5, 1500.0), 100.0, 100.0, fleets.snapshot())
    assert (state.classes, state.troubles) == ({}, {})


def test_placements_are_for_the_observed_rate():
    declared = fleets.plan(facts(rate=120))
    demand = (TrafficDemand("chat", "assistant", "default", 600.0, 550.0),)
    observed = fleets.plan(fleets.replace(facts(rate=120), demand=demand))
    assert (
        fleets.plan(facts(rate=600)).deployments[0].gpus == observed.deployments[0].gpus > declared.deployments[0].gpus
    )
    assert observed.deployments[0].classes[0].requests_per_minute == 600
    assert observed.digest != declared.digest


def test_the_digest_knows_what_is_planned_for_and_not_what_arrives_now():
    plain, demand = facts(), TrafficDemand("chat", "assistant", "default", 600.0, 550.0)
    observed = fleets.replace(plain, demand=(demand,))
    assert inputs_digest(observed) != inputs_digest(plain)
    other = fleets.replace(demand, current_per_minute=500.0, fresh=False)
    assert inputs_digest(fleets.replace(plain, demand=(other,))) == inputs_digest(observed)
