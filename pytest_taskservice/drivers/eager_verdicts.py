"""What an eager result says of a run that raised ``Reject`` or ``Ignore``: no worker says that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

__all__ = ["asked_for_verdicts"]

_WORDS = {"REJECTED": "Reject", "IGNORED": "Ignore"}
_METHODS = ("ready", "get", "wait")
_PROPERTIES = ("state", "status", "result", "traceback")


@contextmanager
def asked_for_verdicts(refuse: Callable[[str, str], None]) -> Iterator[None]:
    """Call ``refuse`` with a word and a reason where such a run is due again, or its result is looked at."""
    from celery.result import EagerResult

    eager: Any = EagerResult
    before = {name: eager.__dict__[name] for name in ("__init__", *_METHODS, *_PROPERTIES)}
    eager.__init__ = _made(before["__init__"], refuse)
    for name in _METHODS:
        setattr(eager, name, _looked(before[name], refuse))
    for name in _PROPERTIES:
        setattr(eager, name, property(_looked(before[name].fget, refuse)))
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(eager, name, value)


def _made(original: Callable[..., None], refuse: Callable[[str, str], None]) -> Callable[..., None]:
    @wraps(original)
    def made(result: Any, *args: Any, **options: Any) -> None:
        original(result, *args, **options)
        if _state(result) == "REJECTED" and getattr(result._result, "requeue", False):  # noqa: SLF001 - unasked
            refuse("Reject", "eager mode has no message to deliver again")

    return made


def _looked(original: Callable[..., Any], refuse: Callable[[str, str], None]) -> Callable[..., Any]:
    @wraps(original)
    def looked(result: Any, *args: Any, **options: Any) -> Any:
        state = _state(result)
        if state in _WORDS:
            refuse(_WORDS[state], f"eager mode says {state} of the run, and no worker does")
        return original(result, *args, **options)

    return looked


def _state(result: Any) -> str:
    return str(result._state)  # noqa: SLF001 - its property is what asks
