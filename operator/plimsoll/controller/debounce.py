"""Waiting until a burst of changes is over."""

import asyncio
import contextlib
from collections.abc import Callable


async def debounce(changes: Callable[[], int], idle_seconds: float, cap_seconds: float) -> None:
    """Return when `changes()` has not moved for `idle_seconds`, after `cap_seconds` at the latest."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(cap_seconds):
            seen = -1
            while seen != (now := changes()):
                seen = now
                await asyncio.sleep(idle_seconds)
