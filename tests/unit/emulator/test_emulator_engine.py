"""The engine behind the interface: load slows everybody, a full cache queues, faults and ends are like a server's."""

import asyncio

import pytest
from aiohttp import ClientConnectionError, ClientError, ClientSession

from plimsoll.emulator import Emulator, EndpointState
from plimsoll.simulation import Replica, Request
from tests.unit.emulator.running import Client, config, running, until, until_running


async def mean_tpot(client: Client, together: int) -> float:
    before = await client.metrics()
    await asyncio.gather(*(client.complete([1] * 2000, max_tokens=200, ignore_eos=True) for _ in range(together)))
    after = await client.metrics()
    sums = (
        after[f"request_time_per_output_token_seconds_{part}"] - before[f"request_time_per_output_token_seconds_{part}"]
        for part in ("sum", "count")
    )
    total, count = sums
    return total / count


async def test_load_slows_every_request_of_an_endpoint() -> None:
    async with running() as [client]:
        alone = await mean_tpot(client, 1)
        crowded = await mean_tpot(client, 32)
    assert crowded > 1.3 * alone


async def test_latencies_are_the_simulators() -> None:
    prompts = [100 * number for number in range(1, 21)]
    async with running(config(max_num_seqs=8)) as [client]:
        await client.complete([[1] * tokens for tokens in prompts], max_tokens=50)
        found = await client.metrics()
        replica = Replica(client.endpoint.spec)
    generations = [replica.submit(Request(0.0, "", tokens, 50)) for tokens in prompts]
    replica.advance(1000.0)
    for name, latencies in (
        ("e2e_request_latency", [generation.end_to_end_seconds for generation in generations]),
        ("time_to_first_token", [generation.ttft_seconds for generation in generations]),
        ("request_queue_time", [generation.admitted_seconds for generation in generations]),
    ):
        assert found[f"{name}_seconds_sum"] == pytest.approx(sum(latencies), abs=1e-6)


async def test_endpoints_do_not_slow_each_other() -> None:
    async with running(config(count=2)) as [first, second]:
        _, tpot = await asyncio.gather(mean_tpot(first, 32), mean_tpot(second, 1))
        assert tpot < 1.1 * await mean_tpot(second, 1)
        assert first.endpoint.port != second.endpoint.port


async def test_a_full_kv_cache_queues_and_preempts() -> None:
    small = config(gpu="L4", max_model_length=8192, max_num_seqs=64)
    async with running(small, speed=1000.0) as [client]:
        tokens = client.endpoint.spec.kv_tokens
        together = tokens // 2000 + 8
        await asyncio.gather(*(client.complete([1] * 1900, max_tokens=300) for _ in range(together)))
        found = await client.metrics()
    assert found["num_preemptions_total"] > 0
    assert found["request_queue_time_seconds_sum"] > 0
    assert found["generation_tokens_total"] == together * 300
    assert found["inter_token_latency_seconds_count"] == together * 299


async def test_health_says_503_while_the_model_is_loaded() -> None:
    loading = config(load_seconds=30.0, while_loading="unavailable")
    emulator = Emulator([loading], speed=100.0)
    starting = asyncio.create_task(emulator.start())
    [endpoint] = emulator.endpoints
    await until(lambda: endpoint.port)
    async with ClientSession() as session:
        client = Client(session, endpoint)
        assert endpoint.state is EndpointState.LOADING
        assert (await client.get("/health"))[0] == 503
        assert (await client.get("/metrics"))[0] == 503
        assert (await client.post("/v1/completions", prompt="a"))[0] == 503
        await starting
        assert (await client.get("/health"))[0] == 200
        assert (await client.get("/ping"))[0] == 200
        assert "version" in (await client.get("/version"))[1]
    await emulator.drain()


async def test_like_vllms_the_port_is_closed_while_the_model_is_loaded(unused_port: int) -> None:
    emulator = Emulator([config(load_seconds=20.0, port=unused_port)], speed=100.0)
    starting = asyncio.create_task(emulator.start())
    async with ClientSession() as session:
        client = Client(session, emulator.endpoints[0])
        with pytest.raises(ClientConnectionError):
            await client.get("/health")
        await starting
        assert (await client.get("/health"))[0] == 200
    await emulator.drain()


@pytest.fixture
async def unused_port() -> int:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return port


