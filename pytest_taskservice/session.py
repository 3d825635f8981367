"""One test session's worlds: opened when a test first needs them, closed together."""

from __future__ import annotations

import importlib
import json
import os
import secrets
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pytest_taskservice.errors import AppNotFoundError, HarnessError
from pytest_taskservice.worlds import split_world

if TYPE_CHECKING:
    from celery import Celery

    from pytest_taskservice.drivers.base import WorldDriver
    from pytest_taskservice.drivers.celery_worker import CeleryWorkerDriver
    from pytest_taskservice.drivers.worker_process import WorkerProcess
    from pytest_taskservice.options import HarnessOptions
    from pytest_taskservice.redis import RedisServer

__all__ = ["HarnessSession", "TheirWorld", "check_app", "load_app"]


class TheirWorld(Protocol):
    """What the harness asks of who serves Celery's own fixtures, of the test that runs."""

    def give_way(self) -> None:
        """Close what is open: the test is about to enter one of our worlds."""

    def serves(self) -> bool:
        """Return whether the test is in it by what it asks for."""

    def knows_test(self) -> bool:
        """Return whether it has come to be in it, by ``start_worker`` for one."""


class _NoWorld:
    """Of nobody who serves them."""

    def give_way(self) -> None:
        """Have nothing open."""

    def serves(self) -> bool:
        """Return that it is in none."""
        return False

    knows_test = serves


class HarnessSession:
    """What is open. Nothing is imported or started before it is asked for."""

    def __init__(self, options: HarnessOptions, *, root: Path, worker_id: str = "main") -> None:
        self.options = options
        self.root = root
        self.namespace = f"taskservice-test:{os.getpid()}-{secrets.token_hex(4)}:{worker_id}:"
        self._controlled = worker_id != "main"
        self._shared = False
        self._server: RedisServer | None = None
        self._drivers: dict[str, WorldDriver] = {}
        self._app: Celery | None = None
        self._release_keys: Callable[[], None] = _nothing
        self.theirs: TheirWorld = _NoWorld()
        """The world of Celery's own fixtures, where somebody serves them."""

    def redis(self) -> RedisServer:
        """Return the session's Redis, started on first use."""
        if self._server is None:
            self.end_with_controller()
            from pytest_taskservice.redis import RedisRequest, acquire
            from taskservice.reaper import shared_reaper

            request = RedisRequest(choice=self.options.redis, image=self.options.redis_image)
            self._server = acquire(request, reaper=shared_reaper())
            if not self._server.owned:
                self._release_keys = shared_reaper().watch_keys(self._server.url, self.namespace)
        return self._server

    def driver(self, world: str) -> WorldDriver:
        """Return the driver of ``world``, opened on first use; its next test has the world's seed."""
        name, seed = split_world(world, self.options)
        if name not in self._drivers:
            self._drivers[name] = self._open(name)
        driver = self._drivers[name]
        if hasattr(driver, "seed"):
            driver.seed = seed
        return driver

    def opened(self) -> Mapping[str, WorldDriver]:
        """Return the worlds in use, by name."""
        return self._drivers

    def end_with_controller(self) -> None:
        """Have a process of xdist's die with the one that started it: it would go on for up to 15 s."""
        if self._controlled:
            from pytest_taskservice.orphans import die_with_parent

            die_with_parent()
            self._controlled = False

    def warm(self) -> None:
        """Start Redis and a worker process, which gets ready while tests are collected."""
        driver: Any = self.driver("celery")
        driver.warm()

    def share(self) -> None:
        """Keep to our namespace on a Redis of our own too: others put their messages beside ours."""
        self._shared = True
        driver: Any = self._drivers.get("celery")
        if driver is not None:
            driver.move_to(self.namespace)

    def take_warm(self) -> WorkerProcess | None:
        """Return the process that :meth:`warm` started, if nobody has it yet; it is the caller's then."""
        driver: Any = self._drivers.get("celery")
        process: WorkerProcess | None = driver.take_warm() if driver is not None else None
        if process is not None:
            # It has served nobody, and is opened anew when a test needs it.
            self._drivers.pop("celery").close()
        return process

    def app(self) -> Celery:
        """Return the app named in the options, or one of the task service's own."""
        if self._app is None:
            self._app = load_app(self.options.app, root=self.root) if self.options.app else _own_app()
        return self._app

    def rest(self) -> None:
        """Leave no trace of simulations for a test that is in none."""
        driver: Any = self._drivers.get("celery-sim")
        if driver is not None:
            driver.rest()

    def made_app(self) -> Celery | None:
        """Return the app of the task service's own, if a test has had it for want of a name."""
        return None if self.options.app else self._app

    def close(self) -> None:
        """End every world, then Redis; may be called twice."""
        while self._drivers:
            self._drivers.popitem()[1].close()
        if self._server is not None:
            if not self._server.owned:
                self._leave(self._server)
            self._server.close()
            self._server = None

    def _leave(self, server: RedisServer) -> None:
        """Take our keys off a server that goes on without us."""
        from redis.exceptions import RedisError

        from taskservice.reaper import delete_keys

        with suppress(ConnectionError, RedisError):
            delete_keys(server.url, self.namespace)
            # Not where that failed: the reaper tries once more.
            self._release_keys()

    def _open(self, world: str) -> WorldDriver:
        self.end_with_controller()
        if world == "celery":
            return self._open_worker()
        if world == "celery-eager":
            from pytest_taskservice.drivers.celery_eager import CeleryEagerDriver

            return CeleryEagerDriver()
        if world == "celery-sim":
            return self._open_simulator()
        from pytest_taskservice.drivers.anyio import AnyIODriver

        return AnyIODriver(
            loop="trio" if world == "anyio-trio" else "asyncio",
            seed=self.options.seed,
            start=self.options.start.timestamp(),
            events=self.options.events,
        )

    def _open_simulator(self) -> WorldDriver:
        from pytest_taskservice.drivers.celery_sim import CelerySimDriver, SimulatorOptions

        options = self.options
        return CelerySimDriver(
            options=SimulatorOptions(
                start=options.start,
                concurrency=options.concurrency,
                events=options.events,
                patience=options.timeout,
                keeps=True,
            )
        )

    def _open_worker(self) -> CeleryWorkerDriver:
        from pytest_taskservice.drivers.celery_worker import (
            CeleryWorkerDriver,
            WorkerOptions,
        )
        from taskservice.reaper import shared_reaper

        server = self.redis()
        return CeleryWorkerDriver(
            server,
            options=WorkerOptions(
                pool=self.options.pool,
                concurrency=self.options.concurrency,
                timeout=self.options.timeout,
            ),
            reaper=shared_reaper(),
            prefix="" if server.owned and not self._shared else self.namespace,
        )


