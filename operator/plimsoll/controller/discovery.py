"""Which of Plimsoll's kinds the cluster serves, at the start and ever after.

What is watched is settled when the process starts. When an API appears or vanishes later, the process ends and its
next start finds the new state; that is simpler than to watch more or less in the middle of everything.
"""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import Protocol

from plimsoll.controller.client import ApiError
from plimsoll.controller.health import Vitals
from plimsoll.controller.kinds import ALL, Kind

_RETRY_SECONDS = 2.0
_log = logging.getLogger(__name__)


class StartError(Exception):
    """The operator cannot run in this cluster; the message says what is missing."""


class Outdated(Exception):  # noqa: N818  (nothing is wrong)
    """The cluster serves other APIs than when the process started; a restart is due."""


class Discoverer(Protocol):
    """What discovery needs of the client."""

    async def resources(self, prefix: str) -> frozenset[str]: ...


async def served(client: Discoverer) -> tuple[Kind, ...]:
    """The kinds that the cluster has, in the order of `ALL`."""
    prefixes = sorted({kind.prefix for kind in ALL})
    answers = await asyncio.gather(*(client.resources(prefix) for prefix in prefixes))
    found = dict(zip(prefixes, answers, strict=True))
    return tuple(kind for kind in ALL if kind.plural in found[kind.prefix])


async def until_served(client: Discoverer, stop: asyncio.Event, vitals: Vitals) -> Sequence[Kind]:
    """The kinds that the cluster has, once it answers; none when `stop` is set before.

    Raises:
        StartError: a kind is missing that Plimsoll cannot do without.
    """
    while not stop.is_set():
        try:
            kinds = await served(client)
        except ApiError as error:
            if error.status in (401, 403):
                raise StartError(f"the API server refuses to say what it serves: {error}") from error
            vitals.detail = f"the API server cannot be reached: {error}"
            _log.warning(vitals.detail)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_RETRY_SECONDS):
                    await stop.wait()
            continue
        missing = [kind.name for kind in ALL if kind not in kinds and not kind.optional]
        if missing:
            what = ", ".join(missing)
            raise StartError(
                f"the cluster does not serve {what}; install Plimsoll's custom resource definitions (crds/)"
            )
        return kinds
    return ()


async def confirm(client: Discoverer, kinds: Sequence[Kind]) -> None:
    """Compare what is served with what is watched.

    Raises:
        Outdated: they differ.
    """
    now = await served(client)
    if set(now) == set(kinds):
        return
    changes = [f"{kind.name} of {kind.api_version} has appeared" for kind in now if kind not in kinds]
    changes += [f"{kind.name} of {kind.api_version} has vanished" for kind in kinds if kind not in now]
    raise Outdated("; ".join(changes))
