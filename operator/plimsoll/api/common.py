"""What all kinds share: the base model, object metadata, conditions, references and bounded text.

Python names are snake_case, names on the wire camelCase. Values are frozen. Unknown fields are refused, as the API
server does with strict field validation; `Metadata` and status, which others write, ignore them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Final, Literal, Self, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    PlainSerializer,
    Strict,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from plimsoll.api.rules import VALIDATIONS, ListMap, Rule, problems

GROUP: Final = "plimsoll.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = "plimsoll.dev/v1alpha1"


def to_wire(value: object, *, only_set: bool = False) -> Any:  # noqa: ANN401  (JSON has no narrower type)
    """`value` as JSON-like data with names as on the wire, without absent fields."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_unset=only_set)
    if isinstance(value, tuple | list):
        return [to_wire(item, only_set=only_set) for item in value]
    return value


class APIModel(BaseModel):
    """Base of everything that stands in a custom resource."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)

    rules: ClassVar[tuple[Rule, ...]] = ()
    """What must hold across fields."""

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        broken = [rule for rule in self.rules if rule.broken_by(self)]
        if broken:
            raise problems([(tuple(filter(None, rule.field.split("."))), rule.message, self) for rule in broken])
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        result = handler.resolve_ref_schema(handler(schema))
        if cls.rules:
            result[VALIDATIONS] = [rule.as_schema() for rule in cls.rules]
        for field in cls.model_fields.values():
            # pydantic would write the whole default object; the API server fills the inner defaults itself.
            if isinstance(field.default, BaseModel | tuple) and field.default and field.alias:
                result["properties"][field.alias]["default"] = to_wire(field.default, only_set=True)
        return result

    def to_wire(self) -> dict[str, Any]:
        """The value as it stands in a manifest: camelCase, JSON types, absent fields left out."""
        result: dict[str, Any] = to_wire(self)
        return result


class StatusModel(APIModel):
    """Base of what Plimsoll reports. Unknown fields are ignored: a newer release may have written them."""

    model_config = ConfigDict(extra="ignore")


# --- Numbers ----------------------------------------------------------------------------------------------------------


Integer = Annotated[int, Strict()]
"""An integer as the API server takes it: neither "3" nor true."""

Count = Annotated[Integer, Field(ge=0, le=1_000_000)]
"""How many of something."""

Milliseconds = Annotated[Integer, Field(ge=1, le=86_400_000)]
"""A duration of at most a day."""

Percentile = Annotated[Integer, Field(ge=1, le=99)]
"""Which percentile of a distribution."""

Boolean = Annotated[bool, Strict()]


# --- Text -------------------------------------------------------------------------------------------------------------

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_QUALIFIED = (
    r"([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?"
)


def _accepts(text: str) -> dict[str, Any]:
    return {"accepted": text}


Text = Annotated[str, Strict(), Field(max_length=1024)]
"""Free text for people."""

ShortText = Annotated[str, Strict(), Field(max_length=256)]
"""Free text of one line."""

DNSLabel = Annotated[
    str,
    Strict(),
    Field(
        min_length=1,
        max_length=63,
        pattern=f"^{_LABEL}$",
        json_schema_extra=_accepts("lower-case letters, digits and hyphens, at most 63, such as l40s"),
    ),
]
"""A DNS-1123 label."""

DNSSubdomain = Annotated[
    str,
    Strict(),
    Field(
        min_length=1,
        max_length=253,
        pattern=rf"^{_LABEL}(\.{_LABEL})*$",
        json_schema_extra=_accepts("lower-case letters, digits, hyphens and dots, as object names have"),
    ),
]
"""A DNS-1123 subdomain: what most objects may be named."""

ModelName = Annotated[
    str,
    Strict(),
    Field(
        min_length=1,
        max_length=96,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?$",
        json_schema_extra=_accepts("a Hugging Face model name such as meta-llama/Llama-3.1-8B-Instruct"),
    ),
]
"""The name of a model on the Hugging Face hub."""

ImageName = Annotated[
    str,
    Strict(),
    Field(
        min_length=1,
        max_length=512,
        pattern=r"^[a-z0-9][a-zA-Z0-9._:/@-]*$",
        json_schema_extra=_accepts("a container image such as vllm/vllm-openai:v0.18.0"),
    ),
]
"""A container image, by tag or digest."""

QualifiedName = Annotated[
    str,
    Strict(),
    Field(
        min_length=1,
        max_length=317,
        pattern=f"^{_QUALIFIED}$",
        json_schema_extra=_accepts("a name with an optional domain before a slash, such as nvidia.com/gpu"),
    ),
]
"""A label key, taint key or resource name."""

LabelValue = Annotated[
    str,
    Strict(),
    Field(
        max_length=63,
        pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$",
        json_schema_extra=_accepts("a label value: at most 63 letters, digits, hyphens, underscores and dots"),
    ),
]
"""The value of a label; may be empty."""

Key = Annotated[
    str,
    Strict(),
    Field(
        min_length=1,
        max_length=253,
        pattern=r"^[-._a-zA-Z0-9]+$",
        json_schema_extra=_accepts("a key of a Secret or ConfigMap: letters, digits, hyphens, underscores and dots"),
    ),
]
"""A key inside a Secret or ConfigMap."""

Digest = Annotated[
    str,
    Strict(),
    Field(
        max_length=71,
        pattern="^sha256:[0-9a-f]{64}$",
        json_schema_extra=_accepts("sha256: and 64 hexadecimal digits"),
    ),
]
"""A SHA-256 digest."""


def is_dns_label(text: str) -> bool:
    """Whether `text` is a DNS-1123 label."""
    return len(text) <= 63 and re.fullmatch(_LABEL, text) is not None


def is_dns_1035_label(text: str) -> bool:
    """Whether `text` is a DNS-1035 label, as names of Services are: a DNS label that begins with a letter."""
    return is_dns_label(text) and text[0].isalpha()


def _rfc3339(value: datetime) -> str:
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


Time = Annotated[datetime, PlainSerializer(_rfc3339, return_type=str, when_used="json")]
"""A moment, RFC 3339 on the wire."""

Labels = dict[str, Annotated[str, Strict()]]


# --- Objects ----------------------------------------------------------------------------------------------------------


class Metadata(APIModel):
    """Object metadata, as far as Plimsoll reads it. The API server writes and checks the rest."""

    model_config = ConfigDict(extra="ignore")

    name: Annotated[str, Strict(), Field(min_length=1, max_length=253)]
    namespace: Annotated[str, Strict()] | None = None
    uid: str | None = None
    generation: int | None = None
    resource_version: str | None = None
    labels: Labels = Field(default_factory=dict)
    annotations: Labels = Field(default_factory=dict)
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None


class Condition(StatusModel):
    """One aspect of the present state (metav1.Condition)."""

    type: Annotated[str, Field(min_length=1, max_length=316, description="Which aspect, such as Ready.")]
    status: Annotated[
        Literal["True", "False", "Unknown"], Field(description="Whether the condition holds: True, False or Unknown.")
    ]
    reason: Annotated[
        str,
        Field(
            min_length=1,
            max_length=1024,
            pattern="^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
            description="Why the condition has this status, as one CamelCase word for programs.",
        ),
    ]
    message: Annotated[str, Field(max_length=32768, description="Why the condition has this status, for people.")]
    last_transition_time: Annotated[Time, Field(description="When the status of the condition last changed.")]
    observed_generation: Annotated[
        Integer | None,
        Field(ge=0, le=2**53, description="Generation of the object that the condition was set for."),
    ] = None


Conditions = Annotated[
    tuple[Condition, ...],
    Field(
        max_length=16,
        description="Aspects of the present state, each with reason and message. "
        "Ready sums up; kubectl wait and GitOps tools read it.",
    ),
    ListMap("type"),
]

ObservedGeneration = Annotated[
    Integer | None,
    Field(ge=0, le=2**53, description="Generation of the object that this status was written for."),
]


class Status(StatusModel):
    """What every kind reports."""

    observed_generation: ObservedGeneration = None
    conditions: Conditions = ()

    def condition(self, type_: str) -> Condition | None:
        """The condition of that type, or None."""
        return next((c for c in self.conditions if c.type == type_), None)


class LocalReference(APIModel):
    """Reference to an object in the same namespace."""

    name: Annotated[DNSSubdomain, Field(description="Name of the object, in the namespace of the referring one.")]


class PlanReference(StatusModel):
    """Reference to a PlacementPlan."""

    name: Annotated[DNSSubdomain, Field(description="Name of the PlacementPlan.")]


class SecretKeyReference(APIModel):
    """Reference to one key of a Secret in the same namespace."""

    name: Annotated[DNSSubdomain, Field(description="Name of the Secret, in the namespace of the referring object.")]
    key: Annotated[Key, Field(description="Key inside the Secret.")]


@dataclass(frozen=True)
class PrinterColumn:
    """A column of `kubectl get`."""

    name: str
    json_path: str
    type: Literal["string", "integer", "date"] = "string"
    description: str = ""
    wide: bool = False


@dataclass(frozen=True)
class ResourceNames:
    """How the API server knows a kind."""

    plural: str
    short_name: str
    scope: Literal["Namespaced", "Cluster"]
    columns: tuple[PrinterColumn, ...]


READY = PrinterColumn("Ready", '.status.conditions[?(@.type=="Ready")].status', description="Whether all is well.")
REASON = PrinterColumn(
    "Reason", '.status.conditions[?(@.type=="Ready")].message', description="Why it is ready or not.", wide=True
)
AGE = PrinterColumn("Age", ".metadata.creationTimestamp", "date", "Time since creation.")


class Resource(APIModel):
    """Base of the six kinds."""

    names: ClassVar[ResourceNames]

    api_version: Literal["plimsoll.dev/v1alpha1"] = API_VERSION
    kind: str
    metadata: Metadata
    spec: APIModel
    status: Status = Status()

    @classmethod
    def spec_model(cls) -> type[APIModel]:
        """The model of the kind's spec."""
        return cast("type[APIModel]", cls.model_fields["spec"].annotation)

    @classmethod
    def status_model(cls) -> type[Status]:
        """The model of the kind's status."""
        return cast("type[Status]", cls.model_fields["status"].annotation)

    @property
    def name(self) -> str:
        """The object's name."""
        return self.metadata.name

    @property
    def namespace(self) -> str:
        """The object's namespace; empty for cluster-scoped kinds, `default` when a manifest names none."""
        return "" if self.names.scope == "Cluster" else self.metadata.namespace or "default"

    @property
    def reference(self) -> str:
        """`namespace/name`, or the name alone for cluster-scoped kinds."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


def manifest_reference(manifest: Mapping[str, Any]) -> str:
    """`Kind namespace/name` of a manifest that may be wrong in any way, for messages."""
    kind = manifest.get("kind")
    metadata = manifest.get("metadata")
    parts = [metadata.get(k) for k in ("namespace", "name")] if isinstance(metadata, Mapping) else []
    return f"{kind if isinstance(kind, str) else 'object'} {'/'.join(str(p) for p in parts if p) or 'without a name'}"
