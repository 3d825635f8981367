"""Who serves the app of a test on the ``celery`` world, and where: workers in use, kept, and about to be.

Nothing here knows of tests: the driver says what one needs, and when it is over.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_taskservice.drivers import discovery, exchanges
from pytest_taskservice.drivers.app_patch import AppPatch
from pytest_taskservice.drivers.databases import find_databases
from pytest_taskservice.drivers.worker_fleet import Fleet, Member
from pytest_taskservice.drivers.worker_kept import KeptWorlds, World
from pytest_taskservice.drivers.worker_place import Place, breakable
from pytest_taskservice.drivers.worker_process import WorkerProcess
from pytest_taskservice.drivers.worker_shape import make_specs, settings_in
from pytest_taskservice.errors import WorkerStartError
from pytest_taskservice.scenario.acts import CONNECTION_FAULTS, PROCESS_FAULTS

if TYPE_CHECKING:
    from celery import Celery

    from pytest_taskservice.drivers.base import Stage
    from pytest_taskservice.drivers.worker_spec import WorkerSpec
    from pytest_taskservice.redis import RedisServer
    from taskservice.reaper import Reaper

__all__ = ["SETTLE", "Serving", "WorkerOptions"]

SETTLE = 0.05
"""How long a result may be ahead of what its worker tells, in seconds."""
_CLEAR = 2.0
_KEPT = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerOptions:
    """How the worker is run; ``timeout`` bounds its start, in seconds."""

    pool: str = "prefork"
    concurrency: int = 2
    timeout: float = 30.0


class Serving:
    """The workers of one app at a time, and the place they are on.

    ``on_up`` and ``on_gone`` are told of their members, as a fleet tells them.
    """

    def __init__(  # noqa: PLR0913 - how workers are run, and who hears of them
        self,
        server: RedisServer,
        *,
        options: WorkerOptions,
        reaper: Reaper,
        prefix: str,
        on_up: Callable[[Member], None],
        on_gone: Callable[[Member], None],
    ) -> None:
        self.place = self._calm = Place(server.url, prefix)
        self.fleet: Fleet | None = None
        self.specs: tuple[WorkerSpec, ...] = ()
        self.started_in = 0.0
        """How long the newest of them took to come up, in seconds."""
        self.never_known: frozenset[str] = frozenset()
        """Tasks of the app that the workers could not find."""
        self._server = server
        self._options = options
        self._reaper = reaper
        self._on_up, self._on_gone = on_up, on_gone
        self._rough: Place | None = None
        self._kept = KeptWorlds()
        self._spares: list[WorkerProcess] = []
        self._patches: dict[tuple[str, str, str], AppPatch] = {}
        self._exchanges: dict[str, str] = {}
        self._failed: tuple[tuple[WorkerSpec, ...], str] | None = None
        self._pid = os.getpid()

    @property
    def running(self) -> Fleet:
        """The fleet, once a test has begun."""
        assert self.fleet is not None, "no test has begun"
        return self.fleet

    @property
    def is_a_storys(self) -> bool:
        """Whether the workers were started for a scenario."""
        return any(spec.story for spec in self.specs)

    # Processes that have imported Celery already.

    def warm(self) -> None:
        """Start one, for whoever comes first."""
        if not self._spares and self.fleet is None:
            self._spares.append(WorkerProcess(self._reaper))

    def take_warm(self) -> WorkerProcess | None:
        """Give one away, if there is any."""
        return self._spares.pop() if self._spares else None

    def keep_spares(self, count: int) -> None:
        """Have so many ready: for those that a fault ends, or the next story's."""
        while len(self._spares) < count:
            self._spares.append(WorkerProcess(self._reaper, story=True))

    def _spare(self, *, story: bool) -> WorkerProcess:
        return self.take_warm() or WorkerProcess(self._reaper, story=story)

    # The app.

    def turn_to(self, app: Celery) -> None:
        """Serve ``app`` from now on, and no other."""
        self.forget_app()
        # Asked before the first patch: afterwards every app seems to be meant for Redis.
        self._exchanges = exchanges.known_types(app)

    def forget_app(self) -> None:
        """Close the app's connections to the workers."""
        for patch in self._patches.values():
            patch.close()
        self._patches.clear()

    def patch(self, app: Celery, settings: Mapping[str, Any]) -> AppPatch:
        """Return what points ``app`` at the workers."""
        key = (self.place.url("test"), self.place.prefix, json.dumps(settings, sort_keys=True))
        if key not in self._patches:
            self._patches[key] = AppPatch(app, settings_in(self.place, app, settings, who="test"))
        return self._patches[key]

    # Who serves it.

    def is_ready(self, app: Celery) -> bool:
        """Whether the workers in use may serve another test of ``app``."""
        fleet = self.fleet
        if self._pid != os.getpid() or fleet is None or not all(member.alive for member in fleet.members):
            return False
        if self.specs[0].databases != find_databases():
            return False
        return _knows_all(self._world(fleet), app)

    def serve(self, app: Celery, settings: Mapping[str, Any], stage: Stage | None) -> None:
        """Have workers for ``app`` with ``settings``, as ``stage`` wants them: those we have, or new ones."""
        if self._pid != os.getpid():
            # The session would find its workers told, or gone, by somebody it knows nothing of.
            raise WorkerStartError(
                "the workers are those of the session, from which this test was forked (pytest-forked, "
                "os.fork); run it unforked, or in the world celery-sim"
            )

        started = time.perf_counter()
        if self.fleet is not None:
            # Also the one we have: it may be the one to be taken.
            self._kept.put(self._world(self.fleet))
        world = self._kept.take(lambda each: self._fits(each, app, settings, stage))
        if world is not None:
            self.specs, self.fleet, self.place = world.specs, world.fleet, world.place
            self.never_known = world.never_known
            return
        self.fleet, self.specs, self.place = None, (), self._new_place(stage)
        self._kept.leave(self.place)
        self._kept.shrink(_KEPT)
        self._start(self._specs_on(self.place, app, settings, stage), story=stage is not None)
        self.started_in = time.perf_counter() - started
        # What a new worker has not found it never will; asking again would start one for every test.
        self.never_known = frozenset(app.tasks.keys() - self.running.tasks)

    def _start(self, specs: tuple[WorkerSpec, ...], *, story: bool) -> None:
        if self._failed is not None and self._failed[0] == specs:
            raise WorkerStartError(f"as before, {self._failed[1]}")
        self.specs = specs
        self.fleet = Fleet(
            specs,
            reaper=self._reaper,
            spare=partial(self._spare, story=story),
            on_up=self._on_up,
            on_gone=self._on_gone,
        )
        try:
            self.fleet.start(timeout=self._options.timeout)
        except WorkerStartError as error:
            # Every further test would wait for the same end.
            self._failed = (specs, str(error))
            self.stop()
            raise

    def _specs_on(
        self, place: Place, app: Celery, settings: Mapping[str, Any], stage: Stage | None
    ) -> tuple[WorkerSpec, ...]:
        return make_specs(
            app,
            settings,
            place,
            stage=stage,
            pool=self._options.pool,
            concurrency=self._options.concurrency,
            known=self._exchanges,
        )

    def _world(self, fleet: Fleet) -> World:
        return World(
            specs=self.specs,
            fleet=fleet,
            place=self.place,
            never_known=self.never_known,
            owns_place=self.place not in (self._calm, self._rough),
        )

    def _fits(self, world: World, app: Celery, settings: Mapping[str, Any], stage: Stage | None) -> bool:
        """Whether the workers of ``world`` are what this test needs."""
        is_there = (world.place is self._rough) is _may_break(stage) and world.is_whole
        if not is_there or world.specs != self._specs_on(world.place, app, settings, stage):
            return False
        return _knows_all(world, app)

    # Where messages go.

    def move_to(self, prefix: str) -> None:
        """Keep to the keys that begin with ``prefix``, before the first test."""
        assert self.fleet is None, "a worker listens already"
        self._calm.prefix = prefix

    def _new_place(self, stage: Stage | None) -> Place:
        """Return where new workers are to be: on keys that no other worker listens to."""
        if stage is None:
            return self._calm
        if _may_break(stage):
            if self._rough is None:
                self._rough = breakable(self._server, self._calm.prefix, reaper=self._reaper)
            return self._rough
        taken = {world.place.prefix for world in self._kept}
        prefixes = (f"{self._calm.prefix}story{number}:" for number in itertools.count(1))
        return Place(self._server.url, next(prefix for prefix in prefixes if prefix not in taken))

    def _leave_rough(self) -> None:
        place, self._rough = self._rough, None
        if place is None:
            return
        for key in [key for key in self._patches if key[0] == place.url("test")]:
            self._patches.pop(key).close()
        if place.mortal is None:
            place.clear()
        place.close()
        self.place = self._calm

    # How it ends.

    def clear(self) -> None:
        """Leave no message and no result, and workers that are idle, if that can be."""
        fleet = self.running
        self.place.clear()
        before = fleet.look(0.0).seen
        look = fleet.look(SETTLE)
        if look.changed or (not look.idle and not _free(fleet)):
            self.stop()
        if look.seen != before or not look.idle:
            self.place.clear()

    def give_up(self) -> None:
        """Replace the workers, for the next test: they were killed, or hang."""
        self.stop()
        self.place.clear()

    def throw_away(self) -> None:
        """Leave nothing of what a fault has broken."""
        if self._rough is not None and self.place is self._rough:
            self.stop()
            self._leave_rough()
        else:
            self.give_up()

    def stop(self) -> None:
        """End the workers in use."""
        if self.fleet is not None:
            self.fleet.close()
            self.fleet = None
            self.specs = ()

    def close(self) -> None:
        """End all, and forget the app's connections to them."""
        self.forget_app()
        while self._spares:
            self._spares.pop().close()
        self.stop()
        self._kept.close()
        self._leave_rough()
        self._calm.close()


def _may_break(stage: Stage | None) -> bool:
    return stage is not None and bool(stage.faults & {*PROCESS_FAULTS, *CONNECTION_FAULTS})


def _knows_all(world: World, app: Celery) -> bool:
    missing = app.tasks.keys() - world.fleet.tasks - world.never_known
    return all(discovery.is_local(app.tasks[name]) for name in missing)


def _free(fleet: Fleet) -> bool:
    # Only a pool of processes can be made to stop what it runs.
    if any(member.spec.pool != "prefork" for member in fleet.workers):
        return fleet.look(SETTLE).idle
    return fleet.free(_CLEAR)
