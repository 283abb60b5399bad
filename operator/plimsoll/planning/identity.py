"""Names of placements. A name is a pure function of everything that shapes the pod template, so that equal names mean
equal templates: replicas and shares may change in place, anything else is another placement (DESIGN section 8).

What people asked for is a part of that. A running placement that is still what they ask for keeps its name and its
template whatever this release would call it (planning/keeping.py).
"""

import hashlib
import re

from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.planning.digest import digest
from plimsoll.planning.plan import Option
from plimsoll.planning.pools import Offer

MAX_LENGTH = 52
"""Leaves room for the suffixes that ReplicaSets and pods add within 63 characters."""

MAX_GROUP_LENGTH = 47
"""Of replicas of several pods: their number comes before the suffixes of the StatefulSet of each replica's workers."""

TEMPLATE_RELEASE = 1
"""Raised whenever rendering changes the pod template of an unchanged input, so that new placements have new names and
those of another release are told apart."""


class PlacementNames:
    """Names of one LLMDeployment's placements: `<deployment>-<model>-<precision>-<pool>-t<TP>p<PP>-<hash6>`, DNS-1035
    labels of at most 52 characters, 47 for replicas of several pods.

    The owner's name counts in the hash: names that are cut to the same beginning must not share objects.
    """

    def __init__(self, deployment: LLMDeployment) -> None:
        self._deployment = deployment
        classes = sorted(traffic.name for traffic in deployment.spec.traffic)
        # A field that a later release adds has its default everywhere, and must not count as something asked for.
        engine = deployment.spec.engine.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        self._base = digest((deployment.name, engine, classes))
        self._pools: dict[str, str] = {}
        self._checkpoints: dict[tuple[str, str], str | None] = {
            (model.name, precision.name): precision.checkpoint
            for model in deployment.spec.models
            for precision in model.precisions
        }

    def asked(self, option: Option, pool: Offer) -> str:
        """Fingerprint of what people wrote and what was decided, without anything that a release may resolve otherwise:
        images, catalog entries, load times, rendering."""
        if pool.name not in self._pools:
            self._pools[pool.name] = digest((pool.node_selector, pool.tolerations, pool.resource_name))
        degrees = option.parallelism
        parts = (
            *(self._base, self._pools[pool.name], option.pool, option.model, option.precision),
            self._checkpoints.get((option.model, option.precision)) or "",
            *(degrees.tensor, degrees.pipeline, option.max_num_seqs, option.max_model_length),
            *((f"{option.pods_per_node} per node",) if option.pods_per_node else ()),
            *((f"{option.nodes} nodes",) if option.nodes > 1 else ()),
            *((f"{option.cache_tokens} cache tokens",) if option.cache_tokens else ()),
        )
        return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:16]

    def of(self, option: Option, pool: Offer) -> str:
        """The name of the placement that the option would be in this release."""
        shape = f"{TEMPLATE_RELEASE} {self.asked(option, pool)} {option!r}"
        degrees = f"t{option.parallelism.tensor}p{option.parallelism.pipeline}"
        unique = hashlib.sha256(shape.encode()).hexdigest()[:6]
        tail = f"{option.precision}-{short(option.pool, 14)}-{degrees}-{unique}"
        longest = MAX_LENGTH if option.nodes == 1 else MAX_GROUP_LENGTH
        room = longest - len(tail) - 2
        owner = short(self._deployment.name, max(8, room - 16))
        model = short(option.model.rsplit("/", 1)[-1].removesuffix("-Instruct"), max(1, room - len(owner)))
        return f"{owner}-{model}-{tail}"


def short(text: str, length: int) -> str:
    """`text` as part of a DNS label, cut readably."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:length].strip("-")
