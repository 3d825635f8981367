"""Tasks of a worker whose processes take long to look at what they share with it."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

from billiard import sharedctypes

from taskservice import task

_WORKER = os.getpid()
_shared: Any = vars(sharedctypes)["Synchronized"]  # the stubs lack it


def _look_slowly(self: Any) -> Any:
    with self.get_lock():
        if os.getpid() != _WORKER:
            time.sleep(0.5)
        return self.get_obj().value


_shared.value = property(_look_slowly, _shared.value.fset)


@task(time_limit=0.3)
def end_as_it_is_killed() -> str:
    """Have a result when the limit ends this process, which looks whether it was read when it is killed."""
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: told.append(1))
    signal.signal(signal.SIGALRM, lambda *_: sys.exit())
    while not told:
        time.sleep(0.001)
    signal.setitimer(signal.ITIMER_REAL, 0.03)
    return "ended"
