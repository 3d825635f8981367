"""The tests of a unittest.TestCase in every chosen world: each becomes as many items as there are worlds.

Leaned on: ``TestCaseFunction`` of pytest, to which its ``name`` is that of the method: where ``_getinstance``
makes the test case, ``_getobj`` looks for the method, and ``runtest`` runs it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pytest
from _pytest.unittest import TestCaseFunction

from pytest_taskservice.worlds import FIXTURE, missed_world, worlds_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_taskservice.options import HarnessOptions

__all__ = ["in_worlds"]


def in_worlds(item: Any, options: HarnessOptions) -> Sequence[Any]:
    """Return ``item`` once for each world that it is to be in; itself where that says it all.

    That is where there is one world and no seed in question, and where it is no test in a world.
    """
    if not isinstance(item, TestCaseFunction) or FIXTURE not in item.fixturenames:
        return [item]
    worlds = worlds_for(item, options)
    if worlds == list(options.backends[:1]) and not options.check_determinism:
        return [item]
    if not worlds:
        item.add_marker(pytest.mark.skip(reason=missed_world(item, options)[1]))
        return [item]

    kind: Any = _in_a_world(type(item))
    return [kind.from_parent(item.parent, name=item.name, world=world) for world in worlds]


@lru_cache(maxsize=8)
def _in_a_world(kind: type[TestCaseFunction]) -> type[TestCaseFunction]:
    """Return ``kind``, which another plugin may have made its own, for items that have a ``world``."""

    class CaseInWorld(kind):  # type: ignore[misc, valid-type] # chosen by the caller
        name: str

        def __init__(self, *args: Any, name: str, world: str, **options: Any) -> None:
            self.world = world
            self._method = name
            super().__init__(*args, name=f"{name}[{world}]", **options)
            self.originalname = name

        def _getinstance(self) -> Any:
            assert self.parent is not None
            return self.parent.obj(self._method)

        def _getobj(self) -> Any:
            return getattr(self.instance, self._method)

        def runtest(self) -> None:
            name, self.name = self.name, self._method
            try:
                super().runtest()
            finally:
                self.name = name

    return CaseInWorld
