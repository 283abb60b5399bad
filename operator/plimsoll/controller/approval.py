"""Which plan the cluster follows while another one waits for a person. Pure.

What needs approval is what pods there are: which placements, with how many replicas. A plan that differs only in
shares, routes or figures takes effect by itself, for each LLMDeployment on its own; so does one that asks for exactly
what runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from plimsoll.controller.records import pods_of
from plimsoll.planning.plan import DeploymentPlan, DeploymentState, FleetPlan
from plimsoll.planning.snapshot import ObjectRef, Workload

Mode = Literal["Automatic", "Manual", "Recommend"]


@dataclass(frozen=True, slots=True)
class Followed:
    """What is in force for one LLMDeployment, and the fleet plan that it belongs to."""

    plan: DeploymentPlan
    fleet: FleetPlan


@dataclass(frozen=True, slots=True)
class Standing:
    """What to follow and report now."""

    present: FleetPlan
    """What would be done if nobody had to approve."""
    fleet: FleetPlan
    """What is followed; for LLMDeployments of which nothing is in force, what is proposed."""
    waiting: Mapping[ObjectRef, DeploymentPlan] = field(default_factory=dict)
    """What is proposed and not in force."""
    unapplied: frozenset[ObjectRef] = frozenset()
    """LLMDeployments for which nothing is done at all."""
    followed: Mapping[ObjectRef, Followed] = field(default_factory=dict)
    mode: Mode = "Automatic"
    agreed: str = ""
    """Digest of the decision in force when a person has approved it."""
    complete: bool = True
    """False when what a person said could not be dealt with and should be tried again."""

    @property
    def acted_on(self) -> FleetPlan | None:
        """The part of `fleet` that the cluster is brought to; None when nothing is done at all."""
        if self.mode == "Recommend":
            return None
        if not self.unapplied:
            return self.fleet
        kept = tuple(plan for plan in self.fleet.deployments if plan.ref not in self.unapplied)
        return replace(self.fleet, deployments=kept)

    def origin(self, ref: ObjectRef) -> FleetPlan:
        """The fleet plan whose pools the LLMDeployment's plan was made for."""
        return self.followed[ref].fleet if ref in self.followed else self.present


def automatic(present: FleetPlan, before: Mapping[ObjectRef, Followed]) -> Standing:
    """The present plan is followed as it is."""
    return Standing(present, present, followed=following(present, before))


def recommended(present: FleetPlan, before: Mapping[ObjectRef, Followed]) -> Standing:
    """Nothing is done."""
    everything = {plan.ref: plan for plan in present.deployments}
    return Standing(present, present, everything, frozenset(everything), dict(before), "Recommend")


def manual(
    present: FleetPlan, before: Mapping[ObjectRef, Followed], running: Sequence[Workload], *, agreed: bool
) -> Standing:
    """What was approved is followed until something else is; `agreed`: the present decision is the approved one."""
    pods: dict[tuple[str, str], dict[str, int]] = {}
    for workload in running:
        if workload.replicas:
            pods.setdefault((workload.namespace, workload.deployment), {})[workload.name] = workload.replicas
    plans: list[DeploymentPlan] = []
    waiting: dict[ObjectRef, DeploymentPlan] = {}
    unapplied: set[ObjectRef] = set()
    followed = following(present, before)
    for plan in present.deployments:
        known = _of_the_same_object(before.get(plan.ref), plan)
        now = tuple(sorted(pods.get((plan.ref.namespace, plan.ref.name), {}).items()))
        same = pods_of(plan) == (now if known is None else pods_of(known.plan))
        if plan.state is DeploymentState.HELD or agreed or same:
            plans.append(plan)
            continue
        waiting[plan.ref] = plan
        if known is None:
            unapplied.add(plan.ref)
            followed.pop(plan.ref, None)
            plans.append(plan)
        else:
            followed[plan.ref] = known
            plans.append(known.plan)
    fleet = replace(present, deployments=tuple(plans), cost_per_hour=_cost(present, plans, unapplied))
    return Standing(present, fleet, waiting, frozenset(unapplied), followed, "Manual")


def following(present: FleetPlan, before: Mapping[ObjectRef, Followed]) -> dict[ObjectRef, Followed]:
    """What is in force once the present plan is. One that holds an LLMDeployment leaves in force what was."""
    followed: dict[ObjectRef, Followed] = {}
    for plan in present.deployments:
        known = _of_the_same_object(before.get(plan.ref), plan)
        if plan.state is not DeploymentState.HELD:
            followed[plan.ref] = Followed(plan, present)
        elif known is not None:
            followed[plan.ref] = known
    return followed


def _of_the_same_object(known: Followed | None, plan: DeploymentPlan) -> Followed | None:
    if known is None or known.plan.resource.metadata.uid != plan.resource.metadata.uid:
        return None
    return known


def _cost(present: FleetPlan, plans: Sequence[DeploymentPlan], unapplied: set[ObjectRef]) -> float:
    """Of what is followed. What holds no plan stays in as the present plan counts it."""
    proposed = sum(plan.cost_per_hour for plan in present.deployments)
    real = sum(plan.cost_per_hour for plan in plans if plan.ref not in unapplied)
    return max(0.0, present.cost_per_hour - proposed + real)
