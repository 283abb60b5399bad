"""Shares between plans: traffic is split again over the replicas that run, when demand or latency has moved. Pure.

A plan's shares suit the rates that it was made for. Where the rates that arrive now, or how fast replicas are found to
be, would load one placement beyond the line while another has room, the split whose fullest placement is least full
takes their place, as near to the plan's as that allows. No pod moves. What is routed is the only memory: a split that
is in force stays until the plan's own would do again, so that noise at the line moves nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from plimsoll.allocation.milp import Model, SolverError, Status, solve_lp
from plimsoll.allocation.problem import Floats, Ints
from plimsoll.planning.objectives import ResolvedClass
from plimsoll.planning.options import Candidate
from plimsoll.planning.plan import DeploymentPlan, DeploymentState, ReplicaRate, Share
from plimsoll.planning.transition import WEIGHTS, RoutingTable

BUSY = 0.85
"""Used part of a placement's time from which on another split is looked for: the line that plans keep, too."""
CALM = 0.75
"""Up to here the plan's own shares do again."""
WORTH = 0.05
"""By so much less the fullest placement must be full, for routers to be told."""
LEAST_SHARE = 1e-3
"""What is less goes to the class's other placements: weights are thousandths."""
_SLACK = 1.02
"""The fullest placement may be so much fuller than it must be, to be nearer to the plan."""


def movable_rates(candidate: Candidate, classes: tuple[ResolvedClass, ...]) -> tuple[ReplicaRate, ...]:
    """What a replica takes of each class that may be moved to it: where any mix keeps every objective and costs the
    same. A class whose latency has a price, or whose limit on task errors it misses alone, stays as it is planned."""
    found = []
    for item in classes:
        name, most = item.declared.name, item.slo.max_task_error
        capacity = candidate.capacities.get(name)
        if (
            capacity is None
            or capacity.max_rate_per_second <= 0
            or item.slo.latency_penalty_per_thousand_request_seconds
        ):
            continue
        if most is None or candidate.task_errors.get(name, 0.0) <= float(most):
            found.append(ReplicaRate(name, round(capacity.max_rate_per_second * 60.0, 3)))
    return tuple(found)


