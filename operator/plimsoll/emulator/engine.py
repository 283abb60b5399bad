"""A simulated replica driven by the wall clock: the latencies are the simulator's, the waiting is real.

Times in the metrics are *service seconds*: seconds since the engine's start times `speed`. The replica's own clock
stands still while the engine is stalled, so it can be behind.
"""

import asyncio
import math
from collections import deque

from plimsoll.emulator.metrics import EngineMetrics, FinishedRequest
from plimsoll.simulation import Counters, EngineSpec, Generation, Replica, Request


class Answer:
    """One sequence that a client waits for."""

    __slots__ = (
        "answer_tokens",
        "arrival_seconds",
        "call",
        "counted_seconds",
        "counted_tokens",
        "done",
        "finish_reason",
        "generation",
        "max_tokens",
        "prompt_tokens",
        "tokens",
    )

    def __init__(self, prompt_tokens: int, answer_tokens: int, max_tokens: int, finish_reason: str) -> None:
        self.prompt_tokens = prompt_tokens
        self.answer_tokens = answer_tokens
        """How many it will have."""
        self.max_tokens = max_tokens
        self.finish_reason = finish_reason
        self.tokens = 0
        """So far; of a call that does not stream, known only when it is done."""
        self.done = False
        self.call: Call
        self.generation: Generation
        self.arrival_seconds = 0.0
        self.counted_tokens = 0  # by the metrics, and when (in the replica's time)
        self.counted_seconds = 0.0


class Call:
    """One HTTP request: its answers, and an event that is set when they have changed."""

    __slots__ = ("answers", "changed", "choices", "lost", "streams", "unfinished")

    def __init__(self, answers: list[Answer], *, streams: bool, choices: int = 1) -> None:
        self.answers = answers
        self.streams = streams
        self.choices = choices
        """Answers to one prompt; the answers are ordered by prompt."""
        self.changed = asyncio.Event()
        self.lost = False
        """The engine died; no more tokens come."""
        self.unfinished = len(answers)


class EngineStoppedError(RuntimeError):
    """The engine is draining or dead and takes no requests."""


