"""freezegun in virtual time: while a world is open, frozen time is the world's clock.

Inside ``freeze_time`` the wall clock says what is frozen, and goes on as ours does: with ``tick`` and
``move_to``, and while the test waits. Leans on ``freezegun.api``: ``_freeze_time.start`` and ``stop``,
``freeze_factories``, ``fake_monotonic`` and ``fake_perf_counter``, and the three factories' ``__call__``,
``tick``, ``move_to`` and ``time_to_freeze``.
``coupled`` tells what of that is gone.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, timedelta
from typing import TYPE_CHECKING, Any

from pytest_taskservice.clock import Clock, in_event_loop
from pytest_taskservice.simulator.substitutes import Patches, unfrozen

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["coupled", "frozen_by_freezegun"]

_CLOCKS = ("sleep", "time", "monotonic", "perf_counter", "time_ns", "monotonic_ns", "perf_counter_ns")


def frozen_by_freezegun() -> bool:
    """Return whether a ``freeze_time`` is open."""
    api: Any = sys.modules.get("freezegun.api")
    return api is not None and bool(api.freeze_factories)


@contextmanager
def coupled(clock: Clock) -> Iterator[None]:
    """Have every ``freeze_time`` freeze ``clock``, those that are open already too.

    Enter it before anything else replaces functions of ``time``: freezegun keeps those it finds on import.
    """
    if importlib.util.find_spec("freezegun") is None:
        yield
        return
    from freezegun import api

    coupling = _Coupling(clock, api)
    patches = Patches()
    try:
        coupling.install(patches)
        yield
    finally:
        coupling.leave()
        patches.undo()


class _Coupling:
    """One clock, and the ``freeze_time`` blocks that are open on it."""

    def __init__(self, clock: Clock, api: Any) -> None:
        self._clock = clock
        self._api: Any = api
        self._before: list[tuple[datetime, float]] = []
        self._functions: dict[str, Any] = {}

    def install(self, patches: Patches) -> None:
        """Replace what the module names."""
        api = self._api
        patches.set(api._freeze_time, "start", self._starting(api._freeze_time.start))  # noqa: SLF001 - see the module
        patches.set(api._freeze_time, "stop", self._stopping(api._freeze_time.stop))  # noqa: SLF001 - see the module
        for kind in (api.FrozenDateTimeFactory, api.TickingDateTimeFactory, api.StepTickTimeFactory):
            patches.set(kind, "move_to", self._moving())
        for kind in (api.FrozenDateTimeFactory, api.TickingDateTimeFactory):
            patches.set(kind, "tick", self._ticking())
            patches.set(kind, "__call__", self._telling())
        patches.set(api.StepTickTimeFactory, "tick", self._stepping())
        patches.set(api.StepTickTimeFactory, "__call__", self._telling_and_stepping())
        if api.freeze_factories:
            self._leave_out_ours()
        for factory in api.freeze_factories:
            self._enter(factory)

    def leave(self) -> None:
        """Leave what is still frozen at the instant it stands at."""
        for factory in self._api.freeze_factories[-1:]:
            factory.time_to_freeze = self._naive()
            if hasattr(factory, "start"):
                factory.start = self._api.real_datetime.now()

    def _starting(self, start: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def start_coupled(block: Any) -> Any:
            # Our event loops never read the clocks that are frozen.
            block.real_asyncio = False
            if not self._api.freeze_factories:
                self._functions = {name: vars(time)[name] for name in _CLOCKS}
            factory = start(block)
            self._leave_out_ours()
            # Whoever asked while freezegun looked through all modules was told the time before.
            factory.time_to_freeze = block.time_to_freeze
            self._enter(factory)
            return factory

        return start_coupled

    def _stopping(self, stop: Callable[[Any], None]) -> Callable[[Any], None]:
        def stop_coupled(block: Any) -> None:
            stop(block)
            if not self._api.freeze_factories:
                # freezegun puts back what there was when it was imported.
                vars(time).update(self._functions)
            if self._before:
                self._go_back(*self._before.pop())

        return stop_coupled

    def _leave_out_ours(self) -> None:
        """Give our own modules their clocks back: they measure how long something takes for real."""
        fakes = self._api.fake_monotonic, self._api.fake_perf_counter
        for key, module in list(sys.modules.items()):
            if not key.startswith("pytest_taskservice."):
                continue
            for name, value in list(vars(module).items()):
                if any(value is fake for fake in fakes):
                    setattr(module, name, unfrozen(value))

    def _enter(self, factory: Any) -> None:
        self._before.append((self._clock.now(), self._clock.monotonic()))
        self._clock.set_wall_clock(factory.time_to_freeze.replace(tzinfo=UTC))

    def _go_back(self, wall: datetime, monotonic: float) -> None:
        # An outer block stood still meanwhile; the world's own clock went on behind it.
        passed = 0.0 if self._before else self._clock.monotonic() - monotonic
        self._clock.set_wall_clock(wall + timedelta(seconds=passed))

    def _naive(self) -> datetime:
        now = self._clock.now()
        return self._api.real_datetime(  # type: ignore[no-any-return] # freezegun keeps the real class
            now.year, now.month, now.day, now.hour, now.minute, now.second, now.microsecond
        )

    def _pass(self, factory: Any, delta: timedelta) -> datetime:
        clock = self._clock
        if delta < timedelta(0):
            clock.set_wall_clock(clock.now() + delta)
        elif in_event_loop():
            # What called is waited for by all that would have to happen on the way.
            clock.skip(delta)
        else:
            clock.advance(delta)
        return self._tell(factory)

    def _tell(self, factory: Any) -> datetime:
        factory.time_to_freeze = now = self._naive()
        return now

    def _telling(self) -> Callable[[Any], datetime]:
        def tell(factory: Any) -> datetime:
            return self._tell(factory)

        return tell

    def _ticking(self) -> Callable[..., datetime]:
        def tick(factory: Any, delta: timedelta | float = timedelta(seconds=1)) -> datetime:
            return self._pass(factory, _as_delta(delta))

        return tick

    def _moving(self) -> Callable[[Any, Any], None]:
        def move_to(factory: Any, target_datetime: Any) -> None:
            target = self._api._parse_time_to_freeze(target_datetime)  # noqa: SLF001 - as its own move_to does
            self._pass(factory, target - self._naive())

        return move_to

    def _stepping(self) -> Callable[..., datetime]:
        def tick(factory: Any, delta: timedelta | float | None = None) -> datetime:
            return self._pass(factory, _as_delta(delta or factory.step_width))

        return tick

    def _telling_and_stepping(self) -> Callable[[Any], datetime]:
        def tell(factory: Any) -> datetime:
            now = self._naive()
            # Whoever looks at this clock moves it; nothing happens in between.
            self._clock.set_wall_clock(self._clock.now() + timedelta(seconds=factory.step_width))
            factory.time_to_freeze = self._naive()
            return now

        return tell


def _as_delta(delta: timedelta | float) -> timedelta:
    return delta if isinstance(delta, timedelta) else timedelta(seconds=float(delta))
