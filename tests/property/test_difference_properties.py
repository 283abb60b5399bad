"""What goes between the operator and its planner: differences make the newer value, of the older one's objects."""

import pickle
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from plimsoll.controller.difference import applied, difference
from plimsoll.planning.snapshot import NodeFacts, Snapshot


@given(
    st.lists(st.integers(0, 30), max_size=8, unique=True).map(sorted),
    st.lists(st.integers(0, 30), max_size=8),
    st.data(),
)
def test_a_difference_makes_the_newer_of_the_older_snapshot(
    before: list[int], after: list[int], data: st.DataObject
) -> None:
    older = Snapshot(nodes=tuple(NodeFacts(f"node-{number}", {}, {}) for number in before))
    kept = [item for item in older.nodes or () if data.draw(st.booleans())]
    added = [NodeFacts(f"node-{number}", {"new": "1"}, {}) for number in after]
    nodes = tuple(data.draw(st.permutations([*kept, *added])))
    newer = replace(older, nodes=nodes, gateway_api=data.draw(st.booleans()))
    found = applied(older, pickle.loads(pickle.dumps(difference(older, newer))))
    assert found == newer
    assert all(one is other for one, other in zip(found.nodes or (), nodes, strict=True) if other in kept)
