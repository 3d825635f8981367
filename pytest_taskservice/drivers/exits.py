"""``os._exit`` in a body that runs in the test's own process: its run ends by it, and not the whole session.

Replaced while a world is open or a story's module is imported: ``os._exit``. It is contained below who
calls the body, or that import, only: others have their reasons, such as pytest-timeout and execnet.
"""

# ruff: noqa: SLF001 - the name of what is replaced, and the frame of who asks

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

__all__ = ["contained_exits"]

# Who calls the bodies of tasks and of workflows.
_CALLERS = ("celery.app.trace", "taskservice.workflow.runner")


@contextmanager
def contained_exits(*below: str) -> Iterator[None]:
    """Have ``os._exit(status)`` raise what ``sys.exit(status)`` raises, where a body calls it.

    Or whatever else the modules ``below`` call.
    """
    modules, leave, process = below or _CALLERS, os._exit, os.getpid()

    def stay(status: int) -> NoReturn:
        # A child that a body has forked ends as it wants to.
        if os.getpid() == process and _is_below(modules, sys._getframe(1)):
            raise SystemExit(status)
        leave(status)

    replaced: Any = os
    replaced._exit = stay
    try:
        yield
    finally:
        replaced._exit = leave


def _is_below(modules: tuple[str, ...], frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_globals.get("__name__") in modules:
            return True
        frame = frame.f_back
    return False
