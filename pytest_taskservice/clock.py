"""The clock of a test in virtual time: the face of every world that has one."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime, timedelta
from typing import Protocol

from pytest_taskservice.errors import HarnessError

__all__ = ["Clock", "VirtualTime", "in_event_loop"]


class VirtualTime(Protocol):
    """What moves a world's time. Instants are seconds, of the monotonic clock unless said otherwise."""

    def monotonic(self) -> float:
        """Return the virtual monotonic clock."""

    def now(self) -> float:
        """Return the virtual wall clock, in seconds since the Unix epoch."""

    def advance(self, seconds: float) -> None:
        """Let so much time pass, instant by instant."""

    def run_until(self, instant: float) -> None:
        """Stand at ``instant`` at once, without event loops: what they had to do is late."""

    def run_until_idle(self) -> None:
        """Go on until nothing is due."""

    def step_clock(self, seconds: float) -> None:
        """Set the wall clock forward or back; no timer moves with it."""


class LoopTime(Protocol):
    """What moves the time of an event loop in virtual time."""

    async def pass_by(self, seconds: float) -> None:
        """Wait for so much time, and for all that is due by then."""


class Clock:
    """Virtual time, in the hands of a test.

    It stands still while the test computes, and goes on while it waits: for a result, in ``advance``, in
    ``run_until_idle``, or at an ``await``. It always goes from one thing due to the next, never in one jump.
    """

    def __init__(self, time: VirtualTime) -> None:
        self._time = time

    def now(self) -> datetime:
        """Return what ``datetime.now(UTC)`` says."""
        return _EPOCH + timedelta(microseconds=round(self._time.now() * 1e6))

    def monotonic(self) -> float:
        """Return what ``time.monotonic()`` says, in seconds."""
        return self._time.monotonic()

    def advance(self, delta: timedelta | None = None, **parts: float) -> None:
        """Let so much time pass: ``advance(hours=24)``, with the keywords of ``timedelta``, or one of those.

        What is due on the way happens, each at its instant, before this returns.
        """
        seconds = _seconds(delta, parts)
        if in_event_loop():
            raise HarnessError(
                "advance() inside an event loop cannot run that loop: "
                f"await taskservice_clock.sleep({_spelled(delta, parts)})"
            )
        self._time.advance(seconds)

    def run_until_idle(self) -> None:
        """Let time pass until nothing is waiting to happen."""
        if in_event_loop():
            raise HarnessError(
                "run_until_idle() inside an event loop cannot run that loop: await what the test waits for"
            )
        self._time.run_until_idle()

    async def sleep(self, delta: timedelta | None = None, **parts: float) -> None:
        """Let so much time pass, in an async test: ``await clock.sleep(hours=1)``."""
        seconds = _seconds(delta, parts)
        stage = _running_stage()
        if stage is None:
            raise HarnessError(
                "this event loop runs in real time, made with a loop_factory or a clock of its own: "
                "leave them out of anyio_backend"
            )
        await stage.pass_by(seconds)

    def skip(self, delta: timedelta | None = None, **parts: float) -> None:
        """Be so much later at once. What was due on the way is late: it happens when the test waits."""
        self._time.run_until(self._time.monotonic() + _seconds(delta, parts))

    def set_wall_clock(self, instant: datetime) -> None:
        """Let the wall clock say something else from here on, as who sets it by hand; no timer moves."""
        if instant.tzinfo is None:
            raise ValueError(f"need an instant with a time zone, got {instant!r}")
        self._time.step_clock((instant - self.now()) / timedelta(seconds=1))


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def in_event_loop() -> bool:
    """Return whether the caller runs in an event loop, which waits until it returns."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        trio = sys.modules.get("trio")
        return trio is not None and bool(trio.lowlevel.in_trio_run())
    return True


def _running_stage() -> LoopTime | None:
    """Return what moves the time of the running event loop; ``None`` where that is in real time."""
    try:
        return getattr(asyncio.get_running_loop(), "stage", None)
    except RuntimeError:
        trio = sys.modules.get("trio")
        if trio is None or not trio.lowlevel.in_trio_run():
            return None
    return getattr(trio.lowlevel.current_clock(), "stage", None)


def _seconds(delta: timedelta | None, parts: dict[str, float]) -> float:
    if (delta is None) == (not parts):
        raise TypeError("need one of a timedelta and keywords such as hours=1")
    found = timedelta(**parts) if delta is None else delta
    if found < timedelta(0):
        raise ValueError(f"time does not go back, got {found}")
    return found / timedelta(seconds=1)


def _spelled(delta: timedelta | None, parts: dict[str, float]) -> str:
    return ", ".join(f"{name}={value:g}" for name, value in parts.items()) if delta is None else repr(delta)
