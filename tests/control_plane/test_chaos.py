"""Faults while the fleet changes: whatever happens, it converges, and nothing that serves is taken away by mistake."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from devcluster.faulty_operator import LOOP, kill_points
from devcluster.installation import Installation
from devcluster.proxy import FaultyProxy
from devcluster.witness import Witness
from tests.control_plane.bench import Bench, llm_deployment, policy, pool

NAMESPACE = "chat"
FAULTY = "devcluster.faulty_operator"
MOVING, GROWING = "moving", "growing"
_CHANGES = itertools.count(1)
RATE_STEP = 30
PROPAGATION_SECONDS = 2
LATE_SIGHT_SECONDS = 0.5
"""A watch tells of a change so much later than it happened, at most."""
MANUAL, NO_PLAN = "only while plans wait for a person", "only in a round without a plan"
ELSEWHERE = {
    "loop:Loop._plan:1": NO_PLAN,
    "report:Reporter.report:0": NO_PLAN,
    "report:Reporter.report_failure:0": NO_PLAN,
    "report:Reporter.report_drift:0": "only after somebody else's change of a rendered object",
    "guarding:Guarding._load:1": "only when the API server does not answer",
    "plans:Plans.standing:0": MANUAL,
    "plans:Plans.standing:1": MANUAL,
    "plans:Plans.keep:3": MANUAL,
    "plans:Plans._recalled:0": MANUAL,
    "plans:Plans._details:0": MANUAL,
    "plans:Plans._hear:0": MANUAL,
    "plans:Plans._hear:1": MANUAL,
    "plans:Plans._hear:2": MANUAL,
    "plans:Plans._hear:3": MANUAL,
    "plans:Plans._hear:4": MANUAL,
    "plans:Plans._refuse:0": MANUAL,
}
"""Awaits of the loop that a change of the fleet does not pass, and why."""
LATE = ("plans:Plans._drop:0", "plans:Plans.keep:5")
"""Awaits that it passes only once there are twenty plans."""


@pytest.fixture(scope="module")
def fleet(installed: Bench, nodes: None) -> Iterator[Bench]:
    """Two LLMDeployments at rest, their operator stopped."""
    installed.operator.install()
    installed.apply(policy(routing={"propagationSeconds": PROPAGATION_SECONDS}))
    installed.apply(pool("l40s", "L40S", "1.10"), pool("l4", "L4", "0.60"), pool("h100", "H100-SXM-80GB", "2.50"))
    installed.apply(llm_deployment(MOVING, NAMESPACE), llm_deployment(GROWING, NAMESPACE))
    installed.start()
    installed.settle()
    installed.operator.stop()
    yield installed
    installed.operator.stop()
    installed.clear()


@pytest.fixture
def witness(fleet: Bench) -> Iterator[Witness]:
    with Witness(fleet.cluster) as found:
        yield found


def change(fleet: Bench, *, grow: bool = False) -> None:
    """Something to do: one LLMDeployment moves to a new placement, the other grows a little, or grows and shrinks."""
    number = next(_CHANGES)
    template = {"annotations": {"example.com/change": str(number)}}
    fleet.set(MOVING, NAMESPACE, "/spec/engine/podTemplate", template)
    rate = 60 + (RATE_STEP * number if grow else 240 * (number % 2))
    fleet.set(GROWING, NAMESPACE, "/spec/traffic/0/requestsPerMinute", rate)


@contextlib.contextmanager
def running(fleet: Bench, operator: Installation | None = None) -> Iterator[Installation]:
    """The operator, or another in its place, up within the block."""
    usual, fleet.operator = fleet.operator, operator or fleet.operator
    fleet.operator.start()
    try:
        yield fleet.operator
    finally:
        fleet.operator.stop()
        fleet.operator = usual


@contextlib.contextmanager
def restarted(operator: Installation) -> Iterator[None]:
    """As a kubelet does: an operator that ends by itself, since it can no longer renew its Lease, is started again."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            if operator.process is not None and operator.process.died:
                operator.start()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(30)


@contextlib.contextmanager
def through_proxy(fleet: Bench) -> Iterator[FaultyProxy]:
    """The operator up and synced, behind a proxy that can fail."""
    with FaultyProxy(fleet.cluster.server, str(fleet.cluster.ca_file)) as proxy:
        operator = Installation(fleet.cluster, server=proxy.url)
        with running(fleet, operator):
            operator.wait_ready()
            yield proxy


def judge(fleet: Bench, witness: Witness) -> None:
    """The fleet has come to rest where it should, and nothing was broken on the way."""
    fleet.settle(90)
    assert witness.stray_routes() == []
    assert witness.misrouted() == []
    assert witness.pruned_early(PROPAGATION_SECONDS - LATE_SIGHT_SECONDS) == []
    assert witness.pods_taken_away() == []
    witness.forget()


