"""The operator in the closed loop: its own demand, decision, pace, share and transition rules, in simulated time."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from benchmarks.closed_loop.day import Rule, Seen
from benchmarks.closed_loop.scenes import STEP_SECONDS, Scene
from plimsoll.allocation.problem import Floats, Ints
from plimsoll.planning.beside import short_deployments
from plimsoll.planning.decide import decide
from plimsoll.planning.following import FOLLOWING, DemandRule, Followed, Window, beginning, followed
from plimsoll.planning.shares import Split

WINDOW_STEPS = 4
"""A look at demand every step sees the last four, as the operator's does."""
ROUTER_LAG_SECONDS = 90.0
"""Until a router has read its ConfigMap."""
PROPAGATION_SECONDS = 150.0
"""`routing.propagationSeconds`: so long what is not routed to any more stays."""
MOST_SHIFT = 0.5
"""`rebalance.maxShareShift`."""
LEAST_WEIGHT = 1e-3
"""Weights are thousandths."""
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
        self._horizon = float(scene.start_seconds.max()) + PROPAGATION_SECONDS + STEP_SECONDS
        self._rule = habits.rule
        self._demand: list[Followed] = [beginning(rate * 60.0, 0.0) for rate in first.tolist()]
        self._seen: deque[Floats] = deque(maxlen=WINDOW_STEPS)
        self.replicas, self.shares, _ = plans.decide(first * self._factor, None, False, habits.only)
        self._planned_for = first * self._factor
        self._planned_at = 0
        self._published: list[tuple[float, Floats]] = [(-np.inf, self.shares)]
        self._settled_since: float | None = None
        self._rested = False
        self._split: tuple[tuple[bytes, ...], Floats] | None = None

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
        if step == 0:
            return
        self._seen.append(rates)
        seen = np.mean(np.stack(self._seen), axis=0)
        horizon = self._horizon if self._habits.ahead else 0.0
        self._demand = [
            followed(item, Window(now, rate * 60.0), horizon, self._rule)
            for item, rate in zip(self._demand, seen.tolist(), strict=True)
        ]

    def _plan(self, wanted: Floats, alive: Ints, resting: bool, step: int) -> None:
        replicas, shares, short = self._plans.decide(wanted, alive, resting, self._habits.only)
        if short:
            replicas = np.maximum(replicas, alive)
        self.replicas, self.shares = replicas, shares
        self._planned_for, self._planned_at, self._rested = wanted, step, resting

    def _step(self, now: float, ready: Ints, alive: Ints) -> tuple[Ints, Floats]:
        """Create, wait until Ready, publish, wait for routers, take away."""
        complete = bool((ready >= self.replicas).all())
        published_at, published = self._published[-1]
        aged = now - published_at >= PROPAGATION_SECONDS
        aim = self._split_again(published) if complete else self.shares
        table = self._routed(aim, published, ready, complete, aged)
        same = bool(np.abs(published - table).max() <= LEAST_WEIGHT)
        if not same:
            self._published.append((now, table))
        settled = complete and same and aged
        surplus = bool((alive > self.replicas).any())
        if surplus or not complete:
            self._settled_since = None
        if (settled and surplus) or (complete and not surplus and self._settled_since is None and now > 0):
            self._settled_since = now
        replicas = self.replicas if settled else np.maximum(self.replicas, alive)
        while len(self._published) > 1 and self._published[1][0] <= now - ROUTER_LAG_SECONDS:
            self._published.pop(0)
        return replicas, self._published[0][1]

    def _routed(self, aim: Floats, before: Floats, ready: Ints, complete: bool, aged: bool) -> Floats:
        """The next document's shares (C, N), as `planning.transition` writes it.

        Args:
            aim: (C, N) what is wanted once all is Ready.
            before: (C, N) in the last document.
        """
        total = aim.sum(axis=1, keepdims=True)
        kept = _scaled(before * (ready > 0), total)
        part = aim * (ready > 0 if complete else ready / np.maximum(self.replicas, 1))
        wanted = _scaled(part, total)
        kept = np.where(kept.any(axis=1, keepdims=True), kept, wanted)
        leaving = (kept > 0) & (wanted == 0)
        going = float((kept * leaving).sum(axis=1).max())
        if not complete:
            fuller = self._fullest(wanted, ready) > self._fullest(kept, ready) + 1e-6
            return kept if going > 0 or fuller else wanted
        if going <= 0:
            return wanted
        under_way = (leaving.any(axis=1) & ((kept > 0) & ~leaving).any(axis=1)).any()
        if under_way and not aged:
            return kept
        return np.asarray(kept + min(1.0, MOST_SHIFT / going) * (wanted - kept))

    def _fullest(self, shares: Floats, ready: Ints) -> float:
        """Used part of the time of the fullest option that is Ready, at shares (C, N)."""
        rate = self._scene.minimal_rates
        takes = shares * self._planned_for[:, None]
        each = np.divide(takes, rate, out=np.zeros_like(shares), where=rate > 0)
        return float((each.sum(axis=0) / np.maximum(ready, 1)).max())

    def _split_again(self, published: Floats) -> Floats:
        """The plan's shares (C, N), or those that suit what arrives now."""
        current = np.array([item.current_per_minute for item in self._demand]) / 60.0
        key = (current.tobytes(), self.replicas.tobytes(), self.shares.tobytes(), published.tobytes())
        if self._split is None or self._split[0] != key:
            self._split = (key, self._found_split(current, published))
        return self._split[1]

    def _found_split(self, current: Floats, published: Floats) -> Floats:
        rate, used = self._scene.minimal_rates, np.flatnonzero(self.replicas)
        if len(used) < 2 or not all(item.fresh for item in self._demand):
            return self.shares
        group, number = np.nonzero(rate[:, used] > 0)
        place = used[number]
        split = Split(
            tuple((f"{item}", f"{at}") for item, at in zip(group, place, strict=True)),
            group,
            number,
            current[group] / (rate[group, place] * self.replicas[place]),
            self.shares[group, place],
            np.zeros(len(used)),
            self.shares.sum(axis=1),
        )
        routed = published[group, place]
        whole = np.allclose(np.bincount(group, routed, minlength=len(current)), split.total, atol=1e-6)
        found = split.again(routed if whole else None)
        if found is None:
            return self.shares
        shares = np.zeros_like(self.shares)
        shares[group, place] = found
        return shares


def _scaled(rows: Floats, totals: Floats) -> Floats:
    """Rows (C, N) that sum to totals (C, 1), or to nothing."""
    sums = rows.sum(axis=1, keepdims=True)
    return np.divide(rows * totals, sums, out=np.zeros_like(rows), where=sums > 0)


def rule_of(operators: list[Operator]) -> Rule:
    """The operators of several fleets as one rule."""

    def rule(seen: Seen) -> tuple[Ints, Floats]:
        turns = [
            operator.turn(seen.step, seen.ready[lane], seen.alive[lane], seen.rates[lane])
            for lane, operator in enumerate(operators)
        ]
        return np.stack([replicas for replicas, _ in turns]), np.stack([shares for _, shares in turns])

    return rule
