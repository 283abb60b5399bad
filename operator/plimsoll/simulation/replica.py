"""One replica as vLLM runs it: continuous batching, chunked prefill, KV cache in blocks, preemption by recompute.

The scheduler is vLLM's (version 1, first come first served): a step gives every decoding sequence one token; what is
left of `max_num_batched_tokens` goes to the prompt in progress and then to waiting prompts, as long as fewer than
`max_num_seqs` run and the prompt's KV blocks are free. When a decoding sequence finds no block, the latest admitted
request loses its blocks and goes back to the head of the queue, to compute its prompt and its tokens so far again.
A prompt's blocks are all taken at its admission, not chunk by chunk. Prefix caching is not simulated.

A step of a pipeline is a pass in which each stage works on a batch of its own. A chunk lengthens the pass by one
stage's share of its time; its request is late by the other stages' share, from its first token to its last.

Between two events nothing but the context changes, by one token per sequence and step. So a run of steps is one
*segment*, whose end follows in closed form: k steps of `b` sequences that hold `H` tokens take
k·fixed + slope·(k·H + b·k·(k+1)/2). Only steps that prefill are simulated one by one. The cost of a request is
therefore independent of its number of tokens.
"""

import heapq
import math
from collections import deque

from plimsoll.performance.memory import KV_BLOCK_TOKENS
from plimsoll.simulation.engine import EngineSpec
from plimsoll.simulation.generation import NEVER, Counters, Generation
from plimsoll.simulation.traffic import Request

_BLOCK = KV_BLOCK_TOKENS


