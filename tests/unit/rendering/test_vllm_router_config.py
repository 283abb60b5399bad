"""The configuration for the vLLM production stack's router.

`outcome` states that router's acceptance rules; it is itself checked against what the router's own parser did with the
recorded cases.
"""

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from plimsoll.planning.transition import RoutingTable
from plimsoll.rendering.engine.vllm import served_names
from plimsoll.rendering.routing import render_routing
from tests.unit.rendering.plans import LARGE, ROUTED_AT, SMALL, llm_deployment, routing_table

ROOT = Path(__file__).resolve().parents[3]
DATA = Path(os.environ.get("PLIMSOLL_DATA", ROOT.parent / "shared" / "data"))
CASES = DATA / "peer_cases" / "production_stack_router_config.json"

KEYS = {
    "service_discovery",
    "routing_logic",
    "static_backends",
    "static_models",
    "static_aliases",
    "static_model_labels",
    "static_model_types",
    "static_backend_health_checks",
    "prefill_model_labels",
    "decode_model_labels",
    "k8s_port",
    "k8s_namespace",
    "k8s_label_selector",
    "session_key",
    "callbacks",
}
LOGICS = {
    "roundrobin",
    "session",
    "kvaware",
    "prefixaware",
    "disaggregated_prefill",
    "disaggregated_prefill_orchestrated",
}
HOST = r"(localhost|[0-9]{1,3}(\.[0-9]{1,3}){3}|([A-Za-z0-9_-]+\.)+[A-Za-z]{2,})"


def outcome(config: dict[str, Any]) -> str:
    """`accepted`, or `rejected: ` and why."""
    if set(config) - KEYS:
        return f"rejected: unknown key {min(set(config) - KEYS)}"
    if not {"service_discovery", "routing_logic"} <= set(config):
        return "rejected: missing key"
    if config["service_discovery"] == "static":
        backends, models = config.get("static_backends"), config.get("static_models")
        if not isinstance(backends, str) or not isinstance(models, str):
            return "rejected: not a string"
        urls = [url for url in backends.split(",") if re.match(rf"^https?://{HOST}(:[0-9]+)?(/.*)?$", url)]
        if len(urls) != len(models.split(",")):
            return f"rejected: {len(urls)} usable URLs for {len(models.split(','))} models"
        aliases = config.get("static_aliases")
        if aliases is not None and any(alias.count(":") != 1 for alias in aliases.split(",")):
            return "rejected: alias"
    if config["routing_logic"] not in LOGICS:
        return "rejected: routing logic"
    return "accepted"


def render(table: RoutingTable | None = None, *, wanted: bool = True) -> dict[str, Any]:
    owner = llm_deployment(routing={"vllmRouter": wanted})
    data: dict[str, Any] = render_routing(owner, table or routing_table(), ROUTED_AT)["data"]
    return data


def config(table: RoutingTable | None = None) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(render(table)["vllm-router.json"])
    return loaded


def endpoints(found: dict[str, Any], model: str) -> list[str]:
    """Backends that the router would take in turns for a request that names `model`."""
    aliases = dict(alias.split(":") for alias in found.get("static_aliases", "").split(",") if alias)
    wanted = aliases.get(model, model)
    pairs = zip(found["static_backends"].split(","), found["static_models"].split(","), strict=True)
    return [url for url, served in pairs if served == wanted]


def url(placement: str) -> str:
    return f"http://{placement}.chat.svc.cluster.local:8000"


def test_the_checker_agrees_with_the_router_on_all_recorded_cases() -> None:
    if not CASES.exists():
        message = f"recorded cases of the router are not there: {CASES} (set PLIMSOLL_DATA)"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    cases = json.loads(CASES.read_text(encoding="utf-8"))["cases"]
    assert cases
    for case in cases:
        found, recorded = outcome(case["config"]), case["outcome"]
        assert found.split(":")[0] == recorded.split(":")[0], case["name"]
        if "usable URLs" in recorded:
            assert found == recorded, case["name"]


def test_the_router_accepts_what_is_rendered() -> None:
    assert outcome(config()) == "accepted"


def test_lists_have_no_blanks_and_no_weights() -> None:
    found = config()
    assert all(isinstance(value, str) and " " not in value for value in found.values())
    assert set(found) == {"service_discovery", "routing_logic", "static_backends", "static_models", "static_aliases"}


def test_each_name_reaches_the_placements_that_serve_it() -> None:
    found = config()
    assert endpoints(found, "assistant/chat") == [url(SMALL), url(LARGE)]
    assert endpoints(found, "assistant/batch") == [url(SMALL)]
    assert endpoints(found, "assistant") == endpoints(found, "assistant/batch"), "batch is the default class"
    assert endpoints(found, "meta-llama/Llama-3.1-8B-Instruct") == [url(SMALL)]
    assert endpoints(found, "meta-llama/Llama-3.3-70B-Instruct") == [url(LARGE)]


def test_no_backend_is_listed_twice_under_one_name() -> None:
    found = config()
    pairs = list(zip(found["static_backends"].split(","), found["static_models"].split(","), strict=True))
    assert len(pairs) == len(set(pairs))


def test_every_name_is_served_by_its_backend() -> None:
    models = {"meta-llama/Llama-3.1-8B-Instruct": SMALL, "meta-llama/Llama-3.3-70B-Instruct": LARGE}
    names = {url(name): set(served_names(llm_deployment(), model)) for model, name in models.items()}
    found = config()
    for backend, model in zip(found["static_backends"].split(","), found["static_models"].split(","), strict=True):
        assert model in names[backend]


def test_a_default_class_without_backends_has_no_alias() -> None:
    default, chat = routing_table().classes
    found = config(replace(routing_table(), classes=(replace(default, backends=()), chat)))
    assert outcome(found) == "accepted"
    assert "static_aliases" not in found
    assert endpoints(found, "assistant/batch") == []


def test_without_any_backend_there_is_no_file() -> None:
    empty = replace(routing_table(), classes=tuple(replace(item, backends=()) for item in routing_table().classes))
    assert set(render(empty)) == {"routing.json"}


def test_it_is_written_only_when_asked_for() -> None:
    assert set(render(wanted=False)) == {"routing.json"}
