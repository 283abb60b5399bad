"""Chained LLMDeployments and the rest of the fleet, decided together where they want the same.

Chains go first, those of the highest priority before others. Where somebody would be better off without what they newly
take, other ways are judged by the whole fleet's objective, the rest planned for each: chains that spare a pool, or that
wait until those of a higher priority, or all others, have what they want. What runs is not asked to make room.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from enum import Enum

import numpy as np

from plimsoll.allocation import room
from plimsoll.allocation.explain import ENDLESS
from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.planning.chained import ChainedPlan, NotPlanned, is_chained
from plimsoll.planning.chained_fleet import ChainedFleet, Taken, Turn, by_priority, plan_chained, priorities, with_turns
from plimsoll.planning.plan import DeploymentState
from plimsoll.planning.round import Round
from plimsoll.planning.search import Clock
from plimsoll.planning.snapshot import PodFacts, Snapshot, Workload
from plimsoll.planning.worth import Worth, worth_of

MOST_WAYS = 24
"""That are looked at in one round. The rest of the fleet is planned for each."""
DecideRest = Callable[[Snapshot, bool], Round]
"""Plans a snapshot without chained LLMDeployments; True: with some of the others only."""


class Before(Enum):
    """Who of the rest of the fleet goes before a chained LLMDeployment."""

    NOBODY = 0
    HIGHER = 1
    """Those of a higher priority."""
    ALL = 2


@dataclass(frozen=True, slots=True)
class Way:
    """How one chained LLMDeployment is decided about."""

    name: str
    """Namespace/name."""
    before: Before = Before.NOBODY
    spared: frozenset[str] = frozenset()
    """Pools of which it takes nothing new."""


@dataclass(frozen=True, slots=True, eq=False)
class Whole:
    """The decision about chains and replicas."""

    chained: ChainedFleet
    round: Round
    """Of the rest of the fleet."""
    interrupted: bool = False
    """The policy's time limit ended the search for other ways."""
    faulty: bool = False
    """The solver broke down on the way."""


@dataclass(frozen=True, slots=True, eq=False)
class _Tried:
    ways: tuple[Way, ...]
    """In the order in which they are decided about."""
    chained: ChainedFleet
    round: Round
    worth: Worth

    def pools_of_new(self) -> dict[str, frozenset[str]]:
        """Pools of servers that do not run yet, by LLMDeployment that has some."""
        return {plan.resource.reference: plan.pools_of_new for plan in self.chained.plans if plan.pools_of_new}


