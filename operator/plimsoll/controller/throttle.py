"""How fast the operator may write: a token bucket that the server's back-pressure can close."""

import asyncio
import time
from collections.abc import Callable


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
        """Let nothing through for a while: the server asked for it."""
        self._closed_until = max(self._closed_until, self._clock() + seconds)
