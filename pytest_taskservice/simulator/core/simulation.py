"""One world in virtual time: events, fibers, draws, and waiting for what they bring.

Whoever opens a simulation owns it. While the owner waits, events run, each in a fiber. Anybody who waits
inside an event parks. The clock moves only from one event to the next, so nothing is ever early.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from pytest_taskservice.errors import SimulationBudgetError, SimulationIdleError
from pytest_taskservice.simulator.core.agenda import Agenda, Due, Weight
from pytest_taskservice.simulator.core.fibers import Fiber, Fibers, current_fiber
from pytest_taskservice.simulator.core.randomness import Randomness
from pytest_taskservice.simulator.core.readings import READING, measures_short

if TYPE_CHECKING:
    from greenlet import GreenletExit

__all__ = ["Budget", "Outsiders", "Simulation"]

_POLLS = 10_000
"""How often a test may sleep, wait or ask for the same while nothing is to come."""
MONOTONIC_START = 10_000.0
"""What the monotonic clock says when a simulation opens: no real one starts at zero either."""


_LAST_DIGIT = 1e-9
_IMPATIENT = 1000
"""After so many readings with nothing in between the moment between two of them is twice as long."""
_DOUBLINGS = 16
"""The longest moment is 0.13 s."""
_HASTE = 0.001
"""What a question takes of the time for which somebody does nothing but ask it."""
_LEAP = 0.1
"""Seconds that do not pass at once while a thread of the test is at work."""
_INSTANT = 1e-5
_SOME = 1023
"""Seconds of which nobody can say that time has passed."""


class Outsiders(Protocol):
    """Threads that are not the owner's, and wait for what happens in here."""

    def inside(self) -> bool:
        """Return whether the caller is the owner's thread."""

    def wait(self, ready: Callable[[], bool], deadline: float | None, what: str) -> bool:
        """Block the calling thread until ``ready`` or the monotonic ``deadline``."""

    def waiting(self) -> bool:
        """Return whether any thread waits."""

    def next_deadline(self) -> float | None:
        """Return the earliest deadline of those who wait."""

    def wake(self) -> bool:
        """Let those go on whose wait is over; return whether there was one."""

    def let_work(self, is_due: Callable[[], bool]) -> bool:
        """Wait for those whom tasks wait for; return whether something ``is_due`` before time goes on."""

    def let_run(self) -> bool:
        """Give other threads a moment of real time; return whether there are any."""

    def look_anew(self) -> None:
        """Take it that threads have something to do from now on."""

    def hold(self) -> bool:
        """Give a thread that is at work a moment before time leaps; return whether there was one."""

    def explain(self) -> Iterable[str]:
        """Say what each thread waits for."""


class Budget:
    """How much may happen while somebody waits once: what has no end is stopped, and told."""

    def __init__(self, *, events: int = 1_000_000, seconds: float = 50 * 365 * 86_400.0) -> None:
        self.events = events
        self.seconds = seconds