@dataclass(slots=True, eq=False)
class Together:
    """One decision in the making."""

    snapshot: Snapshot
    decide_rest: DecideRest
    clock: Clock
    _priorities: dict[str, int] = field(default_factory=dict)
    _tried: set[tuple[Way, ...]] = field(default_factory=set)
    _begun: dict[tuple[Way, ...], ChainedFleet] = field(default_factory=dict)
    _dearest: dict[str, float] = field(default_factory=dict)
    _began: float = 0.0
    _hurried: bool = False
    _faulty: bool = False

    def whole(self) -> Whole:
        """The best way found; chains first where nobody is the worse for it."""
        self._began = self.clock()
        order = by_priority(self.snapshot)
        if not order:
            nothing = plan_chained(self.snapshot)
            turn = self.decide_rest(nothing.rest, False)
            return Whole(nothing, turn, faulty=bool(turn.search.faults))
        best = self._try(tuple(Way(one.reference) for one in order))
        if self._contested(best):
            best = self._better(best)
        return Whole(best.chained, best.round, self._hurried, self._faulty)

    # --- Whether there is anything to weigh --------------------------------------------------------------------------

    def _contested(self, first: _Tried) -> bool:
        """Whether somebody would be better off without what chains newly take."""
        new = first.pools_of_new()
        if not new:
            return False
        return self._chains_lose(first, new) or self._rest_loses(first, new)

    def _rest_loses(self, first: _Tried, new: dict[str, frozenset[str]]) -> bool:
        if not self._in_the_way(first.round, frozenset().union(*new.values())):
            return False
        everything = frozenset(pool.name for pool in self.snapshot.pools)
        nothing_new = [Turn(one, spared=everything) for one in by_priority(self.snapshot)]
        without = self._rest(plan_chained(self.snapshot, nothing_new).rest)
        return worth_of(without, ()).better_than(worth_of(first.round, ()))

    def _in_the_way(self, turn: Round, pools: Collection[str]) -> bool:
        """Whether an answer for the rest of the fleet could be another one without what is taken of these pools."""
        policy, fleet = turn.policy, turn.fleet
        if policy.budget.per_hour is not None or policy.tenants or self.snapshot.quotas:
            return True
        offered = {pool.name for choice in turn.choices for way in choice.ways for pool in way.pools}
        left = room(fleet.problem, turn.decision.allocation)
        least = {
            name: left[fleet.problem.option_pool == number].min(initial=ENDLESS)
            for number, name in enumerate(fleet.pool_names)
            if (fleet.problem.option_pool == number).any()
        }
        # Of a pool that is full before anybody is asked there are no options.
        return any(name in offered and least.get(name, 0) == 0 for name in pools)

    def _chains_lose(self, first: _Tried, new: dict[str, frozenset[str]]) -> bool:
        """Whether a chained LLMDeployment would do better than after those before it, which take something new."""
        after = False
        for way in first.ways:
            if after:
                alone = plan_chained(self.snapshot, [Turn(self._deployment(way.name))])
                worths = (worth_of(first.round, self._found(one, way.name)) for one in (alone, first.chained))
                if next(worths).better_than(next(worths)):
                    return True
            after |= way.name in new
        return False

    # --- The search --------------------------------------------------------------------------------------------------

    def _better(self, best: _Tried) -> _Tried:
        """The best of several starts, and of one step after the other from there."""
        for number, ways in enumerate(self._starts(best)):
            # What priorities say comes before all haste: whoever runs is not asked to make room later.
            best = self._best_of(best, ways, always=number == 0)
        going = True
        while going:
            going = False
            # Those of the lowest priority make room first.
            for name in [way.name for way in reversed(best.ways)]:
                before = best
                for ways in list(self._steps(best, name)):
                    best = self._best_of(best, ways)
                going |= best is not before
        return best

    def _starts(self, first: _Tried) -> Iterator[tuple[Way, ...]]:
        higher = (Before.HIGHER if self._higher(way.name) else Before.NOBODY for way in first.ways)
        yield tuple(replace(way, before=before) for way, before in zip(first.ways, higher, strict=True))
        yield tuple(replace(way, before=Before.ALL) for way in first.ways)
        yield tuple(sorted(first.ways, key=lambda way: way.name))

    def _steps(self, best: _Tried, name: str) -> Iterator[tuple[Way, ...]]:
        """The ways of an answer with another one for one LLMDeployment."""
        (own,) = (way for way in best.ways if way.name == name)
        new = best.pools_of_new().get(name, frozenset())
        sensible = [before for before in Before if before is not Before.HIGHER or self._higher(name)]
        others = [replace(own, before=before) for before in sensible if before is not own.before]
        others += [replace(own, spared=own.spared | {pool}) for pool in sorted(new)]
        others += [replace(own, spared=own.spared - {pool}) for pool in sorted(own.spared)]
        for other in others:
            yield tuple(other if way is own else way for way in best.ways)

    def _best_of(self, best: _Tried, ways: tuple[Way, ...], *, always: bool = False) -> _Tried:
        if ways in self._tried or len(self._tried) >= MOST_WAYS:
            return best
        seconds = best.round.policy.time_limit_milliseconds / 1000
        self._hurried = self._hurried or self.clock() - self._began >= seconds
        if self._hurried and not always:
            return best
        other = self._try(ways)
        # Nothing is held up for it that could be planned.
        held = [
            {plan.ref for plan in one.chained.deployments if plan.state is DeploymentState.HELD}
            for one in (best, other)
        ]
        return other if held[1] <= held[0] and other.worth.better_than(best.worth) else best

    def _try(self, ways: tuple[Way, ...]) -> _Tried:
        chained = self._before_all(tuple(way for way in ways if way.before is not Before.ALL))
        turn: Round | None = None
        last = [way for way in ways if way.before is Before.ALL]
        if last:
            turn = self._rest(chained.rest)
            turns = [Turn(self._deployment(way.name), way.spared, taken_by(turn)) for way in last]
            chained = with_turns(chained, self.snapshot, turns)
        if turn is None or turn.snapshot != chained.rest:
            turn = self._rest(chained.rest)
        for plan in chained.plans:
            self._dearest.setdefault(plan.resource.reference, plan.dearest_per_request)
        found = [one for way in ways for one in self._found(chained, way.name)]
        self._tried.add(ways)
        return _Tried(ways, chained, turn, worth_of(turn, found, self._dearest))

    def _before_all(self, ways: tuple[Way, ...]) -> ChainedFleet:
        """What comes of those that do not wait for all others, each after those before it."""
        if not ways:
            return plan_chained(self.snapshot, [])
        if ways not in self._begun:
            before, way = self._before_all(ways[:-1]), ways[-1]
            beside = self._taken_by_higher(before, way) if way.before is Before.HIGHER else None
            turn = Turn(self._deployment(way.name), way.spared, beside)
            self._begun[ways] = with_turns(before, self.snapshot, [turn])
        return self._begun[ways]

    # --- Parts -------------------------------------------------------------------------------------------------------

    def _taken_by_higher(self, chained: ChainedFleet, way: Way) -> Taken | None:
        """What those in replicas would take that have a higher priority."""
        higher = self._higher(way.name)
        if not higher:
            return None
        return taken_by(self._rest(replace(chained.rest, deployments=higher), aside=True))

    def _higher(self, name: str) -> tuple[LLMDeployment, ...]:
        """Those in replicas of a higher priority."""
        if not self._priorities:
            self._priorities = priorities(self.snapshot.deployments, self.snapshot)
        least = self._priorities[name]
        return tuple(
            one for one in self.snapshot.deployments if not is_chained(one) and self._priorities[one.reference] > least
        )

    def _rest(self, rest: Snapshot, *, aside: bool = False) -> Round:
        turn = self.decide_rest(rest, aside)
        self._faulty = self._faulty or bool(turn.search.faults)
        self._hurried = self._hurried or turn.decision.solution.interrupted
        return turn

    def _found(self, chained: ChainedFleet, name: str) -> list[ChainedPlan | NotPlanned]:
        found: tuple[ChainedPlan | NotPlanned, ...] = (*chained.plans, *chained.unplanned)
        return [one for one in found if one.resource.reference == name]

    def _deployment(self, name: str) -> LLMDeployment:
        return next(one for one in self.snapshot.deployments if one.reference == name)


