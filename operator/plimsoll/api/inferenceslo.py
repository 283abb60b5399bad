"""InferenceSLO: what latency, quality and completeness a traffic class is owed."""

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field

from plimsoll.api.common import (
    AGE,
    REASON,
    APIModel,
    DNSLabel,
    Integer,
    Milliseconds,
    Percentile,
    PrinterColumn,
    Resource,
    ResourceNames,
    Status,
    StatusModel,
)
from plimsoll.api.rules import ListMap, Rule
from plimsoll.api.units import Money, Ratio


class LatencyTarget(APIModel):
    """An upper limit for a latency: of one percentile, or of the mean."""

    rules = (
        Rule(
            cel="(self.statistic == 'Percentile') == has(self.percentile)",
            message="percentile is given with statistic Percentile, and only then",
            holds=lambda t: (t.statistic == "Percentile") == (t.percentile is not None),
            field="percentile",
        ),
    )

    statistic: Annotated[
        Literal["Percentile", "Mean"],
        Field(description="What is limited: Percentile (with percentile) or Mean. Default Percentile."),
    ] = "Percentile"
    percentile: Annotated[
        Percentile | None,
        Field(description="Which percentile is limited, such as 95. Given with statistic Percentile only."),
    ] = None
    milliseconds: Annotated[Milliseconds, Field(description="Upper limit in milliseconds.")]


class UnservedTraffic(APIModel):
    """How much traffic may go unserved, and what that costs."""

    max: Annotated[
        Ratio, Field(description='Share of the traffic that may go unserved, such as "0.01". Default "0".')
    ] = Decimal(0)
    penalty_per_thousand_requests: Annotated[
        Money | None,
        Field(
            description="What 1000 unserved requests cost, weighed against the price of GPUs. "
            "When absent, ten times the cost of serving them with the dearest eligible option."
        ),
    ] = None


class InferenceSLOSpec(APIModel):
    """Targets of a traffic class. Each is optional; what is absent is not limited."""

    ttft: Annotated[
        LatencyTarget | None,
        Field(
            description="Time to first token: from arrival to the first token of the answer. When absent, not limited."
        ),
    ] = None
    tpot: Annotated[
        LatencyTarget | None,
        Field(description="Time per output token after the first. When absent, not limited."),
    ] = None
    end_to_end: Annotated[
        LatencyTarget | None, Field(description="From arrival to the last token. When absent, not limited.")
    ] = None
    latency_penalty_per_thousand_request_seconds: Annotated[
        Money,
        Field(
            description="What 1000 seconds of end-to-end latency, summed over requests, cost, weighed against the "
            'price of GPUs. Default "0".'
        ),
    ] = Decimal(0)
    max_task_error: Annotated[
        Ratio | None,
        Field(
            description="Largest mean task error over the served traffic of the class. Needs taskError values in the "
            "LLMDeployment. When absent, not limited."
        ),
    ] = None
    unserved: Annotated[
        UnservedTraffic, Field(description="How much traffic may go unserved, and what that costs.")
    ] = UnservedTraffic()
    priority: Annotated[
        Integer,
        Field(ge=0, le=1000, description="Who is served first when GPUs or budget run short: the higher. Default 0."),
    ] = 0


class ClassAttainment(StatusModel):
    """How one traffic class fares."""

    deployment: Annotated[DNSLabel, Field(description="LLMDeployment in the same namespace.")]
    traffic: Annotated[DNSLabel, Field(description="Traffic class of the LLMDeployment.")]
    attainment: Annotated[Ratio | None, Field(description="Share of the requests that met every target.")] = None


class InferenceSLOStatus(Status):
    """How the referring traffic classes fare."""

    attainment: Annotated[
        Ratio | None,
        Field(description="Lowest attainment of the referring classes: the share of requests within targets."),
    ] = None
    classes: Annotated[
        tuple[ClassAttainment, ...],
        Field(max_length=256, description="The referring traffic classes. At most 256."),
        ListMap("deployment", "traffic"),
    ] = ()


class InferenceSLO(Resource):
    """A service-level objective that traffic classes of LLMDeployments in the same namespace refer to."""

    names = ResourceNames(
        plural="inferenceslos",
        short_name="islo",
        scope="Namespaced",
        columns=(
            PrinterColumn("TTFT ms", ".spec.ttft.milliseconds", "integer", "Limit of the time to first token."),
            PrinterColumn("TPOT ms", ".spec.tpot.milliseconds", "integer", "Limit of the time per output token."),
            PrinterColumn("E2E ms", ".spec.endToEnd.milliseconds", "integer", "Limit of the end-to-end latency."),
            PrinterColumn("Priority", ".spec.priority", "integer", "Who is served first when resources run short."),
            PrinterColumn(
                "Attainment", ".status.attainment", description="Lowest share of requests within the targets."
            ),
            REASON,
            AGE,
        ),
    )

    kind: Literal["InferenceSLO"] = "InferenceSLO"
    spec: InferenceSLOSpec
    status: InferenceSLOStatus = InferenceSLOStatus()
