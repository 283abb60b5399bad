"""One planning round about LLMDeployments in replicas: what it decided, and all that it knew."""

from dataclasses import dataclass

from plimsoll.api.placementpolicy import PlacementPolicySpec
from plimsoll.planning.assemble import Assembly
from plimsoll.planning.changing import Basis
from plimsoll.planning.decide import Decision
from plimsoll.planning.fleet import Fleet, Kept
from plimsoll.planning.options import Choices
from plimsoll.planning.plan import Finding
from plimsoll.planning.pools import Pools
from plimsoll.planning.search import Search
from plimsoll.planning.snapshot import Snapshot


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """What one planning round decided, and all that it knew."""

    snapshot: Snapshot
    digest: str
    policy: PlacementPolicySpec
    pools: Pools
    choices: tuple[Choices, ...]
    """Per LLMDeployment of the snapshot."""
    fleet: Fleet
    kept: Kept
    search: Search
    decision: Decision
    assembly: Assembly
    basis: Basis
    findings: tuple[Finding, ...] = ()
    """On what was measured of models, and on tenants."""
