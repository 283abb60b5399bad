"""Measured round trips: fresh ones count, small moves do not, and chains keep to them."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from plimsoll.planning import plan_fleet
from plimsoll.planning.distances import Measurement, in_force, stale
from plimsoll.planning.snapshot import MeasuredTrip
from plimsoll.rendering.round_trips import KEY, measurements_from_config_map
from tests.unit.planning.chain_cluster import cluster, deployment, only

NOW = datetime(2026, 11, 22, 6, 0, tzinfo=UTC)


def measured(milliseconds: float, hours_ago: float = 1, region: str = "us-east", peer: str = "eu-west") -> Measurement:
    return Measurement(region, peer, milliseconds, NOW - timedelta(hours=hours_ago))


def test_the_longer_direction_counts() -> None:
    found = in_force((), [measured(80), measured(95, region="eu-west", peer="us-east")], NOW)
    assert found == (MeasuredTrip("eu-west", "us-east", 95.0),)


def test_what_is_older_than_a_day_does_not_count() -> None:
    table = [measured(80, hours_ago=25), measured(62, peer="us-west")]
    assert in_force((), table, NOW) == (MeasuredTrip("us-east", "us-west", 62.0),)
    assert stale(table, NOW) == 1


def test_a_measurement_of_a_time_to_come_does_not_count_for_ever() -> None:
    assert in_force((), [measured(80, hours_ago=-48)], NOW) == ()


def test_small_moves_change_nothing_and_large_ones_do() -> None:
    before = in_force((), [measured(80)], NOW)
    assert in_force(before, [measured(95)], NOW) == before
    assert in_force(before, [measured(97)], NOW) == (MeasuredTrip("eu-west", "us-east", 97.0),)


def test_a_table_is_read_and_what_is_wrong_with_it_is_said() -> None:
    good = {"region": "us-east", "peer": "eu-west", "milliseconds": 84, "time": "2026-11-22T05:00:00Z"}
    entries = [good, {**good, "milliseconds": -1}, {**good, "time": "2026-11-22T05:00:00"}, {"region": "a"}, 7]
    found, problems = measurements_from_config_map({"data": {KEY: json.dumps({"measured": entries})}})
    assert found == (measured(84),)
    assert len(problems) == 4
    assert "milliseconds -1.0; 0 to 10000 are possible" in problems[0]
    assert "no time zone" in problems[1]


@pytest.mark.parametrize("data", [None, {}, {KEY: "no JSON"}, {KEY: "[]"}, {KEY: '{"measured": 3}'}])
def test_what_is_no_table_is_said(data: object) -> None:
    found, problems = measurements_from_config_map({"data": data})
    assert found == ()
    assert len(problems) == 1


def test_chains_keep_their_targets_over_measured_distances() -> None:
    near = only(plan_fleet(cluster(deployment(15))))
    slower = (MeasuredTrip("eu-west", "us-east", 200.0),)
    far = only(plan_fleet(replace(cluster(deployment(15)), round_trips=slower)))
    assert near.chains[0].tpot_milliseconds < 700
    assert far.chains == () or far.chains[0].tpot_milliseconds < 700
    assert far.chains != near.chains
