"""A client that asks at a steady rate, whatever happens, and keeps account of every answer."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import aiohttp

ANSWER_SECONDS = 60.0


@dataclass
class Account:
    """What was asked for and what came."""

    sent: int = 0
    answered: int = 0
    lost: list[str] = field(default_factory=list)
    """One line for each request that got no whole answer: when it was sent, how it was asked, what went wrong."""
    slowest_seconds: float = 0.0


class Load:
    """Requests to routers in turn, streamed ones and whole ones, over connections that are kept and over fresh ones.

    Use as a context manager; at its end every request that was sent has been answered or is lost.
    """

    def __init__(self, routers: Sequence[str], model: str, per_second: float = 8.0, answer_tokens: int = 20) -> None:
        self.account = Account()
        self._routers, self._model = tuple(routers), model
        self._pause, self._answer_tokens = 1.0 / per_second, answer_tokens
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        asyncio.run(self._ask_all())

    async def _ask_all(self) -> None:
        timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
        kept = aiohttp.TCPConnector(limit=0)
        fresh = aiohttp.TCPConnector(limit=0, force_close=True)
        async with (
            aiohttp.ClientSession(connector=kept, timeout=timeout) as keeping,
            aiohttp.ClientSession(connector=fresh, timeout=timeout) as forgetting,
            asyncio.TaskGroup() as tasks,
        ):
            for number in itertools.count():
                if self._stop.is_set():
                    return
                session = keeping if number % 2 else forgetting
                router = self._routers[(number // 2) % len(self._routers)]
                tasks.create_task(self._ask(session, router, stream=number % 3 == 0))
                await asyncio.sleep(self._pause)

    async def _ask(self, session: aiohttp.ClientSession, router: str, *, stream: bool) -> None:
        account, sent = self.account, time.monotonic()
        account.sent += 1
        body = {"model": self._model, "prompt": "word " * 40, "max_tokens": self._answer_tokens, "stream": stream}
        try:
            async with session.post(f"{router}/v1/completions", json=body) as answer:
                text = await answer.text()
                problem = _problem(answer.status, text, self._answer_tokens, stream=stream)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            problem = f"{type(error).__name__}: {error}"
        seconds = time.monotonic() - sent
        account.slowest_seconds = max(account.slowest_seconds, seconds)
        if problem is None:
            account.answered += 1
        else:
            kind = "streamed" if stream else "whole"
            account.lost.append(f"{sent - self._began:.1f} s, {kind}, after {seconds:.1f} s: {problem}")


def _problem(status: int, text: str, tokens: int, *, stream: bool) -> str | None:
    """What an answer lacks; None when it is whole."""
    if status != 200:
        return f"{status} {text[:200]}"
    if stream:
        chunks = text.split("\n\n")
        return None if "data: [DONE]" in chunks else f"the stream ends after {len(chunks)} chunks"
    answer: dict[str, Any] = json.loads(text)
    found = answer["usage"]["completion_tokens"]
    return None if found == tokens else f"{found} tokens"
