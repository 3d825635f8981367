"""``os._exit`` in a body that runs in the test's own process: its run ends by it, and not the whole session.

Replaced while a world is open: ``os._exit``. It is contained below Celery's tracer only: others have their
reasons, such as pytest-timeout and execnet.
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


@contextmanager
def contained_exits() -> Iterator[None]:
    """Have ``os._exit(status)`` in a body raise what ``sys.exit(status)`` raises."""
    leave, process = os._exit, os.getpid()

    def stay(status: int) -> NoReturn:
        # A child that a body has forked ends as it wants to.
        if os.getpid() == process and _is_in_body(sys._getframe(1)):
            raise SystemExit(status)
        leave(status)

    replaced: Any = os
    replaced._exit = stay
    try:
        yield
    finally:
        replaced._exit = leave


def _is_in_body(frame: FrameType | None) -> bool:
    from celery.app import trace

    while frame is not None:
        if frame.f_code.co_filename == trace.__file__:
            return True
        frame = frame.f_back
    return False
