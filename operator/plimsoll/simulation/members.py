"""The replicas of one placement while a simulation runs, and what they cost and did."""

import random

from plimsoll.simulation.fleet import Placement, ReplicaChoice
from plimsoll.simulation.generation import Counters
from plimsoll.simulation.replica import Replica
from plimsoll.simulation.report import PlacementInterval, PlacementReport
from plimsoll.simulation.routing import ReplicaRouter

_NONE = Counters(0, 0, 0.0, 0, 0, 0, 0.0, 0.0, 0.0, 0.0, 0)


class Member:
    """A replica with the times of its life."""

    __slots__ = ("charged_until", "counted", "ready_from", "ready_until", "replica")

    def __init__(self, replica: Replica, created_seconds: float, ready_from: float) -> None:
        self.replica = replica
        self.charged_until = created_seconds
        self.ready_from = ready_from
        self.ready_until: float | None = None
        """None while it is to take requests."""
        self.counted = _NONE

    @property
    def outstanding(self) -> int:
        """Requests that run or wait."""
        return self.replica.outstanding


class PlacementMembers:
    """All replicas of a placement, by what they do."""

    def __init__(self, spec: Placement, choice: ReplicaChoice, stream: random.Random) -> None:
        self.spec = spec
        self.router = ReplicaRouter(choice, stream)
        self.starting: list[Member] = []
        self.ready: list[Member] = []
        self.draining: list[Member] = []
        self.requests = 0
        self._interval = _Sums()
        self._total = _Sums()

    @property
    def everyone(self) -> list[Member]:
        """All that exist."""
        return [*self.ready, *self.draining, *self.starting]

    @property
    def wanted(self) -> int:
        """Replicas that take requests or will."""
        return len(self.ready) + len(self.starting)

    def create(self, seconds: float, startup_seconds: float) -> Member:
        """A replica that is not ready before its start-up time is over."""
        ready_from = seconds + startup_seconds
        member = Member(Replica(self.spec.engine, seconds), seconds, ready_from)
        (self.starting if startup_seconds > 0.0 else self.ready).append(member)
        return member

    def shrink_to(self, replicas: int, seconds: float) -> None:
        """Starting ones end at once, ready ones when their requests are done."""
        while self.wanted > replicas and self.starting:
            self._charge(self.starting.pop(), seconds)
        while self.wanted > replicas:
            member = self.ready.pop()
            member.ready_until = seconds
            self.draining.append(member)

    def fail(self, member: Member, seconds: float) -> None:
        """It is gone; what it did until now is counted."""
        self.ready.remove(member)
        self._charge(member, seconds)

    def charge(self, seconds: float) -> None:
        """Count what everyone did until `seconds`, to which all have been advanced; drained replicas go."""
        for member in self.everyone:
            done = member.ready_until is not None and not member.outstanding
            until = seconds
            if done and member.ready_until is not None:
                until = min(seconds, max(member.replica.idle_since_seconds, member.ready_until))
            self._charge(member, until)
        self.draining = [member for member in self.draining if member.outstanding]

    def close_interval(self, seconds: float) -> PlacementInterval:
        """What was charged since the last call, over an interval of that length."""
        sums, self._interval = self._interval, _Sums()
        self._total.add(sums)
        length = max(seconds, 1e-300)
        existing = max(sums.replica_seconds, 1e-300)
        return PlacementInterval(
            ready_replicas=sums.ready_seconds / length,
            replicas=sums.replica_seconds / length,
            cost=sums.cost,
            running=sums.running / length,
            waiting=sums.waiting / length,
            utilisation=sums.busy / existing,
            kv_usage=sums.kv / existing,
            prompt_tokens=sums.prompt_tokens,
            generated_tokens=sums.generated_tokens,
            preemptions=sums.preemptions,
        )

    def report(self, simulated_seconds: float) -> PlacementReport:
        """Over all closed intervals."""
        sums, length = self._total, max(simulated_seconds, 1e-300)
        existing = max(sums.replica_seconds, 1e-300)
        return PlacementReport(
            cost=sums.cost,
            replica_hours=sums.replica_seconds / 3600.0,
            gpu_hours=sums.gpu_seconds / 3600.0,
            requests=self.requests,
            utilisation=sums.busy / existing,
            kv_usage=sums.kv / existing,
            running=sums.running / length,
            waiting=sums.waiting / length,
            prompt_tokens=sums.prompt_tokens,
            generated_tokens=sums.generated_tokens,
            preemptions=sums.preemptions,
        )

    def _charge(self, member: Member, seconds: float) -> None:
        sums, before = self._interval, member.counted
        now = member.counted = member.replica.counters()
        lived = max(0.0, seconds - member.charged_until)
        ready_until = seconds if member.ready_until is None else min(seconds, member.ready_until)
        sums.replica_seconds += lived
        sums.ready_seconds += max(0.0, ready_until - max(member.charged_until, member.ready_from))
        sums.gpu_seconds += lived * self.spec.gpus_per_replica
        sums.cost += lived / 3600.0 * self.spec.replica_cost_per_hour
        sums.busy += now.busy_seconds - before.busy_seconds
        sums.running += now.running_seconds - before.running_seconds
        sums.waiting += now.waiting_seconds - before.waiting_seconds
        sums.kv += now.kv_usage_seconds - before.kv_usage_seconds
        sums.prompt_tokens += now.prompt_tokens - before.prompt_tokens
        sums.generated_tokens += now.generated_tokens - before.generated_tokens
        sums.preemptions += now.preemptions - before.preemptions
        member.charged_until = max(member.charged_until, seconds)


class _Sums:
    """Integrals over time and counts, of all replicas together."""

    __slots__ = (
        "busy",
        "cost",
        "generated_tokens",
        "gpu_seconds",
        "kv",
        "preemptions",
        "prompt_tokens",
        "ready_seconds",
        "replica_seconds",
        "running",
        "waiting",
    )

    def __init__(self) -> None:
        self.replica_seconds = self.ready_seconds = self.gpu_seconds = self.cost = 0.0
        self.busy = self.running = self.waiting = self.kv = 0.0
        self.prompt_tokens = self.generated_tokens = self.preemptions = 0

    def add(self, other: "_Sums") -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))
