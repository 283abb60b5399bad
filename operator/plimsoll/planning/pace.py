"""When a placement may move again: up at once, down or elsewhere only some time after its last move was done. Pure.

Every move costs GPUs that load weights, caches that are cold, and requests that meet both. What is at risk is served
at once all the same: who rests still grows, and what was lost with a node is replaced. Whatever people change is
followed at once, too: only a placement that follows observed demand rests.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from plimsoll.planning.snapshot import ObjectRef


@dataclass(frozen=True, slots=True, order=True)
class LastMove:
    """What an LLMDeployment's status says of its last move."""

    deployment: ObjectRef
    settled_seconds: float | None
    """Since its last move was done; None while it moves, or where nothing of it ever moved."""
    answered: bool
    """What people declare is as it was then."""


@dataclass(frozen=True, slots=True)
class Rest:
    """Who rests, and for how long yet."""

    resting: tuple[ObjectRef, ...]
    """Sorted; `Snapshot.resting`."""
    over_in_seconds: float | None
    """When the first of them is done resting; None where nobody rests."""


def rest(
    moves: Iterable[LastMove], observed: Iterable[ObjectRef], stale: Iterable[ObjectRef], cool_down_seconds: float
) -> Rest:
    """Who gives nothing up now.

    Args:
        observed: LLMDeployments whose demand is measured; what is declared moves only when somebody says so.
        stale: those of them whose metrics are not to be trusted now: they rest for as long as that lasts.
    """
    following, doubtful = set(observed), set(stale)
    left: dict[ObjectRef, float | None] = {}
    for move in moves:
        # While it moves, both what comes and what goes run: to keep all of that would cost twice.
        if move.deployment not in following or not move.answered or move.settled_seconds is None:
            continue
        if move.deployment in doubtful:
            left[move.deployment] = None
        elif move.settled_seconds < cool_down_seconds:
            left[move.deployment] = cool_down_seconds - move.settled_seconds
    times = [seconds for seconds in left.values() if seconds is not None]
    return Rest(tuple(sorted(left)), min(times, default=None))
