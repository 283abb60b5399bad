"""Who else writes Plimsoll's objects, as their `managedFields` say. Pure.

Two answers. Who scales a workload: such a manager is left alone, and nothing is written to the object any more. Who
changed a field that Plimsoll renders: that is put back, and people are told who it was.

A manager counts as a scaler when it owns `spec.replicas` through the scale subresource (the HorizontalPodAutoscaler and
everything built on it) or by server-side apply (a declared wish, to be enforced again and again). kubectl's own one-off
commands do not: `kubectl scale`, `edit` and `patch` are put back like every other edit.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from plimsoll.controller.compare import is_subset, item_with

Manifest = Mapping[str, Any]
Place = tuple[str, str]
"""Namespace and name."""
_OWN = "plimsoll-"
_ONE_OFF = "kubectl"


def scalers_of(workloads: Iterable[Manifest]) -> dict[Place, str]:
    """Those workloads that somebody else scales, each with the field manager."""
    found: dict[Place, str] = {}
    for live in workloads:
        manager = scaler_of(live)
        if manager is not None:
            found[str(live["metadata"].get("namespace", "")), str(live["metadata"]["name"])] = manager
    return found


def scaler_of(live: Manifest) -> str | None:
    """The field manager that scales this workload in Plimsoll's place; None when nobody does."""
    for entry in _foreign(live):
        if "f:replicas" not in (entry.get("fieldsV1") or {}).get("f:spec", {}):
            continue
        manager, applies = str(entry.get("manager", "")), entry.get("operation") == "Apply"
        if applies or (entry.get("subresource") == "scale" and not manager.startswith(_ONE_OFF)):
            return manager
    return None


def changed_by(desired: Manifest, live: Manifest) -> tuple[str, ...]:
    """Managers that own a field of `desired` whose live value is another; each once, by name.

    Empty when a field was removed, since nobody owns what is not there.
    """
    managers = {
        str(entry.get("manager", ""))
        for entry in _foreign(live)
        if _differs(entry.get("fieldsV1") or {}, desired, live, "")
    }
    return tuple(sorted(managers))


def _foreign(live: Manifest) -> Iterator[Manifest]:
    for entry in live.get("metadata", {}).get("managedFields") or ():
        if not str(entry.get("manager", "")).startswith(_OWN):
            yield entry


def _differs(owned: Manifest, desired: object, live: object, name: str) -> bool:
    """Whether `owned`, a tree of `fieldsV1`, has a leaf that both objects have with different values."""
    branches = [(path, below) for path, below in owned.items() if path != "."]
    if not branches:
        return desired is not None and not is_subset({name: desired}, {name: live})
    return any(_branch_differs(path, below, desired, live) for path, below in branches)


def _branch_differs(path: str, below: Manifest, desired: object, live: object) -> bool:
    kind, _, text = path.partition(":")
    if kind == "f":
        if not isinstance(desired, Mapping) or text not in desired:
            return False
        return _differs(below, desired[text], live.get(text) if isinstance(live, Mapping) else None, text)
    if kind == "k":
        keys = json.loads(text)
        wanted = item_with(desired, keys)
        return wanted is not None and _differs(below, wanted, item_with(live, keys), "")
    # An item of a set: it is either there or not.
    values = desired if isinstance(desired, Sequence) and not isinstance(desired, str) else ()
    return kind == "v" and json.loads(text) in values and not is_subset(desired, live)
