"""Alternatives of classes in words: which option, and why it is not used."""

from collections.abc import Iterable
from functools import cached_property

import numpy as np

from plimsoll.allocation import Allocation
from plimsoll.allocation.explain import Alternative, Reason
from plimsoll.allocation.problem import Floats
from plimsoll.api.placementpolicy import PlacementPolicySpec
from plimsoll.planning.fleet import Fleet
from plimsoll.planning.objectives import ResolvedClass
from plimsoll.planning.plan import Rejected
from plimsoll.planning.search import TOLERANCE
from plimsoll.planning.weighing import costs_by_deployment

_CENT = 0.005


class Wording:
    """Words for one plan."""

    def __init__(self, fleet: Fleet, allocation: Allocation, policy: PlacementPolicySpec) -> None:
        self._fleet = fleet
        self._allocation = allocation
        self._policy = policy
        self._running = fleet.problem.running_replicas()

    def of_class(self, number: int) -> str:
        """Name of the class."""
        return self._item(number).declared.name

    def rejected(self, number: int, alternatives: Iterable[Alternative], limit: int) -> list[Rejected]:
        """The best alternatives of a class, one per model variant, pool and parallelism.

        An option that serves a part of the class is an alternative "alone".
        """
        fleet = self._fleet
        first, last = np.searchsorted(fleet.problem.pair_class, [number, number + 1])
        used = fleet.problem.pair_option[first:last][self._allocation.share[first:last] > TOLERANCE]
        shared = set(used.tolist())
        seen = {fleet.candidates[option].label for option in shared}
        found: list[Rejected] = []
        for alternative in alternatives:
            if len(found) == limit:
                break
            label = fleet.candidates[alternative.option].label
            if alternative.option in shared:
                label += " alone"
            if label not in seen:
                seen.add(label)
                found.append(Rejected(label, self._reason(number, alternative)))
        return found

    def _reason(self, number: int, one: Alternative) -> str:
        """Why the class does not use the option."""
        candidate, item = self._fleet.candidates[one.option], self._item(number)
        replicas = f"{one.replicas} replica{'' if one.replicas == 1 else 's'}"
        gain = f"{-one.extra_cost_per_hour:.2f} per hour cheaper"
        problem = self._fleet.problem
        if self._allocation.unserved[number] > problem.class_unserved_limit[number] + TOLERANCE:
            gain = "it would serve the whole class"
        match one.reason:
            case Reason.DEARER if one.extra_cost_per_hour < _CENT:
                return f"{replicas} cost as much"
            case Reason.DEARER:
                return f"{replicas}, {one.extra_cost_per_hour:.2f} per hour dearer"
            case Reason.DELAY:
                return "it misses the mean delay"
            case Reason.ERROR:
                error = candidate.task_errors[item.declared.name]
                return f"its task error {error:g} misses maxTaskError {item.slo.max_task_error} of {item.slo_field}"
            case Reason.REPLICAS:
                return f"{gain}, but {replicas} of it are more than spec.placement.replicas.max allows"
            case Reason.STOCK:
                gpus = one.opened * candidate.option.parallelism.gpus
                return f"{gain}, but {gpus} GPUs more do not fit what GPUNodePool {candidate.pool.name} has free"
            case Reason.LIMIT:
                return f"{gain}, but a limit of its tenant or namespace is used up"
            case Reason.STORAGE:
                return f"{gain}, but PlacementPolicy default spec.storage.limitGiB is used up"
            case Reason.BUDGET:
                return f"{gain}, but PlacementPolicy default spec.budget.perHour is used up"
            case Reason.MOVE:
                hours = self._policy.rebalance.horizon_hours
                return f"{gain}, but starting it costs {one.move_cost_per_hour:.2f} per hour, over {hours} hours"
            case Reason.UNUSED:
                return f"{gain}, {self._unused(one)}"

    def _unused(self, one: Alternative) -> str:
        """The least saving is asked of deployments that keep what they run; it is a part of all that decide counts."""
        problem, replicas = self._fleet.problem, self._allocation.replicas
        running, number = self._running, int(problem.option_deployment[one.option])
        own = self._fleet.options_of(number)
        least = self._policy.rebalance.minimal_saving
        if running[own].any() and (replicas[own] <= running[own]).all():
            cost = float(self._costs[number])
            if -(one.extra_cost_per_hour + one.move_cost_per_hour) <= float(least) * cost + TOLERANCE:
                return f"which is below spec.rebalance.minimalSaving {least} of PlacementPolicy default"
        return "which the search did not find"

    @cached_property
    def _costs(self) -> Floats:
        problem = self._fleet.problem
        return costs_by_deployment(problem, self._allocation, problem.running_replicas())

    def _item(self, number: int) -> ResolvedClass:
        deployment, position = self._fleet.class_keys[number]
        return self._fleet.choices[deployment].classes[position]
