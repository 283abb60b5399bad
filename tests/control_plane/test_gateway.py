"""An LLMDeployment that asks for an HTTPRoute, in a cluster without the Gateway API and with it."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.control_plane.bench import (
    Bench,
    Manifest,
    conditions,
    document,
    llm_deployment,
    placements,
    pool,
    settled,
)

NAMESPACE = "chat"
NAME = "assistant"
HEADER = {"name": "x-traffic-class", "value": "long"}


def assistant() -> Manifest:
    """Two traffic classes, the second by a header."""
    traffic: list[Manifest] = [
        {"name": "short", "requestsPerMinute": 600, "tokens": {"input": 300, "output": 100}},
        {
            "name": "long",
            "requestsPerMinute": 60,
            "tokens": {"input": 4000, "output": 400},
            "match": {"headers": [HEADER]},
        },
    ]
    route = {"parentRefs": [{"name": "public", "namespace": "documents"}], "hostnames": ["llm.example.test"]}
    return llm_deployment(NAME, NAMESPACE, traffic=traffic, routing={"httpRoute": route})


def test_without_the_gateway_api_it_says_so_and_with_it_there_is_a_route(
    bench: Bench, gateway_api: Callable[[], None]
) -> None:
    bench.apply(pool("l40s", "L40S", "1.10"), pool("l4", "L4", "0.60"), assistant())
    (deployment,) = bench.settle()
    uids = bench.pod_uids()
    content = document(bench.get("configmap", f"{NAME}-routing", NAMESPACE))
    assert {item["name"] for item in content["classes"]} == {"short", "long"}
    messages = " ".join(each["message"] for each in conditions(deployment).values())
    said = "Gateway API" in messages and "spec.routing.httpRoute" in messages

    gateway_api()
    bench.operator.stop()
    bench.start()
    route = bench.wait("a route", lambda: bench.own("httproutes"))[0]
    bench.settle()
    assert bench.pod_uids() == uids
    assert route["metadata"]["name"] == f"{NAME}-routing"
    (owner,) = route["metadata"]["ownerReferences"]
    assert owner["uid"] == deployment["metadata"]["uid"]
    assert [(ref["name"], ref["namespace"]) for ref in route["spec"]["parentRefs"]] == [("public", "documents")]
    assert route["spec"]["hostnames"] == ["llm.example.test"]
    by_header, default = route["spec"]["rules"]
    (match,) = by_header["matches"]
    assert [{"name": item["name"], "value": item["value"]} for item in match["headers"]] == [HEADER]
    services = {item["metadata"]["name"]: item["spec"]["ports"][0]["port"] for item in bench.own("services")}
    for rule, name in ((by_header, "long"), (default, "short")):
        (wanted,) = (item for item in content["classes"] if item["name"] == name)
        backends = {item["name"]: item for item in rule["backendRefs"]}
        assert {each: item["weight"] for each, item in backends.items()} == {
            item["placement"]: item["weight"] for item in wanted["backends"]
        }
        assert all(item["port"] == services[each] for each, item in backends.items())
        assert backends.keys() <= placements(deployment).keys()

    mark = bench.cluster.mark()
    time.sleep(4)
    assert bench.wrote(mark) == [], "the route is written at rest"

    bench.patch("llmdeployment", NAME, NAMESPACE, {"op": "remove", "path": "/spec/routing/httpRoute"})
    bench.wait("the route gone", lambda: not bench.own("httproutes"))
    bench.wait("all settled", lambda: settled(bench.get("llmdeployment", NAME, NAMESPACE)))
    assert document(bench.get("configmap", f"{NAME}-routing", NAMESPACE)) == content
    assert bench.pod_uids() == uids
    bench.operator.stop()
    assert said, f"no condition says that there is no Gateway API: {messages}"