class Replica:
    """A replica in simulated time.

    `advance(t)` moves the clock and returns what was completed; `submit(request)` adds a request at the clock. A
    request that arrives during a step is seen at the step's end, as by the engine.
    """

    __slots__ = (
        "_accounted",
        "_active",
        "_begin",
        "_boundary",
        "_busy_seconds",
        "_cancelled",
        "_chunks",
        "_clock",
        "_decode_times",
        "_decoding",
        "_end",
        "_engine",
        "_finishing",
        "_first_step_seconds",
        "_free",
        "_generated_tokens",
        "_growth_seconds",
        "_held",
        "_kv_block_seconds",
        "_lag_seconds",
        "_number",
        "_partial",
        "_phases",
        "_preempted",
        "_prompt_tokens",
        "_running",
        "_running_seconds",
        "_step",
        "_steps",
        "_waiting",
        "_waiting_seconds",
    )

    def __init__(self, engine: EngineSpec, start_seconds: float = 0.0) -> None:
        self._engine = engine
        self._clock = start_seconds
        self._boundary = start_seconds  # of steps: where the last segment ended
        self._waiting: deque[Generation] = deque()
        self._running: dict[Generation, None] = {}  # in the order of admission
        self._partial: Generation | None = None  # its prompt is computed in part; always the last of _running
        self._decoding = 0
        self._held = 0  # tokens in the KV cache of the decoding sequences
        self._free = engine.kv_blocks
        self._step = 0  # steps since the start
        # A sequence needs a block every 16th step; [p] counts those that do in steps whose number is p modulo 16.
        # Twice, so that any run of less than 16 steps is one slice.
        self._phases = [0] * (2 * _BLOCK)
        self._finishing: list[tuple[int, int, Generation]] = []  # heap: the step after which a sequence is complete
        self._number = 0
        self._cancelled: list[Generation] = []
        self._decode_times: dict[int, tuple[float, float]] = {}
        # The segment: steps from _begin to _end; step j (1..) takes _first_step_seconds + (j - 1) * _growth_seconds.
        self._active = False
        self._begin = self._end = start_seconds
        self._steps = 0
        self._first_step_seconds = self._growth_seconds = 0.0
        self._chunks: list[tuple[Generation, int]] = []
        self._lag_seconds = 0.0
        self._accounted = start_seconds
        self._busy_seconds = self._running_seconds = self._waiting_seconds = self._kv_block_seconds = 0.0
        self._prompt_tokens = self._generated_tokens = self._preempted = 0

    @property
    def engine(self) -> EngineSpec:
        """What it can do."""
        return self._engine

    @property
    def clock_seconds(self) -> float:
        """Simulated time."""
        return self._clock

    @property
    def outstanding(self) -> int:
        """Requests that run or wait."""
        return len(self._running) + len(self._waiting)

    @property
    def unfinished(self) -> list[Generation]:
        """The running requests in the order of admission, then the waiting ones."""
        return [*self._running, *self._waiting]

    @property
    def idle_since_seconds(self) -> float:
        """When its last step ended (or its start)."""
        return self._boundary

    def accepts(self, request: Request) -> bool:
        """Whether prompt and answer together fit the KV cache and the maximal model length."""
        return request.input_tokens + request.output_tokens <= self._engine.longest_sequence

    def submit(self, request: Request, attempts: int = 1) -> Generation:
        """Queue a request at the clock.

        Raises:
            ValueError: it is longer than the engine accepts, or has no tokens.
        """
        fault = ""
        if request.input_tokens < 1 or request.output_tokens < 1:
            fault = "at least 1 of each is accepted"
        elif not self.accepts(request):
            fault = f"at most {self._engine.longest_sequence} together are accepted"
        if fault:
            raise ValueError(
                f"request of class {request.traffic_class} at {request.arrival_seconds} s has {request.input_tokens} "
                f"input and {request.output_tokens} output tokens; {fault}"
            )
        generation = Generation(request, self._clock)
        generation.attempts = attempts
        self._account(self._clock)
        # A queue that was not empty is blocked until a segment's end; an empty one ends this segment for the newcomer.
        blocked = bool(self._waiting)
        self._waiting.append(generation)
        if not self._active:
            self._boundary = max(self._boundary, self._clock)
        elif (
            not blocked
            and self._steps > 1
            and len(self._running) < self._engine.max_num_seqs
            and -(-request.input_tokens // _BLOCK) <= self._free
        ):
            self._truncate()
        return generation

    def advance(self, seconds: float) -> list[Generation]:
        """Move the clock to `seconds` and return what was completed until then, in the order of completion.

        Raises:
            ValueError: the clock is later.
        """
        if seconds < self._clock:
            raise ValueError(f"the replica's clock is at {self._clock} s; it cannot go back to {seconds} s")
        completed: list[Generation] = []
        while True:
            if self._active:
                if self._end > seconds:
                    break
                self._end_segment(completed)
            # A segment starts only when the clock has passed its beginning, so that requests of one moment go together.
            if self._boundary < seconds and (self._waiting or self._running):
                self._plan()
            else:
                break
        self._clock = seconds
        return completed

    def next_event_seconds(self) -> float:
        """When the running steps' next first token or completion comes if nothing is submitted; infinite when idle.

        The answer commits the engine to a step that starts now: what is submitted at this moment comes after it.
        """
        self._start()
        return self._end if self._active else math.inf

    def next_token_seconds(self) -> float:
        """When the step in progress ends; infinite when idle. It commits the engine like `next_event_seconds()`."""
        self._start()
        return self._begin + self._duration(self._done_steps() + 1) if self._active else math.inf

    def generated_tokens(self, generation: Generation) -> int:
        """Tokens of its answer so far, at the clock."""
        if generation.completed_seconds is not None:
            return generation.request.output_tokens
        if generation.finish_step == NEVER:
            return generation.emitted_tokens
        left = generation.finish_step - self._step - (self._done_steps() if self._active else 0)
        return generation.request.output_tokens - left

    def cancel(self, generation: Generation) -> None:
        """Give up a request, as when its client disconnects; a running one leaves at the end of the present step."""
        if generation in self._running:
            self._cancelled.append(generation)
            if self._active:
                self._truncate()
            else:
                self._drop_cancelled()
        elif generation in self._waiting:
            self._account(self._clock)
            self._waiting.remove(generation)

    def fail(self) -> list[Generation]:
        """Lose everything at once; returns the unfinished requests."""
        self._account(self._clock)
        lost = self.unfinished
        self._running.clear()
        self._waiting.clear()
        self._finishing.clear()
        self._cancelled.clear()
        self._active, self._boundary, self._partial = False, self._clock, None
        self._decoding, self._held, self._free = 0, 0, self._engine.kv_blocks
        self._phases = [0] * (2 * _BLOCK)
        return lost

    def counters(self) -> Counters:
        """Everything counted until the clock."""
        self._account(self._clock)
        done = self._done_steps() if self._active and self._steps > 1 else 0
        grown = self._grown(done)
        grown_seconds = grown * (self._clock - self._begin) / 2.0
        blocks = self._engine.kv_blocks
        used = blocks - self._free
        return Counters(
            running=len(self._running),
            waiting=len(self._waiting),
            kv_usage=(used + grown) / blocks,
            prompt_tokens=self._prompt_tokens,
            generated_tokens=self._generated_tokens + done * self._decoding,
            preemptions=self._preempted,
            busy_seconds=self._busy_seconds,
            running_seconds=self._running_seconds,
            waiting_seconds=self._waiting_seconds,
            kv_usage_seconds=(self._kv_block_seconds + grown_seconds) / blocks,
            steps=self._step + done,
        )

    def _start(self) -> None:
        if not self._active and self._boundary <= self._clock and (self._waiting or self._running):
            self._plan()

    def _plan(self) -> None:
        """Begin the segment that starts at the boundary."""
        self._account(self._boundary)
        engine, step, phases = self._engine, self._step, self._phases
        # Decoding sequences take their blocks first; the latest admitted request gives way if there are none. It needs
        # more blocks than it has freed for this step, so that nothing is admitted in a step that preempts, as in vLLM.
        while phases[step % _BLOCK] > self._free:
            self._preempt()
        needed = phases[step % _BLOCK]
        decoding = self._decoding
        chunks = self._chunks = []
        budget = engine.tokens_per_pass - decoding
        tokens, pairs = 0, 0.0
        if self._partial is not None:
            tokens = min(self._partial.prompt_tokens - self._partial.computed_tokens, budget)
            pairs = tokens * (self._partial.computed_tokens + tokens / 2.0)
            chunks.append((self._partial, tokens))
        waiting, running = self._waiting, self._running
        while waiting and tokens < budget and len(running) < engine.max_num_seqs:
            head = waiting[0]
            blocks = -(-head.prompt_tokens // _BLOCK)
            if blocks > self._free - needed:
                break
            waiting.popleft()
            self._free -= blocks
            running[head] = None
            if head.admitted_seconds is None:
                head.admitted_seconds = self._boundary
            chunk = min(head.prompt_tokens, budget - tokens)
            pairs += chunk * chunk / 2.0
            tokens += chunk
            chunks.append((head, chunk))
            self._partial = head  # the last one's prompt may not be computed whole; set right at the segment's end
        self._begin = self._boundary
        self._active = True
        if chunks:
            self._steps = 1
            self._growth_seconds = 0.0
            self._first_step_seconds = self._mixed(tokens, pairs, budget)
            self._end = self._begin + self._first_step_seconds
            return
        times = self._decode_times.get(decoding)
        if times is None:
            times = self._decode_times[decoding] = engine.times.decode(decoding)
        finishing = self._finishing
        while finishing[0][2].finish_step != finishing[0][0]:  # preempted or cancelled since
            heapq.heappop(finishing)
        steps = finishing[0][0] - step
        if decoding * ((steps + _BLOCK - 1) // _BLOCK) > self._free:
            steps = min(steps, self._steps_with_blocks())
        fixed, slope = times
        self._steps = steps
        self._growth_seconds = slope * decoding
        self._first_step_seconds = fixed + slope * (self._held + decoding)
        self._end = self._begin + self._duration(steps)

    def _mixed(self, tokens: int, pairs: float, room: int) -> float:
        """Seconds of a pass with these chunks of prompts, in steps for which each stage has its part of `room`."""
        times, stages = self._engine.times, self._engine.stages
        decoding, context = self._decoding, float(self._held + self._decoding)
        if stages == 1:
            return times.mixed(decoding, context, tokens, pairs)
        steps = max(1.0, tokens * stages / room)
        without = times.mixed(decoding, context, 0.0, 0.0)
        part = (times.mixed(decoding, context, tokens / steps, pairs / steps) - without) / stages
        self._lag_seconds = (stages - 1) * part + without * (steps - 1.0) / stages
        return without + steps * part

    def _end_segment(self, completed: list[Generation]) -> None:
        """Count what its steps did, and leave the engine at the boundary."""
        end = self._boundary = self._end
        self._account(end)
        steps, decoding = self._steps, self._decoding
        self._active = False
        if decoding:
            grown = self._grown(steps)
            self._free -= grown
            self._kv_block_seconds += grown * (end - self._begin) / 2.0
            self._held += decoding * steps
            self._generated_tokens += decoding * steps
        step = self._step = self._step + steps
        finishing = self._finishing
        while finishing and finishing[0][0] <= step:
            finish_step, _, generation = heapq.heappop(finishing)
            if generation.finish_step == finish_step:
                self._leave(generation)
                generation.completed_seconds = end + generation.lag_seconds
                completed.append(generation)
        if self._chunks:
            self._end_chunks(completed)
        if self._cancelled:
            self._drop_cancelled()

    def _end_chunks(self, completed: list[Generation]) -> None:
        step, end = self._step, self._boundary
        self._partial = None
        for generation, tokens in self._chunks:
            self._prompt_tokens += tokens
            generation.computed_tokens += tokens
            if generation.computed_tokens < generation.prompt_tokens:
                self._partial = generation
                continue
            generation.emitted_tokens += 1
            self._generated_tokens += 1
            generation.lag_seconds = self._lag_seconds
            if generation.first_token_seconds is None:
                generation.first_token_seconds = end + self._lag_seconds
            remaining = generation.request.output_tokens - generation.emitted_tokens
            if not remaining:
                del self._running[generation]
                self._free += -(-generation.prompt_tokens // _BLOCK)
                generation.completed_seconds = end + generation.lag_seconds
                completed.append(generation)
                continue
            phase = generation.phase = (step - generation.prompt_tokens) % _BLOCK
            self._phases[phase] += 1
            self._phases[phase + _BLOCK] += 1
            self._held += generation.prompt_tokens
            self._decoding += 1
            generation.finish_step = step + remaining
            self._number += 1
            heapq.heappush(self._finishing, (step + remaining, self._number, generation))
        self._chunks = []

    def _leave(self, generation: Generation) -> None:
        """Take a request out of the running ones, and free its blocks."""
        del self._running[generation]
        if generation.finish_step == NEVER:
            self._free += -(-generation.prompt_tokens // _BLOCK)
            self._partial = None
            return
        generated = generation.request.output_tokens - (generation.finish_step - self._step)
        held = generation.prompt_tokens + generated - generation.emitted_tokens
        self._free += -(-held // _BLOCK)
        self._held -= held
        self._decoding -= 1
        self._phases[generation.phase] -= 1
        self._phases[generation.phase + _BLOCK] -= 1
        generation.emitted_tokens = generated
        generation.finish_step = NEVER

    def _preempt(self) -> None:
        """Send the latest admitted request back to the head of the queue; its tokens so far join its prompt."""
        generation = next(reversed(self._running))
        self._leave(generation)
        generation.prompt_tokens = generation.request.input_tokens + generation.emitted_tokens
        generation.computed_tokens = 0
        generation.preemptions += 1
        self._preempted += 1
        self._waiting.appendleft(generation)

    def _drop_cancelled(self) -> None:
        self._account(self._boundary)
        for generation in self._cancelled:
            if generation in self._running:
                self._leave(generation)
        self._cancelled = []

    def _steps_with_blocks(self) -> int:
        """Steps until a decoding sequence finds no free block."""
        full, left = divmod(self._free, self._decoding)  # every sequence takes one block in 16 steps
        steps = _BLOCK * full
        while (needed := self._phases[(self._step + steps) % _BLOCK]) <= left:
            left -= needed
            steps += 1
        return steps

    def _grown(self, steps: int) -> int:
        """Blocks that the decoding sequences take in the segment's first `steps` steps."""
        full, rest = divmod(steps, _BLOCK)
        first = self._step % _BLOCK
        return full * self._decoding + sum(self._phases[first : first + rest])

    def _duration(self, steps: int) -> float:
        """Seconds of the segment's first `steps` steps."""
        return steps * self._first_step_seconds + self._growth_seconds * (steps * (steps - 1) / 2.0)

    def _done_steps(self) -> int:
        """Steps of the segment that have ended by the clock."""
        return self._steps_until(self._clock, ended=True)

    def _steps_until(self, seconds: float, *, ended: bool) -> int:
        """Of the segment: the most steps that end by `seconds`, or the fewest that end then or later."""
        elapsed = seconds - self._begin
        if elapsed <= 0.0:
            return 0
        first, growth = self._first_step_seconds, self._growth_seconds
        linear = first - growth / 2.0
        steps = int(2.0 * elapsed / (linear + math.sqrt(linear * linear + 2.0 * growth * elapsed)))
        # Rounding may put the root on the wrong side of a boundary.
        while steps > 0 and self._begin + self._duration(steps) > seconds:
            steps -= 1
        while self._begin + self._duration(steps + 1) <= seconds:
            steps += 1
        if ended or (steps and self._begin + self._duration(steps) == seconds):
            return min(steps, self._steps)
        return min(steps + 1, self._steps)

    def _truncate(self) -> None:
        """End the segment with the step in progress."""
        self._steps = max(1, self._steps_until(self._clock, ended=False))
        self._end = self._begin + self._duration(self._steps)

    def _account(self, seconds: float) -> None:
        """Add the time since the last change to the integrals."""
        elapsed = seconds - self._accounted
        if elapsed <= 0.0:
            return
        self._accounted = seconds
        if self._active:
            self._busy_seconds += elapsed
            self._running_seconds += elapsed * len(self._running)
            self._kv_block_seconds += elapsed * (self._engine.kv_blocks - self._free)
        self._waiting_seconds += elapsed * len(self._waiting)
