"""Where a task waits, for the text of an error."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import CoroutineType, FrameType
from typing import Any

__all__ = ["awaited_frames", "where"]

# What everybody waits in says nothing about why.
_PLUMBING = ("anyio", "asyncio", "trio", "outcome", "_pytest")


def where(frames: Iterable[tuple[FrameType, int]]) -> str:
    """Return the innermost place that is not an event loop's own; empty where there is none."""
    place = ""
    for frame, line in frames:
        if str(frame.f_globals.get("__name__")).partition(".")[0] not in _PLUMBING:
            place = f"{frame.f_code.co_filename}:{line} in {frame.f_code.co_name}"
    return place


def awaited_frames(coroutine: Any) -> Iterator[tuple[FrameType, int]]:
    """Yield the frames of a suspended coroutine and of what it awaits, the outermost first."""
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is not None:
            yield frame, frame.f_lineno
        following = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
        coroutine = _driven_by_hand(frame) if following is None and frame is not None else following


def _driven_by_hand(frame: FrameType) -> Any:
    """Return the coroutine that a frame sends values to by itself, which Python does not know it awaits."""
    return next((value for value in frame.f_locals.values() if isinstance(value, CoroutineType)), None)
