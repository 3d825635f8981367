"""Seeded draws: one stream a purpose, so that drawing more for one leaves the others as they were.

A calm world draws only so often: from then on all takes its shortest time and the first of all choices is
taken. How few draws a failure needs is what shrinking looks for.
"""

from __future__ import annotations

import sys
from hashlib import blake2b
from random import Random
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Randomness"]

Item = TypeVar("Item")

# What of its bits says that a UUID is a random one.
_FOUR = 0x8000 << 48 | 4 << 76
_FREE = ~(0xC000 << 48 | 0xF000 << 64)


class Randomness:
    """All chance of one simulation, from one seed. The same in every process: no ``hash()`` is involved."""

    def __init__(self, seed: int, *, place: str = "") -> None:
        self.seed = seed
        self.place = place
        """Where ids are drawn: those of one place are never those of another."""
        self.draws = 0
        """How often :meth:`between` and :meth:`choice` were asked."""
        self.calm_after = sys.maxsize
        """After so many draws there is no chance any more; ids apart, which are drawn for ever."""
        self._streams: dict[str, Random] = {}
        self._ids: dict[str, Random] = {}

    def stream(self, name: str) -> Random:
        """Return the stream for one purpose, the same object each time."""
        found = self._streams.get(name)
        if found is None:
            digest = blake2b(f"{self.seed}:{name}".encode(), digest_size=8).digest()
            found = self._streams[name] = Random(int.from_bytes(digest, "big"))  # noqa: S311 - not for secrets
        return found

    def between(self, name: str, span: tuple[float, float]) -> float:
        """Return a number of ``span``, in the same unit."""
        low, high = span
        self.draws += 1
        if self.draws > self.calm_after:
            return low
        stream = self._streams.get(name) or self.stream(name)
        return low + (high - low) * stream.random()

    def choice(self, name: str, items: Sequence[Item]) -> Item:
        """Return one of ``items``; a single one costs no draw."""
        if len(items) == 1:
            return items[0]
        self.draws += 1
        return items[0] if self.draws > self.calm_after else self.stream(name).choice(items)

    def uuid4(self, module: str) -> UUID:
        """Return a random UUID, drawn from the seed, for code of ``module``.

        Each package has its own: one that is imported while a simulation is open may draw ids this once.
        """
        found = self._ids.get(module)
        if found is None:
            found = self._ids[module] = self._ids_of(module.partition(".")[0])
        return UUID(int=found.getrandbits(128), version=4)

    def ids(self, package: str) -> Callable[[], str]:
        """Return what makes for ``package``, as text, the same as :meth:`uuid4`."""
        draw = self._ids_of(package).getrandbits

        def make() -> str:
            digits = f"{draw(128) & _FREE | _FOUR:032x}"
            return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"

        return make

    def _ids_of(self, package: str) -> Random:
        return self.stream(f"ids of {package}" + (f" in {self.place}" if self.place else ""))
