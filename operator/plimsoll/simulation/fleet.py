"""What is simulated: placements, how requests reach their replicas, and what happens to them over time."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from plimsoll.simulation.engine import EngineSpec

PlacementChoice = Literal["random", "even"]
"""`random`: each request draws its placement by the shares (seeded). `even`: the placement that lags behind its share
most, so that counts never stray from the shares by more than a request."""
ReplicaChoice = Literal["random", "round-robin", "least-outstanding"]
"""`random` is what a Kubernetes Service does; `round-robin` and `least-outstanding` what gateways do."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Equal replicas, and the shares of the traffic classes that they serve.

    Raises:
        ValueError: negative replicas, share, cost or time.
    """

    name: str
    engine: EngineSpec
    replicas: int
    shares: Mapping[str, float]
    """By traffic class, 0..1. What all placements leave of a class is refused on arrival."""
    replica_cost_per_hour: float = 0.0
    startup_seconds: float = 0.0
    """From a replica's creation, which is when it begins to cost, until it takes requests."""
    gpus_per_replica: int = 1

    def __post_init__(self) -> None:
        for name, value in (
            ("replicas", self.replicas),
            ("replica_cost_per_hour", self.replica_cost_per_hour),
            ("startup_seconds", self.startup_seconds),
            ("gpus_per_replica", self.gpus_per_replica),
            *((f"shares[{key}]", share) for key, share in self.shares.items()),
        ):
            if not 0.0 <= value < math.inf:
                raise ValueError(f"placement {self.name}: {name} is {value}; a finite value from 0 is accepted")


@dataclass(frozen=True, slots=True)
class FleetChange:
    """From `seconds` on the fleet is to be `placements`, matched with the present ones by name.

    Missing replicas are created and take requests after their start-up time. Surplus ones (those not ready yet first,
    then the newest) get no new requests and end when theirs are done. Shares count at once; a share whose placement
    has no ready replica goes to the class's other placements in proportion to their shares. To make before breaking,
    grow in one change and shrink in a later one.
    """

    seconds: float
    placements: tuple[Placement, ...]


@dataclass(frozen=True, slots=True)
class ReplicaFailure:
    """A ready replica of a placement, drawn by the seed, is lost with its KV cache. Without one nothing happens."""

    seconds: float
    placement: str
    restarts: bool = True
    """A new replica is created at once and takes requests after the start-up time."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A fleet over time and how traffic is spread over it.

    Raises:
        ValueError: two placements of one name, a class with shares above 1, changes out of order, or a placement whose
            engine changes.
    """

    placements: tuple[Placement, ...]
    """Ready at 0 s."""
    changes: tuple[FleetChange, ...] = ()
    failures: tuple[ReplicaFailure, ...] = ()
    placement_choice: PlacementChoice = "random"
    replica_choice: ReplicaChoice = "random"
    retry_lost: bool = True
    """Requests of a failed replica start anew elsewhere, their latency counted from the first arrival; otherwise they
    are lost."""

    def __post_init__(self) -> None:
        _check(self.placements, 0.0)
        for change in self.changes:
            _check(change.placements, change.seconds)
        engines = {placement.name: placement.engine for placement in self.placements}
        for change in self.changes:
            for placement in change.placements:
                if engines.setdefault(placement.name, placement.engine) != placement.engine:
                    raise ValueError(
                        f"placement {placement.name} has another engine at {change.seconds} s; "
                        "another engine is another placement, with a name of its own"
                    )
        if any(b.seconds < a.seconds for a, b in zip(self.changes, self.changes[1:], strict=False)):
            raise ValueError("Scenario.changes are not in the order of time")


def _check(placements: Sequence[Placement], seconds: float) -> None:
    names = [placement.name for placement in placements]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"placements at {seconds} s: {', '.join(twice)} occurs twice; names are unique")
    for traffic_class in {key for placement in placements for key in placement.shares}:
        total = sum(placement.shares.get(traffic_class, 0.0) for placement in placements)
        if total > 1.0 + 1e-6:
            raise ValueError(
                f"placements at {seconds} s: shares of class {traffic_class} add up to {total}; at most 1 is accepted"
            )
