"""What an LLMDeployment asks of its pods that the PlacementPolicy must allow; without that it is held."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from plimsoll.api.arguments import trusts_remote_code
from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.api.placementpolicy import PlacementPolicySpec
from plimsoll.planning.objectives import deployment_finding
from plimsoll.planning.plan import Finding
from plimsoll.planning.tenants import Tenants

_AFFINITY_CHARACTERS = 16_384


def permission_findings(deployment: LLMDeployment, policy: PlacementPolicySpec, tenants: Tenants) -> list[Finding]:
    """Errors for everything that is not allowed."""
    return [
        deployment_finding(deployment, reason, f"{field}: {text}", field)
        for reason, field, text in (
            *_priority_class(deployment, policy, tenants),
            *_remote_code(deployment, policy),
            *_host_path(deployment, policy),
            *_affinity(deployment),
        )
    ]


_Fault = tuple[str, str, str]
"""Reason, field, message."""


def _priority_class(deployment: LLMDeployment, policy: PlacementPolicySpec, tenants: Tenants) -> Iterator[_Fault]:
    name = deployment.spec.engine.pod_template.priority_class_name
    if name is None:
        return
    own = [
        (f"priorityClassNames of tenant {tenant.name}", tenant.priority_class_names)
        for _, tenant in tenants.of(deployment.namespace)
        if tenant.priority_class_names is not None
    ]
    lists = own or [("spec.security.priorityClassNames", policy.security.priority_class_names)]
    for where, allowed in lists:
        if name not in allowed:
            listed = f"it lists {', '.join(allowed)}" if allowed else "it lists none"
            text = f"{name} is not in {where} of PlacementPolicy default; {listed}"
            yield "PriorityClassNotAllowed", "spec.engine.podTemplate.priorityClassName", text
            return


def _remote_code(deployment: LLMDeployment, policy: PlacementPolicySpec) -> Iterator[_Fault]:
    if policy.security.allow_trust_remote_code:
        return
    for index, argument in enumerate(deployment.spec.engine.extra_args):
        if trusts_remote_code(argument):
            text = (
                f"{argument} runs code from the model's repository, and spec.security.allowTrustRemoteCode of "
                "PlacementPolicy default is not true"
            )
            yield "RemoteCodeNotAllowed", f"spec.engine.extraArgs[{index}]", text


def _host_path(deployment: LLMDeployment, policy: PlacementPolicySpec) -> Iterator[_Fault]:
    given = deployment.spec.engine.model_cache.host_path
    if given is not None and not policy.security.allow_host_path:
        text = (
            f"{given.path} is a folder of the node, and spec.security.allowHostPath of PlacementPolicy default is not "
            "true; use persistentVolumeClaim or emptyDir"
        )
        yield "HostPathNotAllowed", "spec.engine.modelCache.hostPath", text


def _affinity(deployment: LLMDeployment) -> Iterator[_Fault]:
    """Anti-affinity holds both ways: a term about everybody's pods would keep theirs off the nodes as well."""
    field = "spec.engine.podTemplate.affinity"
    given = deployment.spec.engine.pod_template.affinity
    if given is None:
        return
    size = len(json.dumps(given, default=str))
    if size > _AFFINITY_CHARACTERS:
        yield "AffinityNotAllowed", field, f"{size} characters as JSON; at most {_AFFINITY_CHARACTERS} are taken"
    for path, key in _foreign_terms(given, field):
        text = f"{key} names pods of other namespaces; leave it out: then the pods of the own namespace are meant"
        yield "AffinityNotAllowed", path, text
        return


def _foreign_terms(value: Any, path: str) -> Iterator[tuple[str, str]]:  # noqa: ANN401  (JSON)
    """Where `namespaces` or `namespaceSelector` are said, at any depth."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key in ("namespaces", "namespaceSelector") and item is not None:
                yield f"{path}.{key}", key
            else:
                yield from _foreign_terms(item, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _foreign_terms(item, f"{path}[{index}]")
