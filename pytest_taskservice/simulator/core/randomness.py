"""Seeded draws: one stream a purpose, so that drawing more for one leaves the others as they were."""

from __future__ import annotations

from hashlib import blake2b
from random import Random
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Randomness"]

Item = TypeVar("Item")


class Randomness:
    """All chance of one simulation, from one seed. The same in every process: no ``hash()`` is involved."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._streams: dict[str, Random] = {}
        self._ids = self.stream("ids")

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
        stream = self._streams.get(name) or self.stream(name)
        return low + (high - low) * stream.random()

    def choice(self, name: str, items: Sequence[Item]) -> Item:
        """Return one of ``items``; a single one costs no draw."""
        return items[0] if len(items) == 1 else self.stream(name).choice(items)

    def uuid4(self) -> UUID:
        """Return a random UUID, drawn from the seed."""
        return UUID(int=self._ids.getrandbits(128), version=4)
