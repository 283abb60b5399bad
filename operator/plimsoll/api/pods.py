"""The parts of a pod that people may set. Shapes and names are those of the Kubernetes API."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, Strict

from plimsoll.api.common import (
    APIModel,
    Boolean,
    DNSSubdomain,
    Integer,
    Key,
    LabelValue,
    LocalReference,
    QualifiedName,
    Text,
)
from plimsoll.api.rules import ListMap, Rule
from plimsoll.api.variables import REFUSED_VARIABLES

_KEY = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
_VALUE = r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"


def _keys_are_qualified(labels: dict[str, str]) -> bool:
    return all(len(key) <= 317 and re.fullmatch(_KEY, key) for key in labels)


QUALIFIED_KEYS = Rule(
    cel=f"self.all(k, k.size() <= 317 && k.matches(r'{_KEY}'))",
    message="every key must be a label key: a name with an optional domain before a slash",
    holds=_keys_are_qualified,
)

_OWN_DOMAIN = r"^(.*[.])?plimsoll[.]dev/"
FOREIGN_KEYS = Rule(
    cel=f"self.all(k, !k.matches(r'{_OWN_DOMAIN}'))",
    message="keys of the domain plimsoll.dev belong to Plimsoll",
    holds=lambda labels: not any(re.match(_OWN_DOMAIN, key) for key in labels),
)

_KUBERNETES_DOMAIN = r"^(.*[.])?(kubernetes|k8s)[.]io/"
_HARMLESS = r"^(cluster-autoscaler[.]kubernetes[.]io/.*|app[.]kubernetes[.]io/version)$"
UNRESERVED_KEYS = Rule(
    cel=f"self.all(k, k != 'pod-template-hash' && (!k.matches(r'{_KUBERNETES_DOMAIN}') || k.matches(r'{_HARMLESS}')))",
    message="keys of the domains kubernetes.io and k8s.io, and pod-template-hash, belong to Kubernetes or are set by "
    "Plimsoll; of those only cluster-autoscaler.kubernetes.io/… and app.kubernetes.io/version may be set",
    holds=lambda labels: (
        not any(
            key == "pod-template-hash" or (re.match(_KUBERNETES_DOMAIN, key) and not re.match(_HARMLESS, key))
            for key in labels
        )
    ),
)

MatchLabels = Annotated[
    dict[str, LabelValue],
    Field(
        max_length=16,
        description="Labels, each with the value it must have. All must match.",
    ),
    QUALIFIED_KEYS,
]


class Toleration(APIModel):
    """A taint that pods tolerate."""

    rules = (
        Rule(
            cel="self.operator == 'Exists' ? !has(self.value) || self.value == '' : has(self.key)",
            message="operator Exists takes no value, operator Equal needs a key",
            holds=lambda t: not t.value if t.operator == "Exists" else t.key is not None,
            field="operator",
        ),
        Rule(
            cel="!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            message="tolerationSeconds needs effect NoExecute",
            holds=lambda t: t.toleration_seconds is None or t.effect == "NoExecute",
            field="tolerationSeconds",
        ),
    )

    key: Annotated[
        QualifiedName | None, Field(description="Key of the taint. When absent, operator Exists matches every taint.")
    ] = None
    operator: Annotated[
        Literal["Exists", "Equal"],
        Field(description="Exists matches any value of the key; Equal compares with value. Default Equal."),
    ] = "Equal"
    value: Annotated[LabelValue | None, Field(description="Value of the taint, for operator Equal.")] = None
    effect: Annotated[
        Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None,
        Field(description="Effect of the taint. When absent, all effects are tolerated."),
    ] = None
    toleration_seconds: Annotated[
        Integer | None,
        Field(
            ge=0,
            le=86_400,
            description="Seconds that a pod stays on a node after the taint appears. When absent, for ever. "
            "NoExecute only.",
        ),
    ] = None


Tolerations = Annotated[tuple[Toleration, ...], Field(max_length=32)]


class LabelRequirement(APIModel):
    """One requirement of a label selector."""

    rules = (
        Rule(
            cel="(self.operator in ['In', 'NotIn']) == (has(self.values) && self.values.size() > 0)",
            message="operators In and NotIn need values, Exists and DoesNotExist take none",
            holds=lambda r: (r.operator in ("In", "NotIn")) == bool(r.values),
            field="values",
        ),
    )

    key: Annotated[QualifiedName, Field(description="Key of the label.")]
    operator: Annotated[
        Literal["In", "NotIn", "Exists", "DoesNotExist"],
        Field(description="How the label is compared: In, NotIn (with values), Exists, DoesNotExist (without)."),
    ]
    values: Annotated[
        tuple[LabelValue, ...], Field(max_length=16, description="Values for the operators In and NotIn.")
    ] = ()


class LabelSelector(APIModel):
    """Which objects are meant, by their labels."""

    match_labels: MatchLabels = Field(default_factory=dict)
    match_expressions: Annotated[
        tuple[LabelRequirement, ...],
        Field(max_length=16, description="Requirements beyond equality. All must hold."),
    ] = ()


class TopologySpreadConstraint(APIModel):
    """How pods spread over zones, racks or nodes."""

    max_skew: Annotated[
        Integer, Field(ge=1, le=1000, description="By how many pods two topology domains may differ at most.")
    ]
    topology_key: Annotated[
        QualifiedName, Field(description="Node label that names the domain, such as topology.kubernetes.io/zone.")
    ]
    when_unsatisfiable: Annotated[
        Literal["DoNotSchedule", "ScheduleAnyway"],
        Field(description="Whether a pod that cannot keep to the constraint waits or is scheduled all the same."),
    ]
    label_selector: Annotated[
        LabelSelector | None,
        Field(description="Which pods are counted. When absent, the pods of the same placement."),
    ] = None
    min_domains: Annotated[
        Integer | None, Field(ge=1, le=1000, description="How many domains there must be at least. DoNotSchedule only.")
    ] = None


class ConfigMapKeyReference(APIModel):
    """Reference to one key of a ConfigMap in the same namespace."""

    name: Annotated[DNSSubdomain, Field(description="Name of the ConfigMap, in the same namespace.")]
    key: Annotated[Key, Field(description="Key inside the ConfigMap.")]
    optional: Annotated[
        Boolean | None, Field(description="Whether pods may start without it. When absent, they wait for it.")
    ] = None


class OptionalSecretKeyReference(APIModel):
    """Reference to one key of a Secret in the same namespace."""

    name: Annotated[DNSSubdomain, Field(description="Name of the Secret, in the same namespace.")]
    key: Annotated[Key, Field(description="Key inside the Secret.")]
    optional: Annotated[
        Boolean | None, Field(description="Whether pods may start without it. When absent, they wait for it.")
    ] = None


class EnvironmentSource(APIModel):
    """Where the value of an environment variable comes from."""

    rules = (
        Rule(
            cel="has(self.secretKeyRef) != has(self.configMapKeyRef)",
            message="valueFrom must hold exactly one of secretKeyRef and configMapKeyRef",
            holds=lambda s: (s.secret_key_ref is None) != (s.config_map_key_ref is None),
        ),
    )

    secret_key_ref: Annotated[
        OptionalSecretKeyReference | None, Field(description="A key of a Secret in the same namespace.")
    ] = None
    config_map_key_ref: Annotated[
        ConfigMapKeyReference | None, Field(description="A key of a ConfigMap in the same namespace.")
    ] = None


class EnvironmentVariable(APIModel):
    """An environment variable of the engine's container."""

    rules = (
        Rule(
            cel="!(has(self.value) && has(self.valueFrom))",
            message="value and valueFrom exclude each other",
            holds=lambda v: v.value is None or v.value_from is None,
            field="valueFrom",
        ),
        Rule(
            cel=f"!(self.name in [{', '.join(repr(name) for name in REFUSED_VARIABLES)}])",
            message="this variable is Plimsoll's, reaches GPUs of other pods, or makes the engine run other code than "
            "its image's: use the fields of the spec, or build it into the image",
            holds=lambda v: v.name not in REFUSED_VARIABLES,
            field="name",
        ),
    )

    name: Annotated[
        str,
        Strict(),
        Field(
            min_length=1,
            max_length=253,
            pattern=r"^[-._a-zA-Z][-._a-zA-Z0-9]*$",
            description="Name of the variable.",
            json_schema_extra={"accepted": "the name of an environment variable such as VLLM_LOGGING_LEVEL"},
        ),
    ]
    value: Annotated[
        str | None,
        Strict(),
        Field(
            max_length=4096,
            pattern=r"^[^\x00]*$",
            description="Value, literally. When absent, the empty string.",
            json_schema_extra={"accepted": "text of at most 4096 characters, without the character 0"},
        ),
    ] = None
    value_from: Annotated[
        EnvironmentSource | None, Field(description="Where the value comes from, instead of `value`.")
    ] = None


