"""Pointing somebody's Celery app at a world for the length of a test, and putting it back.

Reaches into an app's private caches and into the thread's current app. The caches are listed in ``_STATE``
and ``_CACHED``, and checked to be there before anything changes.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from pytest_taskservice.errors import HarnessError

if TYPE_CHECKING:
    from celery import Celery

# Untyped in the stubs.
_current: Any = import_module("celery._state")
maybe_evaluate: Any = import_module("celery.local").maybe_evaluate

__all__ = [
    "AppPatch",
    "broker_changes",
    "finalize",
    "memory_changes",
    "override",
    "pools_of",
    "simulation_changes",
]

# What an app remembers of its connections: plain attributes, and cached properties in its __dict__.
_STATE = ("_pool", "_local", "_backend_cache", "backend_cls")
_CACHED = ("amqp", "control")

# What has an app read its configuration anew, and forget ours: app factories call it in each test.
_READS = ("config_from_object", "config_from_envvar")

# Celery prefers these over every setting, so a patched app would still talk to production.
_ENVIRONMENT = (
    "CELERY_BROKER_URL",
    "CELERY_BROKER_READ_URL",
    "CELERY_BROKER_WRITE_URL",
    "CELERY_RESULT_BACKEND",
)

# Options of Redis transports that change what an app observes; the rest belongs to the user's own broker.
_KEPT_TRANSPORT_OPTIONS = (
    "fanout_patterns",
    "fanout_prefix",
    "priority_steps",
    "queue_order_strategy",
    "sep",
    "visibility_timeout",
)


class AppPatch:
    """One set of changes to one app. The connections made under it are kept between two uses."""

    def __init__(self, app: Celery, changes: Mapping[str, Any]) -> None:
        missing = [name for name in _STATE if not hasattr(app, name)]
        if missing:
            raise HarnessError(
                f"an app of Celery {version('celery')} has no {', '.join(missing)}: "
                "taskservice knows 5.5 to 5.7"
            )

        self._app = app
        self._changes = dict(changes)
        self._state: dict[str, Any] = {
            "_pool": None,
            "_local": threading.local(),
            "_backend_cache": None,
            "backend_cls": None,
        }
        self._cached: dict[str, Any] = {}
        self._observers: list[Any] = []
        self._read: list[tuple[Any, dict[str, Any]]] = []

    @contextmanager
    def applied(self, *, as_current: bool = True) -> Iterator[None]:
        """Change the app, make it the thread's current one, and undo exactly that on leaving."""
        conf: Any = self._app.conf
        _load(conf)
        self._read = [(conf, dict(conf.changes))]
        environment = {name: os.environ.pop(name) for name in _ENVIRONMENT if name in os.environ}
        self._swap()
        override(conf, self._changes)
        current = _current._tls.current_app  # noqa: SLF001 - get_current_app() would make one
        if as_current:
            # Shared tasks go to the current app, which an app made by a fixture need not be.
            _current._set_current_app(self._app)  # noqa: SLF001 - what set_current() calls
        try:
            with self._kept():
                yield
        finally:
            if as_current:
                _current._set_current_app(current)  # noqa: SLF001 - as above
            for conf, before in self._read:
                conf.changes.clear()
                conf.changes.update(before)
            self._swap()
            os.environ.update(environment)

    @property
    def lost(self) -> bool:
        """Whether the app has got a configuration since that the changes are not in."""
        return all(self._app.conf is not known for known, _ in self._read)

    def close(self, *, keep: Iterable[Any] = ()) -> None:
        """Close the connections made under this patch, but not the pools in ``keep``."""
        kept = [id(pool) for pool in keep]
        backend = self._state["_backend_cache"]
        producers = getattr(self._cached.get("amqp"), "_producer_pool", None)
        for pool in (producers, self._state["_pool"]):
            if pool is not None and id(pool) not in kept:
                _drop(pool)
        if backend is None:
            backend = getattr(self._state["_local"], "backend", None)
        consumer = getattr(backend, "result_consumer", None)
        if consumer is not None:
            consumer.stop()
            # A result that is collected later must not go looking for a server that is gone.
            consumer.cancel_for = _forget
        client = backend.__dict__.get("client") if backend is not None else None
        # A test may have given the app another configuration, whose results lie in no server.
        pool = getattr(client, "connection_pool", None)
        if pool is not None:
            pool.disconnect()

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """Make the changes anew where the app reads its configuration anew."""
        theirs = vars(self._app)
        before = {name: theirs[name] for name in _READS if name in theirs}
        for name in _READS:
            theirs[name] = self._reading(getattr(self._app, name))
        try:
            yield
        finally:
            for name in _READS:
                theirs.pop(name, None)
            theirs.update(before)

    def _reading(self, read: Any) -> Any:
        @wraps(read)
        def read_and_changed(*args: Any, **options: Any) -> Any:
            result = read(*args, **options)
            if self.lost:
                conf: Any = self._app.conf
                self._read.append((conf, dict(conf.changes)))
                override(conf, self._changes)
            return result

        return read_and_changed

    def _swap(self) -> None:
        """Exchange the app's caches with ours; doing it twice is doing nothing."""
        app: Any = self._app
        for name in _STATE:
            mine = self._state[name]
            self._state[name] = getattr(app, name)
            setattr(app, name, mine)
        for name in _CACHED:
            theirs = app.__dict__.pop(name, None)
            if name in self._cached:
                app.__dict__[name] = self._cached.pop(name)
            if theirs is not None:
                self._cached[name] = theirs
        # What an AMQP of ours asked the configuration to tell it, which would otherwise keep it for good. One
        # that a test gave the app anew, and nobody has read, has nobody to tell, and may be wrong.
        conf = app._conf  # noqa: SLF001 - conf would read it
        observers: list[Any] = vars(conf).get("_observers", []) if conf is not None else []
        mine, gone = self._observers, self._cached.get("amqp")
        self._observers = [each for each in observers if gone and getattr(each, "__self__", None) is gone]
        observers[:] = [each for each in observers if each not in self._observers] + mine


