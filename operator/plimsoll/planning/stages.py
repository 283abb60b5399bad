"""The stage of a transition that is safe now: how many replicas there should be of what is new and what is given up.

A change for which there is room goes in one stage: everything new beside everything old. With a surge limit, or in
place because no GPU is free, it goes in several, each of them a plan of its own that transition.py brings about: as
many old replicas as the Ready new ones make up for, and as many new ones as there is room for. Stateless: what runs
says how far it has come.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil

from plimsoll.performance import Parallelism
from plimsoll.planning.plan import (
    ClassPlan,
    DeploymentPlan,
    DeploymentState,
    HostDemand,
    Option,
    Placement,
    Room,
    Share,
)
from plimsoll.planning.running_chains import chain_of
from plimsoll.planning.shortlist import USABLE_TIME
from plimsoll.planning.snapshot import Workload

_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class Stage:
    """What to bring about now."""

    plan: DeploymentPlan
    """With the placements that are given up, as far as they should run still."""
    remaining: tuple[str, ...] = ()
    """Sentences: what is left for later stages. Empty in the last one."""
    blocked: str = ""
    """Why no further stage is possible; empty when one is, or when this is the last."""

    @property
    def last(self) -> bool:
        return not self.remaining


def stage_for(
    plan: DeploymentPlan, workloads: Sequence[Workload], max_surge: float | None = None, *, guarded: bool = False
) -> Stage:
    """The stage that is safe now. `workloads` are the running placements of this deployment.

    Chains come and go in one stage: a part of one serves nobody.

    Args:
        max_surge: GPUs beyond the larger of what is planned and what is given up, relative to that; None: any number.
        guarded: nothing may be taken away, so nothing new fits in place.
    """
    if guarded and plan.in_place is not None:
        return Stage(replace(plan, state=DeploymentState.SHORT, placements=()))
    if plan.state is not DeploymentState.PLANNED or (plan.in_place is None and max_surge is None):
        return Stage(plan)
    if plan.chains or any(map(chain_of, workloads)):
        return Stage(plan)
    state = _State(plan, {item.name: item for item in workloads})
    if not state.missing_ready and not state.reducible:
        return Stage(plan)
    separable = all(map(state.can_be_reduced, state.reducible))
    if plan.in_place is not None:
        why = "nobody knows any more how what runs was made, so a part of it cannot go alone"
        return _in_place(plan, state) if separable else _standstill(plan, state, why)
    if not separable or not any(state.reducible.values()):
        return Stage(plan)
    return _beside(plan, state, max_surge or 0.0)


def allows(plan: DeploymentPlan, workloads: Sequence[Workload]) -> str:
    """Why a change in place must not begin, or go on; empty when it may.

    Plays all stages through, as if every pod that goes left its GPUs to a new one, and every new one became Ready.
    """
    assert plan.in_place is not None  # noqa: S101  (it is asked of changes in place)
    running = {item.name: replace(item, ready_replicas=item.replicas) for item in workloads}
    gpus = {item.name: (item.option.pool, item.option.parallelism.gpus) for item in plan.placements}
    free: dict[str, int] = {}
    for item in plan.in_place.room:
        pool, size = gpus[item.placement]
        free[pool] = max(free.get(pool, 0), item.replicas * size)
    if plan.in_place.replicas_going:
        return ""  # what they leave is seen when they are gone
    whole = sum(item.replicas for item in workloads) + sum(item.replicas for item in plan.placements)
    for _ in range(2 * whole + 2):
        room = tuple(Room(name, max(0, free.get(pool, 0)) // size) for name, (pool, size) in gpus.items())
        now = replace(plan, in_place=replace(plan.in_place, room=room))
        stage = stage_for(now, tuple(running.values()))
        if stage.last or stage.blocked:
            return stage.blocked
        state = _State(now, running)
        asked = {item.name: item.replicas for item in stage.plan.placements}
        for name in sorted({*running, *asked}):
            pool = gpus[name][0] if name in gpus else running[name].option.get("pool", "")
            before, after = running[name].replicas if name in running else 0, asked.get(name, 0)
            free[pool] = free.get(pool, 0) + (before - after) * state.gpus(name)
        running = {
            name: replace(running.get(name, _unmade(name)), replicas=count, ready_replicas=count)
            for name, count in asked.items()
        }
    return "it would not come to an end"


def _unmade(name: str) -> Workload:
    return Workload("", name, "", "", 0, 0)


@dataclass(frozen=True)
class _State:
    """How far a change has come."""

    plan: DeploymentPlan
    running: Mapping[str, Workload]

    @cached_property
    def planned(self) -> dict[str, Placement]:
        return {item.name: item for item in self.plan.placements}

    @cached_property
    def reducible(self) -> dict[str, int]:
        """Running replicas beyond the plan, by placement."""
        planned = self.planned
        beyond = {
            name: item.replicas - (planned[name].replicas if name in planned else 0)
            for name, item in sorted(self.running.items())
        }
        return {name: count for name, count in beyond.items() if count > 0 or name not in planned}

    @cached_property
    def asked(self) -> dict[str, int]:
        """Replicas of the planned placements that are asked for, at most as many as are planned."""
        return {
            name: min(item.replicas, self.running[name].replicas) if name in self.running else 0
            for name, item in self.planned.items()
        }

    @cached_property
    def ready(self) -> dict[str, int]:
        """Those of them that are Ready."""
        return {
            name: min(count, self.running[name].ready_replicas) if name in self.running else 0
            for name, count in self.asked.items()
        }

    @cached_property
    def missing(self) -> dict[str, int]:
        """Planned replicas that nobody has asked for yet."""
        return {name: self.planned[name].replicas - count for name, count in self.asked.items()}

    @cached_property
    def missing_ready(self) -> int:
        return sum(item.replicas for item in self.plan.placements) - sum(self.ready.values())

    def can_be_reduced(self, name: str) -> bool:
        """Whether one replica can go and the others stay: for that its objects must be known as they were made."""
        return name in self.planned or self.running[name].made is not None

    def gpus(self, name: str) -> int:
        """Of a replica."""
        if name in self.planned:
            return self.planned[name].option.parallelism.gpus
        option = self.running[name].option
        return max(1, int(option.get("tensor", 1)) * int(option.get("pipeline", 1)))

    def rates(self, name: str) -> Mapping[str, float]:
        """Requests per minute of each class that a running replica can take."""
        return self._rates.get(name, {})

    @cached_property
    def _rates(self) -> dict[str, dict[str, float]]:
        return {
            item.placement: {rate.traffic: rate.requests_per_minute for rate in item.rates}
            for item in self.plan.running_rates
        }

    def fewest(self, served: Mapping[str, float], at_once: int | None = None) -> dict[str, int]:
        """The fewest of the reducible replicas that still serve these parts of the classes beside what is Ready.

        Args:
            at_once: replicas that may go, at most.
        """
        left, gone = dict(self.reducible), 0
        for name in sorted(left, key=lambda name: (self.gpus(name), name)):
            while left[name] and (at_once is None or gone < at_once):
                fewer = {**left, name: left[name] - 1}
                if not self.covers(fewer, self.ready, served):
                    break
                left, gone = fewer, gone + 1
        return left

    def covers(self, old: Mapping[str, int], new: Mapping[str, int], served: Mapping[str, float]) -> bool:
        """Whether the replicas serve these parts of the classes' planned traffic."""
        rest = {name: max(0.0, part - self.able(name, new)) for name, part in served.items()}
        return self.load(old, rest) <= 1 + _TOLERANCE

    def part_of(self, traffic: str, new: Mapping[str, int], *, full: bool = False) -> float:
        """Part of a class that so many replicas of the planned placements serve: as planned, or at most."""
        return sum(
            share.value * new[item.name] / item.replicas * (_spare(item) if full else 1.0)
            for item in self.plan.placements
            for share in item.shares
            if share.traffic == traffic
        )

    def able(self, traffic: str, new: Mapping[str, int]) -> float:
        """Part of a class that so many replicas of the planned placements can serve."""
        return self.part_of(traffic, new, full=True)

    def load(self, old: Mapping[str, int], parts: Mapping[str, float]) -> float:
        """How much of the old replicas' time these parts of the classes take; each class spreads over all of them."""
        load = 0.0
        for item in self.plan.classes:
            part = parts.get(item.name, 0.0)
            if part <= _TOLERANCE or item.requests_per_minute <= 0:
                continue
            able = sum(count * self.rates(name).get(item.name, 0.0) for name, count in old.items())
            load += _planned_rate(item) * part / able if able > 0 else float("inf")
        return load


