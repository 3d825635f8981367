"""What a test has replaced in its own process: a worker, another process, has the real thing.

Leans on ``unittest.mock._patch`` and ``_patch_dict``, which all its decorators and context managers enter,
and on ``pytest.MonkeyPatch``. What is replaced by hand is not heard of.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from functools import wraps
from types import FrameType, ModuleType
from typing import Any

__all__ = ["Replaced"]


class Replaced:
    """Hears of replacements from :meth:`listen` to :meth:`close`."""

    def __init__(self) -> None:
        self._names: dict[int, list[str]] = {}
        self._undo: list[tuple[type, str, Any, Any]] = []
        self._heard: set[str] = set()

    def listen(self) -> None:
        """Hear of them from now on, as far as somebody has imported what they are made with."""
        for module, kinds in self._sources().items():
            found: Any = sys.modules.get(module)
            if found is None or module in self._heard:
                continue
            self._heard.add(module)
            for kind, notes in kinds.items():
                for method, note in notes.items():
                    self._after(getattr(found, kind, None), method, note)

    def names(self) -> list[str]:
        """Return what is replaced just now."""
        return list(dict.fromkeys(name for names in list(self._names.values()) for name in names))

    def close(self) -> None:
        """Hear of nothing any more."""
        while self._undo:
            kind, method, original, ours = self._undo.pop()
            # Another world may have come to listen after us: what it calls stays, and notes nothing.
            if kind.__dict__.get(method) is ours:
                setattr(kind, method, original)
        self._heard.clear()
        self._names.clear()

    def _sources(self) -> dict[str, dict[str, dict[str, Callable[..., None]]]]:
        return {
            "pytest": {
                "MonkeyPatch": {
                    "setattr": self._note_attribute,
                    "setenv": self._note_variable,
                    "delenv": self._note_variable,
                    "undo": self._forget,
                }
            },
            "unittest.mock": {
                "_patch": {"__enter__": self._note_patch, "__exit__": self._forget},
                "_patch_dict": {"_patch_dict": self._note_dict, "_unpatch_dict": self._forget},
            },
        }

    def _after(self, kind: Any, method: str, note: Callable[..., None]) -> None:
        original = None if kind is None else kind.__dict__.get(method)
        if original is None:
            return

        @wraps(original)
        def heard(this: Any, *args: Any, **options: Any) -> Any:
            found = original(this, *args, **options)
            if self._heard:
                note(this, *args, **options)
            return found

        self._undo.append((kind, method, original, heard))
        setattr(kind, method, heard)

    def _note(self, by: Any, names: Iterable[str]) -> None:
        self._names.setdefault(id(by), []).extend(names)

    def _forget(self, by: Any, *_: Any) -> None:
        self._names.pop(id(by), None)

    def _note_attribute(self, by: Any, target: Any, name: Any, *_: Any, **options: Any) -> None:
        if _is_a_plugins(sys._getframe(2)):  # noqa: SLF001 - the one way to ask who calls
            return
        # Of a path in one text, the next argument is the value.
        self._note(by, [target] if isinstance(target, str) else _named(target, name))

    def _note_variable(self, by: Any, name: str, *_: Any, **options: Any) -> None:
        if not _is_a_plugins(sys._getframe(2)):  # noqa: SLF001 - as above
            self._note(by, [f"the environment's {name}"])

    def _note_patch(self, by: Any) -> None:
        self._note(by, _named(by.target, by.attribute))

    def _note_dict(self, by: Any) -> None:
        if by.in_dict is os.environ:
            self._note(by, [f"the environment's {name}" for name in by.values])


def _is_a_plugins(frame: FrameType) -> bool:
    """Tell whether a plugin of pytest replaces something for every test, as pytest-django does a DNS name."""
    root = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    return root == "_pytest" or root.startswith("pytest_")


def _named(target: Any, name: str) -> list[str]:
    if isinstance(target, ModuleType):
        return [f"{target.__name__}.{name}"]
    if isinstance(target, type):
        return [f"{target.__module__}.{target.__qualname__}.{name}"]
    kind = type(target)
    return [f"{name} of a {kind.__module__}.{kind.__qualname__}"]
