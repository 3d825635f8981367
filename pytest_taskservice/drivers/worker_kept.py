"""Real worlds that are kept while others play.

Each is on keys of its own, so its workers take no message of another, and wait until a test has the same
shape again.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_taskservice.drivers.worker_fleet import Fleet
    from pytest_taskservice.drivers.worker_place import Place
    from pytest_taskservice.drivers.worker_spec import WorkerSpec

__all__ = ["KeptWorlds", "World"]


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """Workers that are idle, what they were told, and where.

    ``never_known`` are tasks they could not find; where it ``owns_place`` nobody else uses that.
    """

    specs: tuple[WorkerSpec, ...]
    fleet: Fleet
    place: Place
    never_known: frozenset[str]
    owns_place: bool

    @property
    def is_whole(self) -> bool:
        """Whether another test may have it: all that was started is there, and none goes on by a clock."""
        return all(member.alive and not member.is_beat for member in self.fleet.members)

    def close(self) -> None:
        """End it, and leave none of its keys."""
        from redis.exceptions import RedisError

        self.fleet.close()
        # At the end of a session somebody else's Redis may be gone.
        with suppress(RedisError, OSError):
            self.place.clear()
        if self.owns_place:
            self.place.close()


class KeptWorlds:
    """A few worlds, the one that was in use longest ago first."""

    def __init__(self) -> None:
        self._worlds: list[World] = []

    def __iter__(self) -> Iterator[World]:
        return iter(tuple(self._worlds))

    def put(self, world: World) -> None:
        """Keep a world; one that no test may have any more is ended."""
        if world.is_whole:
            self._worlds.append(world)
        else:
            world.close()

    def shrink(self, limit: int) -> None:
        """Keep at most ``limit``."""
        while len(self._worlds) > limit:
            self._worlds.pop(0).close()

    def take(self, fits: Callable[[World], bool]) -> World | None:
        """Return one that fits, which is kept no longer; ``None`` if none does."""
        for world in reversed(self._worlds):
            if fits(world):
                self._worlds.remove(world)
                return world
        return None

    def leave(self, place: Place) -> None:
        """End those that are on ``place``: somebody else is about to be."""
        for world in self:
            if world.place is place:
                self._worlds.remove(world)
                world.close()

    def close(self) -> None:
        """End all."""
        while self._worlds:
            self._worlds.pop().close()
