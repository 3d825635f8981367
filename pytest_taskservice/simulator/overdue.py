"""What ends the user's code when it takes too long: the whole session, or all of its world, waits for it."""

from __future__ import annotations

import signal
import sys
import threading
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

__all__ = ["OverdueError", "end_thread", "ended_after", "line_of", "where_it_stood"]

_AGAIN = 1.0


class OverdueError(BaseException):
    """Not an `Exception`: what hangs may catch those."""

    def __str__(self) -> str:
        return "it was at work for too long: nothing else could happen meanwhile, and no time pass"


@contextmanager
def ended_after(seconds: float) -> Iterator[None]:
    """Raise `OverdueError` where the block stands after ``seconds``.

    Only the main thread can be interrupted, and where an alarm is set already, as by pytest-timeout, that one
    will do.
    """
    alone = threading.current_thread() is threading.main_thread()
    if not alone or signal.getitimer(signal.ITIMER_REAL)[0]:
        yield
        return

    before = signal.signal(signal.SIGALRM, _interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def end_thread(ident: int) -> None:
    """Raise `OverdueError` in a thread, at its next step in Python: what waits in C goes on waiting."""
    # Hardly anybody needs it.
    import ctypes

    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(OverdueError))


def where_it_stood(trace: TracebackType | None) -> TracebackType | None:
    """Return a traceback without its last frame, that of the interruption."""
    last = trace
    while last is not None and last.tb_next is not None and last.tb_next.tb_next is not None:
        last = last.tb_next
    if last is not None:
        last.tb_next = None
    return trace


def line_of(trace: TracebackType | None) -> str:
    """Return the innermost line that is none of Python's own."""
    lines = [
        (f"{frame.f_code.co_filename}:{line}", frame.f_globals.get("__name__", ""))
        for frame, line in traceback.walk_tb(where_it_stood(trace))
    ]
    own = [place for place, name in lines if name.partition(".")[0] not in sys.stdlib_module_names]
    return own[-1] if own else "an unknown place"


def _interrupt(*_: object) -> None:
    raise OverdueError
