"""The HTTPRoute: one rule per class, weights, and the limits of the Gateway API."""

from dataclasses import replace
from typing import Any

import pytest

from plimsoll.planning.transition import Backend, RoutingTable
from plimsoll.rendering import RenderError
from plimsoll.rendering.httproute import render_http_route
from tests.unit.rendering.plans import LARGE, SMALL, llm_deployment, routing_table

OUTPUT = {
    "parentRefs": [{"name": "public", "namespace": "gateways", "sectionName": "https"}],
    "hostnames": ["llm.example.com"],
}


def spec(table: RoutingTable | None = None, output: dict[str, Any] | None = None) -> dict[str, Any]:
    owner = llm_deployment(routing={"httpRoute": output or OUTPUT})
    assert owner.spec.routing.http_route is not None
    found: dict[str, Any] = render_http_route(owner, owner.spec.routing.http_route, table or routing_table())["spec"]
    return found


def test_the_whole_route() -> None:
    assert spec() == {
        "parentRefs": [{"name": "public", "namespace": "gateways", "sectionName": "https"}],
        "hostnames": ["llm.example.com"],
        "rules": [
            {
                "matches": [{"headers": [{"type": "Exact", "name": "x-traffic-class", "value": "chat"}]}],
                "backendRefs": [
                    {"name": SMALL, "port": 8000, "weight": 620},
                    {"name": LARGE, "port": 8000, "weight": 380},
                ],
            },
            {"backendRefs": [{"name": SMALL, "port": 8000, "weight": 1000}]},
        ],
    }


def test_absent_hostnames_are_left_to_the_listener() -> None:
    found = spec(output={"parentRefs": [{"name": "public"}]})
    assert "hostnames" not in found
    assert found["parentRefs"] == [{"name": "public"}]


def test_a_backend_with_weight_zero_is_left_out() -> None:
    default, chat = routing_table().classes
    table = replace(routing_table(), classes=(default, replace(chat, backends=(replace(chat.backends[0], weight=0),))))
    rules = spec(table)["rules"]
    assert "backendRefs" not in rules[0]
    assert "matches" in rules[0], "its requests must not fall to the default class"


def test_a_class_with_too_many_placements_is_refused() -> None:
    default, chat = routing_table().classes
    backends = tuple(Backend(f"placement-{number}", "model", 1, 1) for number in range(17))
    with pytest.raises(RenderError, match=r"HTTPRoute chat/assistant-routing: class chat has 17 placements"):
        spec(replace(routing_table(), classes=(default, replace(chat, backends=backends))))


def test_too_many_classes_are_refused() -> None:
    _, chat = routing_table().classes
    classes = tuple(replace(chat, name=f"class-{number}") for number in range(17))
    with pytest.raises(RenderError, match="17 traffic classes"):
        spec(replace(routing_table(), classes=classes))
