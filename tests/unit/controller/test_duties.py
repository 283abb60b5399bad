"""What a running operator keeps an eye on, and when that ends it."""

import asyncio
from dataclasses import replace

import pytest

from plimsoll.controller.audit import Drifted
from plimsoll.controller.client import ApiError
from plimsoll.controller.discovery import Outdated
from plimsoll.controller.distances import Distances
from plimsoll.controller.duties import Operator, work
from plimsoll.controller.health import Vitals
from plimsoll.controller.kinds import ALL, HTTP_ROUTE, NODE, RESOURCES
from plimsoll.controller.metrics import Metrics
from plimsoll.controller.settings import Settings
from plimsoll.controller.store import Store
from tests.unit.controller import fakes

WITHOUT_GATEWAY = tuple(kind for kind in ALL if kind != HTTP_ROUTE)


class Cluster(fakes.FakeCluster):
    """Lists objects and says which APIs there are."""

    def __init__(self):
        super().__init__()
        self.kinds = WITHOUT_GATEWAY
        self.fails = 0
        self.audits, self.node_appears_at = 0, None

    async def resources(self, prefix):
        if self.fails:
            self.fails -= 1
            raise ApiError(503, "Failed", "told to fail")
        return frozenset(kind.plural for kind in self.kinds if kind.prefix == prefix)

    async def list_metadata(self, kind):
        self.audits += kind == NODE
        if self.audits == self.node_appears_at:
            self.listed = {"Node": ["n1"]}
        return await super().list_metadata(kind)


class Idle:
    """A planner, and a control loop, with nothing to do."""

    async def start(self):
        return None

    async def run(self):
        await asyncio.Event().wait()


class QuickFeed:
    """Has listed everything, but for Plimsoll's own kinds."""

    by_kopf = tuple(RESOURCES.values())

    async def listed(self):
        pass


@pytest.fixture
def operator(monkeypatch):
    monkeypatch.setattr("plimsoll.controller.audit._GRACE_SECONDS", 0.01)
    settings, cluster, store = Settings(audit_interval_seconds=0.02), Cluster(), Store()
    distances = Distances(cluster, store, "plimsoll")
    return Operator(
        settings,
        cluster,
        QuickFeed(),
        store,
        Idle(),
        None,
        Idle(),
        None,
        None,
        None,
        distances,
        None,
        WITHOUT_GATEWAY,
        Metrics(),
        Vitals(),
    )


async def ending(operator):
    """What `work` ends with, within a few seconds."""
    with pytest.raises(BaseExceptionGroup) as caught:
        await asyncio.wait_for(work(operator), 5)
    (error,) = caught.value.exceptions
    return error


async def test_an_operator_that_agrees_with_the_cluster_goes_on(operator):
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(work(operator), 0.5)
    assert operator.vitals.ready
    assert operator.client.audits > 3


async def test_nothing_is_led_before_the_feed_has_listed_everything(operator):
    class SlowFeed(QuickFeed):
        async def listed(self):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(work(replace(operator, feed=SlowFeed())), 0.5)
    assert not operator.vitals.ready


async def test_a_feed_that_does_not_bring_what_exists_ends_the_operator(operator):
    operator.client.node_appears_at = 3
    error = await ending(operator)
    assert isinstance(error, Drifted)
    assert "kind Node" in str(error)


async def test_an_api_that_appears_ends_the_operator_and_a_failing_server_does_not(operator):
    operator.client.fails = 3
    operator.client.kinds = ALL
    assert isinstance(await ending(operator), Outdated)
    assert operator.client.fails == 0


async def test_a_loop_that_ends_takes_everything_else_with_it(operator):
    class Broken(Idle):
        async def run(self):
            raise RuntimeError("a bug")

    error = await ending(replace(operator, loop=Broken()))
    assert isinstance(error, BaseExceptionGroup)
    audits = operator.client.audits
    await asyncio.sleep(0.1)
    assert operator.client.audits == audits