class RealtimeEngine:
    """One replica in real time, within one event loop."""

    def __init__(self, spec: EngineSpec, metrics: EngineMetrics, speed: float = 1.0) -> None:
        self._loop = asyncio.get_running_loop()
        self._replica = Replica(spec)
        self._metrics = metrics
        self._speed = speed
        self._origin = self._loop.time()
        self._stalls: list[tuple[float, float]] = []  # when, in the replica's time, and for how long
        self._stalled_until: float | None = None  # service seconds
        self._queued: deque[Answer] = deque()  # in the replica's order, given up ones included
        self._started: dict[Generation, Answer] = {}
        self._streaming: dict[Generation, Answer] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._counted = self._replica.counters()
        self._unfinished = 0
        self._accepts = True
        self.idle = asyncio.Event()
        """Set while no request runs or waits."""
        self.idle.set()

    @property
    def longest_sequence(self) -> int:
        """Most tokens of a prompt and its answer."""
        return self._replica.engine.longest_sequence

    @property
    def accepts(self) -> bool:
        """Whether new requests are taken."""
        return self._accepts

    def service_seconds(self) -> float:
        """Simulated time since the start."""
        return (self._loop.time() - self._origin) * self._speed

    def submit(self, call: Call) -> None:
        """Queue the answers of a call.

        Raises:
            EngineStoppedError: the engine is draining or dead.
            ValueError: an answer is longer than the engine accepts.
        """
        if not self._accepts:
            raise EngineStoppedError("the engine is shutting down")
        for answer in call.answers:
            if answer.prompt_tokens + answer.answer_tokens > self.longest_sequence:
                raise ValueError(f"at most {self.longest_sequence} tokens of prompt and answer are accepted")
        now = self.service_seconds()
        self._catch_up(now)
        for answer in call.answers:
            answer.call = call
            answer.arrival_seconds = now
            request = Request(self._replica.clock_seconds, "", answer.prompt_tokens, answer.answer_tokens)
            answer.generation = self._replica.submit(request)
            self._queued.append(answer)
        self._unfinished += len(call.answers)
        self.idle.clear()
        self._schedule()

    def give_up(self, call: Call) -> None:
        """The client of a call went away: its unfinished answers leave the engine."""
        if call.lost or not call.unfinished:
            return
        self._catch_up(self.service_seconds())
        for answer in call.answers:
            if not answer.done:
                self._replica.cancel(answer.generation)
                self._end(answer, "abort")
        self._schedule()

    def counters(self) -> Counters:
        """The replica's gauges and totals, now."""
        self._catch_up(self.service_seconds())
        self._count()
        self._schedule()
        return self._replica.counters()

    def stall(self, seconds: float) -> None:
        """Make no progress for some simulated seconds. A stall during another one adds to it."""
        now = self.service_seconds()
        self._catch_up(now)
        start = now if self._stalled_until is None else max(now, self._stalled_until)
        self._stalled_until = start + seconds
        self._stalls.append((self._replica.clock_seconds, seconds))
        self._schedule()

    def drain(self) -> None:
        """Take no more requests; those that run or wait go on."""
        self._accepts = False

    def fail(self) -> None:
        """Lose all requests and do nothing any more."""
        self._accepts = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._replica.fail()
        for call in {answer.call for answer in (*self._started.values(), *self._queued) if not answer.done}:
            call.lost = True
            call.changed.set()
        self._started.clear()
        self._streaming.clear()
        self._queued.clear()
        self._unfinished = 0
        self.idle.set()

    def _replica_seconds(self, now: float) -> float:
        """The replica's time that is due at some service time."""
        if self._stalled_until is not None:
            if now < self._stalled_until:
                return self._replica.clock_seconds
            self._stalled_until = None
        return max(self._replica.clock_seconds, now - sum(seconds for _, seconds in self._stalls))

    def _in_service_seconds(self, replica_seconds: float) -> float:
        return replica_seconds + sum(seconds for at, seconds in self._stalls if at < replica_seconds)

    def _on_timer(self) -> None:
        self._timer = None
        self._catch_up(self.service_seconds())
        self._schedule()

    def _catch_up(self, now: float) -> None:
        """Play everything that is due, event by event, so that a late wake-up changes no figure."""
        replica, due = self._replica, self._replica_seconds(now)
        while (event := replica.next_event_seconds()) <= due:
            completed = replica.advance(event)
            self._count()
            for generation in completed:
                self._complete(generation)
        replica.advance(due)
        self._deliver()

    def _count(self) -> None:
        """Give the metrics what happened since the last time. At an event it is exact: between two of them all steps
        are alike but for the growing context."""
        replica, metrics = self._replica, self._metrics
        while self._queued and (self._queued[0].done or self._queued[0].generation.admitted_seconds is not None):
            answer = self._queued.popleft()
            if not answer.done:
                self._started[answer.generation] = answer
                if answer.call.streams:
                    self._streaming[answer.generation] = answer
        clock = replica.clock_seconds
        for generation, answer in self._started.items():
            tokens = replica.generated_tokens(generation) - answer.counted_tokens
            if not tokens:
                continue
            first = generation.first_token_seconds
            if not answer.counted_tokens and first is not None:
                ttft = self._in_service_seconds(first) - answer.arrival_seconds
                metrics.first_token(answer.prompt_tokens, ttft)
                answer.counted_seconds = first
                tokens, answer.counted_tokens = tokens - 1, 1
            if tokens:
                elapsed = self._in_service_seconds(clock) - self._in_service_seconds(answer.counted_seconds)
                metrics.inter_token.observe(elapsed / tokens, tokens)
                answer.counted_tokens += tokens
                answer.counted_seconds = clock
        counters, before = replica.counters(), self._counted
        steps = counters.steps - before.steps
        if steps > 0:
            tokens = counters.prompt_tokens + counters.generated_tokens - before.prompt_tokens - before.generated_tokens
            metrics.step_tokens.observe(tokens / steps, steps)
        self._counted = counters

    def _deliver(self) -> None:
        generated = self._replica.generated_tokens
        for generation, answer in self._streaming.items():
            tokens = generated(generation)
            if tokens > answer.tokens:
                answer.tokens = tokens
                answer.call.changed.set()

    def _complete(self, generation: Generation) -> None:
        answer = self._started.get(generation)
        if answer is not None:  # otherwise given up in the step that completed it
            answer.tokens = answer.answer_tokens
            self._end(answer, answer.finish_reason)

    def _end(self, answer: Answer, reason: str) -> None:
        generation, call = answer.generation, answer.call
        self._started.pop(generation, None)
        self._streaming.pop(generation, None)
        answer.done = True
        call.unfinished -= 1
        call.changed.set()
        self._unfinished -= 1
        if not self._unfinished:
            self.idle.set()
        self._metrics.finish(self._finished(answer, reason))
        if reason != "abort" and not call.unfinished:
            for first in range(0, len(call.answers), call.choices):
                longest = max(other.tokens for other in call.answers[first : first + call.choices])
                self._metrics.finish_call(call.choices, longest)

    def _finished(self, answer: Answer, reason: str) -> FinishedRequest:
        generation = answer.generation
        arrival = answer.arrival_seconds
        moments = (generation.admitted_seconds, generation.first_token_seconds, generation.completed_seconds)
        if reason == "abort":
            admitted = first = last = arrival
        else:
            admitted, first, last = (
                # During a stall the replica's clock, by which a request is admitted, is behind its arrival.
                arrival if moment is None else max(arrival, self._in_service_seconds(moment))
                for moment in moments
            )
        return FinishedRequest(
            reason=reason,
            prompt_tokens=answer.prompt_tokens,
            answer_tokens=answer.tokens,
            max_tokens=answer.max_tokens,
            end_to_end_seconds=last - arrival,
            queue_seconds=admitted - arrival,
            prefill_seconds=first - admitted,
            decode_seconds=last - first,
        )

    def _schedule(self) -> None:
        """Wake up for the next event; while an answer streams, for the next token."""
        replica = self._replica
        due = replica.next_token_seconds() if self._streaming else replica.next_event_seconds()
        at = self._origin + self._in_service_seconds(due) / self._speed
        if self._timer is not None:
            if at == self._timer_at:
                return
            self._timer.cancel()
            self._timer = None
        if at != math.inf:
            self._timer_at = at
            self._timer = self._loop.call_at(at, self._on_timer)
