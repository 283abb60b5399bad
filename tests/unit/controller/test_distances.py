"""Reading measured round trips: what is uploaded counts, and nothing is forgotten while the API server is away."""

import json
from datetime import UTC, datetime

from plimsoll.controller.distances import Distances
from plimsoll.controller.store import Store
from plimsoll.planning.snapshot import MeasuredTrip
from plimsoll.rendering.round_trips import KEY, NAME
from tests.unit.controller import fakes

NOW = datetime(2026, 11, 22, 6, 0, tzinfo=UTC)
TRIP = {"region": "us-east", "peer": "eu-west", "milliseconds": 84, "time": "2026-11-22T05:00:00Z"}


def upload(cluster, *entries):
    metadata = {"name": NAME, "namespace": "plimsoll"}
    data = {KEY: json.dumps({"measured": entries})}
    cluster.objects[NAME] = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


async def test_what_is_uploaded_counts_until_it_is_taken_away():
    cluster, store = fakes.FakeCluster(), Store()
    distances = Distances(cluster, store, "plimsoll")
    await distances.turn(NOW)
    assert store.snapshot().round_trips == ()
    assert not store.dirty
    upload(cluster, TRIP)
    await distances.turn(NOW)
    assert store.snapshot().round_trips == (MeasuredTrip("eu-west", "us-east", 84.0),)
    assert store.dirty
    store.clear_dirty()
    upload(cluster, {**TRIP, "milliseconds": 90})
    await distances.turn(NOW)
    assert not store.dirty, "a small move wakes nobody"
    cluster.objects.clear()
    await distances.turn(NOW)
    assert store.snapshot().round_trips == ()


async def test_while_the_server_is_away_everything_stays(caplog):
    cluster, store = fakes.FakeCluster(), Store()
    distances = Distances(cluster, store, "plimsoll")
    upload(cluster, TRIP, {"region": "nowhere"})
    await distances.turn(NOW)
    assert "measured[1]" in caplog.text
    cluster.refuse["find", "ConfigMap", NAME] = 503
    await distances.turn(NOW)
    assert len(store.snapshot().round_trips) == 1
