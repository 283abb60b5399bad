"""Telling a write that puts something back from one that carries out a new decision.

A write puts something back when the object was in place before as it is rendered now, or when another manager owns the
field that differs. The first needs a memory: one digest per object that this process has written or seen in place. The
second also holds right after a restart.
"""

import hashlib
import json
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any, Protocol

from plimsoll.controller.foreign import changed_by
from plimsoll.planning.snapshot import ObjectRef

Manifest = Mapping[str, Any]
Key = tuple[str, str, str]
"""Kind, namespace and name."""


@dataclass(frozen=True, slots=True)
class Drift:
    """An object that was not as it was left."""

    deployment: ObjectRef
    message: str


class Owned(Protocol):
    """Whose object it is."""

    @property
    def ref(self) -> ObjectRef: ...

    @property
    def uid(self) -> str: ...


class KnownObjects:
    """What was in place, and as what."""

    def __init__(self) -> None:
        self._digests: dict[Key, tuple[str, str]] = {}
        """Uid of the owning LLMDeployment, and digest of the rendered object."""

    def in_place(self, key: Key, owner_uid: str, manifest: Manifest) -> None:
        """Take note of an object that is as it is rendered. Once: its digest is not computed again and again."""
        known = self._digests.get(key)
        if known is None or known[0] != owner_uid:
            self.written(key, owner_uid, manifest)

    def written(self, key: Key, owner_uid: str, manifest: Manifest) -> None:
        self._digests[key] = (owner_uid, _digest(manifest))

    def forget(self, key: Key) -> None:
        """The object is gone as it should."""
        self._digests.pop(key, None)

    def forget_all_but(self, owner_uids: Set[str]) -> None:
        self._digests = {key: known for key, known in self._digests.items() if known[0] in owner_uids}

    def drift(self, key: Key, owner: Owned, manifest: Manifest, live: Manifest | None) -> Drift | None:
        """What others did to the object that has just been written; None when the change was Plimsoll's own."""
        known = self._digests.get(key, ("", ""))
        name = f"{key[0]} {key[1]}/{key[2]}"
        if live is None:
            deleted = known[0] == owner.uid
            return Drift(owner.ref, f"{name} was deleted by somebody else; it was made again") if deleted else None
        expected = known == (owner.uid, _digest(manifest))
        managers = changed_by(manifest, live)
        if not expected and not managers:
            return None
        who = f"field manager {', '.join(managers)}" if managers else "somebody else"
        return Drift(owner.ref, f"{name} was changed by {who}; it was put back")


def _digest(manifest: Manifest) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
