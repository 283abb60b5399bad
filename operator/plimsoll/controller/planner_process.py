"""Planning in a child process, with a deadline and a limit of memory that kill.

Waiting for a future with a timeout gives up waiting but lets the work go on; a process can be killed. The child is
our own (no pool), stays warm between rounds, and is replaced when it dies.
"""

import asyncio
import contextlib
import os
import pickle
import resource
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import plimsoll
from plimsoll.controller.difference import Difference, applied, difference
from plimsoll.controller.planner_child import HEADER_BYTES, frame
from plimsoll.planning.plan import FleetPlan
from plimsoll.planning.snapshot import Snapshot

PLANNER = "plimsoll.controller.planner_child:warm_planner"
_SOURCE_ROOT = str(Path(plimsoll.__file__).parent.parent)
_START_SECONDS = 60.0
_LOOK_SECONDS = 0.1
"""Between two looks at the child's memory."""
_MEGABYTE = 2**20


class FailureReason(StrEnum):
    """Why there is no plan."""

    DEADLINE = "PlanningDeadlineExceeded"
    MEMORY = "PlanningMemoryExceeded"
    CRASHED = "PlannerCrashed"
    ERROR = "PlanningFailed"


@dataclass(frozen=True, slots=True)
class PlanFailure:
    """There is no plan this time; the previous one stays in force."""

    reason: FailureReason
    message: str


