"""How fast the operator may ask: a token bucket that back-pressure can close, and pauses after failures."""

import asyncio
import math
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_LONGEST_SECONDS = 60.0
"""However long the server asks for: its answer may come from a proxy with other ideas."""
_FIRST_PAUSE_SECONDS = 0.5


class TokenBucket:
    """At most `rate` requests per second on average, `burst` at once."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, float(burst), clock
        self._tokens, self._filled = float(burst), clock()
        self._closed_until = 0.0

    async def take(self) -> None:
        """Wait for a token."""
        while (wait := self.reserve()) > 0:  # noqa: ASYNC110  (nobody could set an event: time alone brings tokens)
            await asyncio.sleep(wait)

    def reserve(self) -> float:
        """Take a token and return 0, or return the seconds after which to ask again."""
        now = self._clock()
        if now < self._closed_until:
            return self._closed_until - now
        self._tokens = min(self._burst, self._tokens + (now - self._filled) * self._rate)
        self._filled = now
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            return 0.0
        return (1.0 - self._tokens) / self._rate

    def close_for(self, seconds: float) -> None:
        """Let nothing through for a while: the server asked for it. The saved-up burst is forfeited."""
        self._closed_until = max(self._closed_until, self._clock() + seconds)
        self._tokens, self._filled = min(self._tokens, 1.0), self._closed_until


def asked_for(retry_after: str | None, now: datetime | None = None) -> float | None:
    """The seconds that a Retry-After header asks for, given as seconds or as a date; None when it says neither."""
    if retry_after is None:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            moment = parsedate_to_datetime(retry_after)
        except ValueError:
            return None
        # Such dates are in GMT, also where the zone is missing.
        moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        seconds = (moment - (now or datetime.now(UTC))).total_seconds()
    return None if math.isnan(seconds) else min(_LONGEST_SECONDS, max(0.0, seconds))


def pause_seconds(failures: int) -> float:
    """How long a request waits after so many failures in a row: doubling, jittered so that many spread."""
    return _FIRST_PAUSE_SECONDS * 2.0 ** (failures - 1) * random.uniform(0.5, 1.0)  # noqa: S311
