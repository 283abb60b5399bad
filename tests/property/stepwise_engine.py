"""vLLM's scheduler in the plainest way: one engine step after another, every sequence by itself."""

from dataclasses import dataclass, field

from plimsoll.simulation import EngineSpec, Request

BLOCK = 16


@dataclass
class Sequence:
    request: Request
    computed: int = 0
    emitted: int = 0
    blocks: int = 0
    first_token: float | None = None
    completed: float | None = None
    preemptions: int = 0
    decodes: bool = False
    late: float = 0.0

    @property
    def known(self) -> int:
        return self.request.input_tokens + self.emitted


@dataclass
class StepwiseEngine:
    spec: EngineSpec
    now: float = 0.0
    waiting: list[Sequence] = field(default_factory=list)
    running: list[Sequence] = field(default_factory=list)
    most_blocks: int = 0
    late: float = 0.0

    @property
    def free(self) -> int:
        return self.spec.kv_tokens // BLOCK - sum(sequence.blocks for sequence in self.running)

    def serve(self, requests: list[Request]) -> list[Sequence]:
        """All of them, in the order of arrival."""
        sequences = [Sequence(request) for request in requests]
        coming = list(sequences)
        while coming or self.waiting or self.running:
            if not self.waiting and not self.running:
                self.now = max(self.now, coming[0].request.arrival_seconds)
            while coming and coming[0].request.arrival_seconds <= self.now:
                self.waiting.append(coming.pop(0))
            self.step()
        return sequences

    def step(self) -> None:
        preempted = False
        for sequence in list(self.running):
            while sequence in self.running and sequence.decodes and sequence.computed == BLOCK * sequence.blocks:
                if self.free:
                    sequence.blocks += 1
                    continue
                victim = self.running.pop()
                victim.blocks = victim.computed = 0
                victim.decodes = False
                victim.preemptions += 1
                self.waiting.insert(0, victim)
                preempted = True
        decoding = [sequence for sequence in self.running if sequence.decodes]
        room = budget = self.spec.stages * self.spec.max_num_batched_tokens - len(decoding)
        chunks: list[tuple[Sequence, int]] = []
        for sequence in self.running:
            if not sequence.decodes:
                chunks.append((sequence, min(budget, sequence.known - sequence.computed)))
                budget -= chunks[-1][1]
        while not preempted and self.waiting and budget and len(self.running) < self.spec.max_num_seqs:
            head = self.waiting[0]
            blocks = -(-head.known // BLOCK)
            if blocks > self.free:
                break
            self.running.append(self.waiting.pop(0))
            head.blocks = blocks
            chunks.append((head, min(budget, head.known)))
            budget -= chunks[-1][1]
        self.most_blocks = max(self.most_blocks, sum(sequence.blocks for sequence in self.running))
        context = sum(sequence.computed + 1 for sequence in decoding)
        if chunks:
            tokens = sum(chunk for _, chunk in chunks)
            pairs = sum(chunk * (sequence.computed + chunk / 2) for sequence, chunk in chunks)
            self.now += self.mixed(len(decoding), context, tokens, pairs, room)
        else:
            fixed, slope = self.spec.times.decode(len(decoding))
            self.now += fixed + slope * context
        for sequence in decoding:
            sequence.computed += 1
            self.emit(sequence)
        for sequence, chunk in chunks:
            sequence.computed += chunk
            sequence.late = self.late
            if sequence.computed == sequence.known:
                sequence.decodes = True
                self.emit(sequence)

    def mixed(self, running: int, context: float, tokens: int, pairs: float, room: int) -> float:
        """A batch of each stage: chunks take as many of them as they need, each adds its time in one stage to the pass.

        What they take in the other stages passes before the answer comes.
        """
        stages = self.spec.stages
        plain = self.spec.times.mixed(running, context, 0, 0.0)
        batches = max(1.0, tokens / (room / stages))
        longer = self.spec.times.mixed(running, context, tokens / batches, pairs / batches) - plain
        self.late = longer - longer / stages + (batches - 1.0) * plain / stages if stages > 1 else 0.0
        return plain + batches * longer / stages

    def emit(self, sequence: Sequence) -> None:
        sequence.emitted += 1
        if sequence.first_token is None:
            sequence.first_token = self.now + sequence.late
        if sequence.emitted == sequence.request.output_tokens:
            sequence.completed = self.now + sequence.late
            sequence.blocks = 0
            self.running.remove(sequence)
