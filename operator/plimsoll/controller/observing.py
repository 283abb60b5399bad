"""What looks at metrics again and again beside the control loop."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

_log = logging.getLogger(__name__)


async def look_for_ever(what: str, seconds: float, turn: Callable[[], Awaitable[None]]) -> None:
    """A turn after every interval, until cancelled.

    What it learns is an extra: a bug in one turn is told and must not stop the fleet, nor the next turn.
    """
    while True:
        await asyncio.sleep(seconds)
        try:
            await turn()
        except Exception:  # noqa: BLE001
            _log.exception("%s: a turn failed", what)
