"""Results by the content that they are functions of, for as long as somebody asks for them."""

from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Remembered(Generic[Key, Value]):
    """A cache that forgets what nobody asked for between two turns of its pages."""

    def __init__(self) -> None:
        self._now: dict[Key, Value] = {}
        self._before: dict[Key, Value] = {}

    def __contains__(self, key: Key) -> bool:
        return key in self._now or key in self._before

    def __getitem__(self, key: Key) -> Value:
        """What is known under the key, which keeps it for longer.

        Raises:
            KeyError: nothing is.
        """
        if key not in self._now:
            self._now[key] = self._before[key]
        return self._now[key]

    def __setitem__(self, key: Key, value: Value) -> None:
        self._now[key] = value

    def get(self, key: Key) -> Value | None:
        """What is known under the key; None where nothing is."""
        if key not in self:
            return None
        return self[key]

    def turn(self) -> None:
        """Begin a new page; what is asked for from now on is kept beyond the next."""
        self._before, self._now = self._now, {}
