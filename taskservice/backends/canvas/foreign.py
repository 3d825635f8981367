"""Celery's own canvas objects, read: what runs they are, and that they end somewhere.

Celery is never imported here: its objects can only be handed in once somebody else did.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeGuard
from uuid import uuid4

from taskservice.backends.canvas.plan import DEPTH
from taskservice.canvas import Canvas, Map, Signature, chain, chord, group
from taskservice.errors import ConfigurationError, TaskNotRegisteredError
from taskservice.submission import LaunchOptions

if TYPE_CHECKING:
    from celery import Celery
    from celery import Signature as CelerySignature

    from taskservice.backends.base import AnyCanvas

__all__ = ["Numbered", "is_celery_canvas", "number", "own_canvas"]

OPTIONS: Final = frozenset({"countdown", "eta", "expires", "priority", "queue"})
_LINKS: Final = ("link", "link_error", "chain", "chord")
_MAPS: Final = {"celery.map": False, "celery.starmap": True}


class Numbered:
    """Celery's canvas as it will be sent, each run with its id, and the same in our words.

    ``ids`` are the run ids by ``id()`` of the parts of ``canvas``.
    """

    def __init__(self, sent: CelerySignature[Any], canvas: Canvas, ids: Mapping[int, str]) -> None:
        self.sent = sent
        self.canvas = canvas
        self.ids = ids


def is_celery_canvas(canvas: object) -> TypeGuard[CelerySignature[Any]]:
    """Return whether ``canvas`` is a signature of Celery's, or what it builds of them."""
    module = sys.modules.get("celery.canvas")
    return module is not None and isinstance(canvas, module.Signature)


def own_canvas(canvas: AnyCanvas) -> Canvas:
    """Return ``canvas`` in our words, if it says nothing that only Celery can do."""
    if not is_celery_canvas(canvas):
        return _checked_own(canvas)

    _refuse_rings(canvas)
    copied = _copy(canvas, None)
    for part in _parts(copied):
        _refuse_celerys_own(part)
    return _Reader().read(copied)


def number(canvas: CelerySignature[Any], app: Celery) -> Numbered:
    """Return a copy of ``canvas`` whose runs have ids, those it has and new ones; nothing is sent."""
    _refuse_rings(canvas)
    copied = _copy(canvas, app)
    reader = _Reader()
    return Numbered(copied, reader.read(copied), reader.ids)


def _checked_own(canvas: Any) -> Canvas:
    if not isinstance(canvas, Canvas):
        raise ConfigurationError(
            f"launch_canvas got {type(canvas).__name__}; give what .s(), .map(), signature(), chain(), "
            "group() or chord() return, or a canvas of Celery's"
        )

    return canvas


class _Reader:
    def __init__(self) -> None:
        self.ids: dict[int, str] = {}
        self._taken: set[str] = set()

    def read(self, sig: Any) -> Canvas:
        """Return ``sig`` in our words; a run without an id is given one."""
        kind = sig.get("subtask_type")
        if kind == "chain":
            # Celery takes a group of one in a chain for its member.
            return chain([self.read(_only(each)) for each in sig.tasks])
        if kind == "group":
            return group([self.read(each) for each in sig.tasks])
        if kind == "chord":
            if sig.body is None:
                raise ConfigurationError("give the chord a body")
            return chord([self.read(each) for each in _members(sig.tasks)], self.read(sig.body))
        return self._numbered(sig, self._call(sig))

    def _call(self, sig: Any) -> Signature | Map:
        options = LaunchOptions(**{key: sig.options.get(key) for key in OPTIONS})
        star = _MAPS.get(sig.task)
        if star is not None:
            mapped = _task(sig.kwargs["task"], sig.app)
            return Map(func=mapped, items=tuple(sig.kwargs["it"]), star=star, options=options)
        return Signature(
            func=_task(sig, sig.app),
            args=tuple(sig.args or ()),
            kwargs=dict(sig.kwargs or {}),
            immutable=bool(sig.immutable),
            options=options,
        )

    def _numbered(self, sig: Any, call: Signature | Map) -> Signature | Map:
        run_id = sig.options.setdefault("task_id", str(uuid4()))
        if run_id in self._taken:
            raise ConfigurationError(
                f"two runs have the id {run_id!r}: clone a frozen signature, or give it another"
            )

        self._taken.add(run_id)
        self.ids[id(call)] = run_id
        return call


