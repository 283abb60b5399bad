"""What happens when, in simulated time."""

import heapq
import math
from typing import Generic, TypeVar

Event = TypeVar("Event")


class Agenda(Generic[Event]):
    """Events in the order of their time; those of one moment in the order in which they were scheduled."""

    __slots__ = ("_heap", "_number", "next_seconds")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Event]] = []
        self._number = 0
        self.next_seconds = math.inf
        """When the next event happens; infinite without one."""

    def schedule(self, seconds: float, event: Event) -> None:
        """Put an event on the agenda."""
        self._number += 1
        heapq.heappush(self._heap, (seconds, self._number, event))
        self.next_seconds = self._heap[0][0]

    def take(self) -> tuple[float, Event]:
        """The next event with its time.

        Raises:
            IndexError: there is none.
        """
        seconds, _, event = heapq.heappop(self._heap)
        self.next_seconds = self._heap[0][0] if self._heap else math.inf
        return seconds, event
