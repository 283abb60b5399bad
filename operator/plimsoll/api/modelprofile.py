"""ModelProfile: the architecture of a model that Plimsoll's catalog lacks."""

from typing import Annotated, Literal

from pydantic import Field

from plimsoll.api.common import (
    AGE,
    READY,
    REASON,
    APIModel,
    Boolean,
    Integer,
    ModelName,
    PrinterColumn,
    Resource,
    ResourceNames,
    ShortText,
    Status,
)
from plimsoll.api.rules import ListSet, Rule

PrecisionName = Literal["bf16", "fp8", "int8", "int4"]
"""Numeric precision of the weights."""


class Architecture(APIModel):
    """The figures of a decoder-only transformer, as in the model's `config.json`."""

    rules = (
        Rule(
            cel="!has(self.activeParameters) || self.activeParameters <= self.parameters",
            message="activeParameters must not exceed parameters",
            holds=lambda a: a.active_parameters is None or a.active_parameters <= a.parameters,
            field="activeParameters",
        ),
        Rule(
            cel="!has(self.kvHeads) || self.attentionHeads % self.kvHeads == 0",
            message="kvHeads must divide attentionHeads",
            holds=lambda a: a.kv_heads is None or a.attention_heads % a.kv_heads == 0,
            field="kvHeads",
        ),
        Rule(
            cel="has(self.headSize) || self.hiddenSize % self.attentionHeads == 0",
            message="headSize is needed when attentionHeads does not divide hiddenSize",
            holds=lambda a: a.head_size is not None or a.hidden_size % a.attention_heads == 0,
            field="headSize",
        ),
        Rule(
            cel="has(self.experts) == has(self.expertsPerToken) "
            "&& (!has(self.experts) || self.expertsPerToken <= self.experts)",
            message="experts and expertsPerToken are given together, and expertsPerToken must not exceed experts",
            holds=lambda a: (
                (a.experts is None) == (a.experts_per_token is None)
                and (a.experts is None or a.experts_per_token <= a.experts)
            ),
            field="expertsPerToken",
        ),
    )

    parameters: Annotated[
        Integer,
        Field(ge=1_000_000, le=100_000_000_000_000, description="Parameters of the model, all experts included."),
    ]
    active_parameters: Annotated[
        Integer | None,
        Field(
            ge=1_000_000,
            le=100_000_000_000_000,
            description="Parameters that one token passes through. When absent, all: a dense model.",
        ),
    ] = None
    layers: Annotated[Integer, Field(ge=1, le=1024, description="Transformer blocks (num_hidden_layers).")]
    hidden_size: Annotated[Integer, Field(ge=1, le=1_048_576, description="Width of the hidden state (hidden_size).")]
    attention_heads: Annotated[
        Integer, Field(ge=1, le=4096, description="Query heads of each block (num_attention_heads).")
    ]
    kv_heads: Annotated[
        Integer | None,
        Field(
            ge=1,
            le=4096,
            description="Key and value heads of each block (num_key_value_heads). When absent, attentionHeads.",
        ),
    ] = None
    head_size: Annotated[
        Integer | None,
        Field(ge=1, le=8192, description="Width of a head (head_dim). When absent, hiddenSize / attentionHeads."),
    ] = None
    experts: Annotated[
        Integer | None,
        Field(
            ge=1, le=4096, description="Routed experts of each block (mixture of experts). When absent, a dense model."
        ),
    ] = None
    experts_per_token: Annotated[
        Integer | None,
        Field(ge=1, le=4096, description="Routed experts that one token passes through. Given together with experts."),
    ] = None
    vocabulary_size: Annotated[
        Integer, Field(ge=1, le=10_000_000, description="Tokens in the vocabulary (vocab_size).")
    ]
    context_length: Annotated[
        Integer, Field(ge=1, le=100_000_000, description="Longest sequence in tokens (max_position_embeddings).")
    ]
    tied_embeddings: Annotated[
        Boolean,
        Field(
            description="Whether input and output embeddings are the same matrix (tie_word_embeddings). Default false."
        ),
    ] = False
    gated: Annotated[
        Boolean,
        Field(
            description="Whether the weights are downloadable only with an accepted licence and a token. Default false."
        ),
    ] = False


class ModelProfileSpec(APIModel):
    """Which model is described, and how it is built."""

    model: Annotated[
        ModelName,
        Field(description="Hugging Face name of the model, as LLMDeployments name it. Overrides the catalog's entry."),
    ]
    architecture: Annotated[
        Architecture, Field(description="Figures of the model, from which memory and speed are computed.")
    ]


class ModelProfileStatus(Status):
    """Who uses the profile."""

    used_by: Annotated[
        tuple[ShortText, ...],
        Field(max_length=64, description="LLMDeployments that name the model, as namespace/name. At most 64."),
        ListSet(),
    ] = ()


class ModelProfile(Resource):
    """The architecture of a model that Plimsoll's catalog lacks, or whose entry is to be overridden."""

    names = ResourceNames(
        plural="modelprofiles",
        short_name="mprof",
        scope="Cluster",
        columns=(
            PrinterColumn("Model", ".spec.model", description="Hugging Face name of the model."),
            PrinterColumn("Parameters", ".spec.architecture.parameters", "integer", "Parameters of the model."),
            PrinterColumn("Context", ".spec.architecture.contextLength", "integer", "Longest sequence in tokens."),
            READY,
            REASON,
            AGE,
        ),
    )

    kind: Literal["ModelProfile"] = "ModelProfile"
    spec: ModelProfileSpec
    status: ModelProfileStatus = ModelProfileStatus()
