"""The operator in the closed loop: its own demand, decision, pace, share and transition rules, in simulated time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.closed_loop.day import Rule, Seen
from benchmarks.closed_loop.scenes import STEP_SECONDS, Scene
from plimsoll.allocation.problem import Floats, Ints
from plimsoll.planning.beside import short_deployments
from plimsoll.planning.decide import decide
from plimsoll.planning.following import FOLLOWING, DemandRule, Followed, Window, beginning, followed

WINDOW_STEPS = 2
"""Steps of 15 s in a window of demand."""
ROUTER_LAG_SECONDS = 90.0
"""Until a router has read its ConfigMap."""
PROPAGATION_SECONDS = 150.0
"""`routing.propagationSeconds`: so long what is not routed to any more stays."""
FULL_PLAN_STEPS = 20
"""A plan is made every five minutes although nothing has changed."""


@dataclass(frozen=True, slots=True)
class Habits:
    """What an ablation takes away."""

    only: tuple[int, ...] | None = None
    """Options that may be used; None: all."""
    rule: DemandRule = FOLLOWING
    ahead: bool = True
    """Plan for when new replicas serve; otherwise for now."""
    headroom: float | None = None
    """Instead of the policy's."""


OPERATOR = Habits()


class Plans:
    """Decisions that were made already: the demand that is planned for moves in steps, so lanes meet the same ones."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._known: dict[tuple[object, ...], tuple[Ints, Floats, bool]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def decide(
        self, rates: Floats, running: Ints | None, resting: bool, only: tuple[int, ...] | None
    ) -> tuple[Ints, Floats, bool]:
        """Replicas (N,), shares (C, N), and whether something goes short."""
        key = (rates.tobytes(), None if running is None else running.tobytes(), resting, only)
        if key not in self._known:
            problem = self._scene.problem(rates, running, None if only is None else np.array(only))
            answer = decide(problem, self._scene.search, np.array([resting])).allocation
            short = bool(short_deployments(problem, answer).any())
            self._known[key] = (answer.replicas, self._scene.shares(answer.share), short)
        return self._known[key]


class Operator:
    """One fleet's operator."""

    def __init__(self, scene: Scene, plans: Plans, first: Floats, habits: Habits = OPERATOR) -> None:
        self._scene, self._plans, self._habits = scene, plans, habits
        headroom = scene.headroom if habits.headroom is None else habits.headroom
        self._factor = 1.0 + headroom
        self._horizon = float(scene.start_seconds.max()) + ROUTER_LAG_SECONDS + WINDOW_STEPS * STEP_SECONDS
        self._rule = habits.rule
        self._demand: list[Followed] = [beginning(rate * 60.0, 0.0) for rate in first.tolist()]
        self._window = np.zeros(len(first))
        self.replicas, self.shares, _ = plans.decide(first * self._factor, None, False, habits.only)
        self._planned_for = first * self._factor
        self._planned_at = 0
        self._published: list[tuple[float, Floats]] = [(-np.inf, self.shares)]
        self._settled_since: float | None = None
        self._rested = False
        self.moves = 0

    def turn(self, step: int, ready: Ints, alive: Ints, rates: Floats) -> tuple[Ints, Floats]:
        """Replicas to run (N,), and what routers follow (C, N)."""
        now = step * STEP_SECONDS
        self._watch(step, now, rates)
        wanted = np.array([item.planned_per_minute for item in self._demand]) / 60.0 * self._factor
        resting = self._settled_since is not None and now - self._settled_since < self._rule.cool_down_seconds
        due = step - self._planned_at >= FULL_PLAN_STEPS or resting != self._rested
        if due or not np.array_equal(wanted, self._planned_for):
            self._plan(wanted, alive, resting, step)
        return self._step(now, ready, alive)

    def _watch(self, step: int, now: float, rates: Floats) -> None:
        self._window += rates / WINDOW_STEPS
        if step == 0 or step % WINDOW_STEPS:
            if step == 0:
                self._window[:] = 0.0
            return
        horizon = self._horizon if self._habits.ahead else 0.0
        self._demand = [
            followed(item, Window(now, rate * 60.0), horizon, self._rule)
            for item, rate in zip(self._demand, self._window.tolist(), strict=True)
        ]
        self._window[:] = 0.0

    def _plan(self, wanted: Floats, alive: Ints, resting: bool, step: int) -> None:
        replicas, shares, short = self._plans.decide(wanted, alive, resting, self._habits.only)
        if short:
            replicas = np.maximum(replicas, alive)
        self.moves += not np.array_equal(replicas, self.replicas)
        self.replicas, self.shares = replicas, shares
        self._planned_for, self._planned_at, self._rested = wanted, step, resting

    def _step(self, now: float, ready: Ints, alive: Ints) -> tuple[Ints, Floats]:
        """Create, wait until Ready, publish, wait for routers, take away."""
        complete = bool((ready >= self.replicas).all())
        published_at, published = self._published[-1]
        if complete and np.abs(published - self.shares).max() > 1e-3:
            self._published.append((now, self.shares))
            published_at, published = now, self.shares
        settled = complete and now - published_at >= PROPAGATION_SECONDS
        surplus = bool((alive > self.replicas).any())
        if not settled or surplus:
            self._settled_since = None if surplus or not complete else self._settled_since
        if (settled and surplus) or (complete and not surplus and self._settled_since is None and now > 0):
            self._settled_since = now
        replicas = self.replicas if settled else np.maximum(self.replicas, alive)
        while len(self._published) > 1 and self._published[1][0] <= now - ROUTER_LAG_SECONDS:
            self._published.pop(0)
        return replicas, self._published[0][1]


def rule_of(operators: list[Operator]) -> Rule:
    """The operators of several fleets as one rule."""

    def rule(seen: Seen) -> tuple[Ints, Floats]:
        turns = [
            operator.turn(seen.step, seen.ready[lane], seen.alive[lane], seen.rates[lane])
            for lane, operator in enumerate(operators)
        ]
        return np.stack([replicas for replicas, _ in turns]), np.stack([shares for _, shares in turns])

    return rule
