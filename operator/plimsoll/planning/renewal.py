"""The annotation by which people give up what other releases of Plimsoll made."""

from plimsoll import __version__
from plimsoll.api.common import GROUP
from plimsoll.api.llmdeployment import LLMDeployment

RENEW = f"{GROUP}/renew"
"""On an LLMDeployment, with the release whose rendering is wanted. It means nothing to the releases after that."""


def wants_renewal(deployment: LLMDeployment) -> bool:
    """Whether placements that other releases made are to be made anew by this one."""
    return deployment.metadata.annotations.get(RENEW) == __version__
