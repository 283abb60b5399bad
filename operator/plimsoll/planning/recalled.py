"""What was planned for by observation, as statuses say: after a restart, and for files from a cluster. Pure."""

from plimsoll.api.llmdeployment import LLMDeploymentStatus
from plimsoll.planning.objectives import token_lengths
from plimsoll.planning.snapshot import TrafficDemand

METRICS_FRESH = "MetricsFresh"
"""The condition without which, or with which Unknown, the rates in a status are the declared ones."""


def recalled(namespace: str, name: str, status: LLMDeploymentStatus) -> tuple[TrafficDemand, ...]:
    """Of the classes of one LLMDeployment; none where nothing was measured."""
    measured = any(item.type == METRICS_FRESH and item.status != "Unknown" for item in status.conditions)
    if not measured:
        return ()
    return tuple(
        TrafficDemand(
            namespace,
            name,
            traffic.name,
            float(traffic.requests_per_minute),
            float(traffic.requests_per_minute),
            fresh=False,
            lengths=None if traffic.tokens is None else token_lengths(traffic.tokens),
        )
        for traffic in sorted(status.traffic, key=lambda item: item.name)
        if traffic.requests_per_minute is not None
    )
