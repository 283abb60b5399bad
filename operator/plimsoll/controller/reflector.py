"""One kind of object in one place, listed and then watched for ever into the store. Like client-go's Reflector.

A list comes in pages, and a watch goes on from it; the next watch goes on where the last one ended. When the API server
no longer knows that point, everything is listed anew, and what is not in the list is gone.
"""

import asyncio
import logging
import random
import time

from plimsoll.controller.client import ApiError, Client
from plimsoll.controller.kinds import Kind
from plimsoll.controller.metrics import Metrics
from plimsoll.controller.store import Store
from plimsoll.controller.throttle import pause_seconds
from plimsoll.controller.wire import Metadata, Raw, UnreadableError, event_of, failure_of, head_of, manifest_of

_log = logging.getLogger(__name__)
_GONE = 410
_WATCH_SECONDS = (300.0, 600.0)
"""How long the API server is asked to keep a watch open: spread, so that they do not all end at once."""
_LONGEST_PAUSE_SECONDS = (3.0, 5.0)
"""A missed change costs these seconds once the API server is back, so the cap is low."""
_PATIENCE_SECONDS = 60.0
"""An API server that has just started refuses what it has no roles for yet."""
_BREATH = 50
"""Objects between two looks at the rest of the process."""


class Reflector:
    """Keeps the store's objects of a kind, in one namespace or everywhere, as the API server has them."""

    def __init__(self, client: Client, kind: Kind, namespace: str, store: Store, metrics: Metrics) -> None:
        self._client, self._kind, self._namespace, self._store = client, kind, namespace, store
        self._count = metrics.feed_events.labels(kind.name)
        self._heard = metrics.feed_last_event.labels(kind.name)
        self._version = ""
        """Where to go on; empty: nowhere, a list is due."""
        self._failures = 0
        self._refused_since: float | None = None
        self.listed = asyncio.Event()
        """Set once the store has had a complete list."""

    async def run(self) -> None:
        """List and watch for ever.

        Raises:
            ApiError: the API server has refused for a minute what it once allowed, so that the store grows old.
        """
        while True:
            try:
                if not self._version:
                    await self._list()
                await self._watch()
            except ApiError as error:
                self._note(error)
            # Also after a watch that ended in good order, so that one which always ends at once costs little.
            self._failures += 1
            await asyncio.sleep(min(pause_seconds(self._failures), random.uniform(*_LONGEST_PAUSE_SECONDS)))  # noqa: S311

    def _note(self, error: ApiError) -> None:
        if error.status == _GONE:
            self._version = ""
            _log.info("%s are listed anew: %s", self._kind.plural, error)
            return
        _log.warning("cannot follow %s: %s", self._kind.plural, error)
        now = time.monotonic()
        if not error.refused:
            self._refused_since = None
        elif self._refused_since is None:
            self._refused_since = now
        elif self.listed.is_set() and now - self._refused_since > _PATIENCE_SECONDS:
            raise error

    # --- Listing -----------------------------------------------------------------------------------------------------

    async def _list(self) -> None:
        before = self._store.uids(self._kind, self._namespace)
        found: set[str] = set()
        version = ""
        async for page in self._client.pages(self._kind, self._namespace):
            for number, raw in enumerate(page.items or (), 1):
                found.add(self._take(raw).uid)
                if number % _BREATH == 0:
                    await asyncio.sleep(0)
            version = page.metadata.version
        for uid in before - found:
            self._store.drop(self._kind, uid)
        self._heard.set(time.time())
        self._version = version
        self.listed.set()

    def _take(self, raw: Raw) -> Metadata:
        head = head_of(raw)
        if self._store.knows(self._kind, head.uid, head.resource_version):
            return head
        try:
            self._store.put(self._kind, manifest_of(self._kind, raw))
        except Exception:  # noqa: BLE001
            # A surprise in one object must not cost the others, and must not look like a feed that has stopped.
            _log.exception("cannot read %s %s", self._kind.name, head.name)
            self._store.pass_over(self._kind, head.uid, head.resource_version, head.namespace)
        return head

    # --- Watching ----------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Follow one watch to its end."""
        seconds = random.uniform(*_WATCH_SECONDS)  # noqa: S311
        async with self._client.watch(self._kind, self._namespace, self._version, seconds) as pieces:
            self._failures, self._refused_since = 0, None
            rest = b""
            async for piece in pieces:
                *lines, rest = (rest + piece).split(b"\n")
                for number, line in enumerate(lines, 1):
                    self._hear(line)
                    if number % _BREATH == 0:
                        await asyncio.sleep(0)

    def _hear(self, line: bytes) -> None:
        if not line:
            return
        version, self._version = self._version, ""  # what cannot be understood may be a change that is lost
        try:
            event = event_of(line)
            if event.type == "ERROR":
                failure = failure_of(event.object)
                raise ApiError(failure.code, failure.reason, failure.message)
            head = self._take(event.object) if event.type in ("ADDED", "MODIFIED") else head_of(event.object)
        except UnreadableError as error:
            raise ApiError(0, "Unreadable", f"an event is none: {error}") from error
        if event.type == "DELETED":
            self._store.drop(self._kind, head.uid)
        if event.type != "BOOKMARK":
            self._count.inc()
        self._heard.set(time.time())
        self._version = head.resource_version or version
