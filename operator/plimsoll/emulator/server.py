"""The HTTP interface of one endpoint."""

import contextlib
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from aiohttp import web

from plimsoll.emulator.engine import Answer, Call, EngineStoppedError, RealtimeEngine
from plimsoll.emulator.metrics import EngineMetrics
from plimsoll.emulator.openai import (
    Chunks,
    Kind,
    Query,
    RequestError,
    answer_document,
    answer_length,
    encoded,
    models_document,
    parse_query,
)
from plimsoll.simulation import LognormalLength

VERSION = "0.30.0+plimsoll.emulator"
"""The vLLM whose interface this is, as its `/version` would say it."""
_LONGEST_BODY_BYTES = 64 * 2**20
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Faults(Protocol):
    """What a client may do to an endpoint that allows it."""

    def crash(self, restart_after_seconds: float | None) -> None:
        """Die at once, with every connection."""
        ...


@dataclass(frozen=True, slots=True)
class Running:
    """An engine that has loaded its model."""

    engine: RealtimeEngine
    metrics: EngineMetrics


class EndpointServer:
    """Routes of one endpoint. While `running` is None the model is being loaded."""

    def __init__(
        self,
        model: str,
        served_names: Sequence[str],
        *,
        answer_lengths: LognormalLength | None,
        seed: int,
        stream_interval: int,
        faults: Faults | None,
    ) -> None:
        self._model = model
        self._served = tuple(served_names)
        self._lengths = answer_lengths
        self._random = np.random.default_rng(seed)
        self._interval = stream_interval
        self._faults = faults
        self._created = int(time.time())
        self.running: Running | None = None

    def application(self) -> web.Application:
        """For aiohttp's runner."""
        application = web.Application(client_max_size=_LONGEST_BODY_BYTES, middlewares=[_errors])
        application.add_routes(
            [
                web.get("/health", self._health),
                web.get("/ping", self._health),
                web.post("/ping", self._health),
                web.get("/version", self._version),
                web.get("/metrics", self._metrics),
                web.get("/v1/models", self._models),
                web.post("/v1/completions", self._completions),
                web.post("/v1/chat/completions", self._chat),
            ]
        )
        if self._faults is not None:
            application.add_routes([web.post("/emulator/crash", self._crash), web.post("/emulator/stall", self._stall)])
        return application

    def _loaded(self) -> Running:
        if self.running is None:
            raise RequestError("the model is being loaded", status=503)
        return self.running

    async def _health(self, request: web.Request) -> web.Response:
        del request
        self._loaded()
        return web.Response()

    async def _version(self, request: web.Request) -> web.Response:
        del request
        return _json({"version": VERSION})

    async def _metrics(self, request: web.Request) -> web.Response:
        del request
        running = self._loaded()
        text = running.metrics.text(running.engine.counters())
        return web.Response(body=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _models(self, request: web.Request) -> web.Response:
        del request
        longest = self._loaded().engine.longest_sequence
        return _json(models_document(self._served, self._model, self._created, longest))

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        return await self._answer("completion", request)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._answer("chat", request)

    async def _answer(self, kind: Kind, request: web.Request) -> web.StreamResponse:
        engine = self._loaded().engine
        query = parse_query(kind, await request.read(), self._served)
        answers = [
            Answer(tokens, *answer_length(query, tokens, self._drawn(), engine.longest_sequence))
            for tokens in query.prompt_tokens
            for _ in range(query.choices)
        ]
        call = Call(answers, streams=query.stream, choices=query.choices)
        try:
            engine.submit(call)
        except EngineStoppedError as error:
            raise RequestError(str(error), status=503) from error
        try:
            if query.stream:
                return await self._stream(request, query, call)
            while call.unfinished and not call.lost:
                await call.changed.wait()
                call.changed.clear()
        finally:
            engine.give_up(call)  # when the client has gone; else there is nothing left to give up
        if call.lost:
            return _cut(request)
        document = answer_document(
            query, int(time.time()), [(answer.tokens, answer.finish_reason) for answer in answers]
        )
        return _json(document)

    async def _stream(self, request: web.Request, query: Query, call: Call) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        # Headers leave at once, as from vLLM: a client that waits in the queue is connected.
        await response.prepare(request)
        chunks = Chunks(query, int(time.time()))
        sent = [0] * len(call.answers)
        opened = False
        open_answers = set(range(len(call.answers)))
        while open_answers:
            await call.changed.wait()
            call.changed.clear()
            if call.lost:
                return _cut(request, response)
            events: list[bytes] = []
            if not opened and any(answer.tokens for answer in call.answers):
                events += [chunks.opening(index) for index in range(len(call.answers))]
                opened = True
            for index in sorted(open_answers):
                answer = call.answers[index]
                fresh = answer.tokens - sent[index]
                if fresh and (answer.done or not sent[index] or fresh >= self._interval):
                    reason = answer.finish_reason if answer.done else None
                    events.append(chunks.tokens(index, sent[index], fresh, reason))
                    sent[index] = answer.tokens
                if answer.done:
                    open_answers.discard(index)
            if not open_answers:
                if query.include_usage:
                    events.append(chunks.usage(sum(sent)))
                events.append(Chunks.DONE)
            if events:
                await response.write(b"".join(events))
        await response.write_eof()
        return response

    def _drawn(self) -> int | None:
        return None if self._lengths is None else int(self._lengths.sample(self._random, 1)[0])

    async def _crash(self, request: web.Request) -> web.Response:
        self._loaded()
        seconds = (await _options(request)).get("restartAfterSeconds")
        if seconds is not None:
            seconds = _duration("restartAfterSeconds", seconds)
        assert self._faults is not None  # noqa: S101  (the route exists only with them)
        self._faults.crash(seconds)
        return _json({}, status=202)

    async def _stall(self, request: web.Request) -> web.Response:
        self._loaded().engine.stall(_duration("seconds", (await _options(request)).get("seconds")))
        return _json({}, status=202)


def _json(document: Mapping[str, Any], status: int = 200) -> web.Response:
    return web.Response(text=encoded(document), status=status, content_type="application/json")


async def _options(request: web.Request) -> dict[str, Any]:
    if not await request.read():
        return {}
    with contextlib.suppress(ValueError):
        content = await request.json()
        if isinstance(content, dict):
            return content
    raise RequestError("the body is no JSON object")


def _duration(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise RequestError(f"{name}: {value!r}; a number from 0 is accepted")
    return float(value)


def _cut(request: web.Request, response: web.StreamResponse | None = None) -> web.StreamResponse:
    """End the connection without the rest of the answer, as a dead process does."""
    if request.transport is not None:
        request.transport.abort()
    return response or web.Response(status=500)


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except RequestError as error:
        return _json(error.document(), status=error.status)
    except web.HTTPNotFound as error:  # as FastAPI answers, which vLLM is built on
        return _json({"detail": "Not Found"}, status=error.status)
    except web.HTTPMethodNotAllowed as error:
        response = _json({"detail": "Method Not Allowed"}, status=error.status)
        response.headers["Allow"] = ", ".join(sorted(error.allowed_methods))
        return response
    except ConnectionResetError:  # the client went away while its stream was written
        return web.Response(status=499)
