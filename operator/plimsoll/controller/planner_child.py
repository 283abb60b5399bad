"""The child process that plans. Started and killed by `planner_process`; run as a module of its own.

Frames on standard input and output: eight bytes of length, then a pickle. It ends when its input does, even in the
middle of a plan, so that no planner outlives its operator.
"""

import gc
import importlib
import os
import pickle
import sys
import threading
import time
import traceback
from collections.abc import Callable
from queue import SimpleQueue
from typing import BinaryIO

from plimsoll.controller.difference import Difference, applied, difference
from plimsoll.planning import Evaluator, plan_fleet
from plimsoll.planning.plan import FleetPlan
from plimsoll.planning.snapshot import Snapshot

HEADER_BYTES = 8
Planner = Callable[[Snapshot], FleetPlan]
_ROUNDS_PER_CACHE = 500
"""Then the cache starts afresh: it also remembers options that nobody asks for any more."""


def warm_planner() -> Planner:
    """The real planner; what it found out about options and placements it remembers between rounds."""
    evaluator, rounds = Evaluator(), 0

    def plan(snapshot: Snapshot) -> FleetPlan:
        nonlocal evaluator, rounds
        rounds += 1
        if rounds % _ROUNDS_PER_CACHE == 0:
            evaluator = Evaluator()
        return plan_fleet(snapshot, evaluator, time.monotonic)

    return plan


def read_frame(source: BinaryIO) -> bytes | None:
    """The next frame; None at the end of the stream."""
    header = source.read(HEADER_BYTES)
    if len(header) < HEADER_BYTES:
        return None
    length = int.from_bytes(header, "big")
    payload = source.read(length)
    return payload if len(payload) == length else None


def frame(value: object) -> bytes:
    """A value as a frame."""
    payload = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    return len(payload).to_bytes(HEADER_BYTES, "big") + payload


def _feed(source: BinaryIO, requests: "SimpleQueue[bytes]") -> None:
    while (payload := read_frame(source)) is not None:
        requests.put(payload)
    os._exit(0)


def _load(factory: str) -> Planner:
    module, _, name = factory.partition(":")
    planner: Planner = getattr(importlib.import_module(module), name)()
    return planner


def main(factory: str) -> None:
    """Answer snapshots with `("plan", plan)`, `("error", text)` or, out of memory, `("memory", "")`.

    Both snapshots and plans may come as their differences to the ones before. What has not changed stays the same
    object, which is quick to compare.

    `factory` (`module:function`) makes the planner.
    """
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a stray print must not corrupt the frames
    plan = _load(factory)
    plan(Snapshot())  # fills the caches: catalog, imports
    requests: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_feed, args=(sys.stdin.buffer, requests), daemon=True).start()
    answers.write(frame(("ready", os.getpid())))
    answers.flush()
    known, told = Snapshot(), None
    # A plan makes objects by the million and hardly a cycle: to look for these meanwhile took a fifth of the time.
    gc.disable()
    while True:
        payload = requests.get()
        try:
            request = pickle.loads(payload)  # noqa: S301  (from our parent)
            known = applied(known, request) if isinstance(request, Difference) else request
            found = plan(known)
            answer: tuple[str, object] = ("plan", found if told is None else difference(told, found))
            told = found
        except MemoryError:
            answer = ("memory", "")
        except Exception:  # noqa: BLE001  (a bug in one round must not cost the warm process)
            answer = ("error", traceback.format_exc(limit=20))
        answers.write(frame(answer))
        answers.flush()
        if requests.empty():
            gc.collect()


if __name__ == "__main__":
    main(sys.argv[1])
