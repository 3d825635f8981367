"""The worker threads of AnyIO and of trio, and what they ask their event loops for.

Replaced while a world is open: ``AsyncIOBackend.run_sync_in_worker_thread`` of AnyIO; ``start_thread_soon``
and ``_send_message_to_trio`` in ``trio._threads``, and the ``queue`` of the messages sent.
"""

# ruff: noqa: SLF001 - trio's own parts, see above

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

import anyio

from pytest_taskservice.simulator.loops.asyncio_loop import VirtualLoop
from pytest_taskservice.simulator.loops.flights import Flight

if TYPE_CHECKING:
    from pytest_taskservice.simulator.loops.seats import Seat
    from pytest_taskservice.simulator.loops.stage import Stage
    from pytest_taskservice.simulator.loops.waits import Waits
    from pytest_taskservice.simulator.substitutes import Patches

__all__ = ["TrioWorkers", "install_anyio"]


def install_anyio(stage: Stage, patches: Patches) -> None:
    """Count AnyIO's worker threads on asyncio; on trio they are trio's."""
    from anyio._backends._asyncio import AsyncIOBackend

    original = AsyncIOBackend.run_sync_in_worker_thread

    async def run_sync(
        cls: Any, function: Any, args: Any, abandon_on_cancel: bool = False, limiter: Any = None
    ) -> Any:
        loop = asyncio.get_running_loop()
        if stage.closed or not isinstance(loop, VirtualLoop):
            return await original(function, args, abandon_on_cancel, limiter)
        # Who waits for the limiter is not at work.
        async with limiter or cls.current_default_thread_limiter():
            flight = Flight(stage, "a worker thread")
            try:
                unlimited = anyio.CapacityLimiter(math.inf)
                return await original(flight.run(function), args, abandon_on_cancel, unlimited)
            finally:
                flight.land()

    patches.set(AsyncIOBackend, "run_sync_in_worker_thread", classmethod(run_sync))


class TrioWorkers:
    """trio's worker threads in one world."""

    def __init__(self, stage: Stage, waits: Waits) -> None:
        self._stage = stage
        self._waits = waits
        self._by_task: dict[Any, Flight] = {}
        self._asking: set[Seat] = set()

    def install(self, patches: Patches) -> None:
        """Replace what the module names."""
        from trio import _threads as inside

        threads: Any = inside
        patches.set(threads, "start_thread_soon", self._starting(threads.start_thread_soon))
        patches.set(threads, "_send_message_to_trio", self._sending(threads._send_message_to_trio))

    def left_by(self, task: Any) -> None:
        """Note that ``task`` goes on; a thread that it waited for, and that is at work, is left to itself."""
        flight = self._by_task.get(task)
        if flight is not None and flight.seat not in self._asking:
            del self._by_task[task]
            flight.land()

    def _starting(self, start: Any) -> Any:
        import trio

        from pytest_taskservice.simulator.loops.trio_clock import VirtualClock

        def start_thread_soon(function: Any, deliver: Any, name: str | None = None) -> None:
            if self._stage.closed or not isinstance(trio.lowlevel.current_clock(), VirtualClock):
                start(function, deliver, name)
                return
            flight = self._by_task[trio.lowlevel.current_task()] = Flight(self._stage, "a worker thread")

            def deliver_and_land(outcome: Any) -> None:
                deliver(outcome)
                flight.land()

            start(flight.run(function), deliver_and_land, name)

        return start_thread_soon

    def _sending(self, send: Any) -> Any:
        def send_message(token: Any, message: Any) -> Any:
            seat = self._waits.blocking_seat()
            if seat is None:
                return send(token, message)
            object.__setattr__(message, "queue", _AnswerQueue(self._stage, seat))
            self._asking.add(seat)
            try:
                return send(token, message)
            finally:
                self._asking.discard(seat)

        return send_message


class _AnswerQueue:
    """Where a thread waits for what it asked trio for."""

    def __init__(self, stage: Stage, seat: Seat) -> None:
        self._stage = stage
        self._seat = seat
        self._answers: list[Any] = []

    def put_nowait(self, answer: Any) -> None:
        self._answers.append(answer)
        self._stage.rouse(self._seat)

    def get(self) -> Any:
        self._stage.block(self._seat, math.inf, what="an answer of trio", ready=lambda: bool(self._answers))
        return self._answers[0]
