"""The routing ConfigMap of an LLMDeployment: Plimsoll's own document, and the configuration of the vLLM router.

`routing.json` is the whole truth (routing.schema.json describes it). Readers ignore fields that they do not know.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from importlib import resources
from typing import Any

from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.planning.transition import Backend, RoutedChain, RoutedClass, RoutedServer, RoutingTable
from plimsoll.rendering import labels
from plimsoll.rendering.manifest import Manifest, metadata
from plimsoll.rendering.service import service_url

DOCUMENT_VERSION = "plimsoll.dev/routing/v1"
DOCUMENT_KEY = "routing.json"
VLLM_ROUTER_KEY = "vllm-router.json"


def routing_name(deployment: str) -> str:
    """Name of the routing objects of an LLMDeployment."""
    return f"{deployment}-routing"


def render_routing(owner: LLMDeployment, table: RoutingTable, routed_at: str) -> Manifest:
    """The routing ConfigMap. `routed_at` says when the table last changed (RFC 3339); empty leaves it out."""
    data = {DOCUMENT_KEY: _text(routing_document(owner, table))}
    if owner.spec.routing.vllm_router:
        configuration = vllm_router_configuration(owner, table)
        # The router keeps its last configuration while the file is away; one without backends it would refuse.
        if configuration is not None:
            data[VLLM_ROUTER_KEY] = _text(configuration)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(
            owner,
            routing_name(owner.name),
            labels.common_labels(owner.name, labels.ROUTING),
            {labels.ROUTED_AT: routed_at} if routed_at else None,
        ),
        "data": data,
    }


def routing_document(owner: LLMDeployment, table: RoutingTable) -> dict[str, Any]:
    """The content of `routing.json`."""
    return {
        "apiVersion": DOCUMENT_VERSION,
        "deployment": owner.reference,
        "epoch": table.epoch,
        "classes": [_class(owner, routed) for routed in table.classes],
        "chains": [_chain(owner, chain) for chain in table.chains],
    }


def routing_schema() -> dict[str, Any]:
    """The published JSON Schema (draft 2020-12) of the routing document."""
    text = resources.files("plimsoll.rendering").joinpath("routing.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def used_backends(routed: RoutedClass) -> list[Backend]:
    """Backends that get requests. Some routers keep sending to weight 0, so such a backend is left out everywhere."""
    return [backend for backend in routed.backends if backend.weight >= 1]


def vllm_router_configuration(owner: LLMDeployment, table: RoutingTable) -> dict[str, str] | None:
    """Dynamic configuration of the vLLM production stack's router; None when no class has a backend.

    That router chooses by the model's name alone and takes equal turns: it knows neither headers nor weights, so shares
    within a class cannot be said here (an HTTPRoute can). What can be said is which placements serve a class: each URL
    is listed for every class that it serves, as `<deployment>/<class>`, and once under its model's own name. The
    deployment's bare name is an alias of its default class. Unknown keys and blanks in lists make the router refuse the
    file; names of models and classes hold neither commas nor colons (api: ModelName, DNSLabel).
    """
    pairs: dict[tuple[str, str], None] = {}
    for routed in table.classes:
        for backend in used_backends(routed):
            pairs[service_url(backend.placement, owner.namespace), f"{owner.name}/{routed.name}"] = None
    if not pairs:
        return None
    for routed in table.classes:
        for backend in used_backends(routed):
            pairs[service_url(backend.placement, owner.namespace), backend.served_model] = None
    configuration = {
        "service_discovery": "static",
        "routing_logic": "roundrobin",
        "static_backends": ",".join(url for url, _ in pairs),
        "static_models": ",".join(model for _, model in pairs),
    }
    default = next((item for item in table.classes if not item.match_headers and used_backends(item)), None)
    if default is not None:
        configuration["static_aliases"] = f"{owner.name}:{owner.name}/{default.name}"
    return configuration


def routing_table_from_config_map(manifest: Mapping[str, Any]) -> RoutingTable | None:
    """The table that a routing ConfigMap holds; None when it holds none that this release understands."""
    try:
        document = json.loads(manifest["data"][DOCUMENT_KEY])
        if document["apiVersion"] != DOCUMENT_VERSION:
            return None
        classes = tuple(_read_class(item) for item in document["classes"])
        return RoutingTable(_integer(document["epoch"]), classes, tuple(map(_read_chain, document.get("chains", ()))))
    except (KeyError, TypeError, ValueError, RecursionError):
        return None


def routed_at_from_config_map(manifest: Mapping[str, Any]) -> datetime | None:
    """When the routing last changed; None when the annotation is missing, unreadable or without a time zone."""
    try:
        moment = datetime.fromisoformat(manifest["metadata"]["annotations"][labels.ROUTED_AT])
    except (KeyError, TypeError, ValueError):
        return None
    return moment if moment.tzinfo is not None else None


def _class(owner: LLMDeployment, routed: RoutedClass) -> dict[str, Any]:
    result: dict[str, Any] = {"name": routed.name}
    if routed.match_headers:
        result["match"] = {"headers": [{"name": name, "value": value} for name, value in routed.match_headers]}
    return {
        **result,
        "admittedRequestsPerMinute": routed.admitted_requests_per_minute,
        "unserved": routed.unserved,
        "overload": "Reject",
        "backends": [
            {
                "placement": backend.placement,
                "service": service_url(backend.placement, owner.namespace),
                "servedModel": backend.served_model,
                "weight": backend.weight,
                "maxConcurrency": backend.max_concurrency,
            }
            for backend in used_backends(routed)
        ],
    }


def _chain(owner: LLMDeployment, chain: RoutedChain) -> dict[str, Any]:
    return {
        "name": chain.name,
        "service": service_url(chain.name, owner.namespace),
        "weight": chain.weight,
        "maxConcurrency": chain.max_concurrency,
        "requestsPerMinute": chain.requests_per_minute,
        "ttftMilliseconds": chain.ttft_milliseconds,
        "tpotMilliseconds": chain.tpot_milliseconds,
        "servers": [
            {
                "placement": server.placement,
                "node": server.node,
                "region": server.region,
                "firstLayer": server.first_layer,
                "layers": server.layers,
            }
            for server in chain.servers
        ],
    }


def _read_chain(item: Mapping[str, Any]) -> RoutedChain:
    return RoutedChain(
        name=_string(item["name"]),
        servers=tuple(
            RoutedServer(
                placement=_string(server["placement"]),
                node=_string(server["node"]),
                region=_string(server["region"]),
                first_layer=_integer(server["firstLayer"]),
                layers=_integer(server["layers"]),
            )
            for server in item["servers"]
        ),
        weight=_integer(item["weight"]),
        max_concurrency=_integer(item["maxConcurrency"]),
        requests_per_minute=_integer(item["requestsPerMinute"]),
        ttft_milliseconds=_integer(item["ttftMilliseconds"]),
        tpot_milliseconds=_integer(item["tpotMilliseconds"]),
    )


def _read_class(item: Mapping[str, Any]) -> RoutedClass:
    headers = item["match"]["headers"] if "match" in item else []
    return RoutedClass(
        name=_string(item["name"]),
        match_headers=tuple((_string(header["name"]), _string(header["value"])) for header in headers),
        admitted_requests_per_minute=_integer(item["admittedRequestsPerMinute"]),
        unserved=_string(item["unserved"]),
        backends=tuple(
            Backend(
                placement=_string(backend["placement"]),
                served_model=_string(backend["servedModel"]),
                weight=_integer(backend["weight"]),
                max_concurrency=_integer(backend["maxConcurrency"]),
            )
            for backend in item["backends"]
        ),
    )


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"not a string: {value!r}")
    return value


def _integer(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"not an integer: {value!r}")
    return value


def _text(document: Mapping[str, Any]) -> str:
    """JSON with the same bytes for the same content; in lines, so that `kubectl get -o yaml` shows it readably."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
