"""From the answer's arrays back to placements with names, predicted latencies and reasons."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from functools import cached_property

import numpy as np

from plimsoll.allocation import Allocation, solve_greedy
from plimsoll.allocation.evaluate import stored_gigabytes
from plimsoll.allocation.explain import Alternatives, full_pools
from plimsoll.allocation.problem import Bools, Floats
from plimsoll.api.placementpolicy import POLICY_NAME, PlacementPolicySpec
from plimsoll.performance import LatencyTarget, Prediction, Question
from plimsoll.planning.beside import short_classes
from plimsoll.planning.company import companions, crowded
from plimsoll.planning.decide import Decision, without_limits
from plimsoll.planning.evaluate import Evaluator, Expected
from plimsoll.planning.fleet import Fleet, Kept
from plimsoll.planning.grouplimits import exhausted, said, used_up
from plimsoll.planning.keeping import kept_findings
from plimsoll.planning.objectives import ResolvedClass
from plimsoll.planning.options import rejections
from plimsoll.planning.plan import (
    BindingLimit,
    ClassPlan,
    DeploymentPlan,
    DeploymentState,
    Finding,
    LatencyFigure,
    LimitKind,
    Placement,
    Rejected,
    Severity,
    Share,
)
from plimsoll.planning.search import TOLERANCE
from plimsoll.planning.shares import movable_rates
from plimsoll.planning.snapshot import ObjectRef
from plimsoll.planning.speeds import Speeds
from plimsoll.planning.weighing import stored_by_deployment
from plimsoll.planning.wording import Wording


@dataclass(frozen=True, slots=True)
class _Use:
    """What an option is used for."""

    shares: tuple[Share, ...]
    utilization: float
    expected: dict[int, Expected]
    """By number of the class."""

    @property
    def served(self) -> list[int]:
        """Numbers of the classes."""
        return list(self.expected)


_ALTERNATIVES = 3
_POLICY = ObjectRef("PlacementPolicy", "", POLICY_NAME)


class Assembly:
    """Turns one decision into deployment plans."""

    def __init__(
        self,
        fleet: Fleet,
        decision: Decision,
        evaluator: Evaluator,
        policy: PlacementPolicySpec,
        kept: Kept,
        speeds: Speeds,
        only: int | None = None,
    ) -> None:
        """`only`: of this deployment alone plans are asked for."""
        self._only = only
        self._notes = decision.notes
        self._rejections: dict[int, list[Rejected]] = {}
        self._fleet = fleet
        self._problem = fleet.problem
        self._allocation = decision.allocation
        self._running = fleet.problem.running_replicas()
        self._short = decision.short
        self._short_classes = short_classes(fleet.problem, decision.allocation)
        self._evaluator = evaluator
        self._speeds = speeds
        self._expected = 1 / (1 + float(policy.headroom.demand))
        self._headroom = policy.headroom.latency
        self._policy = policy
        self._budget = policy.budget.per_hour
        self._interrupted = decision.solution.interrupted
        self._faults = decision.faults
        self._kept_cost = kept.cost_per_hour
        self._storage_cost = fleet.problem.storage_price_per_gigabyte_hour * stored_by_deployment(
            fleet.problem, decision.allocation.replicas
        )

    def deployment_plans(self) -> list[DeploymentPlan]:
        """One plan per deployment of the fleet."""
        return [self.deployment_plan(number) for number in range(len(self._fleet.deployments))]

    def binding_limits(self) -> tuple[BindingLimit, ...]:
        """Limits that leave no room for more."""
        problem, replicas = self._problem, self._allocation.replicas
        pools = self._fleet.pool_names
        full = np.flatnonzero(full_pools(problem, self._allocation)).tolist()
        limits = [BindingLimit(LimitKind.POOL, pools[number]) for number in full]
        if problem.options:
            left = problem.budget_per_hour - self._allocation.cost.spending
            if left < problem.option_price_per_hour.min() - TOLERANCE:
                limits.append(BindingLimit(LimitKind.BUDGET, POLICY_NAME))
            used = np.isin(problem.option_pair, problem.option_pair[replicas > 0])
            smallest = problem.option_storage_gigabytes[~used].min(initial=np.inf)
            if problem.storage_limit_gigabytes - stored_gigabytes(problem, replicas) < smallest - TOLERANCE:
                limits.append(BindingLimit(LimitKind.STORAGE, POLICY_NAME))
            limits.extend(BindingLimit(*item) for item in used_up(self._fleet, replicas))
        return tuple(sorted(set(limits)))

    def policy_findings(self) -> list[Finding]:
        """What budget or storage keep from being served, that they are below what runs, that the search was stopped."""
        findings = []
        if self._budget is not None:
            findings.extend(self._budget_findings(self._budget))
        if self._storage_binds.any():
            field = "spec.storage.limitGiB"
            message = (
                f"{field}: {self._policy.storage.limit_gib} does not hold the weights that all demand needs. "
                f"{int(self._storage_binds.sum())} LLMDeployments are short; nothing that runs is removed"
            )
            findings.append(Finding(_POLICY, "StorageLimitReached", message, field=field))
        if self._interrupted:
            findings.append(search_interrupted(self._policy))
        if self._faults:
            message = (
                f"the solver broke down ({self._faults[0]}): the plan is that of a simpler search where it did, and it "
                "may cost more than it must; nothing that runs is lost. Look for a price, a penalty or a rate that is "
                "many times larger or smaller than all others"
            )
            findings.append(Finding(_POLICY, "SolverFailed", message, Severity.WARNING))
        return findings

    def _budget_findings(self, budget: Decimal) -> list[Finding]:
        field = "spec.budget.perHour"
        planned = self._allocation.cost.spending + self._kept_cost
        if self._budget_binds.any():
            message = (
                f"{field}: {budget} does not cover all demand; {_money(self._cost_without_budget)} would. "
                f"{int(self._budget_binds.sum())} LLMDeployments are short; nothing that runs is removed"
            )
        elif planned > float(budget) + TOLERANCE:
            message = (
                f"{field}: {budget} is below the {_money(planned)} that serving costs now; "
                "nothing grows, and nothing that runs is removed"
            )
        else:
            return []
        return [Finding(_POLICY, "BudgetExceeded", message, field=field)]

    @cached_property
    def _unbudgeted(self) -> Allocation:
        return solve_greedy(without_limits(self._problem, budget=True))

    @property
    def _cost_without_budget(self) -> float:
        return self._unbudgeted.cost.spending + self._kept_cost

    @cached_property
    def _budget_binds(self) -> Bools:
        """Deployments (mask, D) that would be served if only the budget were larger."""
        if self._budget is None or not self._short.any():
            return np.zeros_like(self._short)
        return self._less_unserved(self._unbudgeted.unserved)

    @cached_property
    def _storage_binds(self) -> Bools:
        """Deployments (mask, D) that would be served if more weights could be stored."""
        if self._policy.storage.limit_gib is None or not self._short.any():
            return np.zeros_like(self._short)
        stored = solve_greedy(without_limits(self._problem, budget=True, storage=True))
        return self._less_unserved(stored.unserved) & ~self._budget_binds

    @cached_property
    def _groups_bind(self) -> Bools:
        """Deployments (mask, D) that would be served if tenants and namespaces had no limits."""
        if not self._fleet.limits or not self._short.any():
            return np.zeros_like(self._short)
        return self._less_unserved(self._ungrouped.unserved) & ~self._budget_binds & ~self._storage_binds

    @cached_property
    def _ungrouped(self) -> Allocation:
        return solve_greedy(without_limits(self._problem, budget=True, storage=True, groups=True))

    @cached_property
    def _stock_binds(self) -> Bools:
        """Deployments (mask, D) that would be served if only the pools were larger."""
        if not self._short.any():
            return np.zeros_like(self._short)
        return self._less_unserved(self._unlimited.unserved)

    @cached_property
    def _unlimited(self) -> Allocation:
        return solve_greedy(without_limits(self._problem, budget=True, storage=True, stock=True, groups=True))

    def _less_unserved(self, unserved: Floats) -> Bools:
        better = unserved < self._allocation.unserved - TOLERANCE
        mask = np.zeros_like(self._short)
        mask[self._problem.class_deployment[better]] = True
        return mask & self._short

    def deployment_plan(self, number: int) -> DeploymentPlan:
        """The plan of one deployment."""
        deployment = self._fleet.deployments[number]
        choices = self._fleet.choices[number]
        class_numbers = self._fleet.classes_of(number)
        own = self._fleet.options_of(number)
        options = np.flatnonzero(self._allocation.replicas[own] > 0) + own.start
        placements = [self._placement(option) for option in options.tolist()]
        classes = tuple(
            self._class_plan(
                index,
                choices.classes[self._fleet.class_keys[index][1]],
                [self._predictions[option, index] for option in options.tolist() if index in self._uses[option].served],
                number,
            )
            for index in class_numbers
        )
        ref = ObjectRef("LLMDeployment", deployment.namespace, deployment.name)
        findings = [
            *choices.findings,
            *crowded(ref, classes, placements),
            *kept_findings(ref, (self._fleet.candidates[int(option)] for option in options)),
        ]
        findings.extend(self._notes.get(deployment.reference, ()))
        if self._short[number]:
            findings.extend(self._shortages(number, class_numbers))
        total = sum(placement.replicas for placement in placements)
        minimum = deployment.spec.placement.replicas.min
        if total < minimum and not any(finding.severity is Severity.ERROR for finding in findings):
            message = f"spec.placement.replicas.min: {minimum} asked for, {total} fit into pools and budget"
            severity = Severity.WARNING if placements else Severity.ERROR
            findings.append(Finding(ref, "BelowMinimumReplicas", message, severity, "spec.placement.replicas.min"))
        state = DeploymentState.SHORT if self._short[number] else DeploymentState.PLANNED
        return DeploymentPlan(
            resource=deployment,
            state=state,
            placements=tuple(sorted(placements, key=lambda item: item.name)),
            classes=classes,
            findings=tuple(findings),
            storage_cost_per_hour=float(self._storage_cost[number]),
        )

    def _placement(self, option: int) -> Placement:
        candidate, use = self._fleet.candidates[option], self._uses[option]
        number = int(self._problem.option_deployment[option])
        replicas = int(self._allocation.replicas[option])
        return Placement(
            name=candidate.name,
            option=candidate.option,
            replicas=replicas,
            shares=use.shares,
            price_per_hour=replicas * candidate.price_per_hour,
            utilization=use.utilization,
            reason=self._reason(option, use.served),
            speed=self._speeds.source(candidate.shape),
            correction=candidate.shape.correction,
            asked=candidate.asked,
            made_by=candidate.made_by,
            rates=movable_rates(candidate, self._fleet.choices[number].classes),
        )

    @cached_property
    def _uses(self) -> dict[int, "_Use"]:
        """Of every option with replicas."""
        used = self._allocation.replicas > 0
        if self._only is not None:
            used &= self._problem.option_deployment == self._only
        return {option: self._use(option) for option in np.flatnonzero(used).tolist()}

    @cached_property
    def _predictions(self) -> dict[tuple[int, int], Prediction]:
        """Of options and the classes that they serve; all at once, since the model computes many in the time of one."""
        asked = {(option, index): one for option, use in self._uses.items() for index, one in use.expected.items()}
        return dict(zip(asked, self._evaluator.predict_each(list(asked.values())), strict=True))

    def _use(self, option: int) -> "_Use":
        candidate, number = self._fleet.candidates[option], int(self._problem.option_deployment[option])
        classes = self._fleet.choices[number].classes
        items: dict[int, ResolvedClass] = {}
        shares: list[Share] = []
        rates: dict[str, float] = {}
        load = 0.0
        for index in self._fleet.classes_of(number):
            pair = self._fleet.pair(index, option)
            share = 0.0 if pair is None else float(self._allocation.share[pair])
            if pair is None or share <= TOLERANCE:
                continue
            items[index] = classes[self._fleet.class_keys[index][1]]
            name = items[index].declared.name
            shares.append(Share(name, round(share, 6)))
            part = share * float(self._problem.pair_load[pair, 0])
            rates[name] = part * candidate.capacities[name].max_rate_per_second
            load += part
        utilization = load / int(self._allocation.replicas[option])
        at = min(1.0, utilization * self._expected)
        by_name = {item.declared.name: item for item in classes}
        expected: dict[int, Expected] = {}
        for index, item in items.items():
            name = item.declared.name
            batch = candidate.capacities[name].max_num_seqs
            question = Question(candidate.shape, item.lengths, item.targets, batch, item.arrivals)
            rate = rates[name] / load * at if load > 0 else 0.0
            expected[index] = Expected(question, rate, at, companions(name, rates, by_name))
        return _Use(tuple(shares), utilization, expected)

    def _reason(self, option: int, served: Sequence[int]) -> str:
        """Why this option: what else could serve its main class, and why it does not."""
        if not served:
            return "kept ready for the minimum number of replicas"
        kept = "runs already; " if self._running[option] > 0 else ""
        spare = int(self._problem.option_spare[option])
        if spare:
            kept += f"can lose {spare} replica{'' if spare == 1 else 's'}, and so any one node; "
        name = self._names.of_class(served[0])
        others = self._rejected(served[0])
        if not others:
            return f"{kept}the only option that meets the objectives of {name}"
        return f"{kept}next best for {name}: {others[0].option}: {others[0].reason}"

    def _rejected(self, index: int) -> list[Rejected]:
        """The best alternatives of a class; placements and the class itself speak of them."""
        if index not in self._rejections:
            found = self._names.rejected(index, self._alternatives.of_class(index), _ALTERNATIVES)
            self._rejections[index] = found
        return self._rejections[index]

    @cached_property
    def _alternatives(self) -> Alternatives:
        return Alternatives(self._problem, self._allocation)

    @cached_property
    def _names(self) -> Wording:
        return Wording(self._fleet, self._allocation, self._policy)

    def _class_plan(
        self, index: int, item: ResolvedClass, predictions: Sequence[Prediction], deployment: int
    ) -> ClassPlan:
        excluded = rejections(self._fleet.choices[deployment], item.declared.name, _ALTERNATIVES)
        return ClassPlan(
            name=item.declared.name,
            requests_per_minute=item.requests_per_minute,
            unserved=float(self._allocation.unserved[index]) if self._problem.class_rate_per_hour[index] > 0 else 0.0,
            latency=_figures(item, predictions),
            rejected=(*self._rejected(index), *excluded),
            headroom=1 / self._expected - 1,
            unserved_limit=float(item.slo.unserved.max),
        )

    def _shortages(self, number: int, class_numbers: Sequence[int]) -> list[Finding]:
        """Why classes of a deployment are not served as they should be."""
        deployment = self._fleet.deployments[number]
        ref = ObjectRef("LLMDeployment", deployment.namespace, deployment.name)
        choices = self._fleet.choices[number]
        findings: list[Finding] = []
        for index in class_numbers:
            if not self._short_classes[index]:
                continue
            unserved = float(self._allocation.unserved[index])
            position = self._fleet.class_keys[index][1]
            item = choices.classes[position]
            field = f"spec.traffic[{position}]"
            name = item.declared.name
            if not any(name in way.capacities for way in choices.ways):
                reason, message = self._infeasible(number, item)
            elif self._budget_binds[number]:
                reason = "BudgetExceeded"
                message = (
                    f"{unserved:.1%} of class {name} stays unserved: PlacementPolicy default spec.budget.perHour "
                    f"{self._budget} is used up; {_money(self._cost_without_budget)} would serve all"
                )
            elif self._storage_binds[number]:
                reason = "StorageLimitReached"
                message = (
                    f"{unserved:.1%} of class {name} stays unserved: PlacementPolicy default spec.storage.limitGiB "
                    f"{self._policy.storage.limit_gib} is used up"
                )
            elif self._groups_bind[number]:
                binding = exhausted(self._fleet, number, self._allocation.replicas, self._ungrouped.replicas)
                reason = binding[0].limit.reason if binding else "LimitReached"
                message = f"{unserved:.1%} of class {name} stays unserved: {said(binding)}"
            elif self._stock_binds[number]:
                reason = "InsufficientCapacity"
                message = f"{unserved:.1%} of class {name} stays unserved: {self._missing_gpus(number)}"
            else:
                reason = "LimitReached"
                message = f"{unserved:.1%} of class {name} stays unserved{self._own_limits(number, item)}"
            findings.append(Finding(ref, reason, f"{field}: {message}", Severity.ERROR, field))
        return findings

    def _own_limits(self, number: int, item: ResolvedClass) -> str:
        """The limits that the deployment's owner wrote, each with what would do instead."""
        limits = []
        most = self._fleet.deployments[number].spec.placement.replicas.max
        if most is not None:
            own = self._problem.option_deployment == number
            limits.append(f"spec.placement.replicas.max {most} ({int(self._boundless.replicas[own].sum())} would do)")
        if item.slo.max_task_error is not None:
            name = item.declared.name
            errors = [way.task_errors[name] for way in self._fleet.choices[number].ways if name in way.task_errors]
            limits.append(
                f"maxTaskError {item.slo.max_task_error} of {item.slo_field} (the best option has {min(errors):g})"
            )
        return f" within {' and '.join(limits)}" if limits else ""

    @cached_property
    def _boundless(self) -> Allocation:
        relaxed = without_limits(self._problem, budget=True, storage=True, stock=True, replicas=True, groups=True)
        return solve_greedy(relaxed)

    def _missing_gpus(self, number: int) -> str:
        """What the deployment would use if pools had no end, beyond what it gets."""
        own = self._fleet.options_of(number)
        missing: dict[str, int] = {}
        for option in range(own.start, own.stop):
            extra = int(self._unlimited.replicas[option] - self._allocation.replicas[option])
            if extra > 0:
                candidate = self._fleet.candidates[option]
                gpus = extra * candidate.option.parallelism.gpus
                missing[candidate.pool.name] = missing.get(candidate.pool.name, 0) + gpus
        parts = [f"{gpus} more free GPUs in GPUNodePool {pool}" for pool, gpus in sorted(missing.items())]
        return f"it needs {' and '.join(parts)}" if parts else "pools are full"

    def _infeasible(self, number: int, item: ResolvedClass) -> tuple[str, str]:
        choices = self._fleet.choices[number]
        nearest = rejections(choices, item.declared.name, 1)
        best = f"; nearest: {nearest[0].option}: {nearest[0].reason}" if nearest else ""
        missed = any(excluded.traffic == item.declared.name for excluded in choices.excluded)
        if missed:
            kept = f" with headroom.latency {self._headroom} kept free" if self._headroom else ""
            return "SLOUnattainable", f"no option meets {item.slo_field}{kept} for class {item.declared.name}{best}"
        if not choices.excluded:
            return "NoPools", "there is no usable GPUNodePool: create one, or see the conditions of those there are"
        return "FitsNowhere", f"no candidate model fits any pool for class {item.declared.name}{best}"


