"""What a test in a simulation is handed: seed, history, workers, beat, time, faults, the hunt for races."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from pytest_taskservice.drivers.celery_sim import CelerySimDriver, SimulatorOptions
from pytest_taskservice.errors import HarnessError
from pytest_taskservice.hunting.hunt import hunt

if TYPE_CHECKING:
    from celery import Celery

    from pytest_taskservice.history import EventLog
    from pytest_taskservice.hunting.hunt import Finding
    from pytest_taskservice.simulator.celery.beat import SimulatedBeat
    from pytest_taskservice.simulator.celery.worker import SimulatedWorker

__all__ = ["CelerySim", "Check", "find"]

Check = Callable[..., Any]
"""A function that uses the app and raises if something is wrong; it may take a :class:`CelerySim`."""


class CelerySim:
    """One test's simulation of Celery; the fixture ``taskservice_sim``."""

    def __init__(self, driver: CelerySimDriver) -> None:
        self._driver = driver

    @property
    def seed(self) -> int:
        """What every draw of this simulation comes from."""
        return self._driver.story.seed

    @property
    def digest(self) -> str:
        """One short text that the same test with the same seed gives everywhere."""
        return self._driver.digest

    @property
    def history(self) -> EventLog:
        """What has happened to runs so far."""
        return self._driver.log()

    def now(self) -> datetime:
        """Return the virtual instant, in UTC."""
        return datetime.fromtimestamp(self._driver.world.simulation.now(), tz=UTC)

    def advance(self, delta: timedelta | None = None, **units: float) -> None:
        """Let time pass, event by event; ``units`` are those of ``timedelta``: ``advance(hours=24)``."""
        span = (delta or timedelta()) + timedelta(**units)
        self._driver.world.simulation.advance(span.total_seconds())

    def run_until_idle(self) -> None:
        """Go on until nothing is left to be done; a schedule's next ticks do not count."""
        self._driver.world.simulation.run_until_idle()

    def start_worker(self, **options: Any) -> SimulatedWorker:
        """Start a worker and wait until it consumes; from the first one on none is started by itself.

        ``options`` are ``hostname``, ``concurrency`` and those of Celery's ``WorkController``.
        """
        return self._driver.start_worker(**options)

    def start_beat(self, **options: Any) -> SimulatedBeat:
        """Start the app's beat; it sends what is due while time passes."""
        return self._driver.world.start_beat(self._driver.app, **options)

    def inject(self, kind: str, **options: Any) -> Any:
        """Let something go wrong; see docs/simulator.md, "Faults"."""
        world: Any = self._driver.world
        return world.faults.inject(kind, **options)

    def find(
        self, check: Check, *, seeds: int = 1000, start_at: int = 0, processes: int = 1
    ) -> Finding | None:
        """Run ``check`` in a fresh simulation for each of ``seeds`` seeds; return the first failure.

        ``processes`` forks that many, for the same answer sooner; what a check keeps outside of its
        simulation is then kept in its process. The test's own simulation is closed meanwhile, so nothing may
        have happened in it. A new one is opened after that.
        """
        __tracebackhide__ = True
        driver = self._driver
        if driver.has_loops():
            raise HarnessError(
                "find() opens simulations of its own, and this test's event loop runs in one: call it from a "
                "test that is not async"
            )
        if driver.in_use():
            raise HarnessError(
                "find() opens simulations of its own, and this test's has been used already: call it before "
                "anything is sent or started, and let check() do all of that"
            )
        with driver.aside() as (app, settings):
            return hunt(
                driver,
                _called(check, self),
                app=app,
                settings=settings,
                file=_file_of(check),
                seeds=seeds,
                start_at=start_at,
                processes=processes,
            )


def find(  # noqa: PLR0913 - a world's options, all with a default
    app: Celery,
    check: Check,
    *,
    seeds: int = 1000,
    start_at: int = 0,
    processes: int = 1,
    start: datetime | None = None,
    concurrency: int = 2,
    settings: Mapping[str, Any] | None = None,
) -> Finding | None:
    """Run ``check`` in a fresh simulation of ``app`` for each of ``seeds`` seeds, without any test framework.

    Return the first failure, or ``None``. A worker with ``concurrency`` slots starts with the first message,
    unless the check starts its own. ``start`` is the virtual clock's first instant, and ``settings`` change
    those of the app. ``processes`` forks that many, for the same answer sooner; what a check keeps outside of
    its simulation is then kept in its process.
    """
    options = SimulatorOptions(concurrency=concurrency)
    driver = CelerySimDriver(options=replace(options, start=start) if start else options)
    return hunt(
        driver,
        _called(check, CelerySim(driver)),
        app=app,
        settings=settings or {},
        file=_file_of(check),
        seeds=seeds,
        start_at=start_at,
        processes=processes,
    )


def _called(check: Check, sim: CelerySim) -> Callable[[], Any]:
    if inspect.iscoroutinefunction(check):
        raise HarnessError(
            f"{check.__qualname__}() is async: a check is a plain function, which waits with get()"
        )
    try:
        takes = [
            parameter
            for parameter in inspect.signature(check).parameters.values()
            if parameter.default is parameter.empty
            and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        ]
    except (TypeError, ValueError):
        takes = []
    if len(takes) > 1:
        raise HarnessError(
            f"{check!r} needs {len(takes)} arguments: a check takes none, or the simulation it runs in"
        )
    return (lambda: check(sim)) if takes else check


def _file_of(check: Check) -> str:
    code = getattr(inspect.unwrap(getattr(check, "func", check)), "__code__", None)
    return code.co_filename if code is not None else ""
