"""The way out to the API server: a few verbs on plain dicts over the official client's transport.

Server-side apply must send only the fields that Plimsoll owns; typed models with defaults make that hard, so there
are none.
"""

import asyncio
import base64
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import client as k8s
from kubernetes.aio import config as k8s_config

from plimsoll.controller.kinds import Kind, kind_of
from plimsoll.controller.metrics import Metrics
from plimsoll.controller.throttle import TokenBucket

Manifest = Mapping[str, Any]

_METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_APPLY = "application/apply-patch+yaml"
_ATTEMPTS = 5
_TIMEOUT_SECONDS = 30
_PAGE = 500
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
class Listed:
    """One object of a metadata list."""

    uid: str
    namespace: str
    name: str


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


class Client:
    """Reads and writes objects. Use as an async context manager."""

    def __init__(
        self,
        configuration: k8s.Configuration,
        metrics: Metrics,
        *,
        rate: float = 200.0,
        burst: int = 300,
        in_flight: int = 16,
    ) -> None:
        configuration.connection_pool_maxsize = max(32, in_flight * 2)
        # Like kopf: the proxy of the kubeconfig counts, that of the environment does not.
        configuration.client_session_kwargs = {"trust_env": False}
        self.configuration = configuration
        self._api = k8s.ApiClient(configuration)
        self._bucket = TokenBucket(rate, burst)
        self._slots = asyncio.Semaphore(in_flight)
        self._metrics = metrics

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._api.close()  # type: ignore[no-untyped-call]

    # --- Verbs -------------------------------------------------------------------------------------------------------

    async def apply(self, manifest: Manifest, manager: str, *, force: bool = True) -> dict[str, Any]:
        """Server-side apply of the complete set of fields that `manager` owns. Returns the object as it is now."""
        return await self._apply(manifest, manager, "", force)

    async def apply_status(self, manifest: Manifest, manager: str) -> dict[str, Any]:
        """Server-side apply of a status; fails with 404 when the object is gone."""
        return await self._apply(manifest, manager, "/status", True)

    async def _apply(self, manifest: Manifest, manager: str, subresource: str, force: bool) -> dict[str, Any]:
        metadata = manifest["metadata"]
        path = kind_of(manifest).path(metadata.get("namespace", ""), metadata["name"]) + subresource
        query = {"fieldManager": manager, "force": "true" if force else "false", "fieldValidation": "Strict"}
        verb = "apply_status" if subresource else "apply"
        return await self.request("PATCH", path, query, body=manifest, content_type=_APPLY, verb=verb)

    async def create(self, kind: Kind, manifest: Manifest, manager: str) -> dict[str, Any]:
        """Create an object; fails with 409 when it exists."""
        path = kind.path(manifest["metadata"].get("namespace", ""))
        return await self.request("POST", path, {"fieldManager": manager}, body=manifest, verb="create")

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str, version: str = "") -> None:
        """Delete that very object, as it was at that resource version, if one is given.

        Another object of that name, or a later version, gives 409. An object that is gone is fine.
        """
        preconditions = {"uid": uid, **({"resourceVersion": version} if version else {})}
        body = {"preconditions": preconditions, "propagationPolicy": "Background"}
        try:
            await self.request("DELETE", kind.path(namespace, name), {}, body=body, verb="delete")
        except ApiError as error:
            if error.status != 404:
                raise

    async def list_metadata(self, kind: Kind) -> list[Listed]:
        """What exists of a kind, by the selectors that the feed uses, read from the store of the API server itself."""
        query = {"limit": str(_PAGE)}
        if kind.label_selector:
            query["labelSelector"] = kind.label_selector
        if kind.field_selector:
            query["fieldSelector"] = kind.field_selector
        found: list[Listed] = []
        while True:
            page = await self.request("GET", kind.path(), query, accept=_METADATA_LIST, verb="list")
            for item in page.get("items") or ():
                metadata = item["metadata"]
                found.append(Listed(metadata["uid"], metadata.get("namespace", ""), metadata["name"]))
            token = (page.get("metadata") or {}).get("continue")
            if not token:
                return found
            query["continue"] = token

    async def find(self, kind: Kind, namespace: str, name: str) -> Manifest | None:
        """One object; None when there is none. By a list, so that no right is needed beyond those of the feed."""
        query = {"fieldSelector": f"metadata.name={name}"}
        answer = await self.request("GET", kind.path(namespace), query, verb="list")
        items: list[Manifest] = answer.get("items") or []
        return items[0] if items else None

    async def serves(self, kind: Kind) -> bool:
        """Whether the cluster has the kind's API at that version."""
        try:
            answer = await self.request("GET", kind.prefix, {}, verb="discover")
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return any(resource.get("name") == kind.plural for resource in answer.get("resources") or ())

    # --- Transport ---------------------------------------------------------------------------------------------------

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
        """One request, within rate and concurrency, repeated as long as the server asks to come back later.

        Raises:
            ApiError: for every answer that is not a success, and when the server cannot be reached.
        """
        url = f"{self.configuration.host}{path}{f'?{urlencode(query)}' if query else ''}"
        for attempt in range(1, _ATTEMPTS + 1):
            await self._bucket.take()
            async with self._slots:
                status, text, retry_after = await self._once(method, url, body, content_type, accept)
            self._metrics.api_requests.labels(verb or method.lower(), str(status)).inc()
            if status not in (429, 503) or retry_after is None or attempt == _ATTEMPTS:
                break
            # The whole client waits, not just this request: the server is protecting itself.
            self._bucket.close_for(retry_after)
        if 200 <= status < 300:
            answer: dict[str, Any] = json.loads(text) if text else {}
            return answer
        raise _error(method, path, status, text)

    async def _once(
        self, method: str, url: str, body: Manifest | None, content_type: str, accept: str
    ) -> tuple[int, str, float | None]:
        headers = {"Accept": accept, "Content-Type": content_type, "User-Agent": "plimsoll"} | await self._login()
        try:
            response = await self._api.call_api(
                method, url, headers, body=body, _request_timeout=aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS)
            )
            data = await response.read()  # type: ignore[no-untyped-call]
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._metrics.api_requests.labels(method.lower(), "0").inc()
            reason = str(error) or type(error).__name__
            raise ApiError(0, "Unreachable", f"{method} {url}: {reason}") from error
        return int(response.status), data.decode(), _retry_after(response.headers.get("Retry-After"))

    async def _login(self) -> dict[str, str]:
        token = await bearer_token(self.configuration)
        if token:
            return {"Authorization": f"Bearer {token}"}
        if self.configuration.username and self.configuration.password:
            pair = f"{self.configuration.username}:{self.configuration.password}"
            return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
        return {}


async def bearer_token(configuration: k8s.Configuration) -> str:
    """The token of the configuration, read anew where it rotates; empty when it logs in by certificate or password."""
    header = await configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
    # The client writes "bearer" inside a pod and "Bearer" from a kubeconfig.
    return header.rpartition(" ")[2] if header else ""


def _retry_after(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return min(60.0, max(0.0, float(text)))
    except ValueError:
        return 1.0


def _error(method: str, path: str, status: int, text: str) -> ApiError:
    try:
        answer = json.loads(text)
    except ValueError:
        answer = {}
    reason = str(answer.get("reason") or "") if isinstance(answer, dict) else ""
    message = str(answer.get("message") or "") if isinstance(answer, dict) else ""
    return ApiError(status, reason or "Error", message or f"{method} {path}: the API server answered {status}")