def finalize(app: Celery) -> None:
    """Have ``app`` know its tasks, its own before all others: a test may not have asked it for any yet.

    A fixture that makes an app and its tasks for each test defines them again and again, and Celery has each
    app know those of all others. Of two with one name the first counts; from 5.7 on it warns of the second.
    """
    loose: Any = app
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"(?s)Task name .*Existing: .*<locals>.*New: .*<locals>")
        if loose.autofinalize:
            for task in list(loose._pending):  # noqa: SLF001 - what finalize() evaluates last
                maybe_evaluate(task)
        app.finalize()


def override(conf: Any, settings: Mapping[str, Any]) -> None:
    """Set ``settings`` so that they win over every other source of an app's configuration."""
    _load(conf)
    for key, value in settings.items():
        # A prefixed ('CELERY_...') or old spelling made on the app itself would win over the plain one;
        # before 5.7 a prefixed one does so wherever it is from.
        spelt = conf._to_keys(key)  # noqa: SLF001 - tested
        others = [name for name in spelt if any(name in each for each in conf.maps)]
        conf.changes.update(dict.fromkeys([key, *others], value))


def pools_of(app: Celery) -> list[Any]:
    """Return the pools that ``app`` uses now; apps with the same broker share them."""
    loose: Any = app
    return [loose._pool, getattr(loose.__dict__.get("amqp"), "_producer_pool", None)]  # noqa: SLF001 - see _STATE


def _drop(pool: Any) -> None:
    from kombu import pools

    # kombu keeps pools by URL, and would hand a closed one to the next app with the same.
    for group in (pools.producers, pools.connections):
        # These dicts hash every key they are given once more, so the keys they hold go past them.
        for key in [key for key, value in dict.items(group) if value is pool]:
            dict.pop(group, key)
    pool.force_close_all()


def _forget(task_id: str) -> None:
    """Unsubscribe nothing from nowhere."""


def broker_changes(app: Celery, *, url: str, prefix: str) -> dict[str, Any]:
    """Return the settings that send an app's messages and results to the Redis at ``url``.

    All keys get ``prefix``, which may be empty. The user's options for other brokers do not apply
    and are left out.
    """
    conf = app.conf
    theirs = conf.broker_transport_options or {}
    options = {name: theirs[name] for name in _KEPT_TRANSPORT_OPTIONS if name in theirs}
    shared = {"global_keyprefix": prefix} if prefix else {}
    return {
        "broker_url": url,
        "broker_read_url": None,
        "broker_write_url": None,
        "broker_use_ssl": False,
        "broker_failover_strategy": None,
        "broker_login_method": None,
        "broker_connection_retry_on_startup": True,
        "broker_transport_options": options | shared,
        "result_backend": url,
        "redis_backend_use_ssl": None,
        "result_backend_transport_options": shared,
        "task_always_eager": False,
        # What the task service keeps for itself; its own settings may name a Redis that is not ours.
        "taskservice_redis_url": url,
        "taskservice_key_prefix": f"{prefix}taskservice:",
    }


def _load(conf: Any) -> None:
    # Settings read their sources at the first access, and would take ours for the user's.
    conf.get("task_default_queue")


def memory_changes(app: Celery) -> dict[str, Any]:
    """Return the settings that keep an app's messages and results inside this process."""
    return broker_changes(app, url="memory://localhost", prefix="") | {
        "result_backend": "cache+memory://",
        "taskservice_redis_url": None,
    }


_SIMULATED_RESULTS = ("redis", "rediss")


def simulation_changes(app: Celery) -> dict[str, Any]:
    """Return the settings that a simulated app runs with: its own, and results where a simulation has them.

    Brokers keep their URL, which says how they treat messages.
    """
    conf: Any = app.conf
    _load(conf)
    results = str(os.environ.get("CELERY_RESULT_BACKEND") or conf.result_backend or "")
    changes: dict[str, Any] = {"task_always_eager": False}
    if not results.startswith(_SIMULATED_RESULTS):
        changes["result_backend"] = "redis://localhost:6379/0"
    return changes
