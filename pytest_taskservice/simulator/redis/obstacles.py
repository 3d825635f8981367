"""What stands in the ways of clients to a simulated server while a fault is at work, and what that does.

A way that is down cuts what is open and refuses what comes. A silent one keeps requests, and what the server
says unasked, until it speaks again. A slow or narrow one lets answers come later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from pytest_taskservice.simulator.core.fibers import current_fiber

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_taskservice.simulator.redis.line import Line
    from pytest_taskservice.simulator.redis.simulated import SimulatedRedis

__all__ = ["Obstacles", "Way", "caller"]


class Way(Protocol):
    """One client's way to a server."""

    @property
    def down(self) -> bool:
        """Whether what is open breaks, and what comes is refused."""

    @property
    def silent(self) -> bool:
        """Whether the server neither answers nor tells anything."""

    @property
    def slower(self) -> float:
        """Seconds by which each answer comes later."""

    def seconds_of(self, length: int) -> float:
        """Return how long so many bytes take on top."""


class Obstacles:
    """Those of one server. ``way_of`` returns the way of a client by its name, see :func:`caller`."""

    def __init__(self, home: SimulatedRedis, way_of: Callable[[str], Way]) -> None:
        self._home = home
        self._way_of = way_of
        self._keeping: dict[Line, None] = {}

    def refuses(self) -> bool:
        """Return whether the caller cannot connect."""
        return self._way_of(caller()).down

    def mute(self) -> bool:
        """Return whether the caller gets no answer."""
        way = self._way_of(caller())
        return way.down or way.silent

    def send(self, line: Line, requests: list[list[bytes]]) -> float | None:
        """Run requests, or keep them; return the seconds that pass until an answer is there.

        ``None``: the connection breaks.
        """
        line.client = caller()
        way = self._way_of(line.client)
        if way.down:
            line.kill()
            return None
        if way.silent or line.kept:
            self._keeping[line] = None
            line.kept.append(lambda: line.send(requests))
            return 0.0
        known = len(line.inbox)
        line.send(requests)
        said = [reply for number, reply in enumerate(line.inbox) if number >= known]
        return way.slower + way.seconds_of(volume(requests)) + way.seconds_of(volume(said))

    def keeps(self, line: Line, arrive: Callable[[], None], said: Any) -> bool:
        """See to it that what the server says unasked arrives later; False if nothing is in its way."""
        way = self._way_of(line.client)
        if way.silent or line.kept:
            self._keeping[line] = None
            line.kept.append(arrive)
            return True
        seconds = way.slower + way.seconds_of(volume(said))
        if not seconds or not self._home.owned():
            return False
        simulation = self._home.simulation
        # One thing after the other, in the order in which they were said.
        line.arrives = max(line.arrives, simulation.elapsed + seconds)
        simulation.after(line.arrives - simulation.elapsed, line.arrive, [arrive])
        return True

    def follow(self, others: Obstacles | None) -> None:
        """Let ``others``, or nothing, take the place of these: what they do not keep comes through now."""
        for line in list(self._keeping):
            way = None if others is None else others._way_of(line.client)  # noqa: SLF001 - its own kind
            if others is not None and way is not None and way.silent:
                others._keeping[line] = None  # noqa: SLF001 - as above
                continue
            kept, line.kept = line.kept, []
            if way is not None and way.down:
                line.kill()
            else:
                line.arrive(kept)


def caller() -> str:
    """Return who asks: a worker by its name, the ``beat``, or, where it is the test, nothing."""
    fiber = current_fiber()
    process: Any = fiber and fiber.process
    return str(getattr(getattr(process, "main", None) or process, "name", ""))


def volume(said: Any) -> int:
    """Return about how many bytes a request or a reply is on the wire."""
    if isinstance(said, (bytes, str)):
        return len(said) + 6
    if isinstance(said, dict):
        return volume(list(said.items()))
    if isinstance(said, (list, tuple, set)):
        return 4 + sum(map(volume, said))
    return 6
