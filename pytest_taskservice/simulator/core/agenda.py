"""What is due, and when: a heap of events, ordered by instant and then by arrival."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from enum import IntEnum
from itertools import count
from typing import Any

__all__ = ["Agenda", "Due", "Weight"]


class Weight(IntEnum):
    """What an event means for the question whether the world is idle."""

    WORK = 0
    """Something is still to be done."""
    RECURRING = 1
    """A schedule's tick: it may bring work, again and again, for ever."""
    UPKEEP = 2
    """Nothing comes of it unless something else goes wrong first."""


class Due:
    """One event to come. ``action`` is ``None`` once it has happened or was cancelled."""

    __slots__ = ("action", "args", "at", "order", "weight")

    def __init__(
        self, at: float, order: int, action: Callable[..., Any], args: tuple[Any, ...], weight: Weight
    ) -> None:
        self.at = at
        self.order = order
        self.action: Callable[..., Any] | None = action
        self.args = args
        self.weight = weight


class Agenda:
    """Events to come. Cancelled ones stay in the heap until they are reached."""

    def __init__(self) -> None:
        self.heap: list[tuple[float, int, Due]] = []
        """By instant and order of arrival; the first one may be cancelled."""
        self._orders = count()
        self.counts = [0, 0, 0]
        """How many events of each weight are still to come."""

    def add(
        self, at: float, action: Callable[..., Any], args: tuple[Any, ...], weight: Weight = Weight.WORK
    ) -> Due:
        """Note an event and return it."""
        order = next(self._orders)
        due = Due(at, order, action, args, weight)
        # A tuple that begins with numbers is compared without a call into Python.
        heapq.heappush(self.heap, (at, order, due))
        self.counts[weight] += 1
        return due

    def cancel(self, due: Due) -> None:
        """Take ``due`` off; nothing happens if it is over."""
        if due.action is not None:
            due.action = None
            self.counts[due.weight] -= 1

    def next_at(self) -> float | None:
        """Return when the next event is due."""
        heap = self.heap
        while heap:
            if heap[0][2].action is not None:
                return heap[0][0]
            heapq.heappop(heap)
        return None

    def pop(self) -> Due | None:
        """Take the next event off and return it, its action still set."""
        heap = self.heap
        while heap:
            due = heapq.heappop(heap)[2]
            if due.action is not None:
                self.counts[due.weight] -= 1
                return due
        return None

    def clear(self) -> None:
        """Forget everything."""
        self.heap.clear()
        self.counts = [0, 0, 0]

    def __iter__(self) -> Any:
        return (due for _, _, due in sorted(self.heap, key=_rank) if due.action is not None)

    def __len__(self) -> int:
        return sum(self.counts)


def _rank(item: tuple[float, int, Due]) -> tuple[float, int]:
    return item[:2]
