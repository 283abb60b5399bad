"""What has changed between two snapshots or plans, so that only that need be sent to who has the older one. Pure.

A value that has not changed is the very same object in both. The other process gives it back as the object that it has
already, so it, too, sees at once what has not changed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from plimsoll.planning.plan import FleetPlan
from plimsoll.planning.snapshot import Snapshot

Known = TypeVar("Known", Snapshot, FleetPlan)


@dataclass(frozen=True, slots=True)
class Span:
    """Items of the older tuple, from `start` until before `stop`."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Items:
    """A tuple as parts of an older one and new items."""

    parts: tuple[Span | tuple[Any, ...], ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """Fields that have changed, by name."""

    changed: Mapping[str, object]


def difference(old: Snapshot | FleetPlan, new: Snapshot | FleetPlan) -> Difference:
    """How to make `new` of `old`, which is of the same type."""
    pairs = ((item.name, getattr(old, item.name), getattr(new, item.name)) for item in fields(new))
    return Difference({name: _part(before, after) for name, before, after in pairs if before is not after})


def applied(old: Known, found: Difference) -> Known:
    """The newer value, of the objects of the older one where they have not changed."""
    values: dict[str, Any] = {
        name: _joined(getattr(old, name), value) if isinstance(value, Items) else value
        for name, value in found.changed.items()
    }
    return replace(old, **values)


def _part(before: object, after: object) -> object:
    if not isinstance(before, tuple) or not isinstance(after, tuple):
        return after
    places = {id(item): place for place, item in enumerate(before)}
    parts: list[Span | tuple[Any, ...]] = []
    new: list[Any] = []
    start = stop = 0
    for item in after:
        place = places.get(id(item))
        if place is not None and place == stop and start < stop:
            stop += 1
            continue
        if start < stop:
            parts.append(Span(start, stop))
        start = stop = 0
        if place is None:
            new.append(item)
            continue
        if new:
            parts.append(tuple(new))
            new = []
        start, stop = place, place + 1
    parts += [Span(start, stop)] if start < stop else [tuple(new)] if new else []
    return Items(tuple(parts))


def _joined(before: Sequence[Any], items: Items) -> tuple[Any, ...]:
    joined: list[Any] = []
    for part in items.parts:
        joined += before[part.start : part.stop] if isinstance(part, Span) else part
    return tuple(joined)
