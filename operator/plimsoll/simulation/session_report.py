"""What a simulation of sessions over chains found."""

from collections.abc import Mapping
from dataclasses import dataclass

from plimsoll.chains import Route
from plimsoll.simulation.latencies import LatencySummary
from plimsoll.simulation.report import ClassInterval, ClassReport


@dataclass(frozen=True, slots=True)
class ServerUse:
    """One server over the whole run."""

    sessions: int
    """That began there, interrupted ones included."""
    cache_usage: float
    """Mean part of its cache slots that sessions held, 0..1; 0 where it has none."""


@dataclass(frozen=True, slots=True)
class RouteUse:
    """One route over the whole run."""

    route: Route
    client: int
    sessions: int
    """That began on it."""
    service_seconds: float
    """Of a session of the problem's length, setup and waits apart."""


@dataclass(frozen=True, slots=True)
class SessionInterval:
    """Part of the simulated time."""

    begin_seconds: float
    end_seconds: float
    classes: Mapping[str, ClassInterval]
    running: float
    """Mean sessions that hold memory."""
    waiting: float
    """Mean sessions that have arrived and hold none."""
    servers: float
    """Mean servers that can be routed over."""


@dataclass(frozen=True, slots=True)
class SessionReport:
    """Everything that a run found."""

    simulated_seconds: float
    classes: Mapping[str, ClassReport]
    response: LatencySummary
    """From arrival to the last token, of the completed sessions of all classes that arrived after the warm-up."""
    wait: LatencySummary
    """From arrival to the begin that led to the end, of the same sessions."""
    interrupted: int
    """Times that a session lost a server and had to begin again."""
    recovery_seconds: tuple[float, ...]
    """From the loss of a server until an interrupted session began again, of each that did."""
    running: float
    """Mean sessions that hold memory."""
    waiting: float
    servers: tuple[ServerUse, ...]
    routes: tuple[RouteUse, ...]
    """The most used first."""
    intervals: tuple[SessionInterval, ...]
