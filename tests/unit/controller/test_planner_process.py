"""The planner's process: warm, killed at the deadline, replaced after a crash."""

import asyncio
import os
import signal
import time
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import plimsoll
from plimsoll.controller.planner_process import FailureReason, PlanFailure, PlannerProcess
from plimsoll.planning.plan import FleetPlan
from plimsoll.planning.snapshot import Snapshot
from tests.unit.controller.planner_stubs import ask

HERE = Path(__file__).parent

SEARCH = (str(Path(plimsoll.__file__).parent.parent), str(HERE))


@asynccontextmanager
async def running(deadline_seconds=20.0, factory="planner_stubs:planner", memory_megabytes=1024):
    process = PlannerProcess(deadline_seconds, factory, SEARCH, memory_megabytes=memory_megabytes)
    try:
        yield process
    finally:
        await process.close()


def is_zombie(pid):
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(") ")[2].startswith("Z")


async def until_gone(pid):
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if is_zombie(pid):
            return True
        await asyncio.sleep(0.1)
    return False


async def test_the_child_stays_warm_between_rounds():
    async with running() as planner:
        assert await planner.start() is None
        pid = planner.pid
        plans = [await planner.plan(ask("count")) for _ in range(3)]
        assert [plan.cost_per_hour for plan in plans] == [1.0, 2.0, 3.0]
        assert planner.pid == pid


async def test_a_missed_deadline_kills_the_child_and_the_next_round_works():
    async with running(deadline_seconds=1.0) as planner:
        await planner.start()
        pid, began = planner.pid, time.monotonic()
        failure = await planner.plan(ask("hang"))
        assert isinstance(failure, PlanFailure)
        assert failure.reason is FailureReason.DEADLINE
        assert time.monotonic() - began < 5
        assert await until_gone(pid)
        assert isinstance(await planner.plan(ask("again")), FleetPlan)
        assert planner.pid != pid


@pytest.mark.parametrize("how", ["grow", "leap"])
async def test_a_child_that_grows_too_large_is_ended_and_the_next_round_works(how):
    async with running(memory_megabytes=256) as planner:
        await planner.start()
        pid = planner.pid
        failure = await planner.plan(ask(how))
        assert isinstance(failure, PlanFailure)
        assert failure.reason is FailureReason.MEMORY
        assert "256 megabytes" in failure.message
        assert await until_gone(pid)
        assert isinstance(await planner.plan(ask("again")), FleetPlan)


async def test_a_crash_is_a_failure_and_the_next_round_works():
    async with running() as planner:
        failure = await planner.plan(ask("crash"))
        assert failure == PlanFailure(FailureReason.CRASHED, "the planner process ended while planning (exit code 3)")
        assert isinstance(await planner.plan(ask("again")), FleetPlan)


async def test_a_child_that_is_killed_between_rounds_is_replaced():
    async with running() as planner:
        await planner.start()
        os.kill(planner.pid, signal.SIGKILL)
        await until_gone(planner.pid)
        answers = [await planner.plan(ask("again")) for _ in range(2)]
        assert isinstance(answers[-1], FleetPlan)


async def test_an_error_names_its_cause_and_keeps_the_child():
    async with running() as planner:
        await planner.start()
        pid = planner.pid
        failure = await planner.plan(ask("raise"))
        assert failure.reason is FailureReason.ERROR
        assert failure.message.splitlines()[0] == "the planner failed: ValueError: no idea how to plan this"
        assert planner.pid == pid


async def test_output_of_the_planner_does_not_disturb_the_frames():
    async with running() as planner:
        assert (await planner.plan(ask("print"))).digest == "print"


async def test_a_planner_that_cannot_start_is_a_failure():
    async with running(factory="planner_stubs:broken") as planner:
        failure = await planner.start()
        assert failure.reason is FailureReason.CRASHED


async def test_the_child_ends_when_its_parent_vanishes_in_the_middle_of_a_plan():
    async with running() as planner:
        await planner.start()
        pid = planner.pid
        task = asyncio.create_task(planner.plan(ask("hang")))
        await asyncio.sleep(0.3)
        planner._process.stdin.close()  # what the kernel does when the parent dies
        assert await until_gone(pid)
        assert (await task).reason is FailureReason.CRASHED


async def test_a_cancelled_round_leaves_no_answer_behind():
    async with running() as planner:
        await planner.start()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await planner.plan(ask("hang"))
        assert (await planner.plan(ask("fresh"))).digest == "fresh"


async def test_the_real_planner_plans_an_empty_fleet():
    planner = PlannerProcess(30)
    try:
        plan = await planner.plan(Snapshot())
        assert isinstance(plan, FleetPlan)
        assert plan.deployments == ()
    finally:
        await planner.close()
