"""Celery's own beat in virtual time: its real scheduler, whose ticks are events."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from celery import signals

from pytest_taskservice.simulator.core.agenda import Weight
from pytest_taskservice.simulator.core.fibers import current_fiber

if TYPE_CHECKING:
    from celery import Celery

    from pytest_taskservice.simulator.core.fibers import Fiber
    from pytest_taskservice.simulator.core.simulation import Simulation

__all__ = ["SimulatedBeat"]

_beat: Any = import_module("celery.beat")

# A scheduler that says "again, now" would stop a clock that only waiting moves.
_LEAST_WAIT = 0.01


class SimulatedBeat:
    """One beat process. It keeps its schedule in memory unless the app names a scheduler of its own."""

    weight = Weight.RECURRING
    main = None
    name = "beat"
    joins_block = False
    held_up: list[tuple[Callable[..., Any], tuple[Any, ...]]] | None = None

    def __init__(self, simulation: Simulation, app: Celery, **options: Any) -> None:
        self.app = app
        self.options = dict(options)
        self.alive = True
        self._simulation = simulation
        self._fiber: Fiber | None = None
        theirs: Any = options.pop("scheduler_cls", None) or app.conf.beat_scheduler
        if theirs in ("celery.beat:PersistentScheduler", _beat.PersistentScheduler):
            theirs = _beat.Scheduler
        self.service: Any = _beat.Service(app, scheduler_cls=theirs, **options)

    def begin(self) -> None:
        """Start ticking, in a fiber of its own."""
        self._simulation.after(0.0, self._live)

    def remember(self, earlier: SimulatedBeat) -> None:
        """Know when ``earlier`` had sent each entry last, as a schedule kept in a file would."""
        known = earlier.service.scheduler.schedule
        if isinstance(self.service.scheduler, _beat.Scheduler) and self.options.get("scheduler_cls") is None:
            for name, entry in self.service.scheduler.schedule.items():
                if name in known:
                    entry.last_run_at = known[name].last_run_at
                    entry.total_run_count = known[name].total_run_count

    def crash(self) -> None:
        """End it as SIGKILL would."""
        self.alive = False
        if self._fiber is not None:
            self._simulation.abandon(self._fiber)

    def pause(self) -> None:
        """Stop as SIGSTOP would."""
        if self.held_up is None:
            self.held_up = []

    def go_on(self) -> None:
        """Go on, as SIGCONT would have it."""
        held_up, self.held_up = self.held_up, None
        for action, args in held_up or ():
            self._simulation.after(0.0, action, *args)

    def enter(self) -> None:
        """Have no state of its own in a module."""

    def _live(self) -> None:
        self._fiber = fiber = current_fiber()
        assert fiber is not None
        fiber.process = self
        signals.beat_init.send(sender=self.service)
        scheduler = self.service.scheduler
        while self.alive:
            self._simulation.sleep(max(scheduler.tick(), _LEAST_WAIT))
