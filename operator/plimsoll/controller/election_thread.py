"""The election on a thread and an event loop of its own.

A turn of the control loop over a thousand LLMDeployments keeps its event loop busy for seconds, on a crowded machine
for longer than a Lease lasts. Renewing must not wait for that. An event loop that is stuck for good is not its
business: the liveness probe finds that, and a process that has ended renews nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from threading import Thread
from types import TracebackType
from typing import Any, Self, TypeVar

from plimsoll.controller.leader import Election, Manifest

Result = TypeVar("Result")


class ElectionThread:
    """An election as the control loop's event loop sees it. Use as an async context manager."""

    def __init__(self, make: Callable[[AsyncExitStack], Awaitable[Election]]) -> None:
        """`make` runs on the thread, whose end closes what it puts on the stack."""
        self.known = asyncio.Event()
        """As that of the election."""
        self.won = asyncio.Event()
        """As that of the election."""
        self._make = make
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="election", daemon=True)
        self._stack = AsyncExitStack()
        self._election: Election

    async def __aenter__(self) -> Self:
        self._thread.start()
        try:
            self._election = await self._there(self._made())
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._there(self._stack.aclose())
        await self._stop()

    @property
    def identity(self) -> str:
        """Of this process."""
        return self._election.identity

    @property
    def term(self) -> int | None:
        """Which leader this is; None while it does not lead."""
        return self._election.term

    @property
    def lease(self) -> Manifest | None:
        """The Lease as last seen."""
        return self._election.lease

    def check(self) -> None:
        """Let a write pass, as `Election.check` does. Any thread may ask."""
        self._election.check()

    async def run(self) -> None:
        """Seek the Lease and then keep it, until cancelled."""
        home = asyncio.get_running_loop()

        async def tell(there: asyncio.Event, here: asyncio.Event) -> None:
            await there.wait()
            home.call_soon_threadsafe(here.set)

        async def run() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(tell(self._election.known, self.known))
                group.create_task(tell(self._election.won, self.won))
                group.create_task(self._election.run())

        await self._there(run())

    async def release(self) -> None:
        """Give the Lease back."""
        await self._there(self._election.release())

    async def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        await asyncio.to_thread(self._thread.join)
        self._loop.close()

    async def _made(self) -> Election:
        return await self._make(self._stack)

    async def _there(self, work: Coroutine[Any, Any, Result]) -> Result:
        """What the work comes to on the thread; cancelled there when cancelled here."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))
