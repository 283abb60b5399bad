"""How changes come in: every kopf decorator, and nothing else.

Only `on.event`: it writes nothing to anybody's objects. The handlers are idempotent, return nothing (kopf would store
it in the object's status) and never raise (kopf would log and forget).
"""

import asyncio
import itertools
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, cast

import kopf

from plimsoll.controller.client import bearer_token, load_configuration
from plimsoll.controller.kinds import Kind
from plimsoll.controller.metrics import Metrics
from plimsoll.controller.store import Store

_log = logging.getLogger(__name__)


class _Backoffs:
    """Capped exponential delays that never end: an API server that is away comes back some day."""

    def __iter__(self) -> Iterator[float]:
        # A missed change costs these seconds once the API server is back, so the cap is low.
        return itertools.chain((0.2, 0.5, 1.0, 2.0), (random.uniform(3, 5) for _ in itertools.count()))  # noqa: S311


def operator_settings() -> kopf.OperatorSettings:
    """kopf's settings, with the defaults changed that do not suit a level-triggered operator."""
    settings = kopf.OperatorSettings()
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.networking.error_backoffs = _Backoffs()
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 5
    settings.watching.server_timeout = 290 + random.randint(0, 15)  # noqa: S311
    settings.watching.client_timeout = 310
    settings.watching.chunk_size = 500
    settings.queueing.worker_limit = None
    settings.queueing.idle_timeout = 2
    settings.queueing.exit_timeout = 1
    settings.process.ultimate_exiting_timeout = 25
    return settings


def register(
    registry: kopf.OperatorRegistry,
    settings: kopf.OperatorSettings,
    kinds: Sequence[Kind],
    store: Store,
    metrics: Metrics,
    *,
    on_cleanup: Callable[[], Awaitable[None]],
) -> None:
    """Watch `kinds` into `store`; the API server filters by the kinds' selectors."""

    @kopf.on.login(registry=registry, id="login")
    async def login(**_: object) -> kopf.ConnectionInfo:
        return await _login()

    @kopf.on.cleanup(registry=registry, id="cleanup")
    async def cleanup(**_: object) -> None:
        await on_cleanup()

    for kind in kinds:
        key = (kind.group, kind.version, kind.plural)
        if kind.label_selector:
            settings.watching.label_selectors[key] = kind.label_selector
        if kind.field_selector:
            settings.watching.field_selectors[key] = kind.field_selector
        kopf.on.event(*key, registry=registry, id=f"feed-{kind.plural}")(_handler(kind, store, metrics))


async def watch(
    kinds: Sequence[Kind],
    namespaces: Sequence[str],
    store: Store,
    metrics: Metrics,
    stop: asyncio.Event,
    *,
    on_cleanup: Callable[[], Awaitable[None]],
) -> None:
    """Feed the store until `stop`. With `namespaces` only those are watched, but for what counts everywhere.

    kopf confines all kinds of an operator or none of them, so that two of them run side by side then.
    """
    confined = [kind for kind in kinds if kind.scopes(namespaces) != ("",)]
    parts = [(confined, tuple(namespaces))] if confined else []
    parts.append(([kind for kind in kinds if kind not in confined], ()))

    async def feed(part: Sequence[Kind], where: Sequence[str]) -> None:
        registry, settings = kopf.OperatorRegistry(), operator_settings()
        register(registry, settings, part, store, metrics, on_cleanup=on_cleanup)
        try:
            await kopf.operator(
                registry=registry,
                settings=settings,
                standalone=True,
                clusterwide=not where,
                namespaces=where,
                stop_flag=stop,
                # Not from getpass: images without a passwd entry for the user have no answer there.
                identity=cast("Any", "plimsoll"),
            )
        finally:
            stop.set()

    ended = await asyncio.gather(*(feed(*part) for part in parts), return_exceptions=True)
    for outcome in ended:
        if isinstance(outcome, BaseException):
            raise outcome


def _handler(kind: Kind, store: Store, metrics: Metrics) -> Callable[..., Awaitable[None]]:
    count, last = metrics.feed_events.labels(kind.name), metrics.feed_last_event.labels(kind.name)

    async def handle(event: kopf.RawEvent, **_: object) -> None:
        count.inc()
        last.set(time.time())
        manifest = event["object"]
        try:
            if event["type"] == "DELETED":
                store.drop(kind, str(manifest["metadata"]["uid"]))
            else:
                # Items of a list come without their type.
                store.put(kind, {"apiVersion": kind.api_version, "kind": kind.name, **manifest})
        except Exception:  # noqa: BLE001
            # A surprise in one object must not cost the others, and must not look like a feed that has stopped.
            metadata = manifest.get("metadata", {})
            _log.exception("cannot read %s %s", kind.name, metadata.get("name"))
            if metadata.get("uid"):
                store.pass_over(kind, str(metadata["uid"]), str(metadata.get("resourceVersion", "")))

    return handle


async def _login() -> kopf.ConnectionInfo:
    """The same credentials as the client's. kopf asks again when the API server refuses them."""
    configuration = await load_configuration()
    certificate: dict[str, Any] = {}
    if configuration.ca_cert_data:
        certificate["ca_data"] = configuration.ca_cert_data
    elif configuration.ssl_ca_cert:
        certificate["ca_path"] = configuration.ssl_ca_cert
    return kopf.ConnectionInfo(
        server=configuration.host,
        insecure=not configuration.verify_ssl,
        username=configuration.username or None,
        password=configuration.password or None,
        scheme="Bearer",
        token=await bearer_token(configuration) or None,
        certificate_path=configuration.cert_file or None,
        private_key_path=configuration.key_file or None,
        proxy_url=configuration.proxy,
        **certificate,
    )
