"""The nemesis: faults that the seed draws, one after the other, for a while."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

from pytest_taskservice.errors import FaultError, UnknownNameError
from pytest_taskservice.simulator.celery.fault_values import KINDS, Fault, Point, make_fault
from pytest_taskservice.simulator.core.agenda import Weight

if TYPE_CHECKING:
    from random import Random

    from pytest_taskservice.simulator.celery.faults import Injected
    from pytest_taskservice.simulator.celery.world import CeleryWorld
    from pytest_taskservice.simulator.core.agenda import Due

__all__ = ["Nemesis"]


class Nemesis:
    """Draws faults until its time is over. ``draws`` lists them, ``injected`` what became of them."""

    def __init__(
        self,
        world: CeleryWorld,
        kinds: Sequence[str | Fault],
        *,
        every: tuple[float, float],
        until: float,
        limit: int | None,
    ) -> None:
        _check(kinds, every, until, limit)
        # A kind's name is drawn with all its options; a fault is taken as it is.
        self._kinds = [kind if isinstance(kind, Fault) else _drawn(kind) for kind in kinds]
        self._world = world
        self._every = every
        self._until = until
        self._limit = limit
        self._next: Due | None = None
        self._last: Due | None = None
        self.injected: list[Injected] = []
        self.over = False

    @property
    def draws(self) -> list[Fault]:
        """The faults that were drawn, in order."""
        return [each.fault for each in self.injected]

    def begin(self) -> None:
        """Begin to draw."""
        # It brings no work of its own, so nobody has to wait until it is over.
        self._last = self._world.simulation.after(self._until, self.end, weight=Weight.RECURRING)
        self._wait()

    def end(self) -> None:
        """Draw no more, and heal what was drawn."""
        if self.over:
            return
        self.over = True
        self._world.simulation.cancel(self._next)
        self._world.simulation.cancel(self._last)
        for injected in self.injected:
            injected.heal()

    def _wait(self) -> None:
        simulation = self._world.simulation
        seconds = simulation.random.between("faults", self._every)
        self._next = simulation.after(seconds, self._draw, weight=Weight.RECURRING)

    def _draw(self) -> None:
        world = self._world
        stream = world.simulation.random.stream("faults")
        kind = stream.choice(self._kinds)
        fault = kind if isinstance(kind, Fault) else kind(stream)
        world.record.note("drawn", detail={"fault": str(fault)})
        self.injected.append(world.faults.begin(fault, unless_nobody=True))
        if self._limit is None or len(self.injected) < self._limit:
            self._wait()


def _drawn(kind: str) -> Callable[[Random], Fault]:
    if kind not in KINDS:
        raise UnknownNameError("fault", str(kind), tuple(KINDS))

    options = _DRAWN.get(kind, _nothing)
    return lambda stream: make_fault(kind, options(stream))


def _nothing(stream: Random) -> Mapping[str, Any]:
    return {}


def _killed(stream: Random) -> Mapping[str, Any]:
    return {**_at(stream, tuple(Point)), "restart": _seconds(stream, 0.5, 5.0)}


def _child_lost(stream: Random) -> Mapping[str, Any]:
    return _at(stream, (Point.STARTED, Point.RUNNING, Point.STORED))


def _at(stream: Random, points: Sequence[Point]) -> dict[str, Any]:
    point = stream.choice(points)
    return {"at": point} | ({"into": _seconds(stream, 0.01, 2.0)} if point is Point.RUNNING else {})


def _seconds(stream: Random, low: float, high: float) -> float:
    # Rounded: it is read in a history and typed again in a test.
    return round(stream.uniform(low, high), 3)


_DRAWN: Mapping[str, Callable[[Random], Mapping[str, Any]]] = {
    "kill": _killed,
    "lose_child": _child_lost,
    "term": lambda stream: {"restart": _seconds(stream, 0.5, 5.0)},
    "restart": lambda stream: {"restart": _seconds(stream, 0.5, 5.0)},
    "pause": lambda stream: {"for_": _seconds(stream, 0.5, 30.0)},
    "down": lambda stream: {"for_": _seconds(stream, 0.1, 10.0)},
    "latency": lambda stream: {"by": _seconds(stream, 0.01, 1.0), "for_": _seconds(stream, 0.5, 30.0)},
    "timeout": lambda stream: {"for_": _seconds(stream, 0.1, 10.0)},
    "bandwidth": lambda stream: {
        "rate": stream.randrange(1_000, 100_000),
        "for_": _seconds(stream, 0.5, 30.0),
    },
    "slicer": lambda stream: {
        "size": stream.randrange(10, 1_000),
        "by": _seconds(stream, 0.001, 0.02),
        "for_": _seconds(stream, 0.5, 30.0),
    },
    "duplicate": lambda stream: {"by": _seconds(stream, 0.0, 5.0)},
    "delay": lambda stream: {"by": _seconds(stream, 0.1, 10.0)},
    "slow": lambda stream: {"by": _seconds(stream, 0.1, 5.0), "for_": _seconds(stream, 0.5, 30.0)},
    "clock": lambda stream: {
        "by": stream.choice((-1, 1)) * _seconds(stream, 0.1, 300.0),
        "for_": _seconds(stream, 0.5, 30.0),
    },
}


def _check(kinds: Sequence[str | Fault], every: tuple[float, float], until: float, limit: int | None) -> None:
    if not kinds:
        raise FaultError(f"a nemesis draws from kinds of faults: name some of {', '.join(KINDS)}")
    if not (len(every) == 2 and 0 < every[0] <= every[1] < float("inf")):
        raise FaultError(f"every=(low, high) needs 0 < low <= high, in seconds; got {every!r}")
    if not (isfinite(until) and until > 0):
        raise FaultError(f"until says for how many seconds faults are drawn; got {until!r}")
    if limit is not None and limit < 1:
        raise FaultError(f"limit bounds the number of faults, so it is at least 1; got {limit!r}")
