"""Who is at work: time goes on only while every event loop and every thread of the world waits.

Each loop and each thread has a seat. Whoever waits last moves the timeline to the earliest instant that
anybody waits for, and wakes who waited for it. While one is at work (a thread computes, a socket is awaited)
the clock stands still.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from pytest_taskservice.errors import SimulationBudgetError, SimulationError, SimulationIdleError
from pytest_taskservice.simulator.core.randomness import Randomness
from pytest_taskservice.simulator.loops.seats import Limits, Seat
from pytest_taskservice.simulator.overdue import end_thread
from pytest_taskservice.simulator.substitutes import real_monotonic

if TYPE_CHECKING:
    from pytest_taskservice.simulator.core.timeline import SteppedTimeline, Timeline

__all__ = ["PATIENCE", "Stage"]

PATIENCE = 2.0
"""Real seconds for which something unknown may yet come, when everybody known waits for ever."""


class Stage:
    """The seats of one world over one timeline. Whoever makes it has the first seat, and is at work."""

    def __init__(
        self, timeline: Timeline, *, seed: int = 0, limits: Limits | None = None, moved_by_owner: bool = False
    ) -> None:
        self.help: Callable[[float], bool] | None = None
        """Takes a step, not beyond an instant, for threads that wait for the timeline by themselves.

        Returns whether to go on.
        """
        self.let_work: Callable[[float, Callable[[], bool]], None] | None = None
        """Gives real time to who has no seat before so many seconds pass, until a seat is at work."""
        self._moved_by_owner = moved_by_owner
        self.timeline = timeline
        self.random = Randomness(seed)
        self.seed = seed
        self.limits = limits or Limits()
        self.closed = False
        self._lock = threading.RLock()
        self._seats: list[Seat] = []
        self._by_thread: dict[int, list[Seat]] = {}
        self._known: WeakSet[threading.Thread] = WeakSet()
        """Threads that have sat here once: what they do without a seat is nothing."""
        self._moving = False
        self._stuck = False
        self.progress = 0
        """How often anybody went on; while it stays the same, nothing happened."""
        self._moves = 0
        self._turns = 0
        self._since = timeline.monotonic()
        self._gates: dict[Seat, Any] = {}
        self.owner = threading.get_ident()
        self.first = self.thread_seat("the test")
        self.push(self.first)

    # What time it is.

    def monotonic(self) -> float:
        """Return the virtual monotonic clock, in seconds."""
        return self.timeline.monotonic()

    def now(self) -> float:
        """Return the virtual wall clock, in seconds since the Unix epoch."""
        return self.timeline.now()

    # Letting it pass.

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass for everybody else, instant by instant."""
        if seconds < 0:
            raise ValueError(f"time does not go back: got {seconds:g} seconds")
        self.sleep(seconds, last=True)

    def run_until_idle(self) -> None:
        """Go on until nobody waits for an instant."""
        with self._guest() as seat:
            seat.until_idle = True
            try:
                self.block(seat, math.inf, what="all work to be done")
            finally:
                seat.until_idle = False

    def run_until(self, instant: float) -> None:
        """Stand at the monotonic ``instant`` at once; what loops and threads had to do before is late."""
        self.timeline.run_until(instant)
        self._go_on(None)

    def step_clock(self, seconds: float) -> None:
        """Set the wall clock forward or back; no timer moves with it."""
        self._stepped().step_clock(seconds)

    def _stepped(self) -> SteppedTimeline:
        return self.timeline  # type: ignore[return-value] # every one we make is one

    def sleep(self, seconds: float, *, last: bool = False) -> None:
        """Block the calling thread for ``seconds`` of virtual time; others go on."""
        deadline = self.monotonic() + seconds
        with self._guest() as seat:
            seat.last = last
            try:
                self.block(seat, deadline, what=f"{seconds:g} s to pass")
            finally:
                seat.last = False

    def read(self) -> None:
        """Let a moment pass where what passed since the last reading would measure short.

        Otherwise time stands still until all loops wait. What threads of strangers read does not count.
        """
        if self.seat_of(threading.get_ident()) is not None:
            self._stepped().read()

    async def pass_by(self, seconds: float) -> None:
        """Wait for ``seconds`` in an event loop of this stage, and for all that is due by then."""
        from anyio import Event

        from taskservice.backends.loops import current_notifier

        reached, notify = Event(), current_notifier()
        seat = Seat("the test", wake=lambda: notify(reached.set))
        seat.last, seat.deadline, seat.waiting = True, self.monotonic() + seconds, True
        self.take(seat)
        try:
            await reached.wait()
        finally:
            self.leave(seat)

    # Seats.

    def thread_seat(self, name: str) -> Seat:
        """Return a new seat, not taken yet, whose thread blocks on a gate while it waits."""
        gate = threading.Lock()
        gate.acquire()
        seat = Seat(name, wake=gate.release, explain=lambda: [f"{name} waits"])
        self._gates[seat] = gate
        return seat

    def take(self, seat: Seat) -> None:
        """Count this seat from now on."""
        with self._lock:
            self._seats.append(seat)

    def leave(self, seat: Seat) -> None:
        """Count this seat no longer."""
        with self._lock:
            if seat in self._seats:
                self._seats.remove(seat)
            self._gates.pop(seat, None)
        self._go_on(None)

    def push(self, seat: Seat) -> None:
        """Let ``seat`` speak for the calling thread, over whatever seat it has."""
        with self._lock:
            if seat not in self._seats:
                self._seats.append(seat)
            self._known.add(threading.current_thread())
            stack = self._by_thread.setdefault(threading.get_ident(), [])
            if stack:
                stack[-1].covered = True
            seat.thread = threading.get_ident()
            stack.append(seat)

    def pop(self, seat: Seat) -> None:
        """Undo ``push``."""
        with self._lock:
            ident = threading.get_ident()
            stack = self._by_thread.get(ident, [])
            if seat in stack:
                stack.remove(seat)
            if stack:
                stack[-1].covered = False
            else:
                self._by_thread.pop(ident, None)

    def look_again(self) -> None:
        """Let time go on if nothing holds it any more."""
        self._go_on(None)

    def can_block(self, seat: Seat | None) -> bool:
        """Return whether it is a thread's, which waits by blocking; a loop has other ways."""
        return seat in self._gates

    def seat_of(self, thread: int) -> Seat | None:
        """Return the seat that speaks for a thread."""
        stack = self._by_thread.get(thread)
        return stack[-1] if stack else None

    def stands_still(self, thread: int) -> bool:
        """Return whether nothing comes of that thread unless time goes on; an unknown one may do anything."""
        seat = self.seat_of(thread)
        return seat is not None and seat.stands_still()

    def known_threads(self) -> set[int]:
        """Return the numbers of the threads that sit here, or have and may again."""
        with self._lock:
            return {thread.ident or 0 for thread in self._known if thread.is_alive()}

    def at_work(self, waiting: set[int]) -> bool:
        """Return whether a thread beside the owner's is at work; ``waiting`` are some that are not."""
        with self._lock:
            return any(
                not seat.stands_still() and seat.thread not in waiting
                for seat in self._seats
                if seat is not self.first and (seat in self._gates or seat.thread != self.owner)
            )

    # Waiting.

    def begin(
        self, seat: Seat, deadline: float, *, holding: bool = False, ready: Callable[[], bool] | None = None
    ) -> bool:
        """Let ``seat`` wait for an instant; return whether it does: not where all is ``ready``."""
        with self._lock:
            if ready is not None and ready():
                return False
            seat.deadline, seat.holding, seat.waiting, seat.error = deadline, holding, True, None
        self._go_on(seat)
        return True

    def end(self, seat: Seat) -> bool:
        """Let ``seat`` be at work again; return whether it was woken. Raise what it was handed meanwhile."""
        with self._lock:
            woken, seat.waiting = not seat.waiting, False
            if woken:
                self.progress += 1
            error, seat.error = seat.error, None
        if error is not None:
            raise error
        return woken

    def rouse(self, seat: Seat) -> None:
        """Let ``seat`` be at work from now on: what it waits for is here, though it has not seen it yet."""
        with self._lock:
            waited, seat.waiting = seat.waiting, False
        if waited:
            seat.wake()

    def block(
        self, seat: Seat, deadline: float, *, what: str, ready: Callable[[], bool] | None = None
    ) -> None:
        """Block the calling thread, which sits there, until an instant comes or it is roused."""
        if self.closed:
            raise SimulationError(f"waited for {what} when the world was closed")
        gate = self._gates[seat]
        while self.begin(seat, deadline, ready=ready):
            since = self.progress, real_monotonic()
            while not gate.acquire(timeout=PATIENCE):
                since = self.check(since, what)
            if not self._was_asked(seat, lambda: ready is not None and ready()):
                break
        self.end(seat)

    def ask_owner(self) -> None:
        """Have the owner's thread, where it waits, look what it can do for others."""
        with self._lock:
            seat = self._owners_seat()
        if seat is not None:
            seat.wake()

    def _owners_seat(self) -> Seat | None:
        """Return the seat in which the owner's thread waits, asked to look up."""
        for seat in self._seats:
            if seat.thread == self.owner and seat.waiting and not seat.covered:
                seat.waiting, seat.asked = False, True
                return seat
        return None

    def _was_asked(self, seat: Seat, over: Callable[[], bool]) -> bool:
        """Help those who have asked ``seat`` until its own wait is over; return whether anybody has."""
        asked, seat.asked = seat.asked, False
        while asked and not over() and self.monotonic() < seat.deadline:
            if self.help is None or not self.help(seat.deadline):
                break
        return asked

    def poll(
        self, seat: Seat, deadline: float, over: Callable[[], bool], *, pending: Callable[[], bool]
    ) -> None:
        """Ask ``over``, which blocks for a moment, again and again until it is so or an instant comes."""
        gate, seat.pending = self._gates[seat], pending
        try:
            asked = True
            while asked:
                self.begin(seat, deadline)
                while seat.waiting and not over():
                    self._go_on(None)
                with self._lock:
                    woken, seat.waiting = not seat.waiting, False
                if woken:
                    gate.acquire()
                asked = self._was_asked(seat, over) and not over()
        finally:
            seat.pending = None
        self.end(seat)

    def check(self, since: tuple[int, float], what: str) -> tuple[int, float]:
        """Fail the test if nothing can ever happen, nor has since then; return what to compare the next time.

        ``since`` is the ``progress`` and the real instant of an earlier look.
        """
        with self._lock:
            progress, then = since
            now = real_monotonic()
            if progress != self.progress:
                return self.progress, now
            if not self._stuck and now - then > self.limits.work:
                self._end_work()
            if not self._stuck or now - then < PATIENCE * 0.9:
                return since
        if self.let_work is not None and threading.get_ident() == self.owner:
            self.let_work(PATIENCE, self._is_at_work)
            if self._is_at_work():
                return self.progress, real_monotonic()
        with self._lock:
            error = SimulationIdleError(what, tuple(self._explain()))
        self._fail(error)
        return self.progress, now

    def _end_work(self) -> None:
        """End what is at work in threads other than the test's own."""
        for seat in self._seats:
            # One that has not begun has the thread of who has made it.
            begun = seat.thread != self.owner and self.seat_of(seat.thread) is seat
            if begun and not seat.waiting and not seat.stands_still():
                end_thread(seat.thread)

    def turned(self, seat: Seat) -> None:
        """Count a turn of a loop that takes no time; only what is on its way in a thread excuses many."""
        self._turns += 1
        if self._turns <= self.limits.moves:
            return
        self._turns = 0
        with self._lock:
            if any(each in self._gates and not each.covered and not each.waiting for each in self._seats):
                return
            lines = tuple(line for each in self._seats if each is not self.first for line in each.explain())
        error = SimulationBudgetError(f"{seat.name} to pause", self.limits.moves, 0.0, lines)
        if seat.fail is not None and seat.thread == self.owner:
            seat.fail(error)
        elif seat.thread == self.owner:
            raise error
        else:
            self._fail(error)

    def close(self) -> None:
        """Let everybody go who still waits."""
        with self._lock:
            self.closed = True
            waiting = [seat for seat in self._seats if seat.waiting]
            for seat in waiting:
                if seat in self._gates:
                    seat.error = SimulationError(f"{seat.name} waited when the world was closed")
                seat.waiting = False
        for seat in waiting:
            seat.wake()

    @contextmanager
    def _guest(self) -> Iterator[Seat]:
        """Yield a seat that the calling thread can block in: its own, or one for this wait."""
        own = self.seat_of(threading.get_ident())
        if own is not None and own in self._gates:
            yield own
            return
        seat = self.thread_seat(f"thread {threading.current_thread().name}")
        self.push(seat)
        try:
            yield seat
        finally:
            self.pop(seat)
            self.leave(seat)

    # Going on.

    def _go_on(self, mine: Seat | None) -> None:
        """Move the clock while nobody is at work. A loop that finds itself due needs no waking."""
        while not self.closed:
            with self._lock:
                instant = self._next_instant()
                if instant is None:
                    return
                away = self._moved_by_owner and threading.get_ident() != self.owner
                mover = self._owners_seat() if away else None
                self._moving = not away
            if away:
                if mover is not None:
                    mover.wake()
                return
            if self._move(instant, mine):
                return

    def _move(self, instant: float, mine: Seat | None) -> bool:
        """Let it be ``instant``, if nothing comes in between; return whether anybody goes on."""
        if self._have_others_worked(instant):
            with self._lock:
                self._moving = False
            return False
        try:
            self.timeline.run_until(instant)
        finally:
            with self._lock:
                self._moving = False
                woken = self._due()
                for seat in woken:
                    seat.waiting = False
        for seat in woken:
            if seat is not mine or seat in self._gates:
                seat.wake()
        return bool(woken)

    def _have_others_worked(self, instant: float) -> bool:
        """Let those work who have no seat before time goes on; return whether it has to wait now."""
        event, seconds = self.timeline.next_event(), instant - self.timeline.monotonic()
        if self.let_work is None or seconds <= 0 or (event is not None and event <= instant):
            return False
        self.let_work(seconds, self._is_at_work)
        return self._is_at_work()

    def _is_at_work(self) -> bool:
        with self._lock:
            return not all(seat.stands_still() for seat in self._seats)

    def _next_instant(self) -> float | None:
        self._stuck = False
        if self._moving or self._is_at_work():
            return None
        waiting = [seat for seat in self._seats if seat.waiting and not seat.covered]
        soonest = min((seat.deadline for seat in waiting if not seat.last), default=math.inf)
        event = self.timeline.next_event()
        if event is not None:
            soonest = min(soonest, event)
        end = min((seat.deadline for seat in waiting if seat.last), default=math.inf)
        if soonest > end:
            return end
        if soonest < math.inf:
            return soonest if self._within_limits(soonest, bounded=end < math.inf) else None
        if any(seat.until_idle for seat in waiting):
            return self.timeline.monotonic()
        self._stuck = bool(waiting)
        return None

    def _due(self) -> list[Seat]:
        """Return who goes on now: those whose instant has come, or else those who wait for all the others."""
        now = self.timeline.monotonic()
        waiting = [seat for seat in self._seats if seat.waiting and not seat.covered]
        due = [seat for seat in waiting if not seat.last and seat.deadline <= now]
        if due:
            return due
        event = self.timeline.next_event()
        if event is not None and event <= now:
            return []
        patient = [seat for seat in waiting if seat.last and seat.deadline <= now]
        if not patient and event is None and all(math.isinf(seat.deadline) for seat in waiting):
            patient = [seat for seat in waiting if seat.until_idle]
        if any(seat is self.first for seat in patient):
            self._moves, self._since = 0, now
        return patient

    def _within_limits(self, instant: float, *, bounded: bool) -> bool:
        self._moves += 1
        self._turns = 0
        limits, elapsed = self.limits, instant - self._since
        if self._moves <= limits.moves and (bounded or elapsed <= limits.seconds):
            return True
        moves, self._moves, self._since = self._moves - 1, 0, instant
        self._fail(SimulationBudgetError("the test to go on", moves, elapsed, tuple(self._explain())))
        return False

    def _fail(self, error: Exception) -> None:
        """Hand an error to who speaks for the test: its loop, or its thread."""
        with self._lock:
            ours = [seat for seat in self._seats if seat.thread == self.owner and seat.waiting]
            seat = next((seat for seat in ours if seat.fail is not None), None)
            seat = seat or next((seat for seat in ours if not seat.covered), None)
            if seat is None:
                return
            seat.waiting = False
            if seat.fail is None:
                seat.error = error
        if seat.fail is not None:
            seat.fail(error)
        else:
            seat.wake()

    def _explain(self) -> Iterator[str]:
        for seat in self._seats:
            if seat.waiting and not seat.covered:
                yield from seat.explain()
