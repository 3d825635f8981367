"""One test session's use of Celery's fixtures: the world they are in, and who starts workers in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pytest_taskservice.compat.base import CompatWorker, CompatWorld, WorkerRequest
from pytest_taskservice.compat.worlds import able, open_compat_world, why_unable
from pytest_taskservice.drivers.embedded import embedded_by, let_tests_join, refuse_controller

if TYPE_CHECKING:
    from celery import Celery

    from pytest_taskservice.session import HarnessSession

__all__ = ["CompatSession"]


class CompatSession:
    """What is open. Nothing is imported or started before a test needs it."""

    def __init__(self, harness: HarnessSession) -> None:
        self.worlds = able(harness.options.backends)
        self._harness = harness
        self._current: CompatWorld | None = None
        self._apps: list[Celery] = []
        self.used: dict[str, str] = {}
        self._test: str | None = None
        self._begun = False
        """Whether the world in use knows of the test."""
        self._installed: ExitStack | None = None
        self.running = False
        """Whether the test's body runs, and no fixture of it."""
        self._asks = False
        """Whether the test has Celery's fixtures."""
        harness.theirs = self

    def refusal(self) -> str | None:
        """Return why no chosen world can serve Celery's fixtures; ``None`` if one can."""
        return None if self.worlds else "; ".join(map(why_unable, self._harness.options.backends))

    def world(self, name: str | None = None) -> CompatWorld:
        """Return the world ``name``, by default the one in use or the first chosen one."""
        name = name or (self._current.name if self._current else self.worlds[0])
        if self._current is None or self._current.name != name:
            self.leave()
            self._harness.end_with_controller()
            self._current = open_compat_world(name, self._harness)
        if self._test is not None and not self._begun:
            self._begun = True
            self._current.begin_test(self._test, late=self.running)
        return self._current

    def begin_test(self, name: str, *, asks: bool) -> None:
        """Have every worker that this test starts be one of ours; ``asks`` says that it has such fixtures."""
        self._test, self._asks = name, asks
        if self.worlds and self._installed is None:
            self._installed = ExitStack()
            self._installed.enter_context(embedded_by(self._serving))
        # What has nothing to do with Celery is left in real time, whatever the test before it had.
        if self._current is not None and (asks or self._current.lasting()):
            self.world()

    def end_test(self) -> None:
        """Forget the test."""
        self._test = None
        if self._begun and self._current is not None:
            self._current.end_test()
        self._begun = False

    def report(self) -> dict[str, str]:
        """Return what the world in use knows of the test."""
        return self._current.report() if self._current is not None else {}

    @contextmanager
    def opened(self, app: Celery) -> Iterator[None]:
        """Point ``app`` at the world, if it is not already."""
        if any(app is known for known in self._apps):
            yield
            return

        with self.world().open(app):
            self._apps.append(app)
            try:
                yield
            finally:
                self._apps.remove(app)

    def leave(self) -> None:
        """Close the world in use."""
        if self._current is not None:
            self.used[self._current.name] = self._current.describe()
            self._current.close()
            self._current = None
            self._begun = False

    def close(self) -> None:
        """Close the world, and give Celery its workers back."""
        self.leave()
        if self._installed is not None:
            self._installed.close()
            self._installed = None

    def serves(self) -> bool:
        """Return whether the test is in the world of Celery's fixtures by what it asks for."""
        lasts = self._current is not None and self._current.lasting()
        return bool(self.worlds) and (self._asks or lasts)

    def knows_test(self) -> bool:
        """Return whether it has come to be in that world, by ``start_worker`` for one."""
        return self._begun

    def give_way(self) -> None:
        """Close a simulation that a class has opened before its test entered another world."""
        if self._begun and self._current is not None and self._current.name == "celery-sim":
            self._current.end_test()
            self._begun = False

    @contextmanager
    def _serving(self, app: Celery, **asked: Any) -> Iterator[CompatWorker]:
        """Stand for Celery's ``_start_worker_thread``: the same arguments, another worker."""
        request = _request(asked)
        testing: Any = import_module("celery.contrib.testing.worker")
        with self.opened(app):
            testing.setup_app_for_worker(app, request.loglevel, asked.get("logfile"))
            world = self.world()
            worker = world.start_worker(app, request)
            let_tests_join()
            try:
                yield worker
            finally:
                world.stop_worker(worker)


def _request(asked: dict[str, Any]) -> WorkerRequest:
    """Return what was asked of Celery's own embedded worker, in our words."""
    from celery.utils.nodenames import anon_nodename

    known = {"hostname", "pool", "concurrency", "loglevel", "shutdown_timeout"}
    ours = {"logfile", "perform_ping_check", "WorkController"}
    refuse_controller("the world", asked)
    return WorkerRequest(
        options={key: value for key, value in asked.items() if key not in known | ours},
        **{"hostname": anon_nodename(), **{key: asked[key] for key in known & asked.keys()}},
    )
