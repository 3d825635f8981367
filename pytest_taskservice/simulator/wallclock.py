"""The process's wall clock, in our hands for a while: ``datetime.now()``, ``time.time()`` and the like.

time-machine replaces them in C, so names bound earlier are covered too. It does not touch monotonic clocks or
sleep: see ``substitutes``.

Leans on ``Traveller._destination_timestamp_ns`` of time-machine, which is set instead of shifted, at every
event, on ``time_ns``, which it asks for every reading, and on ``traveller_stack``, of which it stops the last
one. Where the first is gone, ``shift`` does the same, and nobody is told of readings.
"""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["travelled_to", "wall_clock"]


def travelled_to() -> dt.datetime | None:
    """Return what the wall clock says if a test has moved it with time-machine; ``None`` if it is real."""
    time_machine: Any = sys.modules.get("time_machine")
    if time_machine is None or not time_machine.escape_hatch.is_travelling():
        return None
    return dt.datetime.now(dt.UTC)


@contextmanager
def wall_clock(
    start: float, *, on_read: Callable[[FrameType], None] | None = None
) -> Iterator[Callable[[float], None]]:
    """Hold the wall clock at ``start``, in seconds since the Unix epoch; yield what moves it elsewhere.

    ``on_read`` is told who is about to read it, by the frame, and may move it before.
    """
    import time_machine

    travel = time_machine.travel(0, tick=False)
    stands = 0

    def move(instant: float) -> None:
        nonlocal stands
        # In whole microseconds: datetime cuts off what is finer, and 0.1 s would be shown as 0.099999.
        then = round(instant * 1e6)
        if direct and then >= stands:
            traveller._destination_timestamp_ns = then * 1000  # noqa: SLF001 - listed above
        else:
            # Going back, it makes the uuid module forget the instants it has seen.
            traveller.shift(dt.timedelta(microseconds=then - stands))
        stands = then

    with _unfrozen():
        traveller: Any = travel.start()
    direct = getattr(traveller, "_destination_timestamp_ns", None) == 0

    def time_ns() -> int:
        assert on_read is not None
        on_read(sys._getframe(1))  # noqa: SLF001 - the one way to ask who reads
        return traveller._destination_timestamp_ns  # type: ignore[no-any-return] # noqa: SLF001 - listed above

    if direct and on_read is not None:
        traveller.time_ns = time_ns
    try:
        move(start)
        yield move
    finally:
        _put_on_top(traveller)
        travel.stop()


def _put_on_top(traveller: Any) -> None:
    """Have it be the one that stops next: another may have started since, for a class, and is to go on."""
    import time_machine

    stack: Any = vars(time_machine).get("traveller_stack", ())
    places = [place for place, each in enumerate(stack) if each is traveller]
    for place in places:
        stack.append(stack.pop(place))


@contextmanager
def _unfrozen() -> Iterator[None]:
    """Let time-machine start while freezegun is at work: ours is the clock that freezegun is coupled to."""
    freezegun: Any = sys.modules.get("freezegun.api")
    frozen = dt.datetime
    if freezegun is None or frozen is freezegun.real_datetime:
        yield
        return
    dt.datetime = freezegun.real_datetime  # type: ignore[misc] # as freezegun itself does
    try:
        yield
    finally:
        dt.datetime = frozen  # type: ignore[misc] # as above
