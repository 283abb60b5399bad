"""Names of placements. A name is a pure function of everything that shapes the pod template, so that equal names mean
equal templates: replicas and shares may change in place, anything else is another placement (DESIGN section 8)."""

import hashlib
import re

from plimsoll.api.common import to_wire
from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.planning.digest import digest
from plimsoll.planning.plan import Option
from plimsoll.planning.pools import Offer

MAX_LENGTH = 52
"""Leaves room for the suffixes that ReplicaSets and pods add within 63 characters."""

TEMPLATE_RELEASE = 1
"""Raised whenever rendering changes the pod template of an unchanged input, so that the change becomes a transition
with new names instead of a rolling update under old ones."""


class PlacementNames:
    """Names of one LLMDeployment's placements: `<deployment>-<model>-<precision>-<pool>-t<TP>p<PP>-<hash6>`, DNS-1035
    labels of at most 52 characters.

    The owner's name counts in the hash: names that are cut to the same beginning must not share objects.
    """

    def __init__(self, deployment: LLMDeployment) -> None:
        self._deployment = deployment
        classes = sorted(traffic.name for traffic in deployment.spec.traffic)
        self._base = digest((TEMPLATE_RELEASE, deployment.name, to_wire(deployment.spec.engine), classes))
        self._pools: dict[str, str] = {}

    def of(self, option: Option, pool: Offer) -> str:
        """The name of the placement that the option would be."""
        if pool.name not in self._pools:
            self._pools[pool.name] = digest((pool.node_selector, pool.tolerations))
        shape = f"{self._base} {self._pools[pool.name]} {option!r}"
        degrees = f"t{option.parallelism.tensor}p{option.parallelism.pipeline}"
        unique = hashlib.sha256(shape.encode()).hexdigest()[:6]
        tail = f"{option.precision}-{_short(option.pool, 14)}-{degrees}-{unique}"
        room = MAX_LENGTH - len(tail) - 2
        owner = _short(self._deployment.name, max(8, room - 16))
        model = _short(option.model.rsplit("/", 1)[-1].removesuffix("-Instruct"), max(1, room - len(owner)))
        return f"{owner}-{model}-{tail}"


def _short(text: str, length: int) -> str:
    """`text` as part of a DNS label, cut readably."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:length].strip("-")
