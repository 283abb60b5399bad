"""Running placements outlive an upgrade of Plimsoll: what another release made is kept under its name, as it was made.

A release pins images and renders pod templates in its own way, so the same placement has another name in each. What
people asked for stands on the workload as a fingerprint. As long as a candidate would be made for the same, the running
placement is that candidate: its name, image and resources count, and only its replicas change. An annotation on the
LLMDeployment gives up what other releases made, by an ordinary transition.
"""

from collections.abc import Iterable
from dataclasses import replace

from plimsoll import __version__
from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.planning.options import Candidate, Choices
from plimsoll.planning.plan import Finding, Severity
from plimsoll.planning.renewal import RENEW, wants_renewal
from plimsoll.planning.snapshot import Made, ObjectRef, Workload


def keep_running(deployment: LLMDeployment, choices: Choices, workloads: Iterable[Workload]) -> Choices:
    """The choices, with those candidates that run already as they run. `workloads` are the LLMDeployment's own."""
    renewed = wants_renewal(deployment)
    running: dict[str, list[tuple[Workload, Made]]] = {}
    for workload in workloads:
        if workload.made is not None and not (renewed and workload.made.release != __version__):
            running.setdefault(workload.made.asked, []).append((workload, workload.made))
    return replace(choices, made=running) if running else choices


def kept_findings(ref: ObjectRef, chosen: Iterable[Candidate]) -> list[Finding]:
    """What a person should know about placements that another release made."""
    return [
        Finding(ref, "MadeByOtherRelease", _sentence(ref, candidate), Severity.WARNING)
        for candidate in chosen
        if candidate.anew is not None
    ]


def _sentence(ref: ObjectRef, candidate: Candidate) -> str:
    image, anew = candidate.option.image, candidate.anew.image if candidate.anew is not None else ""
    old = f" with image {image}" if image != anew else ""
    new = f", with image {anew}" if image != anew else ""
    return (
        f"placement {candidate.name} runs as release {candidate.made_by} made it{old}, and is kept; to have it made "
        f"anew by release {__version__}{new}: kubectl annotate llmdeployment {ref.name} --namespace {ref.namespace} "
        f"--overwrite {RENEW}={__version__}"
    )
