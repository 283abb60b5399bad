"""Requests to the API server over the official client's transport: login, rate, repetition, and the guard of writes."""

import asyncio
import base64
import json
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, Self
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import client as k8s
from kubernetes.aio import config as k8s_config

from plimsoll import __version__
from plimsoll.controller.metrics import Metrics
from plimsoll.controller.throttle import TokenBucket, asked_for, pause_seconds

Manifest = Mapping[str, Any]

UNREACHABLE = "Unreachable"
_TIMEOUT_SECONDS = 30
_CONNECT_SECONDS = 5
_log = logging.getLogger(__name__)
_SERVICE_ACCOUNT_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


class ApiError(Exception):
    """The API server refused a request, or could not be reached (status 0)."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason

    @property
    def refused(self) -> bool:
        """Retrying alone does not help: a person or another decision must change something."""
        return self.status in (400, 401, 403, 404, 405, 409, 422)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API server said."""

    status: int
    data: bytes
    retry_after: float | None
    """The seconds that it asks to wait."""


class Transport:
    """Sends requests. Use as an async context manager."""

    def __init__(
        self,
        configuration: k8s.Configuration,
        metrics: Metrics,
        *,
        rate: float = 200.0,
        burst: int = 300,
        in_flight: int = 16,
        attempts: int = 5,
        identity: str = "",
        guard: Callable[[], None] | None = None,
    ) -> None:
        """`guard` is asked right before each write is sent, and raises where it must not be."""
        # The slots limit requests, and each watch keeps a connection of its own.
        configuration.connection_pool_maxsize = 0
        # Like kopf: the proxy of the kubeconfig counts, that of the environment does not.
        configuration.client_session_kwargs = {"trust_env": False}
        if guard is not None:
            configuration.trace_configs = [_once_more_when_connected(guard)]
        self.configuration = configuration
        self._api = k8s.ApiClient(configuration)
        self._bucket = TokenBucket(rate, burst)
        self._slots = asyncio.Semaphore(in_flight)
        self._metrics, self._attempts, self._guard = metrics, attempts, guard
        self._agent = f"plimsoll/{__version__}" + (f" ({identity})" if identity else "")
        self._writing: set[asyncio.Task[Answer]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._api.close()  # type: ignore[no-untyped-call]

    async def settle(self, seconds: float) -> None:
        """Wait for writes under way, also for those that nobody waits for any more; what takes longer is torn off."""
        if self._writing:
            _, late = await asyncio.wait(self._writing, timeout=seconds)
            for task in late:
                task.cancel()

    async def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        *,
        body: Manifest | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        verb: str = "",
    ) -> dict[str, Any]:
        """One request, within rate and concurrency. Returns what the API server says.

        Raises:
            ApiError: as `fetch` does.
        """
        data = await self.fetch(method, path, query, body=body, content_type=content_type, accept=accept, verb=verb)
        try:
            content: dict[str, Any] = json.loads(data) if data else {}
        except ValueError as error:
            raise ApiError(0, "Unreadable", f"{method} {path}: the answer is not JSON") from error
        return content

    async def fetch(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        *,
        body: Manifest | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        verb: str = "",
    ) -> bytes:
        """The same, with the answer as it comes.

        It is repeated when the server asks to come back later, and after other failures when it only reads. A write
        that fails otherwise is left to the caller, who knows whether it is still wanted.

        Raises:
            ApiError: for every answer that is not a success, and when the server cannot be reached.
        """
        url = f"{self.configuration.host}{path}{f'?{urlencode(query)}' if query else ''}"
        for attempt in range(1, self._attempts + 1):
            await self._bucket.take()
            last = attempt == self._attempts
            async with self._slots:
                try:
                    answer = await self._send(method, url, body, content_type, accept)
                except ApiError as error:
                    if last or method != "GET" or error.reason != UNREACHABLE:
                        raise
                    answer = None
            if answer is not None:
                self._metrics.api_requests.labels(verb or method.lower(), str(answer.status)).inc()
                busy = answer.status in (429, 503)
                if last or not (busy or (method == "GET" and answer.status >= 500)):
                    break
                if busy and answer.retry_after is not None:
                    # The whole client waits, not just this request: the server is protecting itself.
                    self._bucket.close_for(answer.retry_after)
                    continue
            await asyncio.sleep(pause_seconds(attempt))
        assert answer is not None  # noqa: S101  (the last attempt raises instead)
        if not 200 <= answer.status < 300:
            raise _error(method, path, answer.status, answer.data)
        return answer.data

    @asynccontextmanager
    async def stream(
        self, path: str, query: Mapping[str, str], *, seconds: float, silence_seconds: float, verb: str
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """A GET whose answer goes on: piece by piece, at most `seconds` and without more silence than allowed.

        It takes part in the rate and not in the concurrency, and is not repeated.

        Raises:
            ApiError: for every answer that is not a success, and when the connection breaks.
        """
        await self._bucket.take()
        url = f"{self.configuration.host}{path}?{urlencode(query)}"
        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=_CONNECT_SECONDS, sock_read=silence_seconds)
        headers = {"Accept": "application/json", "User-Agent": self._agent} | await self._login()
        status = 0
        try:
            answer = await self._api.call_api("GET", url, headers, _request_timeout=timeout)
            response: aiohttp.ClientResponse = answer.response
            async with response:
                status = int(response.status)
                self._metrics.api_requests.labels(verb, str(status)).inc()
                if status != 200:
                    retry_after = asked_for(response.headers.get("Retry-After"))
                    if status in (429, 503) and retry_after is not None:
                        self._bucket.close_for(retry_after)
                    raise _error("GET", path, status, await response.read())
                yield response.content.iter_any()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if not status:
                self._metrics.api_requests.labels(verb, "0").inc()
            reason = str(error) or type(error).__name__
            raise ApiError(0, UNREACHABLE, f"GET {url}: {reason}") from error

    async def _send(self, method: str, url: str, body: Manifest | None, content_type: str, accept: str) -> Answer:
        """One attempt. A write that has begun goes on when its caller is cancelled: `settle` waits for it."""
        attempt = self._once(method, url, body, content_type, accept)
        if method == "GET":
            return await attempt
        task = asyncio.create_task(attempt)
        self._writing.add(task)
        task.add_done_callback(self._written)
        return await asyncio.shield(task)

    def _written(self, task: asyncio.Task[Answer]) -> None:
        self._writing.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, ApiError):
            _log.error("a write failed", exc_info=error)

    async def _once(self, method: str, url: str, body: Manifest | None, content_type: str, accept: str) -> Answer:
        headers = {"Accept": accept, "Content-Type": content_type, "User-Agent": self._agent} | await self._login()
        if self._guard is not None and method != "GET":
            self._guard()
        try:
            response = await self._api.call_api(
                method, url, headers, body=body, _request_timeout=aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS)
            )
            data = await response.read()  # type: ignore[no-untyped-call]
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._metrics.api_requests.labels(method.lower(), "0").inc()
            reason = str(error) or type(error).__name__
            raise ApiError(0, UNREACHABLE, f"{method} {url}: {reason}") from error
        return Answer(int(response.status), data, asked_for(response.headers.get("Retry-After")))

    async def _login(self) -> dict[str, str]:
        token = await bearer_token(self.configuration)
        if token:
            return {"Authorization": f"Bearer {token}"}
        if self.configuration.username and self.configuration.password:
            pair = f"{self.configuration.username}:{self.configuration.password}"
            return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
        return {}


