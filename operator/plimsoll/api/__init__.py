"""The custom resources of Plimsoll as Python values. The lowest layer: it imports nothing else of Plimsoll.

`plimsoll.api.parse.parse(manifest)` gives the resource of any of the six kinds, or raises `InvalidResource`, which
lists all problems. `resource.to_wire()` gives the manifest back.
"""

from plimsoll.api.common import API_VERSION, GROUP, VERSION, Condition, Metadata, Resource
from plimsoll.api.gpunodepool import GPUNodePool
from plimsoll.api.inferenceslo import InferenceSLO
from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.api.modelprofile import ModelProfile
from plimsoll.api.placementplan import PlacementPlan
from plimsoll.api.placementpolicy import PlacementPolicy

KINDS: tuple[type[Resource], ...] = (
    LLMDeployment,
    GPUNodePool,
    InferenceSLO,
    ModelProfile,
    PlacementPolicy,
    PlacementPlan,
)
"""All kinds, the most used first."""

__all__ = [
    "API_VERSION",
    "GROUP",
    "KINDS",
    "VERSION",
    "Condition",
    "GPUNodePool",
    "InferenceSLO",
    "LLMDeployment",
    "Metadata",
    "ModelProfile",
    "PlacementPlan",
    "PlacementPolicy",
    "Resource",
]
