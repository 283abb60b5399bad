"""Names of chains' servers: as of placements (planning/identity.py), with the whole chain in the hash.

Every server's command line names the first one and all intervals, so a chain in which anything is different is another
chain, with other names.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.planning.digest import digest
from plimsoll.planning.identity import MAX_LENGTH, TEMPLATE_RELEASE, PlacementNames, short
from plimsoll.planning.plan import Option, Stage
from plimsoll.planning.pools import Offer


class ChainNames:
    """Names and fingerprints of one LLMDeployment's chains. Options come in the chain's order, with their stages; what
    these say of the chain's name does not count."""

    def __init__(self, deployment: LLMDeployment) -> None:
        self._deployment = deployment
        self._placements = PlacementNames(deployment)

    def asked(self, servers: Sequence[Option], pools: Sequence[Offer]) -> tuple[str, ...]:
        """Fingerprint of what each server was made for, without anything that a release may resolve otherwise."""
        own = [self._placements.asked(option, pool) for option, pool in zip(servers, pools, strict=True)]
        whole = digest((own, [(stage.node, stage.partition) for stage in map(_stage, servers)]))
        return tuple(hashlib.sha256(f"{whole}\n{number}".encode()).hexdigest()[:16] for number in range(len(servers)))

    def of(self, servers: Sequence[Option], pools: Sequence[Offer]) -> tuple[str, ...]:
        """Names of the servers in this release; the first is the chain's, too."""
        shape = (TEMPLATE_RELEASE, self.asked(servers, pools), [repr(option) for option in servers])
        unique = hashlib.sha256(repr(shape).encode()).hexdigest()[:6]
        return tuple(self._name(option, f"{unique}-{number}") for number, option in enumerate(servers))

    def _name(self, option: Option, unique: str) -> str:
        degrees = f"t{option.parallelism.tensor}p{len(_stage(option).partition)}"
        tail = f"{option.precision}-{short(option.pool, 10)}-{degrees}-{unique}"
        room = MAX_LENGTH - len(tail) - 2
        owner = short(self._deployment.name, max(8, room - 14))
        model = short(option.model.rsplit("/", 1)[-1].removesuffix("-Instruct"), max(1, room - len(owner)))
        return f"{owner}-{model}-{tail}"


def named(servers: Sequence[Option], chain: str) -> tuple[Option, ...]:
    """The options with the chain's name."""
    return tuple(replace(option, stage=replace(_stage(option), chain=chain)) for option in servers)


def _stage(option: Option) -> Stage:
    if option.stage is None:
        raise ValueError(f"{option.model} on {option.pool} is no server of a chain")
    return option.stage
