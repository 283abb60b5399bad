"""Topology files and places for clients and servers."""

import numpy as np
import pytest

from plimsoll.simulation.topologies import TopologyError, parse_topology, scattered, synthetic_topology

FILE = """NODES 3
label x y
0_A 1 2
1_B 1 2
2_C 1 2

EDGES 4
label src dest weight bw delay
e0 0 1 1 1000 500
e1 1 0 1 1000 500
e2 1 2 1 1000 700
e3 2 1 1 1000 900
"""


def test_round_trips_go_the_shortest_way_there_and_back():
    topology = parse_topology("line", FILE.splitlines())
    assert topology.nodes == ("0_A", "1_B", "2_C")
    expected = [[0, 1000, 2600], [1000, 0, 1600], [2600, 1600, 0]]
    assert topology.round_trip_seconds == pytest.approx(np.array(expected) * 1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("NODES 3", "NODES x"), r"line 1: `NODES number` is accepted"),
        (("e3 2 1 1 1000 900", "e3 2 9 1 1000 900"), r"line 12: nodes from 0 to 2"),
        (("e3 2 1 1 1000 900", "e3 2 1 1 1000"), r"line 12: 6 columns are accepted in EDGES, not 5"),
        (("e3 2 1 1 1000 900", "e3 2 1 1 1000 soon"), r"line 12: numbers"),
        (("e3 2 1 1 1000 900\n", ""), r"6 columns are accepted in EDGES, not 0"),
    ],
)
def test_a_broken_file_is_refused_by_its_line(change, message):
    with pytest.raises(TopologyError, match=message):
        parse_topology("broken", FILE.replace(*change).splitlines())


def test_servers_stand_at_nodes_of_their_own():
    topology = synthetic_topology(20, seed=3)
    trips = topology.round_trip_seconds
    assert np.allclose(trips, trips.T)
    assert (trips >= 0).all()
    sites = scattered(topology, 10, np.random.default_rng(1))
    assert len({sites.client, *sites.servers.tolist()}) == 11
    assert sites.client_round_trips(topology).tolist() == trips[sites.client, sites.servers].tolist()
    assert sites.server_round_trips(topology).shape == (10, 10)
    with pytest.raises(ValueError, match="at most 19 servers"):
        scattered(topology, 20, np.random.default_rng(1))
