"""Which kinds the cluster serves, at the start and later."""

import asyncio

import pytest

from plimsoll.controller.client import ApiError
from plimsoll.controller.discovery import Outdated, StartError, confirm, served, until_served
from plimsoll.controller.health import Vitals
from plimsoll.controller.kinds import ALL, HTTP_ROUTE, RESOURCES


class Apis:
    """What an API server serves, by the path of the API."""

    def __init__(self, *lacking):
        self.served = {}
        for kind in ALL:
            self.served.setdefault(kind.prefix, set())
            if kind not in lacking:
                self.served[kind.prefix].add(kind.plural)
        self.fails = []
        self.asked = []

    async def resources(self, prefix):
        self.asked.append(prefix)
        if self.fails:
            raise ApiError(self.fails.pop(0), "Failed", "told to fail")
        return frozenset(self.served[prefix])


async def test_each_api_is_asked_once_and_kinds_keep_their_order():
    apis = Apis()
    assert await served(apis) == ALL
    assert len(apis.asked) == len(set(apis.asked))


async def test_an_optional_kind_may_be_missing():
    assert HTTP_ROUTE not in await until_served(Apis(HTTP_ROUTE), asyncio.Event(), Vitals())


async def test_a_kind_that_is_needed_and_missing_is_named():
    with pytest.raises(StartError, match=r"does not serve LLMDeployment; install .* \(crds/\)"):
        await until_served(Apis(RESOURCES["LLMDeployment"]), asyncio.Event(), Vitals())


async def test_a_refusal_at_the_start_is_final():
    apis = Apis()
    apis.fails = [403]
    with pytest.raises(StartError, match="refuses"):
        await until_served(apis, asyncio.Event(), Vitals())


async def test_an_api_server_that_is_away_is_waited_for_and_readiness_says_so(monkeypatch):
    monkeypatch.setattr("plimsoll.controller.discovery._RETRY_SECONDS", 0.01)
    apis, vitals = Apis(), Vitals()
    apis.fails = [0, 503]
    assert await until_served(apis, asyncio.Event(), vitals)
    assert "cannot be reached" in vitals.detail


async def test_a_stop_ends_the_waiting():
    apis, stop = Apis(), asyncio.Event()
    apis.fails = [0] * 1000
    waiting = asyncio.create_task(until_served(apis, stop, Vitals()))
    await asyncio.sleep(0.05)
    stop.set()
    assert await asyncio.wait_for(waiting, 1) == ()


async def test_nothing_changed_is_no_news():
    await confirm(Apis(), ALL)


async def test_an_api_that_appeared_or_vanished_asks_for_a_restart():
    without = tuple(kind for kind in ALL if kind != HTTP_ROUTE)
    with pytest.raises(Outdated, match=r"HTTPRoute of gateway\.networking\.k8s\.io/v1 has appeared"):
        await confirm(Apis(), without)
    with pytest.raises(Outdated, match=r"HTTPRoute of gateway\.networking\.k8s\.io/v1 has vanished"):
        await confirm(Apis(HTTP_ROUTE), ALL)


async def test_an_api_server_that_fails_says_nothing_about_its_apis():
    apis = Apis()
    apis.fails = [503]
    with pytest.raises(ApiError):
        await confirm(apis, ALL)
