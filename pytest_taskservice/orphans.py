"""A process of xdist's whose controller was killed: nobody takes its results, and its servers would stay."""

from __future__ import annotations

import os
import signal
import sys

__all__ = ["die_with_parent"]

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Have the kernel kill this process once its parent is gone; elsewhere than on Linux nothing happens.

    A thread that looked for it would be one more that a world's clock has to know.
    """
    if sys.platform != "linux":
        return
    import ctypes

    parent = os.getppid()
    if ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) == 0 and os.getppid() != parent:
        # It went meanwhile.
        os.kill(os.getpid(), signal.SIGKILL)
