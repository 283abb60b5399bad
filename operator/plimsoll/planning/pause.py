"""Pausing by annotation: an LLMDeployment gets no write but its status; the PlacementPolicy pauses all of them.

A paused LLMDeployment is held like one with a wrong input: what runs keeps its GPUs, and nothing is decided about it.
"""

from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.api.placementpolicy import PlacementPolicy
from plimsoll.planning.plan import Finding, Severity
from plimsoll.planning.snapshot import ObjectRef, Snapshot

PAUSED = "plimsoll.dev/paused"
"""Annotation: `"true"`, or `"false"` as if it were absent."""
REASON = "Paused"
INVALID = "PausedInvalid"


def pause_findings(deployment: LLMDeployment, snapshot: Snapshot) -> list[Finding]:
    """Why the LLMDeployment is paused; nothing when it is not. A value that cannot be read pauses, too: whoever wrote
    it did not want writes."""
    ref = ObjectRef("LLMDeployment", deployment.namespace, deployment.name)
    found = [_own(deployment, ref), _of_policy(snapshot.policy, ref)]
    return [finding for finding in found if finding is not None]


def policy_pause_findings(policy: PlacementPolicy | None) -> list[Finding]:
    """What to say on the policy."""
    if policy is None:
        return []
    ref = ObjectRef("PlacementPolicy", "", policy.name)
    text = policy.metadata.annotations.get(PAUSED, "false")
    return [] if text in ("true", "false") else [_invalid(ref, text)]


def holds(finding: Finding) -> bool:
    """Whether nothing is decided about its object: an input is wrong, or a person has paused it."""
    return finding.severity is Severity.ERROR or finding.reason == REASON


def paused_objects(snapshot: Snapshot) -> tuple[tuple[str, str], ...]:
    """Reference and value of every annotation that pauses: part of what a plan depends on."""
    resources = (*snapshot.deployments, *((snapshot.policy,) if snapshot.policy is not None else ()))
    pairs = ((f"{item.kind} {item.reference}", item.metadata.annotations.get(PAUSED, "false")) for item in resources)
    return tuple(sorted((name, text) for name, text in pairs if text != "false"))


def _own(deployment: LLMDeployment, ref: ObjectRef) -> Finding | None:
    text = deployment.metadata.annotations.get(PAUSED, "false")
    if text == "false":
        return None
    if text != "true":
        return _invalid(ref, text)
    message = f'annotation {PAUSED} is "true": nothing is written for it but its status; what runs is left as it is'
    return Finding(ref, REASON, message, Severity.WARNING, _FIELD)


def _of_policy(policy: PlacementPolicy | None, ref: ObjectRef) -> Finding | None:
    text = policy.metadata.annotations.get(PAUSED, "false") if policy is not None else "false"
    if text == "false":
        return None
    message = f'PlacementPolicy default: annotation {PAUSED} is "{text}": nothing is written for any LLMDeployment'
    return Finding(ref, REASON, message, Severity.WARNING)


_FIELD = f"metadata.annotations[{PAUSED}]"


def _invalid(ref: ObjectRef, text: str) -> Finding:
    message = f'{_FIELD}: "{text[:64]}": must be "true" or "false"; it counts as "true" until it is one of them'
    return Finding(ref, INVALID, message, field=_FIELD)
