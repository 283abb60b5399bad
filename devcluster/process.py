"""A child process that never outlives its parent, with its output in a log file."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_SPAWNER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="devcluster-spawner")
"""Linux sends the parent-death signal when the *thread* that started a child ends, so one lasting thread starts all."""

_DIES_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL", "sh", "-c", '[ "$PPID" = "$0" ] && exec "$@"')
"""Asks for the signal, and ends at once when the parent died before it could be asked for."""


class Process:
    """One program in its own process group. The kernel kills it if this process dies, however it dies."""

    def __init__(self, command: Sequence[str | Path], log: Path) -> None:
        self.name = Path(command[0]).name
        self.log = log
        self._command = command
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process id, None while it does not run."""
        return self._child.pid if self._child is not None and self._child.poll() is None else None

    @property
    def died(self) -> bool:
        """Whether it ended without having been stopped."""
        return self._child is not None and self._child.poll() is not None

    def start(self) -> None:
        """Starts it; its log is appended to."""
        if self.pid is None:
            self._child = _SPAWNER.submit(self._spawn).result()

    def wait(self, what: str, ready: Callable[[], bool], seconds: float) -> None:
        """Waits until it is ready.

        Raises:
            RuntimeError: it died, or it takes longer; with the end of its log.
        """
        deadline = time.monotonic() + seconds
        while not ready():
            if self.died or time.monotonic() > deadline:
                raise RuntimeError(f"{what} did not come up\n{self.tail()}")
            time.sleep(0.1)

    def stop(self, grace_seconds: float = 10.0) -> None:
        """Asks it to end, then kills what is left of its group, and waits for it."""
        child, self._child = self._child, None
        if child is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGTERM)
        try:
            child.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()

    def tail(self, lines: int = 20) -> str:
        """The end of its log."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*_DIES_WITH_PARENT, str(os.getpid()), *self._command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


def answers(url: str) -> bool:
    """Whether a GET is answered with 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
