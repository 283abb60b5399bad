"""ModelProfile: the architecture of a model that Plimsoll's catalog lacks, and coefficients measured for a model."""

from decimal import Decimal
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
from plimsoll.api.rules import ListMap, ListSet, Rule
from plimsoll.api.units import DecimalString, Ratio

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


ShareOfPeak = Annotated[
    Decimal,
    DecimalString(
        pattern=r"^(0\.(0[1-9]|[1-9][0-9]?)[0-9]{0,4}|1(\.0{1,6})?)$",
        max_length=8,
        accepted='a share of the peak as a quoted decimal number from 0.01 to 1, such as "0.83"',
    ),
]
"""How much of a GPU's peak is reached."""

Coefficient = Annotated[
    Decimal,
    DecimalString(
        pattern=r"^(0|[1-9][0-9]?)(\.[0-9]{1,6})?$",
        max_length=9,
        accepted='a quoted decimal number from 0 to below 100, such as "2.33"',
    ),
]
"""A coefficient of the step model that is no share."""

_COEFFICIENTS = (
    "weightsEfficiency",
    "kvEfficiency",
    "queryGroupCost",
    "computeEfficiency",
    "prefillEfficiency",
    "stepMilliseconds",
    "sequenceMilliseconds",
    "allreduceFactor",
    "quantisedEfficiency",
)


class FitQuality(APIModel):
    """How well the coefficients agree with the measurements that they come from. For people; nothing is computed."""

    rows: Annotated[Integer, Field(ge=1, le=1_000_000, description="Measurements that were used.")]
    median_error: Annotated[
        Ratio, Field(description="Median of the absolute error of their latencies, as a share of what was measured.")
    ]
    p90_error: Annotated[Ratio, Field(description="90th percentile of the absolute error.")]


class MeasuredCoefficients(APIModel):
    """How fast the engine (vLLM) runs the model on one GPU product. What is absent is as published for the GPU."""

    rules = (
        Rule(
            cel=" || ".join(f"has(self.{name})" for name in _COEFFICIENTS),
            message="at least one coefficient is needed beside accelerator, source and fit",
            holds=lambda c: bool(c.figures()),
        ),
    )

    accelerator: Annotated[
        ShortText,
        Field(min_length=1, description="GPU product as the catalog names it, such as H100-SXM-80GB."),
    ]
    weights_efficiency: Annotated[
        ShareOfPeak | None, Field(description="Share of the memory bandwidth reached when reading 16-bit weights.")
    ] = None
    kv_efficiency: Annotated[ShareOfPeak | None, Field(description="The same for the KV cache.")] = None
    query_group_cost: Annotated[
        Coefficient | None,
        Field(description="Added share of the KV cache's time per further query head that shares a KV head."),
    ] = None
    compute_efficiency: Annotated[
        ShareOfPeak | None, Field(description="Share of the peak that decode steps reach at large batches.")
    ] = None
    prefill_efficiency: Annotated[ShareOfPeak | None, Field(description="Share of the peak that prefill reaches.")] = (
        None
    )
    step_milliseconds: Annotated[Coefficient | None, Field(description="Overhead of each engine step.")] = None
    sequence_milliseconds: Annotated[
        Coefficient | None, Field(description="Overhead of each sequence in each step.")
    ] = None
    allreduce_factor: Annotated[
        Coefficient | None,
        Field(description="Time of all-reduces in the engine as a multiple of the collective measured alone."),
    ] = None
    quantised_efficiency: Annotated[
        ShareOfPeak | None,
        Field(description="Of the bandwidth share of 16-bit weights, the share that weights of 8 bits or less reach."),
    ] = None
    source: Annotated[ShortText | None, Field(description="Where the measurements come from, for people.")] = None
    fit: Annotated[FitQuality | None, Field(description="How well the coefficients fit, for people.")] = None

    def figures(self) -> dict[str, Decimal]:
        """The coefficients that are given, by their names here."""
        given = {
            name: getattr(self, name)
            for name in type(self).model_fields
            if name not in ("accelerator", "source", "fit")
        }
        return {name: value for name, value in given.items() if value is not None}


class ModelProfileSpec(APIModel):
    """Which model is described, how it is built, and how fast it was measured to run."""

    rules = (
        Rule(
            cel="has(self.architecture) || (has(self.coefficients) && size(self.coefficients) > 0)",
            message="architecture or coefficients are needed",
            holds=lambda s: s.architecture is not None or bool(s.coefficients),
            field="architecture",
        ),
    )

    model: Annotated[
        ModelName,
        Field(description="Hugging Face name of the model, as LLMDeployments name it."),
    ]
    architecture: Annotated[
        Architecture | None,
        Field(
            description="Figures of the model, from which memory and speed are computed. Overrides the catalog's "
            "entry; needed when the catalog has none."
        ),
    ] = None
    coefficients: Annotated[
        tuple[MeasuredCoefficients, ...],
        Field(
            max_length=64,
            description="Measured speed by GPU product, in place of the published one; `plimsoll calibrate` writes "
            "it. At most 64.",
        ),
        ListMap("accelerator"),
    ] = ()


class ModelProfileStatus(Status):
    """Who uses the profile."""

    used_by: Annotated[
        tuple[ShortText, ...],
        Field(max_length=64, description="LLMDeployments that name the model, as namespace/name. At most 64."),
        ListSet(),
    ] = ()


class ModelProfile(Resource):
    """The architecture of a model that Plimsoll's catalog lacks, and coefficients that were measured for a model."""

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
