"""The routing ConfigMap: the document, its schema, and reading it back."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import jsonschema
import pytest

from plimsoll.planning.transition import RoutingTable
from plimsoll.rendering import (
    routed_at_from_config_map,
    routing_document,
    routing_schema,
    routing_table_from_config_map,
)
from plimsoll.rendering.routing import render_routing
from tests.unit.rendering.plans import LARGE, ROUTED_AT, SMALL, llm_deployment, routing_table

VALIDATOR = jsonschema.Draft202012Validator(routing_schema())


def config_map(table: RoutingTable | None = None) -> dict[str, Any]:
    return render_routing(llm_deployment(), table or routing_table(), ROUTED_AT)


def document(table: RoutingTable | None = None) -> Any:
    return json.loads(config_map(table)["data"]["routing.json"])


def unserved_table() -> RoutingTable:
    first, second = routing_table().classes
    return replace(routing_table(), classes=(replace(first, backends=(), unserved="1"), second))


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(routing_schema())


@pytest.mark.parametrize("table", [routing_table(), unserved_table()])
def test_documents_satisfy_the_schema(table: RoutingTable) -> None:
    VALIDATOR.validate(document(table))


def test_the_document_of_the_api_sketch() -> None:
    found = document()
    assert list(found) == ["apiVersion", "deployment", "epoch", "classes", "chains"]
    assert found["apiVersion"] == "plimsoll.dev/routing/v1"
    assert (found["deployment"], found["epoch"], found["chains"]) == ("chat/assistant", 412, [])
    default, chat = found["classes"]
    assert "match" not in default
    assert chat == {
        "name": "chat",
        "match": {"headers": [{"name": "x-traffic-class", "value": "chat"}]},
        "admittedRequestsPerMinute": 1200,
        "unserved": "0",
        "overload": "Reject",
        "backends": [
            {
                "placement": SMALL,
                "service": f"http://{SMALL}.chat.svc.cluster.local:8000",
                "servedModel": "meta-llama/Llama-3.1-8B-Instruct",
                "weight": 620,
                "maxConcurrency": 192,
            },
            {
                "placement": LARGE,
                "service": f"http://{LARGE}.chat.svc.cluster.local:8000",
                "servedModel": "meta-llama/Llama-3.3-70B-Instruct",
                "weight": 380,
                "maxConcurrency": 128,
            },
        ],
    }


def test_equal_tables_give_equal_bytes() -> None:
    assert config_map()["data"] == config_map()["data"]
    assert config_map()["data"]["routing.json"].endswith("}\n")


def test_a_backend_with_weight_zero_is_left_out() -> None:
    default, chat = routing_table().classes
    nothing = replace(chat, backends=(chat.backends[0], replace(chat.backends[1], weight=0)))
    found = document(replace(routing_table(), classes=(default, nothing)))
    assert [backend["placement"] for backend in found["classes"][1]["backends"]] == [SMALL]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("apiVersion",), "plimsoll.dev/routing/v2"),
        (("deployment",), "assistant"),
        (("epoch",), -1),
        (("classes",), []),
        (("classes", 0, "unserved"), "1.5"),
        (("classes", 0, "overload"), "Queue"),
        (("classes", 1, "match"), {"headers": []}),
        (("classes", 1, "backends", 0, "weight"), 0),
        (("classes", 1, "backends", 0, "weight"), 1001),
        (("classes", 1, "backends", 0, "service"), "http://short:8000"),
    ],
)
def test_the_schema_refuses(path: tuple[Any, ...], value: object) -> None:
    changed = document()
    target = changed
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    assert not VALIDATOR.is_valid(changed)


@pytest.mark.parametrize("table", [routing_table(), unserved_table(), RoutingTable(0, ())])
def test_the_table_is_read_back(table: RoutingTable) -> None:
    assert routing_table_from_config_map(config_map(table)) == table


@pytest.mark.parametrize(
    "data",
    [
        None,
        {},
        {"routing.json": ""},
        {"routing.json": "[]"},
        {"routing.json": "null"},
        {"routing.json": "{"},
        {"routing.json": 7},
        {"routing.json": "[" * 100_000},
        {"routing.json": '{"apiVersion": "plimsoll.dev/routing/v2", "epoch": 1, "classes": []}'},
        {"routing.json": '{"apiVersion": "plimsoll.dev/routing/v1", "epoch": true, "classes": []}'},
        {"routing.json": '{"apiVersion": "plimsoll.dev/routing/v1", "epoch": "1", "classes": []}'},
        {"routing.json": '{"apiVersion": "plimsoll.dev/routing/v1", "epoch": 1, "classes": [{"name": "a"}]}'},
        {"routing.json": '{"apiVersion": "plimsoll.dev/routing/v1", "epoch": 1, "classes": {"a": 1}}'},
    ],
)
def test_garbage_reads_as_nothing(data: object) -> None:
    assert routing_table_from_config_map({"data": data}) is None


def test_unknown_fields_are_ignored_when_reading() -> None:
    manifest = config_map()
    changed = routing_document(llm_deployment(), routing_table())
    changed["later"] = 1
    changed["classes"][0]["later"] = 2
    manifest["data"]["routing.json"] = json.dumps(changed)
    assert routing_table_from_config_map(manifest) == routing_table()


def test_the_time_of_the_last_change() -> None:
    assert routed_at_from_config_map(config_map()) == datetime(2026, 11, 20, 14, tzinfo=UTC)
    assert routed_at_from_config_map(render_routing(llm_deployment(), routing_table(), "")) is None
    assert routed_at_from_config_map({"metadata": {}}) is None
    for text in ("yesterday", "2026-11-20T14:00:00", 5):
        assert routed_at_from_config_map({"metadata": {"annotations": {"plimsoll.dev/routed-at": text}}}) is None