class Simulation:
    """The clock, the agenda and the fibers; implements ``Timeline``.

    ``start`` is the wall clock's first instant in seconds since the Unix epoch. ``on_move`` is told each
    new one. ``place`` is where its ids are drawn.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        place: str = "",
        start: float,
        on_move: Callable[[float], None],
        budget: Budget | None = None,
    ) -> None:
        self.seed = seed
        self.start = start
        self.random = Randomness(seed, place=place)
        self.budget = budget or Budget()
        self.events = 0
        """How many events have run."""
        self.busy = False
        """Whether an event runs now."""
        self.failure: Exception | None = None
        """Raised by whoever let the running event happen."""
        self.outsiders: Outsiders | None = None
        self.flying = 0
        """How many threads that tasks wait for are in flight: time may have to stand still for them."""
        self.closed = False
        self.explain: Callable[[], Iterable[str]] = tuple
        """Says what is waiting, for an error's text."""
        self.housekeeping: Callable[[], None] | None = None
        """Called after each 1024 events."""
        self.on_sleep: Callable[[float], None] | None = None
        """Told how long an event is about to sleep."""
        self.on_move = on_move
        self._step = 0.0
        self._read = -1.0
        self._readings = 0
        self._polled = (0, 0)
        self._question: object = None
        self._questions = 0
        self._asked_since = 0.0
        self._agenda = Agenda()
        self._fibers = Fibers()
        self._elapsed = 0.0
        self._horizon: list[float] = []
        self._parked: list[tuple[Callable[[], bool], Fiber, int]] = []

    # What time it is.

    @property
    def elapsed(self) -> float:
        """Seconds of virtual time since the simulation opened."""
        return self._elapsed

    def monotonic(self) -> float:
        """Return the virtual monotonic clock, in seconds."""
        return MONOTONIC_START + self._elapsed

    def now(self) -> float:
        """Return the virtual wall clock, in seconds since the Unix epoch."""
        return self.start + self._step + self._elapsed

    def step_clock(self, seconds: float) -> None:
        """Set the wall clock forward or back, as somebody does by hand; no timer moves with it."""
        self._step += seconds
        self.on_move(self.now())

    # What is to come.

    def after(
        self, seconds: float, action: Callable[..., Any], *args: Any, weight: Weight = Weight.WORK
    ) -> Due:
        """Let ``action`` happen in ``seconds``."""
        return self._agenda.add(
            self._elapsed + seconds if seconds > 0.0 else self._elapsed, action, args, weight
        )

    def cancel(self, due: Due | None) -> None:
        """Let an event not happen."""
        if due is not None:
            self._agenda.cancel(due)

    def arguments_of(self, action: Callable[..., Any]) -> list[Any]:
        """Return the arguments of every event to come that is ``action``, in their order."""
        return [due.args for due in self._agenda if due.action == action]

    def next_event(self) -> float | None:
        """Return the monotonic instant of the next event."""
        at = self._agenda.next_at()
        return None if at is None else MONOTONIC_START + at

    def run_until(self, instant: float) -> None:
        """Run what is due up to the monotonic ``instant``, and stand there."""
        # The sum that next_event() returns may have lost what is behind its last digit.
        self._pump(None, instant - MONOTONIC_START + _LAST_DIGIT, "", idle_ends=False)

    def idle(self) -> bool:
        """Return whether nothing is left to be done, schedules apart."""
        return not self._agenda.counts[Weight.WORK]

    # Letting it come.

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` of virtual time pass, event by event."""
        if seconds < 0:
            raise ValueError(f"time does not go back: got {seconds:g} seconds")
        self.wait(_never, timeout=seconds, what="time to pass")

    def run_until_idle(self) -> None:
        """Go on until nothing is left to be done, schedules apart."""
        self.wait(self.idle, timeout=None, what="all work to be done")

    def sleep(self, seconds: float) -> None:
        """Do nothing for ``seconds`` of virtual time; others go on."""
        fiber = current_fiber()
        if fiber is None:
            self._count_poll("{:,} times time.sleep({:g})", seconds)
            if not self._pass(seconds):
                self._wait_outside(_never, self._elapsed + max(0.0, seconds), f"time.sleep({seconds:g})")
            return
        self._end_if_closed()
        if self.on_sleep is not None:
            self.on_sleep(seconds)
        weight = Weight.WORK if fiber.process is None else fiber.process.weight
        self._doze(fiber, self.after(seconds, fiber.resume, fiber.turn + 1, weight=weight))

    def _doze(self, fiber: Fiber, due: Due) -> None:
        fiber.wakes = due
        try:
            fiber.park()
        finally:
            # Something else may have woken it: a time limit.
            fiber.wakes = None
            self.cancel(due)

    def _count_poll(self, told: str, of: object = None) -> None:
        """Stop whoever waits again and again for something that nothing can bring; ``told`` says it."""
        nothing = self.outsiders is None or not self.outsiders.waiting()
        if self.events != self._polled[0] or len(self._agenda) or not nothing:
            self._polled = (self.events, 0)
            return
        self._polled = (self.events, self._polled[1] + 1)
        if self._polled[1] > _POLLS:
            raise SimulationIdleError(told.format(_POLLS, of), self.waiting_for())

    def read(self) -> None:
        """Let a moment pass before a reading of the clock, if there has been one at this very instant.

        So it does where what has passed since the last one would measure short. The moment grows the longer
        somebody does nothing but ask for the time. Nothing happens in it: what falls due is done when
        somebody waits, as beside a body that computes.
        """
        if self._elapsed == self._read:
            self._readings += 1
            doubled = 1 << min(self._readings // _IMPATIENT, _DOUBLINGS)
            self._move(self._elapsed + READING * doubled)
        else:
            self._readings = 0
            if measures_short(MONOTONIC_START + self._read, self.monotonic(), self.now() - self.monotonic()):
                self._move(self._elapsed + READING)
        self._read = self._elapsed

    def ask(self, question: object) -> float:
        """Return how much time an answer takes on top where a test asks the same again and again."""
        if question != self._question:
            self._question, self._questions, self._asked_since = question, 0, self._elapsed
            return 0.0
        self._questions += 1
        if self._questions <= _IMPATIENT or current_fiber() is not None or not self._is_owner():
            return 0.0
        self._count_poll("a result, asked for {:,} times")
        return (self._elapsed - self._asked_since) * _HASTE

    def spend(self, seconds: float) -> None:
        """Let a little time pass, as talking to a server takes; others may come in between."""
        fiber = current_fiber()
        if fiber is None:
            if not self._pass(seconds) and self._is_owner():
                self._pump(None, self._elapsed + seconds, "", idle_ends=False)
            return
        if self.closed:
            raise _exit()
        then = self._elapsed + seconds
        following = self._agenda.next_at()
        if (following is None or following > then) and (not self._horizon or then < self._horizon[-1]):
            self._move(then)
            return
        self._doze(fiber, self.after(seconds, fiber.resume, fiber.turn + 1))

    def wait(self, ready: Callable[[], bool], *, timeout: float | None, what: str) -> bool:
        """Wait until ``ready()``; return whether it is, when ``timeout`` virtual seconds are over.

        Without a timeout, raise :class:`SimulationIdleError` where nothing can ever make it ready.
        """
        fiber = current_fiber()
        deadline = None if timeout is None else self._elapsed + max(0.0, timeout)
        if fiber is not None:
            return self._wait_inside(fiber, ready, deadline)
        found = self._wait_outside(ready, deadline, what)
        if not found and ready is not _never and self._is_owner():
            self._count_poll("{1}, {0:,} times", what)
        return found

    def serve_outsiders(self, deadline: float | None) -> bool:
        """Take one step for other threads, while the owner is blocked; return whether there was one."""
        outsiders = self.outsiders
        if outsiders is None or outsiders.wake():
            return outsiders is not None
        ends = [end for end in (deadline, outsiders.next_deadline()) if end is not None]
        limit = min(ends) - MONOTONIC_START if ends else None
        following = self._agenda.next_at()
        wanted = outsiders.waiting() or not self.idle()
        if wanted and following is not None and (limit is None or following <= limit):
            self._perform()
            return True
        if outsiders.waiting() and limit is not None and limit > self._elapsed:
            if not self._stands_still():
                self._move(limit)
            return True
        return False

    def waiting_for(self) -> tuple[str, ...]:
        """Return a line for each thing that waits, or is to come."""
        # Of many that say the same, as workers of one name do that came one after the other, one will do.
        return tuple(dict.fromkeys(self._waiting_for()))

    def abandon(self, fiber: Fiber) -> None:
        """Never go on with ``fiber``: the process it stood for is gone."""
        self.cancel(fiber.wakes)
        self._fibers.abandon(fiber)

    def close(self) -> None:
        """End every fiber and forget what was to come."""
        if not self.closed:
            self.closed = True
            self._agenda.clear()
            self._fibers.close()
            self._parked.clear()

    # How it goes on.

    def _is_owner(self) -> bool:
        return self.outsiders is None or self.outsiders.inside()

    def _pass(self, seconds: float) -> bool:
        """Let time pass in which nothing happens; return whether that is so, and the caller's to say."""
        outsiders = self.outsiders
        if outsiders is not None and (outsiders.waiting() or not outsiders.inside()):
            return False
        then = self._elapsed + seconds
        heap = self._agenda.heap
        if heap and heap[0][0] <= then:
            following = self._agenda.next_at()
            if following is not None and following <= then:
                return False
        self._elapsed = then
        self.on_move(self.start + self._step + then)
        return True

    def _end_if_closed(self) -> None:
        if self.closed:
            raise _exit()

    def _wait_outside(self, ready: Callable[[], bool], deadline: float | None, what: str) -> bool:
        if not self._is_owner():
            assert self.outsiders is not None
            instant = None if deadline is None else MONOTONIC_START + deadline
            return self.outsiders.wait(ready, instant, what)
        if self.outsiders is not None:
            self.outsiders.look_anew()
        return self._pump(ready, deadline, what, idle_ends=True)

    def _wait_inside(self, fiber: Fiber, ready: Callable[[], bool], deadline: float | None) -> bool:
        while not ready():
            if deadline is not None and self._elapsed >= deadline:
                return False
            self._end_if_closed()
            turn = fiber.turn + 1
            waiting = (ready, fiber, turn)
            self._parked.append(waiting)
            due = None
            if deadline is not None:
                due = self.after(deadline - self._elapsed, fiber.resume, turn)
            try:
                fiber.park()
            finally:
                self.cancel(due)
                if waiting in self._parked:
                    self._parked.remove(waiting)
        return True

    def _pump(  # noqa: C901 - the one loop that everything runs in
        self, ready: Callable[[], bool] | None, deadline: float | None, what: str, *, idle_ends: bool
    ) -> bool:
        agenda = self._agenda
        heap = agenda.heap
        last_event = self.events + self.budget.events
        last_second = self._elapsed + self.budget.seconds
        if deadline is not None:
            self._horizon.append(deadline if not self._horizon else min(deadline, self._horizon[-1]))
        try:
            while ready is None or not ready():
                following = heap[0][0] if heap and heap[0][2].action is not None else agenda.next_at()
                if self._holds(following, deadline):
                    continue
                if deadline is not None:
                    if following is None or following > deadline:
                        if self._brings_more(deadline) or self._outsiders_first(deadline):
                            continue
                        self._move(max(deadline, self._elapsed))
                        return ready is not None and bool(ready())
                elif idle_ends and self._is_stuck() and not self._let_others_run():
                    # A thread may have brought it as the last thing it did.
                    if (ready is not None and ready()) or not self._is_stuck():
                        continue
                    raise SimulationIdleError(what, self.waiting_for())
                if following is None:
                    continue
                if self.events > last_event or (deadline is None and following > last_second):
                    raise SimulationBudgetError(what, self.budget.events, self._elapsed, self.waiting_for())
                self._perform()
        finally:
            if deadline is not None:
                self._horizon.pop()
        return True

    def _holds(self, following: float | None, deadline: float | None) -> bool:
        """Return whether time may not leap yet, for a thread that is at work; it got a moment."""
        then = self._elapsed + _LEAP
        is_near = (following is not None and following <= then) or (deadline is not None and deadline <= then)
        if is_near or self.outsiders is None or (following is None and deadline is None):
            return False
        return self.outsiders.hold()

    def _perform(self) -> None:
        if self.flying:
            self._stands_still()
        due = self._agenda.pop()
        if due is None:
            return
        if due.at > self._elapsed:
            self._elapsed = due.at
            self.on_move(self.start + self._step + due.at)
        self.events += 1
        self.busy = True
        self._fibers.perform(due)
        self.busy = False
        if not self.events & _SOME and self.housekeeping is not None:
            self.housekeeping()
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        if self._parked:
            self._wake_parked()
        outsiders = self.outsiders
        if outsiders is not None and outsiders.waiting():
            outsiders.wake()

    def _stands_still(self) -> bool:
        """Wait for threads at work before time goes on; return whether there is something to do first."""
        return bool(self.flying) and self.outsiders is not None and self.outsiders.let_work(self._is_due)

    def _brings_more(self, deadline: float) -> bool:
        """Wait for threads at work; return whether there is something to do by ``deadline`` then."""
        if not self._stands_still():
            return False
        following = self._agenda.next_at()
        # What is as good as due may come behind the deadline all the same.
        return following is None or following <= deadline

    def _is_due(self) -> bool:
        following = self._agenda.next_at()
        # Who gives way for an instant waits for nothing else.
        return following is not None and following <= self._elapsed + _INSTANT

    def _wake_parked(self) -> None:
        for waiting in tuple(self._parked):
            ready, fiber, turn = waiting
            if waiting in self._parked and ready():
                self._parked.remove(waiting)
                self.after(0.0, fiber.resume, turn)

    def _move(self, elapsed: float) -> None:
        self._elapsed = elapsed
        self.on_move(self.start + self._step + elapsed)

    def _is_stuck(self) -> bool:
        counts = self._agenda.counts
        return not counts[Weight.WORK] and not counts[Weight.RECURRING]

    def _let_others_run(self) -> bool:
        outsiders = self.outsiders
        if outsiders is None:
            return False
        end = outsiders.next_deadline()
        if self._stands_still():
            return True
        if end is not None and not outsiders.wake():
            self._move(max(self._elapsed, end - MONOTONIC_START))
        return outsiders.let_run()

    def _outsiders_first(self, deadline: float) -> bool:
        """Stop at a deadline of another thread that comes before ours."""
        outsiders = self.outsiders
        end = None if outsiders is None or not outsiders.waiting() else outsiders.next_deadline()
        if outsiders is None or end is None or end - MONOTONIC_START >= deadline:
            return False
        self._move(max(self._elapsed, end - MONOTONIC_START))
        outsiders.wake()
        return outsiders.let_run()

    def _waiting_for(self) -> Iterable[str]:
        yield from self.explain()
        if self.outsiders is not None:
            yield from self.outsiders.explain()
        for due in list(self._agenda)[:5]:
            name = getattr(due.action, "__qualname__", repr(due.action))
            yield f"at +{due.at:g} s: {name}"


def _never() -> bool:
    return False


def _exit() -> GreenletExit:
    from greenlet import GreenletExit

    return GreenletExit()
