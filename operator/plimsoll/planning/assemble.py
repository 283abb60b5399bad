"""From the answer's arrays back to placements with names, predicted latencies and reasons."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from functools import cached_property

import numpy as np

from plimsoll.allocation import Allocation, solve_greedy
from plimsoll.api.placementpolicy import PlacementPolicySpec
from plimsoll.performance import LatencyTarget, Prediction
from plimsoll.planning.decide import TOLERANCE, Decision, short_classes, without_limits
from plimsoll.planning.evaluate import Evaluator, Question
from plimsoll.planning.fleet import USABLE_TIME, Fleet
from plimsoll.planning.objectives import ResolvedClass
from plimsoll.planning.options import Candidate, rejections
from plimsoll.planning.plan import (
    ClassPlan,
    DeploymentPlan,
    DeploymentState,
    Finding,
    LatencyFigure,
    Placement,
    Rejected,
    Severity,
    Share,
)
from plimsoll.planning.snapshot import ObjectRef

_ALTERNATIVES = 3


class Assembly:
    """Turns one decision into deployment plans."""

    def __init__(
        self,
        fleet: Fleet,
        decision: Decision,
        evaluator: Evaluator,
        policy: PlacementPolicySpec,
        kept_rent_per_hour: float,
    ) -> None:
        self._fleet = fleet
        self._problem = fleet.problem
        self._allocation = decision.allocation
        self._short = decision.short
        self._short_classes = short_classes(fleet.problem, decision.allocation)
        self._evaluator = evaluator
        self._expected = 1 / (1 + float(policy.headroom.demand))
        self._headroom = policy.headroom.latency
        self._budget = policy.budget.per_hour
        self._kept_rent = kept_rent_per_hour

    def deployment_plans(self) -> list[DeploymentPlan]:
        """One plan per deployment of the fleet."""
        return [self._deployment_plan(number) for number in range(len(self._fleet.deployments))]

    def policy_findings(self) -> list[Finding]:
        """What the budget keeps from being served, or that it is below what runs."""
        if self._budget is None:
            return []
        field = "spec.budget.perHour"
        planned = float(self._allocation.replicas @ self._problem.option_price_per_hour) + self._kept_rent
        if self._budget_binds.any():
            message = (
                f"{field}: {self._budget} does not cover all demand; {_money(self._rent_without_budget)} would. "
                f"{int(self._budget_binds.sum())} LLMDeployments are short; nothing that runs is removed"
            )
        elif planned > float(self._budget) + TOLERANCE:
            message = (
                f"{field}: {self._budget} is below the {_money(planned)} that serving costs now; "
                "nothing grows, and nothing that runs is removed"
            )
        else:
            return []
        return [Finding(ObjectRef("PlacementPolicy", "", "default"), "BudgetExceeded", message, field=field)]

    @cached_property
    def _unbudgeted(self) -> Allocation:
        return solve_greedy(without_limits(self._problem, budget=True, stock=False))

    @property
    def _rent_without_budget(self) -> float:
        return float(self._unbudgeted.replicas @ self._problem.option_price_per_hour) + self._kept_rent

    @cached_property
    def _budget_binds(self) -> np.ndarray:
        """Deployments (mask, D) that would be served if only the budget were larger."""
        if self._budget is None or not self._short.any():
            return np.zeros_like(self._short)
        return self._less_unserved(self._unbudgeted.unserved)

    @cached_property
    def _stock_binds(self) -> np.ndarray:
        """Deployments (mask, D) that would be served if only the pools were larger."""
        if not self._short.any():
            return np.zeros_like(self._short)
        return self._less_unserved(self._unlimited.unserved)

    @cached_property
    def _unlimited(self) -> Allocation:
        return solve_greedy(without_limits(self._problem, budget=True, stock=True))

    def _less_unserved(self, unserved: np.ndarray) -> np.ndarray:
        better = unserved < self._allocation.unserved - TOLERANCE
        mask = np.zeros_like(self._short)
        mask[self._problem.class_deployment[better]] = True
        return mask & self._short

    def _deployment_plan(self, number: int) -> DeploymentPlan:
        deployment = self._fleet.deployments[number]
        choices = self._fleet.choices[number]
        class_numbers = [index for index, (owner, _) in enumerate(self._fleet.class_keys) if owner == number]
        options = np.flatnonzero((self._problem.option_deployment == number) & (self._allocation.replicas > 0))
        predictions: dict[int, list[Prediction]] = {index: [] for index in class_numbers}
        placements = [self._placement(int(option), class_numbers, choices.classes, predictions) for option in options]
        classes = tuple(
            self._class_plan(index, choices.classes[self._fleet.class_keys[index][1]], predictions[index], number)
            for index in class_numbers
        )
        findings = list(choices.findings)
        if self._short[number]:
            findings.extend(self._shortages(number, class_numbers))
        total = sum(placement.replicas for placement in placements)
        minimum = deployment.spec.placement.replicas.min
        if total < minimum and not any(finding.severity is Severity.ERROR for finding in findings):
            message = f"spec.placement.replicas.min: {minimum} asked for, {total} fit into pools and budget"
            ref = ObjectRef("LLMDeployment", deployment.namespace, deployment.name)
            severity = Severity.WARNING if placements else Severity.ERROR
            findings.append(Finding(ref, "BelowMinimumReplicas", message, severity, "spec.placement.replicas.min"))
        state = DeploymentState.SHORT if self._short[number] else DeploymentState.PLANNED
        return DeploymentPlan(
            resource=deployment,
            state=state,
            placements=tuple(sorted(placements, key=lambda item: item.name)),
            classes=classes,
            findings=tuple(findings),
        )

    def _placement(
        self,
        option: int,
        class_numbers: Sequence[int],
        classes: Sequence[ResolvedClass],
        predictions: dict[int, list[Prediction]],
    ) -> Placement:
        candidate = self._fleet.candidates[option]
        replicas = int(self._allocation.replicas[option])
        shares: list[Share] = []
        load = 0.0
        served: list[int] = []
        for index in class_numbers:
            pair = self._fleet.pair_index.get((index, option))
            share = 0.0 if pair is None else float(self._allocation.share[pair])
            if pair is None or share <= TOLERANCE:
                continue
            served.append(index)
            shares.append(Share(classes[self._fleet.class_keys[index][1]].declared.name, round(share, 6)))
            load += share * float(self._problem.pair_load[pair])
        utilization = load / replicas
        expected = min(1.0, utilization * self._expected)
        for index in served:
            item = classes[self._fleet.class_keys[index][1]]
            capacity = candidate.capacities[item.declared.name]
            question = Question(candidate.shape, item.lengths, item.targets)
            rate = expected * capacity.max_rate_per_second
            predictions[index].append(self._evaluator.predict(question, capacity.max_num_seqs, rate, expected))
        return Placement(
            name=candidate.name,
            option=candidate.option,
            replicas=replicas,
            shares=tuple(shares),
            price_per_hour=replicas * candidate.price_per_hour,
            utilization=utilization,
            reason=self._reason(option, served, classes),
        )

    def _reason(self, option: int, served: Sequence[int], classes: Sequence[ResolvedClass]) -> str:
        """Why this option: what else could serve its main class, and at what cost in whole replicas."""
        candidate = self._fleet.candidates[option]
        if not served:
            return "kept ready for the minimum number of replicas"
        kept = "runs already; " if self._problem.running_replicas()[option] > 0 else ""
        item = classes[self._fleet.class_keys[served[0]][1]]
        name = item.declared.name
        own = _alone(candidate, item)
        others = [
            _alone(other, item)
            for other in self._fleet.choices[int(self._problem.option_deployment[option])].candidates
            if name in other.capacities and other.label != candidate.label
        ]
        if not others:
            return f"{kept}the only option that meets the objectives of {name}"
        best = min(others)
        return f"{kept}{name} alone would take {own}; next best {best}"

    def _class_plan(
        self, index: int, item: ResolvedClass, predictions: Sequence[Prediction], deployment: int
    ) -> ClassPlan:
        used = {
            self._fleet.candidates[option].label
            for option in np.flatnonzero(self._problem.option_deployment == deployment)
            if self._allocation.replicas[option] > 0
        }
        alternatives = sorted(
            _alone(candidate, item)
            for candidate in self._fleet.choices[deployment].candidates
            if item.declared.name in candidate.capacities and candidate.label not in used
        )
        rejected: list[Rejected] = []
        for alone in alternatives:
            if all(alone.label != known.option for known in rejected):
                rejected.append(
                    Rejected(alone.label, f"{alone.replicas} × {alone.each:.2f} = {alone.price:.2f} per hour")
                )
        shown = rejected[:_ALTERNATIVES]
        shown.extend(rejections(self._fleet.choices[deployment], item.declared.name, _ALTERNATIVES))
        return ClassPlan(
            name=item.declared.name,
            requests_per_minute=float(item.declared.requests_per_minute),
            unserved=float(self._allocation.unserved[index]) if self._problem.class_rate_per_hour[index] > 0 else 0.0,
            latency=_figures(item, predictions),
            rejected=tuple(shown),
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
            if not any(name in candidate.capacities for candidate in choices.candidates):
                reason, message = self._infeasible(number, item)
            elif self._budget_binds[number]:
                reason = "BudgetExceeded"
                message = (
                    f"{unserved:.1%} of class {name} stays unserved: PlacementPolicy default spec.budget.perHour "
                    f"{self._budget} is used up; {_money(self._rent_without_budget)} would serve all"
                )
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
            errors = [
                candidate.task_errors[name]
                for candidate in self._fleet.choices[number].candidates
                if name in candidate.task_errors
            ]
            limits.append(
                f"maxTaskError {item.slo.max_task_error} of {item.slo_field} (the best option has {min(errors):g})"
            )
        return f" within {' and '.join(limits)}" if limits else ""

    @cached_property
    def _boundless(self) -> Allocation:
        return solve_greedy(without_limits(self._problem, budget=True, stock=True, replicas=True))

    def _missing_gpus(self, number: int) -> str:
        """What the deployment would use if pools had no end, beyond what it gets."""
        own = self._problem.option_deployment == number
        missing: dict[str, int] = {}
        for option in np.flatnonzero(own):
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


@dataclass(frozen=True, slots=True, order=True)
class _Alone:
    """What a class would cost on one option alone, in whole replicas."""

    price: float
    label: str
    replicas: int
    each: float

    def __str__(self) -> str:
        return f"{self.replicas} × {self.label} = {self.price:.2f} per hour"


def _alone(candidate: Candidate, item: ResolvedClass) -> _Alone:
    load = item.planned_rate_per_second / candidate.capacities[item.declared.name].max_rate_per_second
    replicas = max(1, math.ceil(load / USABLE_TIME - TOLERANCE))
    each = candidate.price_per_hour
    return _Alone(replicas * each, candidate.label, replicas, each)


def _money(value: float) -> Decimal:
    return Decimal(str(round(value, 6))).quantize(Decimal("0.01"), rounding=ROUND_CEILING)
