"""The way to an API server that fails: a small real one on localhost that answers as it is told to."""

import asyncio
import contextlib
import itertools
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from aiohttp import web
from kubernetes.aio import client as k8s

from plimsoll.controller import throttle
from plimsoll.controller.client import ApiError, Client
from plimsoll.controller.kinds import CONFIG_MAP, NODE
from plimsoll.controller.metrics import Metrics
from plimsoll.controller.throttle import asked_for

DOCUMENT = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "chat"}}
AN_ITEM = {"metadata": {"uid": "u1", "name": "n1", "resourceVersion": "5"}}


class FaultyServer:
    """Plays its script, one answer per request, and then answers well."""

    def __init__(self):
        self.script = []
        self.requests = []
        self.finished = []
        self.arrived, self.released = asyncio.Event(), asyncio.Event()

    async def answer(self, request):
        self.requests.append((time.monotonic(), request.method, request.path))
        await request.read()
        self.arrived.set()
        what, headers = self.script.pop(0) if self.script else ("well", {})
        if what == "cut":
            request.transport.close()
            return web.Response()
        if what == "half":
            # Announces more than it sends.
            answer = web.StreamResponse(headers={"Content-Length": "500"})
            await answer.prepare(request)
            await answer.write(b'{"items": [')
            request.transport.close()
            return answer
        if what == "hang":
            await self.released.wait()
        if what == "page":
            return web.Response(text="<html>log in first</html>", content_type="text/html")
        if isinstance(what, int):
            status = {"kind": "Status", "reason": "Told", "message": f"told to answer {what}"}
            return web.json_response(status, status=what, headers=headers)
        self.finished.append(request.method)
        return web.json_response({"metadata": {}, "items": [AN_ITEM]})

    @property
    def methods(self):
        return [method for _, method, _ in self.requests]

    @property
    def waited(self):
        return [later - earlier for (earlier, *_), (later, *_) in itertools.pairwise(self.requests)]


@pytest.fixture
def quick(monkeypatch):
    """Pauses of a hundredth."""
    monkeypatch.setattr(throttle, "_FIRST_PAUSE_SECONDS", 0.005)


@contextlib.asynccontextmanager
async def running(**options):
    server = FaultyServer()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        async with Client(k8s.Configuration(host=f"http://127.0.0.1:{port}"), Metrics(), **options) as client:
            yield client, server
    finally:
        server.released.set()
        await runner.cleanup()


READ_FAULTS = [429, 500, 502, 503, 504, "cut", "half"]


@pytest.mark.parametrize("fault", READ_FAULTS)
async def test_a_read_that_fails_is_tried_again(quick, fault):
    async with running() as (client, server):
        server.script = [(fault, {})] * 3
        (found,) = await client.list_metadata(NODE)
        assert (found.uid, found.version) == ("u1", "5")
        assert len(server.requests) == 4


@pytest.mark.parametrize("fault", [429, 503])
async def test_a_write_is_tried_again_when_the_server_is_busy_also_without_a_word_how_long(quick, fault):
    async with running() as (client, server):
        server.script = [(fault, {})] * 3
        await client.apply(DOCUMENT, "tester")
        assert server.methods == ["PATCH"] * 4


@pytest.mark.parametrize("fault", [500, 504, "cut", "half"])
async def test_a_write_that_may_have_arrived_is_left_to_its_caller(quick, fault):
    async with running() as (client, server):
        server.script = [(fault, {})]
        with pytest.raises(ApiError) as caught:
            await client.apply(DOCUMENT, "tester")
        assert not caught.value.refused
        assert len(server.requests) == 1


@pytest.mark.parametrize("status", [400, 403, 404, 409, 410, 422])
async def test_a_refusal_is_not_tried_again_and_says_why(quick, status):
    async with running() as (client, server):
        server.script = [(status, {})]
        with pytest.raises(ApiError, match=f"told to answer {status}") as caught:
            await client.list_metadata(NODE)
        assert (caught.value.status, caught.value.reason, len(server.requests)) == (status, "Told", 1)


async def test_a_server_that_stays_busy_is_given_up_in_the_end(quick):
    async with running(attempts=3) as (client, server):
        server.script = [(429, {})] * 9
        with pytest.raises(ApiError) as caught:
            await client.list_metadata(NODE)
        assert (caught.value.status, len(server.requests)) == (429, 3)


async def test_what_the_server_asks_for_is_waited_by_every_request():
    async with running() as (client, server):
        server.script = [(429, {"Retry-After": "1"})]
        first = asyncio.create_task(client.list_metadata(NODE))
        await server.arrived.wait()
        await asyncio.sleep(0.1)
        await asyncio.gather(first, client.apply(DOCUMENT, "tester"))
        assert len(server.requests) == 3
        assert all(moment - server.requests[0][0] >= 0.9 for moment, *_ in server.requests[1:])


