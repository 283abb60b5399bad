"""Tenants: what groups of namespaces may have at most, and what their pods may do. Part of the PlacementPolicy."""

from typing import Annotated

from pydantic import Field

from plimsoll.api.common import APIModel, Boolean, DNSLabel, DNSSubdomain, Integer
from plimsoll.api.pods import LabelSelector
from plimsoll.api.rules import ListSet
from plimsoll.api.units import Money

PriorityClassNames = Annotated[tuple[DNSSubdomain, ...], Field(max_length=32), ListSet()]


class Tenant(APIModel):
    """A group of namespaces with limits for all their LLMDeployments together."""

    name: Annotated[DNSLabel, Field(description="Name of the tenant, for messages.")]
    namespace_selector: Annotated[
        LabelSelector,
        Field(
            description="Namespaces by their labels; an empty selector means all of them. Of a namespace that several "
            "tenants select, the limits of all of them hold."
        ),
    ]
    max_gpus: Annotated[
        Integer | None,
        Field(
            alias="maxGPUs",
            ge=0,
            le=1_000_000,
            description="GPUs of all placements together, at most. A limit below what runs stops growth and removes "
            "nothing. When absent, no limit.",
        ),
    ] = None
    budget_per_hour: Annotated[
        Money | None,
        Field(
            description="Rent of all placements together per hour, at most. A limit below what runs stops growth and "
            "removes nothing. When absent, no limit."
        ),
    ] = None
    max_priority: Annotated[
        Integer | None,
        Field(
            ge=0,
            le=1000,
            description="Priority that an InferenceSLO may ask for. A higher one counts as this one, and the "
            "LLMDeployment's conditions say so. When absent, no limit.",
        ),
    ] = None
    max_unserved_penalty_per_thousand_requests: Annotated[
        Money | None,
        Field(
            description="Penalty for unserved requests that an InferenceSLO may ask for. A higher one counts as this "
            "one, and the LLMDeployment's conditions say so. When absent, no limit."
        ),
    ] = None
    max_latency_penalty_per_thousand_request_seconds: Annotated[
        Money | None,
        Field(
            description="Penalty for latency that an InferenceSLO may ask for. A higher one counts as this one, and "
            "the LLMDeployment's conditions say so. When absent, no limit."
        ),
    ] = None
    priority_class_names: Annotated[
        PriorityClassNames | None,
        Field(
            description="PriorityClasses that pods may name, in place of spec.security.priorityClassNames. "
            "When absent, those."
        ),
    ] = None


class Security(APIModel):
    """What people who write LLMDeployments may do with the pods."""

    priority_class_names: Annotated[
        PriorityClassNames,
        Field(
            description="PriorityClasses that spec.engine.podTemplate.priorityClassName may name. Default: none, since "
            "pods of a high class push out those of others."
        ),
    ] = ()
    allow_trust_remote_code: Annotated[
        Boolean,
        Field(
            description="Whether extraArgs may hold --trust-remote-code, which runs code from the model's repository. "
            "Default false."
        ),
    ] = False
    allow_host_path: Annotated[
        Boolean,
        Field(
            description="Whether modelCache.hostPath may be used, which gives pods a folder of their node. Such pods "
            "do not pass the restricted and baseline Pod Security Standards. Default false."
        ),
    ] = False
