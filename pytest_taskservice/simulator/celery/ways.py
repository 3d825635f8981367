"""The ways of clients to a simulated broker, as faults have left them: one for all, and some of their own.

Where the broker is a Redis they are the ways of all its clients, whatever they are there for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_taskservice.simulator.celery.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pytest_taskservice.simulator.celery.fault_values import Fault

__all__ = ["Way", "Ways"]


class Way:
    """One way, under all of ``faults`` at once."""

    __slots__ = ("down", "mute", "silent", "slower", "wire")

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        by_kind: dict[str, list[Fault]] = {}
        for fault in faults:
            by_kind.setdefault(fault.kind, []).append(fault)
        self.down = "down" in by_kind
        """Whether what is open breaks, and what comes is refused."""
        self.silent = "timeout" in by_kind or "pause" in by_kind
        """Whether the broker neither answers nor hands out anything."""
        self.mute = self.down or self.silent
        """Whether it is one of these two."""
        self.slower = sum(fault.by for fault in by_kind.get("latency", ()))
        """Seconds that each message takes on top."""
        narrow, sliced = by_kind.get("bandwidth", ()), by_kind.get("slicer", ())
        self.wire = Wire(narrow, sliced) if narrow or sliced else None
        """How long the bytes of messages take."""

    def seconds(self, raw: dict[str, Any]) -> float:
        """Return how long a message takes one way, on top of what it takes without faults."""
        return self.slower + (self.wire.seconds(raw) if self.wire is not None else 0.0)

    def seconds_of(self, length: int) -> float:
        """Return how long so many bytes take on top of that."""
        return self.wire.seconds_of(length) if self.wire is not None else 0.0


class Ways:
    """The ways to one broker, under ``faults``. ``concerns`` says whose way a fault is of."""

    def __init__(
        self, faults: Sequence[Fault] = (), concerns: Callable[[Fault, str], bool] = lambda *_: True
    ) -> None:
        alone = [fault for fault in faults if fault.is_of_one]
        self.common = Way(fault for fault in faults if not fault.is_of_one)
        self.apart = bool(alone)
        """Whether anybody may have one of his own."""
        self.mute = self.common.mute or any(Way([fault]).mute for fault in alone)
        """Whether anybody's is mute."""
        self.any = bool(faults)
        """Whether anything is wrong with any of them."""
        self._faults = faults
        self._concerns = concerns
        self._known: dict[str, Way] = {}

    def of(self, client: str) -> Way:
        """Return the way of a worker by its name, of the ``beat``, or of whoever has no name."""
        if not self.apart:
            return self.common
        if client not in self._known:
            self._known[client] = Way(fault for fault in self._faults if self._concerns(fault, client))
        return self._known[client]

    def delay(self, client: str, raw: dict[str, Any]) -> float:
        """Return how much longer a message takes to ``client`` than to others, in seconds."""
        if not self.apart:
            return 0.0
        return max(0.0, self.of(client).seconds(raw) - self.common.seconds(raw))