def taken_by(turn: Round) -> Taken:
    """What an answer takes beside all that runs: GPUs of nodes, and what counts to budgets and quotas."""
    fleet, packing = turn.fleet, turn.decision.allocation.packing
    problem = fleet.problem
    runs: Counter[tuple[int, int]] = Counter()
    for option, node, count in problem.running.tolist():
        runs[option, node] += count
    pods = []
    for option, node, pieces in packing.tolist():
        new = pieces - runs[option, node]
        if new > 0:
            pool = turn.pools.usable[fleet.pool_names[problem.option_pool[option]]]
            gpus, cores, memory = (new * problem.option_demand[option]).tolist()
            requests = {pool.resource_name: gpus, "cpu": cores, "memory": memory}
            name = _planned(option)
            pods.append(PodFacts("", _owner(turn, option).namespace, name, fleet.node_names[node], requests, name))
    more = turn.decision.allocation.replicas - problem.running_replicas()
    workloads = []
    for option in np.flatnonzero(more > 0).tolist():
        owner, pool_name = _owner(turn, option), fleet.pool_names[problem.option_pool[option]]
        tensor, pipeline = str(problem.option_tensor[option]), str(problem.option_pipeline[option])
        said = {"pool": pool_name, "tensor": tensor, "pipeline": pipeline}
        workloads.append(Workload(owner.namespace, _planned(option), "", owner.name, int(more[option]), 0, said))
    nodes = Counter(fleet.pool_names[problem.node_pool[node]] for node in np.unique(packing[:, 1]).tolist())
    return Taken(tuple(pods), tuple(workloads), nodes)


def _owner(turn: Round, option: int) -> LLMDeployment:
    return turn.fleet.deployments[int(turn.fleet.problem.option_deployment[option])]


def _planned(option: int) -> str:
    """Of what has no name yet."""
    return f"planned-{option}"
