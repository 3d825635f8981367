"""The frame for shortcuts: functions of Celery and kombu that do the same in fewer steps, in a simulation.

A shortcut stands for a function whose text it knows, in the versions it was written for. Where the text is
another, because Celery has changed or somebody has patched it, that function stays, and is slower: never
wrong. A shortcut for a pure function is compared with the original on samples instead.

``CeleryWorld(exact=True)`` takes none of them; what happens is the same, which tests compare.

Each simulation takes them and gives them back, unless `kept_shortcuts` has them stay for the next one. They
are no part of what is simulated, and taking them costs some 5 % of a short test; giving back and taking wears
the classes out as well: CPython 3.13 caches nothing of a class that has changed a thousand times.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from hashlib import blake2b
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_taskservice.simulator.substitutes import Patches

__all__ = ["Shortcut", "drop_shortcuts", "install_shortcuts", "kept_shortcuts", "missing", "text_of"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Shortcut:
    """One function that another stands for.

    ``place`` is ``"module:name"`` or ``"module:Class.name"``. ``texts`` are digests of the originals that are
    known, each together with the functions ``besides``, which it relies on. ``samples`` are calls that both
    must answer alike, in place of texts.
    """

    place: str
    make: Callable[[Any], Any]
    texts: frozenset[str] = frozenset()
    besides: tuple[str, ...] = ()
    samples: Sequence[tuple[Any, ...]] = field(default=())


def install_shortcuts(patches: Patches, shortcuts: Iterable[Shortcut]) -> None:
    """Take the shortcuts that are known to lead to the same place, until ``patches`` are undone or longer."""
    taken: Patches | _Lasting = _lasting if _keepers else patches
    for shortcut in shortcuts:
        owner, name = _owner(shortcut.place)
        original = None if owner is None else owner.__dict__.get(name)
        if original is None or original in _ours:
            continue
        key = shortcut, original
        quick = _stand_ins[key] if key in _stand_ins else _stand_in(shortcut, original)
        if quick is not None:
            taken.set(owner, name, quick)


@contextmanager
def kept_shortcuts() -> Iterator[None]:
    """Have those stay that a simulation takes meanwhile, until the last of whoever asks for it leaves."""
    keeper = object()
    _keepers.add(keeper)
    try:
        yield
    finally:
        _keepers.discard(keeper)
        if not _keepers:
            drop_shortcuts()


def drop_shortcuts() -> None:
    """Give all back that have stayed."""
    _lasting.undo()


class _Lasting:
    """Shortcuts that stay longer than the simulation which took them."""

    def __init__(self) -> None:
        self._taken: list[tuple[Any, str, Any, Any]] = []

    def set(self, owner: Any, name: str, quick: Any) -> None:
        self._taken.append((owner, name, quick, owner.__dict__[name]))
        setattr(owner, name, quick)

    def undo(self) -> None:
        # Whoever has put another in its place is going to put it back: that one is for the next time.
        left = []
        for owner, name, quick, original in reversed(self._taken):
            if owner.__dict__.get(name) is quick:
                setattr(owner, name, original)
            else:
                left.append((owner, name, quick, original))
        self._taken = left[::-1]


_lasting = _Lasting()
_keepers: set[object] = set()


def missing(shortcuts: Iterable[Shortcut]) -> list[str]:
    """Return the places that no shortcut stands for here, with the digest of what was found."""
    found: dict[str, str | None] = {}
    for shortcut in shortcuts:
        owner, name = _owner(shortcut.place)
        original = None if owner is None else vars(owner).get(name)
        if original is not None and _stand_in(shortcut, original) is not None:
            found[shortcut.place] = None
        else:
            found.setdefault(shortcut.place, _digest(shortcut, original) if original else "is gone")
    return [f"{place} {what}" for place, what in found.items() if what is not None]


def text_of(function: Any) -> str:
    """Return the text of a function, without what wraps it."""
    return inspect.getsource(inspect.unwrap(function))


# By function: an installed version does not change while we run, and a patched function is another one.
_stand_ins: dict[tuple[Shortcut, Any], Any] = {}
_ours: set[Any] = set()


def _stand_in(shortcut: Shortcut, original: Any) -> Any:
    """Return what may stand for ``original``; ``None`` if nothing may."""
    if original in _ours:
        return None
    key = shortcut, original
    if key not in _stand_ins:
        found = _stand_ins[key] = shortcut.make(original) if _is_known(shortcut, original) else None
        _ours.add(found)
    return _stand_ins[key]


def _is_known(shortcut: Shortcut, original: Any) -> bool:
    if shortcut.samples:
        return _answers_alike(shortcut, original)
    return _digest(shortcut, original) in shortcut.texts


def _answers_alike(shortcut: Shortcut, original: Any) -> bool:
    quick = shortcut.make(original)
    try:
        return all(_answer(quick, sample) == _answer(original, sample) for sample in shortcut.samples)
    except Exception:  # noqa: BLE001 - whatever it is, it is not what was known
        return False


def _answer(function: Any, sample: tuple[Any, ...]) -> tuple[type, Any]:
    found = function(*sample)
    return type(found), found


def _digest(shortcut: Shortcut, original: Any) -> str:
    digest = blake2b(digest_size=6)
    try:
        for function in (original, *map(_function, shortcut.besides)):
            digest.update(text_of(function).encode())
    except (OSError, TypeError, AttributeError, ImportError):
        # Without its text nothing is known of it.
        return ""
    return digest.hexdigest()


def _function(place: str) -> Any:
    owner, name = _owner(place)
    return vars(owner)[name]


@cache
def _owner(place: str) -> tuple[Any, str]:
    module, _, path = place.partition(":")
    *outer, name = path.split(".")
    try:
        found: Any = import_module(module)
    except ImportError:
        return None, name
    for attribute in outer:
        found = getattr(found, attribute, None)
    return found, name
