"""The API server's audit log: what to record, and how to count who wrote what since a moment."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "nonResourceURLs": ["*"]},
        {"level": "None", "users": ["system:apiserver"], "verbs": ["get", "list", "watch"]},
        {"level": "Metadata"},
    ],
}

_WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})
_QUESTIONS = frozenset({"authentication.k8s.io", "authorization.k8s.io"})
"""API groups whose creates are questions (token and access reviews) and store nothing."""


@dataclass(frozen=True)
class Mark:
    """A moment, and how long the audit log was then."""

    time: datetime
    offset: int


class AuditLog:
    """Reads the log that the API server appends to; an entry is there at the latest when its request was answered."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def mark(self) -> Mark:
        """Now."""
        return Mark(datetime.now(UTC), self._path.stat().st_size if self._path.exists() else 0)

    def requests_since(self, mark: Mark) -> list[dict[str, Any]]:
        """Every audit event (audit.k8s.io/v1) of a request that arrived after the mark, in log order."""
        with self._path.open("rb") as log:
            log.seek(mark.offset)
            lines = log.read().split(b"\n")
        events: list[dict[str, Any]] = [json.loads(line) for line in lines[:-1]]  # the last one may be half written
        return [event for event in events if datetime.fromisoformat(event["requestReceivedTimestamp"]) >= mark.time]

    def writes_since(
        self, mark: Mark, user_prefix: str | None = None, *, include_leases: bool = False
    ) -> list[dict[str, Any]]:
        """The writes among them, also the refused ones (`responseStatus.code`), without dry runs and reviews."""
        return [
            event
            for event in self.requests_since(mark)
            if event["verb"] in _WRITES
            and event["user"].get("username", "").startswith(user_prefix or "")
            and _stores(event)
            and (include_leases or event["objectRef"].get("resource") != "leases")
        ]


def _stores(event: dict[str, Any]) -> bool:
    target = event.get("objectRef", {})
    return (
        "dryRun=" not in event["requestURI"]
        and target.get("apiGroup") not in _QUESTIONS
        and (target.get("resource"), target.get("subresource")) != ("serviceaccounts", "token")
    )