async def load_configuration() -> k8s.Configuration:
    """Where the API server is and how to log in: KUBECONFIG if set, else the pod's service account, else ~/.kube.

    Raises:
        ApiError: when there is none of them.
    """
    configuration = k8s.Configuration()
    try:
        if not os.environ.get("KUBECONFIG") and _in_pod():
            k8s_config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        else:
            await k8s_config.load_kube_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    except k8s_config.ConfigException as error:
        raise ApiError(0, "NoCredentials", f"no way to log in to a Kubernetes API server: {error}") from error
    return configuration


def _in_pod() -> bool:
    return _SERVICE_ACCOUNT_TOKEN.exists()


async def bearer_token(configuration: k8s.Configuration) -> str:
    """The token of the configuration, read anew where it rotates; empty when it logs in by certificate or password."""
    header = await configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
    # The client writes "bearer" inside a pod and "Bearer" from a kubeconfig.
    return header.rpartition(" ")[2] if header else ""


def _once_more_when_connected(guard: Callable[[], None]) -> aiohttp.TraceConfig:
    """Asks the guard again when a new connection stands: making it takes time, in which a Lease may run out."""

    async def begin(_: object, context: SimpleNamespace, request: aiohttp.TraceRequestStartParams) -> None:
        context.method = request.method

    async def connected(_: object, context: SimpleNamespace, __: object) -> None:
        if context.method != "GET":
            guard()

    trace = aiohttp.TraceConfig()
    trace.on_request_start.append(begin)
    trace.on_connection_create_end.append(connected)
    return trace


def _error(method: str, path: str, status: int, data: bytes) -> ApiError:
    try:
        answer = json.loads(data)
    except ValueError:
        answer = {}
    reason = str(answer.get("reason") or "") if isinstance(answer, dict) else ""
    message = str(answer.get("message") or "") if isinstance(answer, dict) else ""
    return ApiError(status, reason or "Error", message or f"{method} {path}: the API server answered {status}")