def _spare(item: Placement) -> float:
    """How much more than its shares a planned placement can take, as a factor."""
    return max(1.0, USABLE_TIME / item.utilization) if item.utilization > 0 else 1.0


def _planned_rate(item: ClassPlan) -> float:
    return item.requests_per_minute * (1 + item.headroom)


def _beside(plan: DeploymentPlan, state: _State, max_surge: float) -> Stage:
    """New replicas as far as the surge limit goes; old ones as long as they are needed."""
    served = {item.name: 1 - item.unserved for item in plan.classes}
    left = state.fewest(served)
    asked = dict(state.asked)
    in_flight = sum(asked.values()) - sum(state.ready.values())
    running = sum(item.replicas * state.gpus(name) for name, item in state.running.items())
    given_up = sum(count * state.gpus(name) for name, count in state.reducible.items())
    room = ceil(max(plan.gpus, given_up) * (1 + max_surge) - _TOLERANCE) - running
    for name, missing in state.missing.items():
        more = max(0, min(missing, room // state.gpus(name)))
        asked[name] += more
        room -= more * state.gpus(name)
    if asked == state.asked and left == state.reducible and not in_flight:
        # A limit below one replica would be no limit but an end.
        first = next((name for name, missing in state.missing.items() if missing), None)
        if first is not None:
            asked[first] += 1
    return _staged(plan, state, asked, left, {})


def _in_place(plan: DeploymentPlan, state: _State) -> Stage:
    """New replicas as far as GPUs are free; old ones go first, as many as may be missing at once."""
    assert plan.in_place is not None  # noqa: S101  (the caller has looked)
    fits = {item.placement: item.replicas for item in plan.in_place.room}
    asked = {name: count + min(state.missing[name], fits.get(name, 0)) for name, count in state.asked.items()}
    least = {item.name: _least(item, 1.0) for item in plan.classes}
    wished = {item.name: _least(item, plan.in_place.max_disruption) for item in plan.classes}
    left = state.fewest(wished)
    waiting = asked != state.asked or sum(asked.values()) > sum(state.ready.values()) or plan.in_place.replicas_going
    if left == state.reducible and not waiting and plan.in_place.max_disruption > 0:
        left = state.fewest(least, at_once=1)
    if left == state.reducible and not waiting:
        return _standstill(plan, state, _too_much(plan) if any(left.values()) else "nothing is left that could go")
    unserved = {}
    for item in plan.classes:
        new = state.able(item.name, state.ready)
        rest = {item.name: max(0.0, 1 - item.unserved - new)}
        load = state.load(left, rest)
        able = min(1.0, (new + (rest[item.name] / max(1.0, load))) * (1 + item.headroom))
        unserved[item.name] = max(item.unserved, 1 - able)
    return _staged(plan, state, asked, left, unserved)


def _least(item: ClassPlan, disruption: float) -> float:
    """Part of a class's planned traffic that must be served at any moment of a change in place."""
    by_slo = (1 - max(item.unserved_limit, item.unserved)) / (1 + item.headroom)
    return max(by_slo, 1 - item.unserved - disruption)


def _too_much(plan: DeploymentPlan) -> str:
    limits = ", ".join(f"{item.name} {item.unserved_limit:g}" for item in plan.classes)
    return (
        "without any one of the replicas that run, more would stay unserved than the SLOs' unserved.max allows "
        f"({limits})"
    )


def _standstill(plan: DeploymentPlan, state: _State, why: str) -> Stage:
    """What runs stays as it is."""
    asked = state.asked
    stage = _staged(plan, state, asked, state.reducible, {})
    return replace(stage, blocked=f"no GPU is free for {_sentence(state.missing)}, and in place it cannot be: {why}")


def _staged(
    plan: DeploymentPlan,
    state: _State,
    asked: Mapping[str, int],
    left: Mapping[str, int],
    unserved: Mapping[str, float],
) -> Stage:
    """The plan of this stage: the new placements with `asked` replicas, the old ones with what is `left` of them."""
    planned = state.planned
    missing = {name: planned[name].replicas - count for name, count in asked.items()}
    if not any(left.values()) and not any(missing.values()):
        return Stage(plan)
    classes = tuple(replace(item, unserved=max(item.unserved, unserved.get(item.name, 0.0))) for item in plan.classes)
    new: list[Placement] = []
    for name, count in asked.items():
        item, beyond = planned[name], left.get(name, 0)
        if count + beyond:
            part = count / item.replicas
            shares = tuple(replace(share, value=share.value * part) for share in item.shares)
            price = item.price_per_hour * (count + beyond) / item.replicas
            new.append(replace(item, replicas=count + beyond, shares=shares, price_per_hour=price))
    rest = {item.name: max(0.0, 1 - item.unserved - state.part_of(item.name, asked)) for item in classes}
    by_name = {item.name: item for item in new}
    for name, count in left.items():
        shares = tuple(_shares(state, left, name, rest))
        if name in by_name:
            by_name[name] = replace(by_name[name], shares=_joined(by_name[name].shares, shares))
        elif count:
            by_name[name] = _given_up(state.running[name], count, shares)
    placements = tuple(item for _, item in sorted(by_name.items()))
    gone = {name: count for name, count in left.items() if count}
    texts = []
    if any(missing.values()):
        texts.append(f"{_sentence(missing)} to be started in a later stage")
    if gone:
        texts.append(f"{_sentence(gone)} to go in a later stage")
    return Stage(replace(plan, placements=placements, classes=classes), tuple(texts))


def _shares(state: _State, left: Mapping[str, int], name: str, rest: Mapping[str, float]) -> Iterable[Share]:
    for traffic, part in rest.items():
        able = {other: count * state.rates(other).get(traffic, 0.0) for other, count in left.items()}
        whole = sum(able.values())
        if part > _TOLERANCE and whole > 0 and able[name] > 0:
            yield Share(traffic, part * able[name] / whole)


def _joined(one: Sequence[Share], other: Sequence[Share]) -> tuple[Share, ...]:
    values: dict[str, float] = {}
    for share in (*one, *other):
        values[share.traffic] = values.get(share.traffic, 0.0) + share.value
    return tuple(Share(traffic, value) for traffic, value in values.items())


def _given_up(workload: Workload, replicas: int, shares: tuple[Share, ...]) -> Placement:
    """A running placement that the plan does not want, as far as its objects say what it is."""
    said, made = workload.option, workload.made
    assert made is not None  # noqa: S101  (can_be_reduced)
    option = Option(
        model=said.get("model", ""),
        precision=said.get("precision", ""),
        checkpoint=made.checkpoint,
        pool=said.get("pool", ""),
        parallelism=Parallelism(int(said.get("tensor", 1)), int(said.get("pipeline", 1))),
        max_num_seqs=int(said.get("max-num-seqs", 1)),
        max_model_length=0,
        image=made.image,
        gpu_resource="",
        engine_args=(),
        host=HostDemand(made.cpu_cores, made.memory_bytes, 0),
        load_seconds=0.0,
        gated=False,
        nodes=int(said.get("nodes", 1)),
    )
    return Placement(
        workload.name, option, replicas, shares, 0.0, 0.0, "it is given up", made_by=made.release, leaving=True
    )


def _sentence(counts: Mapping[str, int]) -> str:
    return ", ".join(
        f"{count} replica{'' if count == 1 else 's'} of {name}" for name, count in sorted(counts.items()) if count
    )
