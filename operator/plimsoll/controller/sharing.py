"""Equal parts of many objects, kept once.

Deployments of a fleet are alike but for names, labels and counts: field sets, probes, volumes and security contexts are
most of what they take, and the same for thousands.
"""

from collections.abc import Mapping
from typing import Any, cast

Manifest = Mapping[str, Any]

_MOST = 50_000
"""Parts that are remembered, at 300 bytes or so; then it starts afresh, since those of objects that are gone stay until
then. A thousand LLMDeployments have 30,000."""


class Shared:
    """Remembers parts of JSON values. Nobody may change what it hands out."""

    def __init__(self) -> None:
        self._known: dict[object, object] = {}

    def of(self, value: Manifest) -> Manifest:
        """An equal value, made of parts that others have, too."""
        if len(self._known) > _MOST:
            self._known.clear()
        return cast("Manifest", self._of(value))

    def _of(self, value: object) -> object:
        if isinstance(value, dict):
            fields = {self._of(name): self._of(part) for name, part in value.items()}
            return self._known.setdefault((dict, *fields, *map(_mark, fields.values())), fields)
        if isinstance(value, list):
            items = [self._of(item) for item in value]
            return self._known.setdefault((list, *map(_mark, items)), items)
        return self._known.setdefault(value, value) if isinstance(value, str) else value


def _mark(part: object) -> object:
    """Tells a part that is remembered from all others: by identity, which lasts as long as it is remembered."""
    return id(part) if isinstance(part, dict | list | str) else (type(part), repr(part))
