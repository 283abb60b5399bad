"""The traffic of an LLMDeployment: kinds of requests with their own rate, lengths and objective."""

from decimal import Decimal
from typing import Annotated

from pydantic import Field, Strict

from plimsoll.api.common import APIModel, DNSLabel, Integer, LocalReference, ModelName
from plimsoll.api.rules import ListMap
from plimsoll.api.units import Burstiness, Ratio


class TokenLengths(APIModel):
    """How long requests and answers are, in tokens."""

    input: Annotated[Integer, Field(ge=1, le=10_000_000, description="Mean length of the prompt in tokens.")]
    output: Annotated[Integer, Field(ge=1, le=10_000_000, description="Mean length of the answer in tokens.")]
    input_p95: Annotated[
        Integer | None,
        Field(ge=1, le=10_000_000, description="95th percentile of the prompt's length. When absent, twice the mean."),
    ] = None
    output_p95: Annotated[
        Integer | None,
        Field(ge=1, le=10_000_000, description="95th percentile of the answer's length. When absent, twice the mean."),
    ] = None


class TrafficArrivals(APIModel):
    """How requests follow one another."""

    burstiness: Annotated[
        Burstiness,
        Field(
            description="Coefficient of variation of the times between requests: standard deviation by mean. "
            'Default "1": requests come at random (Poisson). Above 1 they come in bursts, and a replica gets fewer.'
        ),
    ] = Decimal(1)


class TaskError(APIModel):
    """How often a candidate model gets this kind of request wrong."""

    model: Annotated[ModelName, Field(description="Name of a candidate model of this LLMDeployment.")]
    value: Annotated[
        Ratio,
        Field(description='Share of wrong answers at full precision, measured by you, such as "0.07".'),
    ]


class HeaderMatch(APIModel):
    """An HTTP header that a request carries."""

    name: Annotated[
        str,
        Strict(),
        Field(
            min_length=1,
            max_length=64,
            pattern=r"^[A-Za-z0-9!#$%&'*+.^_|~-]+$",
            description="Name of the header; upper and lower case are the same.",
            json_schema_extra={"accepted": "the name of an HTTP header such as x-traffic-class"},
        ),
    ]
    value: Annotated[
        str, Strict(), Field(min_length=1, max_length=256, description="Value that the header has exactly.")
    ]


class TrafficMatch(APIModel):
    """Which requests belong to the class."""

    headers: Annotated[
        tuple[HeaderMatch, ...],
        Field(min_length=1, max_length=8, description="Headers that a request carries. All must match."),
        ListMap("name"),
    ]


class TrafficClass(APIModel):
    """A kind of request with its own rate, token lengths and objective."""

    name: Annotated[
        DNSLabel,
        Field(description="Name of the class. Clients can select it as model `<deployment>/<class>`."),
    ]
    slo_ref: Annotated[
        LocalReference | None,
        Field(description="InferenceSLO in the same namespace. When absent, the defaultSLO of the PlacementPolicy."),
    ] = None
    requests_per_minute: Annotated[
        Integer,
        Field(
            ge=0,
            le=100_000_000,
            description="Expected rate. Used until a rate is measured, and as the floor when metrics are missing.",
        ),
    ]
    tokens: Annotated[TokenLengths, Field(description="How long requests and answers are, in tokens.")]
    arrivals: Annotated[
        TrafficArrivals | None,
        Field(description="How requests follow one another. When absent, at random."),
    ] = None
    task_error: Annotated[
        tuple[TaskError, ...],
        Field(
            max_length=8,
            description="Task error of the candidate models for this class. Needed where the SLO has maxTaskError; "
            "a model without a value is then not considered.",
        ),
        ListMap("model"),
    ] = ()
    match: Annotated[
        TrafficMatch | None,
        Field(
            description="Which requests belong to the class. Exactly one class has none: all other requests are its."
        ),
    ] = None