Environment = Annotated[tuple[EnvironmentVariable, ...], Field(max_length=64), ListMap("name")]


class PodTemplate(APIModel):
    """What may be added to the pods. Plimsoll sets everything else; the node selector comes from the pool."""

    labels: Annotated[
        dict[str, LabelValue],
        Field(
            max_length=32,
            description="Labels added to the pods. Keys of the domains plimsoll.dev, kubernetes.io and k8s.io are "
            "not taken, except app.kubernetes.io/version.",
        ),
        QUALIFIED_KEYS,
        FOREIGN_KEYS,
        UNRESERVED_KEYS,
    ] = Field(default_factory=dict)
    annotations: Annotated[
        dict[str, Text],
        Field(
            max_length=32,
            description="Annotations added to the pods. Keys of the domains plimsoll.dev, kubernetes.io and k8s.io are "
            "not taken, except those of cluster-autoscaler.kubernetes.io.",
        ),
        QUALIFIED_KEYS,
        FOREIGN_KEYS,
        UNRESERVED_KEYS,
    ] = Field(default_factory=dict)
    tolerations: Annotated[
        Tolerations, Field(description="Taints that the pods tolerate besides those of the pool.")
    ] = ()
    affinity: Annotated[
        dict[str, Any] | None,
        Field(
            description="Affinity of the pods, as in a pod spec, of at most 16 KiB as JSON. Terms about pods of other "
            "namespaces are not taken. It can make a planned placement unschedulable.",
            json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
        ),
    ] = None
    topology_spread_constraints: Annotated[
        tuple[TopologySpreadConstraint, ...],
        Field(max_length=8, description="How the pods spread over zones, racks or nodes."),
    ] = ()
    runtime_class_name: Annotated[
        DNSSubdomain | None, Field(description="RuntimeClass of the pods. When absent, the cluster's default.")
    ] = None
    image_pull_secrets: Annotated[
        tuple[LocalReference, ...],
        Field(max_length=16, description="Secrets with registry credentials, in the same namespace."),
        ListMap("name"),
    ] = ()
    priority_class_name: Annotated[
        DNSSubdomain | None,
        Field(
            description="PriorityClass of the pods, one of those that the PlacementPolicy lists in "
            "spec.security.priorityClassNames or for a tenant. When absent, the cluster's default."
        ),
    ] = None
