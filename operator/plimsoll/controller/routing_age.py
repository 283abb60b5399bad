"""For how long each routing document has been what it is, whatever the wall clock does.

A document says when it changed, in wall time, since that must survive a restart. While the operator runs it counts by
a monotonic clock from its first look: a clock that jumps forward must not end the routers' time to read early, one that
jumps back must not stretch it.
"""

from dataclasses import dataclass
from datetime import datetime

Key = tuple[str, str]
"""Namespace and name of an LLMDeployment."""


@dataclass(frozen=True, slots=True)
class _Look:
    epoch: int
    age_seconds: float
    at_seconds: float


class RoutingAges:
    """Remembers the first look at each document."""

    def __init__(self) -> None:
        self._looks: dict[Key, _Look] = {}

    def age_seconds(
        self, key: Key, epoch: int, routed_at: datetime | None, now: datetime, monotonic_seconds: float
    ) -> float:
        """Seconds since the document changed to this epoch."""
        look = self._looks.get(key)
        if look is None or look.epoch != epoch:
            # What changed under our eyes is new; what was there before says itself how old it is.
            said = (now - routed_at).total_seconds() if look is None and routed_at is not None else 0.0
            look = self._looks[key] = _Look(epoch, max(0.0, said), monotonic_seconds)
        return look.age_seconds + monotonic_seconds - look.at_seconds
