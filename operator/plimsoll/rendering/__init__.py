"""Plans as Kubernetes objects. Pure: frozen values in, manifests as plain data out; no clock, no Kubernetes client.

In use:

    manifests = render_deployment(fleet, deployment, step, routed_at, gateway_api=True)
    verify(deployment, step, manifests)         # raises RenderMismatch
    for manifest in manifests:
        apply(manifest, field_manager_for(manifest))
"""

from plimsoll.rendering.manifest import Manifest, RenderError
from plimsoll.rendering.render import ROUTING_MANAGER, WORKLOADS_MANAGER, field_manager_for, render_deployment
from plimsoll.rendering.routing import (
    routed_at_from_config_map,
    routing_document,
    routing_name,
    routing_schema,
    routing_table_from_config_map,
)
from plimsoll.rendering.verify import RenderMismatch, verify
from plimsoll.rendering.workload import template_hash

__all__ = [
    "ROUTING_MANAGER",
    "WORKLOADS_MANAGER",
    "Manifest",
    "RenderError",
    "RenderMismatch",
    "field_manager_for",
    "render_deployment",
    "routed_at_from_config_map",
    "routing_document",
    "routing_name",
    "routing_schema",
    "routing_table_from_config_map",
    "template_hash",
    "verify",
]
