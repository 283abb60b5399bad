"""How the operator benchmark reads the audit log."""

from datetime import UTC, datetime, timedelta

import pytest

from benchmarks import operator_fleet as operator
from devcluster.installation import USER

START = datetime(2026, 1, 1, tzinfo=UTC)


def event(seconds, resource, name="thing", *, verb="create", user=USER, code=201, subresource=""):
    return {
        "user": {"username": user},
        "verb": verb,
        "objectRef": {"resource": resource, "subresource": subresource, "namespace": "chat", "name": name},
        "responseStatus": {"code": code},
        "stageTimestamp": (START + timedelta(seconds=seconds)).isoformat(),
    }


def test_the_first_round_ends_with_the_record_of_its_plan():
    events = [
        event(1, "deployments", "a"),
        event(2, "leases"),
        event(3, "deployments", "b", code=409),
        event(4, "services", "a"),
        event(5, "placementplans"),
        event(6, "deployments", "c"),
    ]
    planned = operator.first_round(operator.accepted(events))
    assert [item["objectRef"]["name"] for item in planned] == ["a", "a"]
    assert operator.since(START, planned) == 4
    assert len(operator._refused(events)) == 1


def test_nothing_written_is_an_error():
    with pytest.raises(operator.BenchmarkError):
        operator.since(START, [])


@pytest.mark.parametrize("pod", ["chat-h100-abc123-7d9f8c6b5d-x2x4z", "chat-h100-abc123-7d9f8cx2x4z"])
def test_the_first_report_of_each_pod_of_a_planned_deployment_counts(pod):
    reports = [
        event(3, "pods", pod, verb="patch", user="kwok", subresource="status"),
        event(9, "pods", pod, verb="patch", user="kwok", subresource="status"),
        event(8, "pods", "other-pod-1", verb="patch", user="kwok", subresource="status"),
    ]
    running = operator._running(reports, [event(1, "deployments", "chat-h100-abc123")])
    assert operator.since(START, running) == 3