def _task(sig: Mapping[str, Any], app: Celery) -> Any:
    name = sig["task"]
    if name not in app.tasks:
        known = tuple(sorted(key for key in app.tasks if not key.startswith("celery.")))
        raise TaskNotRegisteredError(name, known)

    return app.tasks[name]


def _copy(sig: Any, app: Celery | None) -> Any:
    """Return a copy that shares no part with ``sig``: Celery's own clone shares the members of a group."""
    canvas = sys.modules["celery.canvas"]
    if sig.get("task") == "celery.chunks":
        # As Celery sends it; its clone would be a task that launches from within a worker.
        parts = sig["kwargs"]
        sig = canvas.chunks(parts["task"], parts["it"], parts["n"], app=app or sig.app).group()
    copied = canvas.maybe_signature(sig, app=app).clone()
    kind = copied.get("subtask_type")
    if kind in {"chain", "group"}:
        copied.tasks = [_copy(each, app) for each in copied.tasks]
    elif kind == "chord":
        header = copied.tasks
        copied.tasks = (
            _copy(header, app) if isinstance(header, canvas.group) else [_copy(each, app) for each in header]
        )
        copied.body = None if copied.body is None else _copy(copied.body, app)
    return copied


def _only(sig: Any) -> Any:
    while sig.get("subtask_type") == "group" and len(sig.tasks) == 1:
        sig = sig.tasks[0]
    return sig


def _members(header: Any) -> list[Any]:
    return list(getattr(header, "tasks", header))


def _parts(sig: Any) -> Iterator[Any]:
    yield sig
    kind = sig.get("subtask_type")
    if kind in {"chain", "group"}:
        for each in sig.tasks:
            yield from _parts(each)
    elif kind == "chord":
        for each in [*_members(sig.tasks), *([] if sig.body is None else [sig.body])]:
            yield from _parts(each)


def _refuse_celerys_own(sig: Any) -> None:
    composed = sig.get("subtask_type") in {"chain", "group", "chord"}
    for option, value in sig.options.items():
        if value is None or (option in OPTIONS and not composed):
            continue
        raise ConfigurationError(
            f"{option} of {sig.task!r} is something that only a worker does: this runs in process; "
            "launch it on Celery, or without it"
        )


def _refuse_rings(canvas: Any) -> None:
    """Refuse a canvas that comes back to itself, by its parts or its links, or is too deep."""
    above: list[int] = []
    done: set[int] = set()

    def visit(found: Any, place: str) -> None:
        if id(found) in above:
            raise ConfigurationError(f"{place} leads back to itself: a cycle never ends")
        if id(found) in done:
            return
        # Each level of a canvas is several of these: a signature, its list, a link.
        if len(above) > 3 * DEPTH:
            raise ConfigurationError(
                f"{place[:80]} is more than {DEPTH} levels deep; launch parts of it apart"
            )
        above.append(id(found))
        for child, name in _children(found):
            visit(child, f"{place}{name}")
        above.pop()
        done.add(id(found))

    visit(canvas, str(canvas.get("task")))


def _children(found: Any) -> list[tuple[Any, str]]:
    if isinstance(found, list | tuple):
        return [(each, f"[{index}]") for index, each in enumerate(found)]
    if not isinstance(found, Mapping):
        return []

    options, kwargs = found.get("options") or {}, found.get("kwargs") or {}
    kind = found.get("subtask_type")
    inner = {"chain": ("tasks",), "group": ("tasks",), "chord": ("header", "body")}.get(kind or "", ())
    parts = [(kwargs[name], f".{name}") for name in inner if kwargs.get(name) is not None]
    return parts + [(options[name], f".{name}") for name in _LINKS if options.get(name) is not None]
