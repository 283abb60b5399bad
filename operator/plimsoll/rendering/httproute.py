"""The shares as an HTTPRoute of the Gateway API: one rule per traffic class, weighted backends."""

from plimsoll.api.common import to_wire
from plimsoll.api.llmdeployment import HTTPRouteOutput, LLMDeployment
from plimsoll.planning.transition import RoutedClass, RoutingTable
from plimsoll.rendering import labels
from plimsoll.rendering.engine import vllm
from plimsoll.rendering.manifest import Manifest, RenderError, metadata
from plimsoll.rendering.routing import routing_name, used_backends

MAX_RULES = 16
MAX_BACKENDS = 16
"""Limits of the Gateway API."""


def render_http_route(owner: LLMDeployment, output: HTTPRouteOutput, table: RoutingTable) -> Manifest:
    """The HTTPRoute. The default class comes last: it has no match, so it takes what the others leave.

    Raises:
        RenderError: more classes or placements than an HTTPRoute can hold.
    """
    if len(table.classes) > MAX_RULES:
        message = f"{len(table.classes)} traffic classes; an HTTPRoute holds {MAX_RULES} rules at most"
        raise RenderError(f"HTTPRoute {owner.namespace}/{routing_name(owner.name)}: {message}")
    ordered = sorted(table.classes, key=lambda routed: not routed.match_headers)
    spec: Manifest = {"parentRefs": to_wire(output.parent_refs)}
    if output.hostnames:
        spec["hostnames"] = list(output.hostnames)
    spec["rules"] = [_rule(owner, routed) for routed in ordered]
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": metadata(owner, routing_name(owner.name), labels.common_labels(owner.name, labels.ROUTING)),
        "spec": spec,
    }


def _rule(owner: LLMDeployment, routed: RoutedClass) -> Manifest:
    backends = used_backends(routed)
    if len(backends) > MAX_BACKENDS:
        message = f"class {routed.name} has {len(backends)} placements; a rule holds {MAX_BACKENDS} backends at most"
        raise RenderError(f"HTTPRoute {owner.namespace}/{routing_name(owner.name)}: {message}")
    rule: Manifest = {}
    if routed.match_headers:
        headers = [{"type": "Exact", "name": name, "value": value} for name, value in routed.match_headers]
        rule["matches"] = [{"headers": headers}]
    # A class that nothing serves keeps its rule: without it its requests would fall to the default class. To a rule
    # without backends the gateway answers with an error.
    if backends:
        rule["backendRefs"] = [
            {"name": backend.placement, "port": vllm.PORT, "weight": backend.weight} for backend in backends
        ]
    return rule
