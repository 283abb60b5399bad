"""Lists and watches of an API server that forgets, breaks off, is busy or silent: a small real one on localhost."""

import asyncio
import contextlib
import json

import pytest
from aiohttp import web
from kubernetes.aio import client as k8s

from plimsoll.controller import client as client_module
from plimsoll.controller import reflector as reflector_module
from plimsoll.controller import throttle
from plimsoll.controller.client import ApiError, Client
from plimsoll.controller.extract import facts_of
from plimsoll.controller.kinds import NODE, RESOURCE_QUOTA
from plimsoll.controller.metrics import Metrics
from plimsoll.controller.reflector import Reflector
from plimsoll.controller.store import Store

BREAK = "break"
"""In place of a line: the connection is torn in the middle of one."""
HANG = "hang"


def node(name, version, **spec):
    return {"metadata": {"name": name, "uid": f"uid-{name}", "resourceVersion": str(version)}, "spec": spec}


def quota(namespace, name, version):
    return {
        "metadata": {"name": name, "namespace": namespace, "uid": f"uid-{name}", "resourceVersion": str(version)},
        "spec": {"hard": {"pods": "4"}},
    }


def page(version, *items, token=""):
    return {"metadata": {"resourceVersion": str(version), "continue": token}, "items": list(items)}


def event(type_, item):
    return {"type": type_, "object": item}


def bookmark(version):
    return event("BOOKMARK", {"metadata": {"resourceVersion": str(version)}})


def expired():
    return event("ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"})


class ApiServer:
    """Plays a script of lists and one of watches; then lists the last again, and keeps watches open."""

    def __init__(self, lists, watches=()):
        self.lists, self.watches = list(lists), list(watches)
        self.asked = []
        """Lists and watches in the order that they were asked for, with where they were to begin."""
        self.quiet = asyncio.Event()
        """Set when a watch comes for which the script has nothing."""
        self.over = asyncio.Event()

    async def answer(self, request):
        if request.query.get("watch"):
            assert int(request.query["timeoutSeconds"]) > 60
            assert request.query["allowWatchBookmarks"] == "true"
            return await self._watch(request)
        assert request.query["limit"] == "500"
        self.asked.append(("list", request.query.get("continue", "")))
        found = self.lists.pop(0) if len(self.lists) > 1 else self.lists[0]
        return _refusal(found) if isinstance(found, int) else web.json_response(found)

    async def _watch(self, request):
        self.asked.append(("watch", request.query["resourceVersion"]))
        script = self.watches.pop(0) if self.watches else None
        if isinstance(script, int):
            return _refusal(script)
        answer = web.StreamResponse()
        answer.enable_chunked_encoding()
        await answer.prepare(request)
        for line in script or ():
            if line == HANG:
                await self.over.wait()
            if line == BREAK:
                await answer.write(b'{"type": "DELETED", "obj')
                request.transport.close()
                return answer
            await answer.write(json.dumps(line).encode() + b"\n")
        if script is None:
            self.quiet.set()
            await self.over.wait()
        return answer


