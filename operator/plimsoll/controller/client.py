"""The way out to the API server: a few verbs on plain dicts.

Server-side apply must send only the fields that Plimsoll owns; typed models with defaults make that hard, so there
are none.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

from plimsoll.controller.kinds import Kind, kind_of
from plimsoll.controller.transport import ApiError, Manifest, Transport, bearer_token, load_configuration
from plimsoll.controller.wire import HeadPage, Page, UnreadableError, head_page_of, page_of

_METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_APPLY = "application/apply-patch+yaml"
_PAGE = 500
_SILENCE_SECONDS = 90.0
"""A watch that brings nothing for so long is taken for dead: a bookmark is due every minute."""
_MARGIN_SECONDS = 15.0
"""What a watch may last beyond the time that the API server was asked for."""
AnyPage = TypeVar("AnyPage", Page, HeadPage)


@dataclass(frozen=True, slots=True)
class Listed:
    """One object of a metadata list."""

    uid: str
    namespace: str
    name: str
    version: str


class Client(Transport):
    """Reads and writes objects."""

    namespaces: tuple[str, ...] = ()
    """Lists reach over these only, as the feed does; none means all."""

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

    async def read(self, kind: Kind, namespace: str, name: str) -> Manifest | None:
        """One object; None when there is none."""
        try:
            return await self.request("GET", kind.path(namespace, name), {}, verb="get")
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def replace(self, kind: Kind, manifest: Manifest, manager: str) -> dict[str, Any]:
        """Write a whole object over the version that it was made from; fails with 409 when that is not the newest."""
        metadata = manifest["metadata"]
        path = kind.path(metadata.get("namespace", ""), metadata["name"])
        return await self.request("PUT", path, {"fieldManager": manager}, body=manifest, verb="replace")

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
        """What exists of a kind where the feed looks, by its selectors, read from the API server's own store."""
        found: list[Listed] = []
        for namespace in kind.scopes(self.namespaces):
            async for page in self._pages(kind, namespace, _METADATA_LIST, head_page_of):
                heads = (item.metadata for item in page.items or ())
                found.extend(Listed(head.uid, head.namespace, head.name, head.resource_version) for head in heads)
        return found

    def pages(self, kind: Kind, namespace: str) -> AsyncIterator[Page]:
        """The objects of a kind by its selectors, in one namespace or everywhere: 500 at a time, as at one moment.

        Raises:
            ApiError: 410 when that moment is too long ago to go on.
        """
        return self._pages(kind, namespace, "application/json", page_of)

    async def _pages(
        self, kind: Kind, namespace: str, accept: str, decode: Callable[[bytes], AnyPage]
    ) -> AsyncIterator[AnyPage]:
        path, query = kind.path(namespace), {"limit": str(_PAGE), **_selectors(kind)}
        while True:
            data = await self.fetch("GET", path, query, accept=accept, verb="list")
            try:
                page = decode(data)
            except UnreadableError as error:
                raise ApiError(0, "Unreadable", f"GET {path}: the answer is not JSON of a list: {error}") from error
            yield page
            if not page.metadata.token:
                return
            query["continue"] = page.metadata.token

    def watch(
        self, kind: Kind, namespace: str, version: str, seconds: float
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """What changes after a version, with bookmarks: JSON, one event a line, in pieces of any size.

        Raises:
            ApiError: 410 when the version is too old; 0 when the connection breaks or is dead.
        """
        query = {"watch": "true", "allowWatchBookmarks": "true", "resourceVersion": version, **_selectors(kind)}
        query["timeoutSeconds"] = str(round(seconds))
        limits = {"seconds": seconds + _MARGIN_SECONDS, "silence_seconds": _SILENCE_SECONDS}
        return self.stream(kind.path(namespace), query, **limits, verb="watch")

    async def find(self, kind: Kind, namespace: str, name: str) -> Manifest | None:
        """One object; None when there is none. By a list, so that no right is needed beyond those of the feed."""
        query = {"fieldSelector": f"metadata.name={name}"}
        answer = await self.request("GET", kind.path(namespace), query, verb="list")
        items: list[Manifest] = answer.get("items") or []
        return items[0] if items else None

    async def resources(self, prefix: str) -> frozenset[str]:
        """What an API (`Kind.prefix`) serves; empty when the cluster does not have it."""
        try:
            answer = await self.request("GET", prefix, {}, verb="discover")
        except ApiError as error:
            if error.status == 404:
                return frozenset()
            raise
        return frozenset(str(resource.get("name")) for resource in answer.get("resources") or ())


def _selectors(kind: Kind) -> dict[str, str]:
    given = {"labelSelector": kind.label_selector, "fieldSelector": kind.field_selector}
    return {name: selector for name, selector in given.items() if selector}


__all__ = ["ApiError", "Client", "Listed", "bearer_token", "load_configuration"]
