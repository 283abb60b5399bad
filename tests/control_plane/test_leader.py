"""Two operators: one leads, the other takes over whatever becomes of it, and no pod is restarted through it all."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator

import pytest

from devcluster.audit import Mark
from devcluster.installation import NAMESPACE, RELEASE, USER, Installation
from tests.control_plane.bench import (
    Bench,
    Manifest,
    conditions,
    key,
    llm_deployment,
    placements,
    policy,
    pool,
)

CHAT = "chat"
SETTINGS = {"PLIMSOLL_AUDIT_INTERVAL_SECONDS": "2"}
SLOW = {"PLIMSOLL_RATE_PER_SECOND": "8", "PLIMSOLL_RATE_BURST": "1"}
"""So slow that it can be frozen in the middle of its writes."""
LEASE_SECONDS = 15


@pytest.fixture(scope="module")
def first(installed: Bench, nodes: None) -> Iterator[Bench]:
    """One of two operators, as seen by a bench. It leads at first."""
    first = Bench(installed.cluster, Installation(installed.cluster, SETTINGS | SLOW, "operator-a"))
    first.operator.install()
    first.apply(policy(), pool("l40s", "L40S", "1.10"), pool("l4", "L4", "0.60"), llm_deployment("assistant", CHAT))
    first.start()
    first.settle()
    yield first
    first.operator.stop()
    first.clear()


@pytest.fixture(scope="module")
def second(first: Bench) -> Iterator[Bench]:
    """The other one. It stands by at first."""
    second = Bench(first.cluster, Installation(first.cluster, SETTINGS, "operator-b"))
    second.start()
    yield second
    second.operator.stop()


def lease(bench: Bench) -> Manifest:
    text = bench.cluster.kubectl("get", "lease", RELEASE, f"--namespace={NAMESPACE}", "--output=json")
    spec: Manifest = json.loads(text)["spec"]
    return spec


def leads(bench: Bench) -> bool:
    return lease(bench).get("holderIdentity") == bench.operator.name


def says_it_leads(bench: Bench) -> bool:
    return "plimsoll_leader 1.0" in bench.operator.get("/metrics")[1]


def send(bench: Bench, number: signal.Signals) -> None:
    process = bench.operator.process
    assert process is not None
    assert process.pid is not None
    os.kill(process.pid, number)


def ended(bench: Bench) -> bool:
    return bench.operator.process is not None and bench.operator.process.died


def log(bench: Bench) -> str:
    assert bench.operator.process is not None
    return bench.operator.process.tail(10_000)


def ask_for(bench: Bench, rate: int) -> None:
    """More traffic, which needs more replicas."""
    bench.set("assistant", CHAT, "/spec/traffic/0/requestsPerMinute", rate)


def replicas(bench: Bench) -> int:
    found = placements(bench.get("llmdeployment", "assistant", CHAT))
    return sum(item["replicas"]["desired"] for item in found.values())


def sent_by(bench: Bench, mark: Mark) -> list[str]:
    """What an operator wrote since, Lease renewals included."""
    writes = bench.cluster.writes_since(mark, USER, include_leases=True)
    return [
        f"{item['verb']} {item['requestURI']}" for item in writes if f"({bench.operator.name})" in item["userAgent"]
    ]


def test_a_standby_is_ready_and_writes_nothing(first: Bench, second: Bench) -> None:
    assert leads(first)
    assert says_it_leads(first)
    assert not says_it_leads(second)
    mark = first.cluster.mark()
    ask_for(first, 1200)
    first.wait("more replicas", lambda: replicas(first) > 1)
    first.settle()
    assert sent_by(second, mark) == []
    assert second.operator.get("/readyz")[0] == 200


def test_a_killed_leader_is_replaced(first: Bench, second: Bench) -> None:
    pods, term, before = first.pod_uids(), lease(first)["leaseTransitions"], replicas(first)
    send(first, signal.SIGKILL)
    first.wait("it is dead", lambda: ended(first))
    ask_for(first, 1800)
    second.wait("the standby leads", lambda: leads(second), LEASE_SECONDS + 5)
    second.wait("it plans", lambda: replicas(second) > before, 20)
    second.settle()
    assert says_it_leads(second)
    assert lease(second)["leaseTransitions"] == term + 1
    assert pods <= second.pod_uids()


def test_a_leader_that_is_asked_to_end_hands_over_at_once(first: Bench, second: Bench) -> None:
    first.start()
    pods = second.pod_uids()
    second.operator.stop()
    first.wait("the standby leads", lambda: leads(first), LEASE_SECONDS / 2)
    events = first.wait("an event", lambda: [item for item in first.all("events.events.k8s.io") if tells(first, item)])
    assert events[-1]["regarding"]["kind"] == "Lease"
    first.settle()
    assert first.pod_uids() == pods
    second.start()


def tells(bench: Bench, event: Manifest) -> bool:
    return event.get("reason") == "LeaderElected" and bench.operator.name in event.get("note", "")


def test_a_leader_that_was_frozen_in_the_middle_of_its_writes_writes_nothing_when_it_wakes(
    first: Bench, second: Bench
) -> None:
    assert leads(first)
    first.settle()
    pods = first.pod_uids()
    mark = first.cluster.mark()
    names = [f"model-{number}" for number in range(5)]
    first.apply(*(llm_deployment(name, CHAT) for name in names))
    first.wait("its first writes", lambda: [item for item in sent_by(first, mark) if "/services/" in item], 20)
    send(first, signal.SIGSTOP)
    begun = {key(item)[2] for item in first.own("deployments,services")}
    second.wait("the other leads", lambda: leads(second), LEASE_SECONDS + 5)
    second.settle()
    found = {item["metadata"]["name"] for item in second.own("configmaps")}
    assert {f"{name}-routing" for name in names} <= found

    awake = first.cluster.mark()
    send(first, signal.SIGCONT)
    first.wait("it ends", lambda: ended(first), 10)
    assert sent_by(first, awake) == []
    assert "ending at once" in log(first)
    assert leads(second)
    assert pods <= second.pod_uids()
    assert begun <= {key(item)[2] for item in second.own("deployments,services")}


def test_an_api_that_appears_ends_the_process_and_the_next_one_uses_it(
    first: Bench, second: Bench, gateway_api: Callable[[], None]
) -> None:
    pods = second.pod_uids()
    route = {"httpRoute": {"parentRefs": [{"name": "public"}]}}
    second.set("assistant", CHAT, "/spec/routing", route)
    second.wait("a warning", lambda: "Gateway API" in str(conditions(second.get("llmdeployment", "assistant", CHAT))))
    gateway_api()
    second.wait("it ends", lambda: ended(second), 20)
    assert "HTTPRoute of gateway.networking.k8s.io/v1 has appeared" in log(second)
    assert not lease(second).get("holderIdentity"), "it ended in good order"
    second.start()
    second.wait("a route", lambda: second.own("httproutes"))
    second.settle()
    assert pods <= second.pod_uids()
    second.operator.stop()