def search_interrupted(policy: PlacementPolicySpec) -> Finding:
    """Says that the policy's time limit ended a search."""
    field = "spec.timeLimitMilliseconds"
    message = (
        f"{field}: the search was stopped after {policy.time_limit_milliseconds}; the plan holds, but it may cost more "
        "than it must: allow more time"
    )
    return Finding(_POLICY, "SearchInterrupted", message, Severity.WARNING, field)


def _figures(item: ResolvedClass, predictions: Sequence[Prediction]) -> tuple[LatencyFigure, ...]:
    if not predictions:
        return ()
    rows: tuple[tuple[str, LatencyTarget | None, float], ...] = (
        ("ttft", item.targets.ttft, max(prediction.ttft_seconds for prediction in predictions)),
        ("tpot", item.targets.tpot, max(prediction.tpot_seconds for prediction in predictions)),
        ("endToEnd", item.targets.end_to_end, max(prediction.end_to_end_seconds for prediction in predictions)),
    )
    return tuple(
        LatencyFigure(
            metric=metric,
            percentile=target.percentile if target is not None else None,
            target_milliseconds=target.seconds * 1000 if target is not None else None,
            predicted_milliseconds=round(seconds * 1000, 1),
        )
        for metric, target, seconds in rows
    )


def _money(value: float) -> Decimal:
    return Decimal(str(round(value, 6))).quantize(Decimal("0.01"), rounding=ROUND_CEILING)
