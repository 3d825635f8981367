"""Celery's own fixtures, replaced by ours wherever a suite has them from.

A ``conftest.py`` that says ``from celery.contrib.pytest import celery_app``, or names that module among its
plugins, is read after ours and would win.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["StandIns"]

_THEIRS = "celery.contrib.pytest"


class StandIns:
    """Which of Celery's fixtures are replaced, and by what."""

    def __init__(self, ours: Mapping[str, Any]) -> None:
        self._ours = ours
        self._theirs: dict[str, Any] = {}
        self._undo: list[Callable[[], None]] = []

    def replace_in(self, plugin: object) -> None:
        """Have ``plugin``, and Celery's own module if it is loaded, hold ours where they hold Celery's."""
        # Most suites never name it: it is not imported to be looked at.
        if _THEIRS in sys.modules:
            self.replace_in_theirs()
            self._swap(plugin)

    def replace_in_theirs(self) -> None:
        """Have whoever imports a fixture from Celery's own module from now on get ours."""
        if self._theirs:
            return
        module = import_module(_THEIRS)
        self._theirs = {name: vars(module)[name] for name in self._ours if name in vars(module)}
        self._swap(module)

    def undo(self) -> None:
        """Give Celery's back."""
        while self._undo:
            self._undo.pop()()
        self._theirs.clear()

    def _swap(self, plugin: object) -> None:
        try:
            names = vars(plugin)
        except TypeError:
            return
        for name, fixture in self._theirs.items():
            if names.get(name) is fixture and fixture is not self._ours[name]:
                setattr(plugin, name, self._ours[name])
                self._undo.append(_setter(plugin, name, fixture))


def _setter(plugin: object, name: str, fixture: Any) -> Callable[[], None]:
    return lambda: setattr(plugin, name, fixture)
