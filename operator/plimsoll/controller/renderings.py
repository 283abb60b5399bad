"""Objects of LLMDeployments, rendered and verified; where nothing that they are made of has changed, the very same."""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

from plimsoll.planning.plan import DeploymentPlan, FleetPlan
from plimsoll.planning.snapshot import ObjectRef
from plimsoll.planning.transition import Step
from plimsoll.rendering import Manifest, render_deployment, verify

Live = Mapping[str, Mapping[str, Any]]
"""Running workloads by name."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What was rendered, and of what."""

    plan: DeploymentPlan
    step: Step
    pools: tuple[object, ...]
    routed_at: str
    live: Live
    manifests: tuple[Manifest, ...]


class Renderings:
    """Remembers the last rendering of each LLMDeployment."""

    def __init__(self, *, gateway_api: bool) -> None:
        self._gateway_api = gateway_api
        self._known: dict[ObjectRef, _Known] = {}

    def of(
        self,
        fleet: FleetPlan,
        pools: Mapping[str, object],
        plan: DeploymentPlan,
        step: Step,
        routed_at: str,
        live: Live,
    ) -> tuple[Manifest, ...]:
        """What `render_deployment` makes, verified. Callers do not change it.

        Args:
            pools: what objects are made of, of each pool of the fleet plan.

        Raises:
            RenderError: the plan cannot be written down.
            RenderMismatch: what was rendered is not what was planned.
        """
        own = tuple(pools.get(placement.option.pool) for placement in plan.placements)
        known = self._known.get(plan.ref)
        if (
            known is not None
            and (known.plan, known.step, known.pools, known.routed_at) == (plan, step, own, routed_at)
            and known.live.keys() == live.keys()
            and all(known.live[name] is manifest for name, manifest in live.items())
        ):
            return known.manifests
        manifests = render_deployment(fleet, plan, step, routed_at, gateway_api=self._gateway_api, running=live)
        verify(plan, step, manifests)
        self._known[plan.ref] = _Known(plan, step, own, routed_at, live, manifests)
        return manifests

    def forget_all_but(self, present: Set[ObjectRef]) -> None:
        """Forget LLMDeployments that are gone."""
        self._known = {ref: known for ref, known in self._known.items() if ref in present}


def pool_parts(fleet: FleetPlan) -> dict[str, object]:
    """What objects are made of, of each pool."""
    return {pool.name: (pool.name, pool.node_selector, pool.tolerations) for pool in fleet.pools}