class PlannerProcess:
    """A warm child that turns snapshots into plans, one at a time."""

    def __init__(
        self,
        deadline_seconds: float,
        factory: str = PLANNER,
        search_path: Sequence[str] = (_SOURCE_ROOT,),
        *,
        memory_megabytes: int = 1024,
    ) -> None:
        self._deadline_seconds, self._memory_megabytes = deadline_seconds, memory_megabytes
        self._factory = factory
        self._search_path = tuple(search_path)
        self._process: Process | None = None
        self._known: Snapshot | None = None
        """What the child has; None where it has nothing yet."""
        self._told: FleetPlan | None = None
        """What it has answered last."""
        self._turn = asyncio.Lock()

    @property
    def pid(self) -> int | None:
        """Process id of the child; None while there is none."""
        return self._process.pid if self._process is not None else None

    async def start(self) -> PlanFailure | None:
        """Start the child ahead of the first plan."""
        async with self._turn:
            return await self._ensure()

    async def plan(self, snapshot: Snapshot) -> FleetPlan | PlanFailure:
        """Plan. Whatever the planner does comes back as a value: a crash, an error, a missed deadline."""
        async with self._turn:
            failure = await self._ensure()
            if failure is not None:
                return failure
            try:
                async with asyncio.timeout(self._deadline_seconds):
                    request = snapshot if self._known is None else difference(self._known, snapshot)
                    self._known = snapshot
                    kind, value = await self._watched(self._exchange(frame(request)))
            except MemoryError:
                await self._kill()
                return PlanFailure(
                    FailureReason.MEMORY,
                    f"planning was stopped at {self._memory_megabytes} megabytes of memory; "
                    "plannerMemoryMegabytes and the container's limit say how much there is",
                )
            except TimeoutError:
                await self._kill()
                return PlanFailure(
                    FailureReason.DEADLINE, f"planning was stopped after {self._deadline_seconds:g} seconds"
                )
            except (EOFError, OSError):
                return await self._crashed("while planning")
            except BaseException:
                await self._kill()  # cancelled in the middle: the answer would be taken for the next question's
                raise
            if kind == "plan" and isinstance(value, Difference) and self._told is not None:
                value = applied(self._told, value)
            if kind == "plan" and isinstance(value, FleetPlan):
                self._told = value
                return value
            last_line = str(value).strip().rpartition("\n")[2]
            return PlanFailure(FailureReason.ERROR, f"the planner failed: {last_line}\n{value}")

    async def close(self) -> None:
        """End the child."""
        await self._kill()

    async def _watched(self, exchange: Coroutine[Any, Any, tuple[str, object]]) -> tuple[str, object]:
        """The answer, unless the child grows too large before.

        Raises:
            MemoryError: it has.
        """
        answer = asyncio.create_task(exchange)
        try:
            too_large = not await self._stays_small(answer)
        except BaseException:
            await _abandon(answer)
            raise
        if too_large:
            await _abandon(answer)
            raise MemoryError
        kind, value = await answer
        if kind == "memory":
            raise MemoryError
        return kind, value

    async def _stays_small(self, answer: asyncio.Task[tuple[str, object]]) -> bool:
        """Returns when there is an answer, or False as soon as the child is too large."""
        while not answer.done():
            if self._resident_megabytes() > self._memory_megabytes:
                return False
            await asyncio.wait((answer,), timeout=_LOOK_SECONDS)
        return True

    def _resident_megabytes(self) -> float:
        """What the child occupies; 0 where the kernel does not tell (only Linux does)."""
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        except (OSError, IndexError, ValueError):
            return 0.0
        return pages * resource.getpagesize() / _MEGABYTE

    async def _ensure(self) -> PlanFailure | None:
        if self._process is not None and self._process.returncode is None:
            return None
        await self._kill()
        # Small matrices: more threads would only compete with the operator for its core.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(self._search_path), "OPENBLAS_NUM_THREADS": "1"}
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "plimsoll.controller.planner_child", self._factory,
            stdin=PIPE, stdout=PIPE, env=environment,
            start_new_session=True,  # a Ctrl+C at the terminal is for the operator, which then ends the child
        )  # fmt: skip
        self._limit_memory(self._process.pid)
        try:
            async with asyncio.timeout(_START_SECONDS):
                await self._receive()
        except TimeoutError:
            await self._kill()
            return PlanFailure(FailureReason.DEADLINE, f"the planner did not start within {_START_SECONDS:g} seconds")
        except (EOFError, OSError):
            return await self._crashed("at its start")
        except BaseException:
            await self._kill()
            raise
        return None

    def _limit_memory(self, pid: int) -> None:
        """Have the kernel refuse what a child asks for faster than it is looked at."""
        if sys.platform == "linux":
            most = self._memory_megabytes * _MEGABYTE * 5 // 4
            with contextlib.suppress(OSError):  # it may have ended already, which is noticed elsewhere
                resource.prlimit(pid, resource.RLIMIT_DATA, (most, most))

    async def _exchange(self, request: bytes) -> tuple[str, object]:
        process = self._running()
        assert process.stdin is not None  # noqa: S101  (PIPE was asked for)
        process.stdin.write(request)
        await process.stdin.drain()
        return await self._receive()

    async def _receive(self) -> tuple[str, object]:
        process = self._running()
        assert process.stdout is not None  # noqa: S101  (PIPE was asked for)
        header = await process.stdout.readexactly(HEADER_BYTES)
        payload = await process.stdout.readexactly(int.from_bytes(header, "big"))
        kind, value = pickle.loads(payload)  # noqa: S301  (from our own child)
        return str(kind), value

    def _running(self) -> Process:
        if self._process is None:
            raise EOFError("there is no planner process")
        return self._process

    async def _crashed(self, when: str) -> PlanFailure:
        process = self._running()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                await process.wait()
        code = process.returncode
        await self._kill()
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return PlanFailure(FailureReason.CRASHED, f"the planner process ended {when} ({how})")

    async def _kill(self) -> None:
        process, self._process = self._process, None
        self._known = self._told = None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        if process.stdin is not None:
            process.stdin.close()
        if process.stdout is not None:
            # Read what is left, so that the pipe's transport closes instead of being garbage collected.
            with contextlib.suppress(OSError, ValueError):
                await process.stdout.read()
        await process.wait()


async def _abandon(task: asyncio.Task[tuple[str, object]]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


__all__ = ["PLANNER", "FailureReason", "PlanFailure", "PlannerProcess"]
