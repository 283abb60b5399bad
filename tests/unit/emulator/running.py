"""Emulated endpoints and clients for tests: real HTTP on free ports of this machine."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import ClientSession
from prometheus_client.parser import text_string_to_metric_families

from plimsoll.emulator import Emulator, Endpoint, EndpointConfig

MODEL = "meta-llama/Llama-3.1-8B-Instruct"
FAST = 100.0


def config(**fields: Any) -> EndpointConfig:
    return EndpointConfig(**{"model": MODEL, "gpu": "H100-SXM-80GB", "port": 0, **fields})


class Client:
    """One endpoint as a client sees it."""

    def __init__(self, session: ClientSession, endpoint: Endpoint) -> None:
        self.session = session
        self.endpoint = endpoint

    async def get(self, path: str) -> tuple[int, str]:
        async with self.session.get(self.endpoint.url + path) as response:
            return response.status, await response.text()

    async def post(self, path: str, **body: Any) -> tuple[int, dict[str, Any]]:
        async with self.session.post(self.endpoint.url + path, json=body) as response:
            return response.status, await response.json()

    async def complete(self, prompt: Any = "hello", **body: Any) -> dict[str, Any]:
        status, answer = await self.post("/v1/completions", prompt=prompt, **body)
        assert status == 200, answer
        return answer

    async def stream(self, path: str = "/v1/completions", **body: Any) -> list[dict[str, Any]]:
        """The events in their order; the end mark must be the last and is left out."""
        async with self.session.post(self.endpoint.url + path, json={"stream": True, **body}) as response:
            assert response.content_type == "text/event-stream"
            lines = (await response.text()).split("\n\n")
        assert lines[-2:] == ["data: [DONE]", ""]
        return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]

    async def metrics(self) -> dict[str, float]:
        """Samples by name, with the labels other than `engine`, `model_name` and `le` in braces; no buckets."""
        status, text = await self.get("/metrics")
        assert status == 200
        found = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if "le" not in sample.labels and family.name != "vllm:cache_config_info":
                    rest = [value for name, value in sample.labels.items() if name not in ("engine", "model_name")]
                    found[sample.name.removeprefix("vllm:") + "".join(f"{{{value}}}" for value in rest)] = sample.value
        return found


@asynccontextmanager
async def running(*configs: EndpointConfig, speed: float = FAST) -> AsyncIterator[list[Client]]:
    """Clients of endpoints that are ready."""
    emulator = Emulator(configs or (config(),), speed=speed)
    await emulator.start()
    try:
        async with ClientSession() as session:
            yield [Client(session, endpoint) for endpoint in emulator.endpoints]
    finally:
        await emulator.drain()


async def until(condition: Callable[[], Any]) -> None:
    """Wait for something that happens on the event loop."""
    while not condition():  # noqa: ASYNC110  (nothing tells when)
        await asyncio.sleep(0.002)


async def until_running(client: Client, requests: int, waiting: int = 0) -> dict[str, float]:
    """Wait until the engine runs that many requests and that many wait; returns its metrics."""
    while True:
        metrics = await client.metrics()
        if (metrics["num_requests_running"], metrics["num_requests_waiting"]) == (requests, waiting):
            return metrics
        await asyncio.sleep(0.002)
