"""The guard of wall-clock time: a function that says how many seconds are left. The core itself has no clock."""

from collections.abc import Callable

RemainingSeconds = Callable[[], float]


def endless() -> float:
    """No limit: every search ends by its fixed amount of work."""
    return float("inf")
