"""What one emulator process holds: endpoints, requests and streamed tokens per second on one core.

`python -m benchmarks.emulator` prints it. The emulator runs in a process of its own; its processor time is read from
the system, so the client's does not count. "Of a core" is processor time divided by wall-clock time.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.results import Figure, Table

if TYPE_CHECKING:
    from collections.abc import Iterator

MODEL, GPU = "meta-llama/Llama-3.1-8B-Instruct", "H100-SXM-80GB"
SECONDS = 10.0
PROMPT, ANSWER = 500, 100
CASES = (
    # endpoints, requests per second of all together, whether they stream
    (1, 5.0, True),
    (100, 50.0, False),
    (100, 50.0, True),
    (300, 50.0, False),
    (300, 50.0, True),
    (300, 150.0, False),
    (300, 100.0, True),
)
SCRAPES = 300
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class Process:
    """An emulator in a process of its own."""

    id: int
    urls: list[str]

    @property
    def processor_seconds(self) -> float:
        """User and system time so far."""
        fields = Path(f"/proc/{self.id}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    @property
    def resident_mib(self) -> float:
        """Memory now."""
        pages = int(Path(f"/proc/{self.id}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextmanager
def emulator(endpoints: int) -> Iterator[Process]:
    """`plimsoll emulate` with equal endpoints on free ports."""
    fleet = {"endpoints": [{"model": MODEL, "gpu": GPU, "port": 0, "count": endpoints}]}
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        json.dump(fleet, file)
        file.flush()
        command = [sys.executable, "-u", "-m", "plimsoll.cli.main", "emulate", "-f", file.name]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            assert process.stdout is not None
            try:
                yield Process(process.pid, [process.stdout.readline().split()[1] for _ in range(endpoints)])
            finally:
                process.terminate()
                process.wait(60)


@dataclass(slots=True)
class Load:
    """What the clients saw."""

    ttft_seconds: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    tokens: int = 0


async def _request(session: aiohttp.ClientSession, url: str, load: Load, *, stream: bool) -> None:
    body = {"prompt": [1] * PROMPT, "max_tokens": ANSWER, "stream": stream}
    began = time.monotonic()
    async with session.post(url + "/v1/completions", json=body) as response:
        first = None
        async for _ in response.content.iter_any():
            first = first or time.monotonic()
    assert response.status == 200
    assert first is not None
    load.ttft_seconds.append(first - began)
    load.seconds.append(time.monotonic() - began)
    load.tokens += ANSWER


async def _drive(urls: list[str], rate: float, seconds: float, *, stream: bool) -> Load:
    rng = np.random.default_rng(0)
    load = Load()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as group:
        began, due = time.monotonic(), 0.0
        while (due := due + rng.exponential(1.0 / rate)) < seconds:
            await asyncio.sleep(began + due - time.monotonic())
            url = urls[int(rng.integers(len(urls)))]
            group.create_task(_request(session, url, load, stream=stream))
    return load


async def _engine_means(urls: list[str]) -> tuple[float, float]:
    """Mean time to first token and of a whole request by the endpoints' own metrics."""
    sums = dict.fromkeys(("time_to_first_token", "e2e_request_latency"), (0.0, 0.0))
    async with aiohttp.ClientSession() as session:
        for url in urls:
            async with session.get(url + "/metrics") as response:
                families = text_string_to_metric_families(await response.text())
            samples = {sample.name: sample.value for family in families for sample in family.samples}
            for name, (total, count) in sums.items():
                series = f"vllm:{name}_seconds"
                sums[name] = (total + samples[f"{series}_sum"], count + samples[f"{series}_count"])
    first, whole = (total / count for total, count in sums.values())
    return first, whole


async def _scrape(urls: list[str]) -> None:
    async with aiohttp.ClientSession() as session:
        for number in range(SCRAPES):
            async with session.get(urls[number % len(urls)] + "/metrics") as response:
                await response.read()


def run() -> tuple[list[Figure], list[str], list[Table]]:
    """All figures, notes and tables."""
    rows, costs = [], {}
    scrape_ms = resident = 0.0
    for endpoints, rate, stream in CASES:
        with emulator(endpoints) as process:
            asyncio.run(_drive(process.urls, rate, 1.0, stream=stream))
            used, began = process.processor_seconds, time.monotonic()
            load = asyncio.run(_drive(process.urls, rate, SECONDS, stream=stream))
            used, wall = process.processor_seconds - used, time.monotonic() - began
            first, whole = asyncio.run(_engine_means(process.urls))
            before = process.processor_seconds
            asyncio.run(_scrape(process.urls))
            scrape_ms, resident = (process.processor_seconds - before) / SCRAPES * 1e3, process.resident_mib
        costs[endpoints, stream] = used / len(load.seconds)
        rows.append(
            (
                str(endpoints),
                "stream" if stream else "whole",
                f"{len(load.seconds) / SECONDS:.0f}",
                f"{used / wall:.0%}",
                f"{used / len(load.seconds) * 1e3:.2f}",
                f"{(np.mean(load.ttft_seconds) - first) * 1e3:.1f}" if stream else "",
                f"{(np.mean(load.seconds) - whole) * 1e3:.1f}",
                f"{np.mean(load.seconds):.2f}",
                f"{resident:.0f}",
            )
        )
    most = max(endpoints for endpoints, _, _ in CASES)
    figures = [
        Figure(f"requests per second of one core, {most} endpoints, whole answers", 1 / costs[most, False], "1/s"),
        Figure(f"requests per second of one core, {most} endpoints, streams", 1 / costs[most, True], "1/s"),
        Figure(f"streamed tokens per second of one core, {most} endpoints", ANSWER / costs[most, True], "1/s"),
        Figure("processor time of a scrape of one endpoint", scrape_ms, "ms"),
        Figure(f"memory of {most} endpoints", resident, "MiB"),
    ]
    notes = [f"{MODEL} on {GPU}, prompts of {PROMPT} and answers of {ANSWER} tokens, real time (speed 1)."]
    columns = (
        *("endpoints", "answers", "requests/s", "of a core", "ms of processor per request"),
        *("client TTFT less the engine's, ms", "client end to end less the engine's, ms", "end to end, s", "MiB"),
    )
    return figures, notes, [Table("Load on one emulator process", columns, rows)]


if __name__ == "__main__":
    found, remarks, tables = run()
    print("\n".join([*map(str, found), *remarks, *(table.text() for table in tables)]))