def load_app(path: str, *, root: Path) -> Celery:
    """Return the Celery app at ``module:attribute``; without an attribute, ``app`` or ``celery``.

    Like Celery's own ``-A``, the project's root is searched too. Raise :class:`AppNotFoundError`.
    """
    name, _, attribute = path.partition(":")
    if str(root) not in sys.path:
        sys.path.append(str(root))
    try:
        module = importlib.import_module(name)
    except Exception as error:
        raise AppNotFoundError(
            f"taskservice_app = {path!r}: cannot import {name!r}: {type(error).__name__}: {error}"
        ) from error

    for candidate in [attribute] if attribute else ["app", "celery"]:
        if hasattr(module, candidate):
            return check_app(getattr(module, candidate), f"taskservice_app = {path!r}")
    names = sorted(name for name in vars(module) if not name.startswith("_"))
    raise AppNotFoundError(
        f"taskservice_app = {path!r}: module {name!r} has no {attribute or 'app'!r}; "
        f"it has {', '.join(names[:20]) or 'no public names'}"
    )


def check_app(found: Any, where: str) -> Celery:
    """Return ``found`` if it is a Celery app; raise :class:`AppNotFoundError` that starts with ``where``."""
    from celery import Celery
    from celery.local import Proxy

    if not isinstance(found, Celery):
        raise AppNotFoundError(f"{where}: not a Celery app but a {type(found).__name__}: {found!r}")
    # Of Celery's current_app the app that it is now: made current itself, it would stand for itself for ever.
    named: Any = found
    app: Celery = named._get_current_object() if type(named) is Proxy else named  # noqa: SLF001 - its only way
    return app


def _nothing() -> None:
    """Release nothing."""


def check_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``settings`` as another process can be told them, which takes JSON."""
    return {key: _portable(key, value) for key, value in settings.items()}


def _portable(key: str, value: Any) -> Any:
    try:
        return json.loads(json.dumps(value, default=_plain))
    except TypeError as error:
        raise HarnessError(
            f"setting {key!r} must be JSON, since a worker process is told it: {error}; got {value!r}"
        ) from None


def _plain(value: Any) -> Any:
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    raise TypeError(f"{type(value).__name__} is not")


def _own_app() -> Celery:
    from taskservice.worker.app import create_app

    return create_app()
