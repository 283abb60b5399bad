"""How changes come in: kopf for Plimsoll's own kinds, reflectors for what clusters have by the ten thousands.

Of kopf only `on.event`: it writes nothing to anybody's objects. The handlers are idempotent, return nothing (kopf would
store it in the object's status) and never raise (kopf would log and forget).
"""

import asyncio
import itertools
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, cast

import kopf

from plimsoll.controller.client import Client, bearer_token, load_configuration
from plimsoll.controller.kinds import RESOURCES, Kind
from plimsoll.controller.metrics import Metrics
from plimsoll.controller.reflector import Reflector
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


class Feed:
    """Everything that is watched, in all namespaces or in some."""

    def __init__(
        self, client: Client, kinds: Sequence[Kind], namespaces: Sequence[str], store: Store, metrics: Metrics
    ) -> None:
        """`client` is for watches alone: they must not wait behind writes."""
        self._namespaces, self._store, self._metrics = tuple(namespaces), store, metrics
        self.by_kopf = [kind for kind in kinds if kind in RESOURCES.values()]
        """What kopf watches. Whether it is complete, kopf does not say."""
        self._reflectors = [
            Reflector(client, kind, namespace, store, metrics)
            for kind in kinds
            if kind not in self.by_kopf
            for namespace in kind.scopes(namespaces)
        ]

    async def listed(self) -> None:
        """Return when the store has had a complete list of every kind that kopf does not watch."""
        for reflector in self._reflectors:
            await reflector.listed.wait()

    async def run(self, stop: asyncio.Event, *, on_cleanup: Callable[[], Awaitable[None]]) -> None:
        """Feed the store until `stop`.

        Raises:
            Exception: what ended a part of it; the others end with it.
        """
        # Before kopf starts: at its end it cancels every task that is younger than itself.
        tasks = [asyncio.create_task(reflector.run(), name="reflector") for reflector in self._reflectors]
        for task in tasks:
            task.add_done_callback(lambda _: stop.set())
        try:
            ended = await asyncio.gather(
                *(self._run_kopf(*part, stop, on_cleanup) for part in self._parts()), return_exceptions=True
            )
        finally:
            for task in tasks:
                task.cancel()
            reflected = await asyncio.gather(*tasks, return_exceptions=True)
        # Reflectors end by being cancelled, kopf does not.
        failures = (item for item in reflected if not isinstance(item, asyncio.CancelledError))
        for outcome in (*failures, *ended):
            if isinstance(outcome, BaseException):
                raise outcome

    def _parts(self) -> list[tuple[Sequence[Kind], tuple[str, ...]]]:
        """Kinds and where to watch them. kopf confines all kinds of an operator or none: two of them run then."""
        confined = [kind for kind in self.by_kopf if kind.scopes(self._namespaces) != ("",)]
        free = [kind for kind in self.by_kopf if kind not in confined]
        return [part for part in ((confined, self._namespaces), (free, ())) if part[0]]

    async def _run_kopf(
        self,
        kinds: Sequence[Kind],
        namespaces: Sequence[str],
        stop: asyncio.Event,
        on_cleanup: Callable[[], Awaitable[None]],
    ) -> None:
        registry, settings = kopf.OperatorRegistry(), operator_settings()
        register(registry, settings, kinds, self._store, self._metrics, on_cleanup=on_cleanup)
        try:
            await kopf.operator(
                registry=registry,
                settings=settings,
                standalone=True,
                clusterwide=not namespaces,
                namespaces=namespaces,
                stop_flag=stop,
                # Not from getpass: images without a passwd entry for the user have no answer there.
                identity=cast("Any", "plimsoll"),
            )
        finally:
            stop.set()


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
                version, namespace = (str(metadata.get(key, "")) for key in ("resourceVersion", "namespace"))
                store.pass_over(kind, str(metadata["uid"]), version, namespace)

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
