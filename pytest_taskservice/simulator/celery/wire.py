"""How long the bytes of a message take on a connection that is narrow, or that carries them in pieces.

A message's are those of the JSON that kombu's Redis transport writes. What else goes over a connection to
a broker is small beside them and takes no time here.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any

from kombu.utils.json import dumps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_taskservice.simulator.celery.fault_values import Fault

__all__ = ["Wire"]


class Wire:
    """A connection under all of these faults at once: the narrowest and the finest of them hold."""

    def __init__(self, narrow: Sequence[Fault], sliced: Sequence[Fault]) -> None:
        self._rate = min((fault.rate for fault in narrow), default=0)
        self._size = min((fault.size for fault in sliced), default=0)
        self._apart = sum(fault.by for fault in sliced)

    def seconds(self, raw: dict[str, Any]) -> float:
        """Return how long a message takes one way."""
        return self.seconds_of(len(dumps(raw)))

    def seconds_of(self, length: int) -> float:
        """Return how long so many bytes take."""
        spent = length / self._rate if self._rate else 0.0
        return spent + (ceil(length / self._size) * self._apart if self._size else 0.0)
