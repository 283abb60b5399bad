"""Conditions as the Kubernetes conventions want them: few, stable, and with a time that moves only with the status."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from plimsoll.api import Condition
from plimsoll.planning.plan import Finding, Severity

_MESSAGE_LENGTH = 2000
ConditionStatus = Literal["True", "False", "Unknown"]


@dataclass(frozen=True, slots=True)
class Aspect:
    """A condition as it should be, without times."""

    type: str
    status: ConditionStatus
    reason: str
    message: str


def when(holds: bool) -> ConditionStatus:
    return "True" if holds else "False"


def build(
    aspects: Iterable[Aspect], before: Sequence[Condition], generation: int | None, now: datetime
) -> tuple[Condition, ...]:
    """Conditions from aspects; a condition whose status stays keeps its transition time."""
    known = {condition.type: condition for condition in before}
    built = []
    for aspect in aspects:
        old = known.get(aspect.type)
        unchanged = old is not None and old.status == aspect.status
        built.append(
            Condition(
                type=aspect.type,
                status=aspect.status,
                reason=aspect.reason,
                message=shortened(aspect.message),
                last_transition_time=old.last_transition_time if unchanged and old is not None else now,
                observed_generation=generation,
            )
        )
    return tuple(built)


def changed(before: Sequence[Condition], after: Sequence[Condition]) -> tuple[Condition, ...]:
    """Conditions of `after` that are worth an event: their status or reason is new, or they tell another decision."""
    known = {condition.type: _told(condition) for condition in before}
    return tuple(condition for condition in after if known.get(condition.type) != _told(condition))


def _told(condition: Condition) -> tuple[str, str, str]:
    """The figures of `Planned` change with every decision; other messages count what is still missing."""
    return condition.status, condition.reason, condition.message if condition.type == "Planned" else ""


def errors(findings: Iterable[Finding]) -> list[Finding]:
    """The findings that keep an object from being used."""
    return [finding for finding in findings if finding.severity is Severity.ERROR]


def joined(findings: Iterable[Finding]) -> str:
    """All messages as one text, each once."""
    return "; ".join(dict.fromkeys(finding.message for finding in findings))


def shortened(text: str) -> str:
    return text if len(text) <= _MESSAGE_LENGTH else f"{text[: _MESSAGE_LENGTH - 1]}…"


def stalled(found: Sequence[Finding]) -> list[Aspect]:
    """A person must act, so that tools which wait for the object give up."""
    return [Aspect("Stalled", "True", found[0].reason, joined(found))] if found else []


def accepted(found: Sequence[Finding]) -> Aspect:
    """Whether every field is valid."""
    reason = found[0].reason if found else "Valid"
    return Aspect("Accepted", when(not found), reason, joined(found) or "every field is valid")