@pytest.mark.timeout(900)
def test_killed_after_every_await_of_the_loop(fleet: Bench, witness: Witness, tmp_path: Path) -> None:
    """Each operator finds what the one before it left half done, and something new to do."""
    passed = passed_points(fleet, tmp_path / "trace")
    points = [point for point in kill_points(LOOP) if point in passed and point not in LATE]
    assert set(kill_points(LOOP)) - set(points) - set(LATE) == ELSEWHERE.keys()
    survived = [point for point in (*points, *LATE) if not dies_at(fleet, point)]
    # One more plan may have been missing when the late ones were due.
    survived = [point for point in survived if point not in LATE or not dies_at(fleet, point)]
    with running(fleet):
        judge(fleet, witness)
    assert survived == []


def dies_at(fleet: Bench, point: str) -> bool:
    """Whether an operator that is to die at the point comes by it while the fleet changes."""
    change(fleet, grow=True)
    operator = Installation(fleet.cluster, {"KILL_POINT": point}, module=FAULTY)
    with running(fleet, operator):
        return operator.ends(within_seconds=30)


def passed_points(fleet: Bench, trace: Path) -> set[str]:
    """The awaits that an operator passes which nobody kills."""
    change(fleet, grow=True)
    with running(fleet, Installation(fleet.cluster, {"TRACE_FILE": str(trace)}, module=FAULTY)):
        fleet.operator.wait_ready()
        fleet.settle()
        time.sleep(PROPAGATION_SECONDS + 1)
        fleet.settle()
    return set(trace.read_text().split())


@pytest.mark.parametrize("statuses", [(500,), (429,)], ids=["500", "429"])
def test_a_tenth_of_the_requests_fails(fleet: Bench, witness: Witness, statuses: tuple[int, ...]) -> None:
    with through_proxy(fleet) as proxy:
        with proxy.errors(0.1, *statuses):
            for _ in range(2):
                change(fleet)
                judge(fleet, witness)
        assert sum(proxy.injected.values()) > 0


def test_watches_are_cut_while_things_change(fleet: Bench, witness: Witness) -> None:
    with through_proxy(fleet) as proxy:
        change(fleet)
        for _ in range(5):
            assert proxy.cut_watches() > 0
            time.sleep(1)
        judge(fleet, witness)


@pytest.mark.parametrize("plural", ["llmdeployments", "gpunodepools", "nodes", "pods", "deployments", "configmaps"])
def test_nothing_is_written_before_every_kind_is_known(fleet: Bench, witness: Witness, plural: str) -> None:
    with FaultyProxy(fleet.cluster.server, str(fleet.cluster.ca_file)) as proxy:
        change(fleet)
        mark = fleet.cluster.mark()
        with running(fleet, Installation(fleet.cluster, server=proxy.url)) as operator:
            with proxy.holding(plural):
                fleet.wait("the list asked for", lambda: proxy.injected[f"held {plural}"])
                time.sleep(3)
                assert operator.get("/readyz")[0] != http.client.OK
                assert fleet.wrote(mark) == []
            judge(fleet, witness)


def test_the_api_server_and_etcd_restart_while_things_change(fleet: Bench, witness: Witness) -> None:
    with running(fleet), restarted(fleet.operator):
        fleet.operator.wait_ready()
        change(fleet)
        fleet.cluster.restart_etcd(downtime_seconds=2)
        fleet.cluster.restart_apiserver(downtime_seconds=2)
        judge(fleet, witness)


def test_etcd_takes_no_writes_for_a_while(fleet: Bench, witness: Witness) -> None:
    with through_proxy(fleet) as proxy:
        before = fleet.pod_uids()
        with proxy.read_only():
            change(fleet)
            fleet.wait("a refused write", lambda: proxy.injected["500"])
            time.sleep(3)
            assert before <= fleet.pod_uids()
        judge(fleet, witness)


def test_the_clock_jumps_while_things_change(fleet: Bench, witness: Witness, tmp_path: Path) -> None:
    offset = tmp_path / "offset"
    offset.write_text("0")
    with running(fleet, Installation(fleet.cluster, {"CLOCK_OFFSET_FILE": str(offset)}, module=FAULTY)):
        fleet.operator.wait_ready()
        for seconds in (3600, -3600):
            change(fleet)
            time.sleep(1.5)
            offset.write_text(str(seconds))
            judge(fleet, witness)


def test_half_of_the_nodes_are_not_ready_at_once(fleet: Bench, witness: Witness) -> None:
    with running(fleet):
        fleet.operator.wait_ready()
        fleet.settle()
        before = fleet.pod_uids()
        names = sorted(node["metadata"]["name"] for node in fleet.all("nodes"))[::2]
        for name in names:
            fleet.cluster.set_node_ready(name, ready=False)
        time.sleep(3)
        assert before <= fleet.pod_uids()
        for name in names:
            fleet.cluster.set_node_ready(name, ready=True)
        judge(fleet, witness)
        assert before <= fleet.pod_uids()