def _refusal(status):
    return web.json_response({"kind": "Status", "reason": "Told", "message": f"told to answer {status}"}, status=status)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Pauses of a hundredth."""
    monkeypatch.setattr(throttle, "_FIRST_PAUSE_SECONDS", 0.005)
    monkeypatch.setattr(reflector_module, "_LONGEST_PAUSE_SECONDS", (0.02, 0.03))


@contextlib.asynccontextmanager
async def serving(server, store, kind=NODE, namespace=""):
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        async with Client(k8s.Configuration(host=host), Metrics(), attempts=2) as client:
            reflector = Reflector(client, kind, namespace, store, Metrics())
            task = asyncio.create_task(reflector.run())
            try:
                yield reflector, task
            finally:
                task.cancel()
                await asyncio.wait([task])
    finally:
        server.over.set()
        await runner.cleanup()


async def played(server, store, **options):
    """Run until the script is over."""
    async with serving(server, store, **options) as (reflector, _):
        await asyncio.wait_for(server.quiet.wait(), 5)
        assert reflector.listed.is_set()


def names(store, kind=NODE):
    return {uid.removeprefix("uid-") for uid in store.uids(kind)}


async def test_a_list_is_read_page_by_page_and_watched_from_where_it_stands():
    pages = [page(7, node("a", 1), token="t1"), page(7, node("b", 2), token="t2"), page(7, node("c", 3))]
    server, store = ApiServer(pages, [[event("ADDED", node("d", 8)), event("DELETED", node("a", 9))]]), Store()
    await played(server, store)
    assert server.asked[:4] == [("list", ""), ("list", "t1"), ("list", "t2"), ("watch", "7")]
    assert names(store) == {"b", "c", "d"}


async def test_nothing_is_complete_before_the_last_page():
    server, store = ApiServer([page(7, node("a", 1), token="t1"), 500]), Store()
    async with serving(server, store) as (reflector, _):
        while len(server.asked) < 5:  # noqa: ASYNC110  (the server cannot know when it has been asked often enough)
            await asyncio.sleep(0.01)
        assert names(store) == {"a"}
        assert not reflector.listed.is_set()


async def test_a_list_that_takes_too_long_begins_anew():
    server, store = ApiServer([page(7, node("a", 1), token="t1"), 410, page(9, node("b", 2))]), Store()
    await played(server, store)
    assert server.asked == [("list", ""), ("list", "t1"), ("list", ""), ("watch", "9")]
    assert names(store) == {"b"}, "what was in the first list only is gone"


@pytest.mark.parametrize("end", [[], [BREAK]], ids=["ended", "broken off"])
async def test_a_watch_goes_on_where_the_last_one_ended(end):
    watches = [[event("ADDED", node("b", 8)), *end], [bookmark(20), *end], [event("ADDED", node("c", 21)), *end]]
    server, store = ApiServer([page(7, node("a", 1))], watches), Store()
    await played(server, store)
    assert server.asked == [("list", ""), ("watch", "7"), ("watch", "8"), ("watch", "20"), ("watch", "21")]
    assert names(store) == {"a", "b", "c"}


@pytest.mark.parametrize("watch", [410, [expired()]], ids=["at once", "later"])
async def test_after_a_gap_everything_is_listed_anew_and_what_is_gone_is_dropped(watch):
    lists = [page(7, node("a", 1), node("b", 2)), page(30, node("b", 12, unschedulable=True), node("c", 13))]
    server, store = ApiServer(lists, [watch]), Store()
    await played(server, store)
    assert server.asked[1:] == [("watch", "7"), ("list", ""), ("watch", "30")]
    assert {item.name: item.unschedulable_reason for item in store.snapshot().nodes} == {
        "b": "cordoned",
        "c": "not ready",
    }


async def test_one_namespace_listed_anew_leaves_the_others_alone():
    store = Store()
    store.put(RESOURCE_QUOTA, quota("other", "theirs", 1))
    lists = [page(7, quota("chat", "ours", 2)), page(30)]
    await played(ApiServer(lists, [410]), store, kind=RESOURCE_QUOTA, namespace="chat")
    assert names(store, RESOURCE_QUOTA) == {"theirs"}


@pytest.mark.parametrize("status", [429, 500, 503, 504])
async def test_a_failing_api_server_costs_no_list(status):
    server, store = ApiServer([status, page(7, node("a", 1))], [status, status]), Store()
    await played(server, store)
    assert server.asked == [("list", "")] * 2 + [("watch", "7")] * 3


async def test_an_event_that_is_none_may_have_been_a_change():
    server, store = ApiServer([page(7), page(9, node("a", 8))], [[{"type": "ADDED"}]]), Store()
    await played(server, store)
    assert server.asked == [("list", ""), ("watch", "7"), ("list", ""), ("watch", "9")]
    assert names(store) == {"a"}


async def test_a_silent_connection_is_given_up(monkeypatch):
    monkeypatch.setattr(client_module, "_SILENCE_SECONDS", 0.1)
    server, store = ApiServer([page(7)], [[bookmark(12), HANG]]), Store()
    await played(server, store)
    assert server.asked == [("list", ""), ("watch", "7"), ("watch", "12")]


async def test_an_object_that_cannot_be_read_costs_no_other_and_looks_like_no_lost_event(monkeypatch):
    def poisoned(kind, manifest):
        if manifest["metadata"]["name"] == "a":
            raise ValueError("nobody has seen such a node before")
        return facts_of(kind, manifest)

    monkeypatch.setattr("plimsoll.controller.store.facts_of", poisoned)
    badly_typed = {**node("b", 2), "spec": {"taints": "none"}}
    server, store = (
        ApiServer([page(7, node("a", 1), badly_typed, node("c", 3))], [[event("ADDED", node("d", 8))]]),
        Store(),
    )
    await played(server, store)
    assert [item.name for item in store.snapshot().nodes] == ["c", "d"]
    assert store.stale(NODE, {"uid-a": "1", "uid-b": "2"}) == frozenset()


async def test_a_refusal_is_borne_at_the_start_and_ends_the_feed_when_it_lasts(monkeypatch):
    monkeypatch.setattr(reflector_module, "_PATIENCE_SECONDS", 0.3)
    server, store = ApiServer([403] * 30 + [page(7)], [403] * 1000), Store()
    async with serving(server, store) as (reflector, task):
        await asyncio.wait_for(reflector.listed.wait(), 5)
        with pytest.raises(ApiError, match="told to answer 403"):
            await asyncio.wait_for(task, 5)
