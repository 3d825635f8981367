"""What ends code in a thread that never ends by itself, while everybody else waits for it."""

from __future__ import annotations

import ctypes

__all__ = ["OverdueError", "end_thread"]


class OverdueError(BaseException):
    """Raised where a thread stands that has been at work for too long; a body may catch an ``Exception``."""

    def __str__(self) -> str:
        return "it was at work for too long: nothing else could happen meanwhile, and no time pass"


def end_thread(ident: int) -> None:
    """Raise `OverdueError` in a thread, at its next step in Python: what waits in C goes on waiting."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(OverdueError))