async def test_pauses_grow_and_differ():
    pauses = [[throttle.pause_seconds(failures) for _ in range(50)] for failures in (1, 2, 3, 4)]
    assert all(len(set(each)) > 40 for each in pauses)
    assert all(max(earlier) <= 2 * min(later) for earlier, later in itertools.pairwise(pauses))
    assert max(pauses[-1]) <= 4


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("3", 3.0),
        ("0", 0.0),
        ("-5", 0.0),
        ("86400", 60.0),
        ("inf", 60.0),
        ("nan", None),
        ("soon", None),
        ("", None),
        ("Sat, 21 Nov 2026 12:00:20 GMT", 20.0),
        ("Sat, 21 Nov 2026 11:59:00 GMT", 0.0),
        ("Sat, 21 Nov 2026 13:00:00 GMT", 60.0),
        ("Sat, 21 Nov 2026 12:00:05 -0000", 5.0),
    ],
)
def test_retry_after_is_understood_as_seconds_and_as_a_date(header, seconds):
    assert asked_for(header, datetime(2026, 11, 21, 12, tzinfo=UTC)) == seconds


async def test_a_date_is_waited_for():
    async with running() as (client, server):
        when = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
        server.script = [(503, {"Retry-After": when})]
        await client.list_metadata(NODE)
        assert server.waited[0] > 0.5


async def test_an_answer_that_is_no_json_is_an_error_of_the_request_alone():
    async with running() as (client, server):
        server.script = [("page", {})]
        with pytest.raises(ApiError, match="not JSON"):
            await client.list_metadata(NODE)
        assert await client.list_metadata(NODE)


async def test_a_server_that_is_not_there_is_unreachable():
    async with Client(k8s.Configuration(host="http://127.0.0.1:1"), Metrics(), attempts=1) as client:
        with pytest.raises(ApiError) as caught:
            await client.list_metadata(NODE)
        assert (caught.value.status, caught.value.reason) == (0, "Unreachable")


async def test_a_request_that_hangs_does_not_hold_up_the_others():
    async with running() as (client, server):
        server.script = [("hang", {})]
        hanging = asyncio.create_task(client.list_metadata(NODE))
        await server.arrived.wait()
        await asyncio.wait_for(client.list_metadata(NODE), 5)
        hanging.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hanging


# --- The guard -------------------------------------------------------------------------------------------------------


class Guard:
    closed = False
    asked = 0

    def __call__(self):
        self.asked += 1
        if self.closed:
            raise ApiError(0, "NotLeading", "this operator does not lead")


async def test_a_guard_stops_every_kind_of_write_and_no_read():
    guard = Guard()
    guard.closed = True
    async with running(guard=guard) as (client, server):
        lease = {**DOCUMENT, "metadata": {**DOCUMENT["metadata"], "resourceVersion": "1"}}
        for write in (
            client.apply(DOCUMENT, "tester"),
            client.apply_status(DOCUMENT, "tester"),
            client.create(CONFIG_MAP, DOCUMENT, "tester"),
            client.replace(CONFIG_MAP, lease, "tester"),
            client.delete(CONFIG_MAP, "chat", "a", "u1"),
        ):
            with pytest.raises(ApiError, match="does not lead"):
                await write
        assert await client.list_metadata(NODE)
        assert server.methods == ["GET"]


async def test_a_write_that_waited_for_its_turn_is_judged_when_its_turn_comes():
    guard = Guard()
    async with running(guard=guard, rate=2.0, burst=1) as (client, server):
        await client.apply(DOCUMENT, "tester")
        waiting = asyncio.create_task(client.apply(DOCUMENT, "tester"))
        await asyncio.sleep(0.1)
        guard.closed = True
        with pytest.raises(ApiError, match="does not lead"):
            await waiting
        assert server.methods == ["PATCH"]


async def test_a_guard_that_closes_while_the_connection_is_made_stops_the_write():
    guard = Guard()

    def closes_after_the_first_question():
        guard()
        guard.closed = True

    async with running(guard=closes_after_the_first_question) as (client, server):
        with pytest.raises(ApiError, match="does not lead"):
            await client.apply(DOCUMENT, "tester")
        assert (guard.asked, server.requests) == (2, [])


async def test_a_write_under_way_is_waited_for_although_its_caller_is_gone():
    async with running() as (client, server):
        server.script = [("hang", {})]
        caller = asyncio.create_task(client.apply(DOCUMENT, "tester"))
        await server.arrived.wait()
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        settling = asyncio.create_task(client.settle(5))
        await asyncio.sleep(0.1)
        assert not settling.done()
        server.released.set()
        await settling
        assert server.finished == ["PATCH"]


async def test_a_write_that_never_ends_is_torn_off():
    async with running() as (client, server):
        server.script = [("hang", {})]
        caller = asyncio.create_task(client.apply(DOCUMENT, "tester"))
        await server.arrived.wait()
        await client.settle(0.1)
        with pytest.raises(asyncio.CancelledError):
            await caller