def split_again(
    plan: DeploymentPlan,
    ready: Mapping[str, int],
    arriving: Mapping[str, float],
    routed: RoutingTable | None,
) -> DeploymentPlan:
    """The plan with the shares that suit what arrives now; the very same plan where its own do.

    Args:
        ready: Ready replicas by placement. Until all that are planned are Ready the transition decides.
        arriving: requests per minute now, by class; without all of them nothing is split.
        routed: what routers were told last.
    """
    if plan.state is not DeploymentState.PLANNED or len(plan.placements) < 2:
        return plan
    if any(ready.get(item.name, 0) < item.replicas for item in plan.placements):
        return plan
    split = Split.of(plan, arriving)
    if split is None:
        return plan
    shares = split.again(split.routed(routed))
    return plan if shares is None else split.applied(plan, shares)


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Pairs (P) of class and placement between which traffic may move, beside what stays where it is."""

    names: tuple[tuple[str, str], ...]
    """(P): class and placement."""
    group: Ints
    """(P): number of the class."""
    place: Ints
    """(P): number of the placement."""
    load: Floats
    """(P): part of the placement's time that the whole class would take."""
    planned: Floats
    """(P): shares of the plan."""
    fixed: Floats
    """(placements): part of the time that what stays takes."""
    total: Floats
    """(classes): what the plan serves of each, at these pairs."""

    @classmethod
    def of(cls, plan: DeploymentPlan, arriving: Mapping[str, float]) -> "Split | None":
        """None where a rate is not known, or nothing can move."""
        names: list[tuple[str, str]] = []
        rows: list[tuple[int, int, float, float]] = []
        fixed = np.zeros(len(plan.placements))
        total = np.zeros(len(plan.classes))
        for number, item in enumerate(plan.classes):
            arrives = arriving.get(item.name)
            if arrives is None:
                return None
            shares = [_share(placement.shares, item.name) for placement in plan.placements]
            rates = [_rate(placement.rates, item.name) for placement in plan.placements]
            movable = all(rate > 0 for share, rate in zip(shares, rates, strict=True) if share > 0)
            for index, placement in enumerate(plan.placements):
                if not movable:
                    # Its part of the time is what was planned for, grown with what arrives.
                    grown = arrives / item.requests_per_minute if item.requests_per_minute > 0 else 1.0
                    part = placement.utilization * shares[index] / max(sum(one.value for one in placement.shares), 1e-9)
                    fixed[index] += part * grown
                elif rates[index] > 0 and sum(shares) > 0:
                    takes = arrives / (rates[index] * placement.replicas)
                    names.append((item.name, placement.name))
                    rows.append((number, index, takes, shares[index]))
            total[number] = sum(shares) if movable else 0.0
        if not names:
            return None
        group, place, load, planned = zip(*rows, strict=True)
        return cls(
            tuple(names), np.array(group), np.array(place), np.array(load), np.array(planned, dtype=float), fixed, total
        )

    def again(self, routed: Floats | None) -> Floats | None:
        """Shares (P,) in place of the plan's; None: the plan's own will do.

        Args:
            routed: (P,) what is in force; None where that is something else.
        """
        in_force = routed is not None and np.abs(routed - self.planned).max() > 2.0 / WEIGHTS
        at_plan = self.fullest(self.planned)
        if at_plan <= (CALM if in_force else BUSY):
            return None
        best = self.best()
        if best is None:
            return None
        least = self.fullest(best)
        if in_force and routed is not None and self.fullest(routed) <= least + WORTH:
            return routed
        return best if least <= at_plan - WORTH else None

    def fullest(self, shares: Floats) -> float:
        """Used part of the time of the fullest placement, at shares (P,)."""
        return float((self.fixed + np.bincount(self.place, self.load * shares, minlength=len(self.fixed))).max())

    def routed(self, table: RoutingTable | None) -> Floats | None:
        """What is routed now (P,) as shares; None where it names anything else."""
        if table is None:
            return None
        numbers = {name: number for number, name in enumerate(self.names)}
        shares = np.zeros(len(self.names))
        split = {traffic for traffic, _ in self.names}
        for item in table.classes:
            if item.name not in split:
                continue
            for backend in item.backends:
                number = numbers.get((item.name, backend.placement))
                if number is None:
                    return None
                shares[number] = backend.weight / WEIGHTS * self.total[self.group[number]]
        sums = np.bincount(self.group, shares, minlength=len(self.total))
        return shares if np.allclose(sums, self.total, atol=1e-6) else None

    def best(self) -> Floats | None:
        """Shares (P,) whose fullest placement is nearly as little full as can be, and of these the nearest to the plan.

        None where the solver breaks down: the plan's shares stay.
        """
        try:
            evenest = self._solved(None)
            return None if evenest is None else self._solved(self.fullest(evenest) * _SLACK)
        except SolverError:
            return None

    def _solved(self, most: float | None) -> Floats | None:
        """The least full, or with a bound on it the nearest."""
        model, pairs = Model(), len(self.names)
        share = model.add_columns(0.0, 0.0, self.total[self.group])
        rows = model.add_rows(self.total, self.total)
        model.add_entries(rows[self.group], share, 1.0)
        fullest = model.add_columns(1.0 if most is None else 0.0, 0.0, np.inf if most is None else most, count=1)
        full = model.add_rows(-np.inf, -self.fixed)
        model.add_entries(full[self.place], share, self.load)
        model.add_entries(full, fullest, -1.0)
        if most is not None:
            away = model.add_columns(1.0, 0.0, 1.0, count=pairs)
            for sign in (1.0, -1.0):
                near = model.add_rows(-np.inf, sign * self.planned)
                model.add_entries(near, share, sign)
                model.add_entries(near, away, -1.0)
        result = solve_lp(model)
        if result.status is not Status.OPTIMAL:
            return None
        values = np.where(result.values[share] >= LEAST_SHARE, result.values[share], 0.0)
        sums = np.bincount(self.group, values, minlength=len(self.total))
        scale = np.divide(self.total, sums, out=np.zeros_like(sums), where=sums > 0)
        found: Floats = values * scale[self.group]
        return found

    def applied(self, plan: DeploymentPlan, shares: Floats) -> DeploymentPlan:
        """The plan with these shares (P,)."""
        moved = {item for item, _ in self.names}
        by_place: dict[str, list[Share]] = {}
        for (traffic, placement), value in zip(self.names, shares.tolist(), strict=True):
            if value > 0:
                by_place.setdefault(placement, []).append(Share(traffic, round(value, 6)))
        return replace(
            plan,
            placements=tuple(
                replace(
                    item,
                    shares=tuple(
                        sorted(
                            (*(one for one in item.shares if one.traffic not in moved), *by_place.get(item.name, ())),
                            key=lambda one: one.traffic,
                        )
                    ),
                )
                for item in plan.placements
            ),
        )


def _share(shares: tuple[Share, ...], traffic: str) -> float:
    return next((item.value for item in shares if item.traffic == traffic), 0.0)


def _rate(rates: tuple[ReplicaRate, ...], traffic: str) -> float:
    return next((item.requests_per_minute for item in rates if item.traffic == traffic), 0.0)
