"""A thread in flight: the clock stands still while it is at work.

It has a seat on the stage from its launch until what it brings is seen. Inside, ``time.sleep`` takes virtual
time (see ``substitutes``), and waiting for others is waiting: time goes on (see ``waits``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_taskservice.simulator.loops.stage import Stage

__all__ = ["Flight"]


class Flight:
    """One call in a thread."""

    def __init__(self, stage: Stage, name: str) -> None:
        self._stage = stage
        self.seat = stage.thread_seat(name)
        self._flying = False
        self._left = False
        stage.take(self.seat)

    def run(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``function`` as it runs in the thread."""

        def call(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return call

    def __enter__(self) -> None:
        self._flying = True
        self._stage.push(self.seat)

    def __exit__(self, *_: object) -> None:
        self._flying = False
        self._stage.pop(self.seat)
        if self._left:
            self._stage.leave(self.seat)

    def land(self) -> None:
        """Count it no longer: what it brought is seen, or nobody waits for it."""
        self._left = True
        if self._flying:
            self.seat.abandoned = True
            # Nobody's waiting may depend on it now.
            self._stage.look_again()
        else:
            self._stage.leave(self.seat)
