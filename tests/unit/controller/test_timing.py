"""Debouncing and throttling."""

import asyncio
import time

import pytest

from plimsoll.controller.debounce import debounce
from plimsoll.controller.throttle import TokenBucket


async def test_debounce_waits_for_quiet():
    changes = 0

    async def burst():
        nonlocal changes
        for _ in range(5):
            changes += 1
            await asyncio.sleep(0.05)

    task = asyncio.create_task(burst())
    began = time.monotonic()
    await debounce(lambda: changes, idle_seconds=0.15, cap_seconds=5)
    assert task.done()
    assert 0.3 <= time.monotonic() - began < 1.0


async def test_debounce_does_not_wait_longer_than_the_cap():
    began = time.monotonic()
    await debounce(lambda: time.monotonic_ns(), idle_seconds=0.05, cap_seconds=0.3)
    assert 0.25 <= time.monotonic() - began < 1.0


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_a_burst_passes_and_then_the_rate_holds():
    clock = Clock()
    bucket = TokenBucket(rate=10, burst=3, clock=clock)
    assert [bucket.reserve() for _ in range(3)] == [0, 0, 0]
    assert bucket.reserve() == pytest.approx(0.1)
    clock.now += 0.1001
    assert bucket.reserve() == 0


def test_back_pressure_closes_the_bucket():
    clock = Clock()
    bucket = TokenBucket(rate=10, burst=3, clock=clock)
    bucket.close_for(2)
    assert bucket.reserve() == pytest.approx(2)
    clock.now += 2.01
    assert bucket.reserve() == 0