async def test_a_drain_lets_requests_finish_and_takes_no_new_ones() -> None:
    async with running(speed=20.0) as [client]:
        stream = asyncio.create_task(client.stream(prompt="abcd", max_tokens=1000))
        kept = Client(client.session, client.endpoint)
        await kept.get("/health")
        await until_running(client, 1)
        draining = asyncio.create_task(client.endpoint.drain())
        await until(lambda: client.endpoint.state is EndpointState.DRAINING)
        async with ClientSession() as other:
            with pytest.raises(ClientConnectionError):
                await Client(other, client.endpoint).get("/health")
        status, _ = await kept.post("/v1/completions", prompt="a")  # on a connection that was open before
        assert status == 503
        events = await stream
        assert events[-1]["choices"][0]["finish_reason"] == "length"
        await draining
        assert client.endpoint.state is EndpointState.ENDED


async def test_a_drain_ends_at_its_limit() -> None:
    async with running(config(shutdown_timeout_seconds=2.0), speed=20.0) as [client]:
        call = asyncio.create_task(client.complete(max_tokens=30_000))
        await until_running(client, 1)
        await client.endpoint.drain()
        with pytest.raises(ClientError):
            await call


async def test_a_crash_cuts_connections_and_a_restart_counts_from_zero() -> None:
    async with running(config(allow_faults=True, load_seconds=1.0), speed=20.0) as [client]:
        await client.complete(max_tokens=3)
        call = asyncio.create_task(client.complete(max_tokens=30_000))
        await until_running(client, 1)
        port = client.endpoint.port
        status, _ = await client.post("/emulator/crash", restartAfterSeconds=2)
        assert status == 202
        with pytest.raises(ClientError):
            await call
        await until(lambda: client.endpoint.state is EndpointState.ENDED)
        with pytest.raises(ClientConnectionError):
            await client.get("/health")
        await until(lambda: client.endpoint.state is EndpointState.READY)
        assert client.endpoint.port == port
        assert (await client.metrics())["request_success_total{length}"] == 0
        assert not client.endpoint.over.is_set()


async def test_after_a_crash_without_restart_it_is_over() -> None:
    async with running(config(allow_faults=True)) as [client]:
        await client.post("/emulator/crash")
        await asyncio.wait_for(client.endpoint.over.wait(), 5)


async def test_a_stall_stops_progress_and_counts_as_latency() -> None:
    async with running(config(allow_faults=True), speed=40.0) as [client]:
        await client.complete(max_tokens=800)
        before = await client.metrics()
        call = asyncio.create_task(client.complete(max_tokens=800))
        await until_running(client, 1)
        await client.post("/emulator/stall", seconds=5)
        assert (await client.get("/health"))[0] == 200
        await call
        after = await client.metrics()
    usual = before["e2e_request_latency_seconds_sum"]
    assert after["e2e_request_latency_seconds_sum"] - usual == pytest.approx(usual + 5.0, rel=0.02)
    assert after["inter_token_latency_seconds_sum"] == pytest.approx(after["request_decode_time_seconds_sum"])


async def test_faults_need_permission() -> None:
    async with running() as [client]:
        assert (await client.get("/emulator/crash"))[0] == 404
        async with client.session.post(client.endpoint.url + "/emulator/stall", json={"seconds": 1}) as response:
            assert response.status == 404


async def test_every_request_ends_once_even_when_clients_go_away() -> None:
    async with running(config(gpu="L4", max_model_length=4096, max_num_seqs=16), speed=40.0) as [client]:
        calls = [asyncio.create_task(client.complete([1] * 500, max_tokens=500 + 20 * number)) for number in range(40)]
        await until_running(client, 16, waiting=24)
        for call in calls[::3]:  # some that run, some that wait
            call.cancel()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        found = await until_running(client, 0)
    served = [answer for answer in answers if isinstance(answer, dict)]
    assert found["request_success_total{length}"] == len(served) == 26
    assert found["request_success_total{abort}"] == 14
    assert found["kv_cache_usage_perc"] == 0


async def test_a_hundred_endpoints_share_a_process() -> None:
    async with running(config(count=100)) as clients:
        answers = await asyncio.gather(*(client.complete(max_tokens=5) for client in clients))
    assert len({client.endpoint.port for client in clients}) == 100
    assert {answer["usage"]["completion_tokens"] for answer in answers} == {5}
