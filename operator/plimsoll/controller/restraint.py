"""What must not be written for one LLMDeployment although the plan says so, and why. Pure.

Three causes: the blast-radius guard holds, somebody else scales a workload, or a person has paused it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from plimsoll.controller.foreign import Place
from plimsoll.controller.guarding import REASON as BLAST_RADIUS
from plimsoll.controller.guarding import Verdict, takes_away
from plimsoll.planning.plan import DeploymentPlan, DeploymentState, Finding
from plimsoll.planning.snapshot import Workload

FOREIGN = "ForeignManager"
_WORKLOADS = frozenset({"Deployment", "LeaderWorkerSet", "StatefulSet"})
Manifest = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Restraint:
    """What holds one LLMDeployment back."""

    scalers: Mapping[str, str]
    """Name of a workload -> field manager that scales it."""
    findings: tuple[Finding, ...]

    def feasible(self, plan: DeploymentPlan, own: Sequence[Workload]) -> DeploymentPlan:
        """The plan with as many replicas as somebody else wants where that is not Plimsoll's to say."""
        if not self.scalers:
            return plan
        running = {item.name: item.replicas for item in own}
        placements = (
            replace(item, replicas=max(1, running[item.name])) if item.name in self.scalers else item
            for item in plan.placements
        )
        return replace(plan, placements=tuple(placements))

    def writable(self, manifests: Sequence[Manifest]) -> tuple[Manifest, ...]:
        """Without the workloads that somebody else scales."""
        return tuple(
            item for item in manifests if not (item["kind"] in _WORKLOADS and item["metadata"]["name"] in self.scalers)
        )

    def prunable(self, names: Sequence[str]) -> tuple[str, ...]:
        return tuple(name for name in names if name not in self.scalers)


def restrain(
    plan: DeploymentPlan, own: Sequence[Workload], verdict: Verdict, scalers: Mapping[Place, str]
) -> Restraint:
    """What holds back. `own` is what runs of it, `scalers` who else scales which workload of the fleet."""
    if plan.state is DeploymentState.HELD:
        return Restraint({}, ())
    scaled = {item.name: scalers[item.namespace, item.name] for item in own if (item.namespace, item.name) in scalers}
    findings = [_foreign(plan, name, manager) for name, manager in sorted(scaled.items())]
    takes = plan.state is DeploymentState.PLANNED and takes_away(plan, own, scalers.keys())
    if verdict.held and takes:
        findings.append(Finding(plan.ref, BLAST_RADIUS, verdict.message))
    return Restraint(scaled, tuple(findings))


def _foreign(plan: DeploymentPlan, name: str, manager: str) -> Finding:
    planned = next((item.replicas for item in plan.placements if item.name == name), 0)
    option = next((item.option for item in plan.placements if item.name == name), None)
    kind = "Deployment"
    if option is not None and option.stage is not None:
        kind = "StatefulSet"
    elif option is not None and option.nodes > 1:
        kind = "LeaderWorkerSet"
    message = (
        f"{kind} {plan.ref.namespace}/{name}: field manager {manager} owns spec.replicas; Plimsoll would run "
        f"{planned} and writes nothing to it. To give it back, remove that autoscaler and run: kubectl scale "
        f"{kind.lower()} {name} --namespace={plan.ref.namespace} --replicas=N, with any N that is not the present "
        "number"
    )
    return Finding(plan.ref, FOREIGN, message, field="spec.replicas")
