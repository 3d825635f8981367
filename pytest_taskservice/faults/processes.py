"""Signals to process groups: a worker with its pool, a beat, a Redis."""

from __future__ import annotations

import os
import signal

__all__ = ["kill", "pause", "resume", "terminate"]


def kill(group: int) -> None:
    """End a group by SIGKILL, be it stopped or not; one that is gone is left alone."""
    _signal(group, signal.SIGKILL)


def pause(group: int) -> None:
    """Stop a group by SIGSTOP; none of its processes notices."""
    _signal(group, signal.SIGSTOP)


def resume(group: int) -> None:
    """Let a stopped group go on."""
    _signal(group, signal.SIGCONT)


def terminate(leader: int) -> None:
    """Ask a group's leader to end, by SIGTERM; what becomes of the others is its own business."""
    try:
        os.kill(leader, signal.SIGTERM)
    except ProcessLookupError:
        return


def _signal(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return
