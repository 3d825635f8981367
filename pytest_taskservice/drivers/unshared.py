"""What a test has that a worker in another process has not, told where it is certain: when a task is sent.

Nothing is imported for it: a suite without Django or mocks pays a look into ``sys.modules``.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from pytest_taskservice.drivers.discovery import find_app, own_attributes
from pytest_taskservice.drivers.own_memory import changed_by
from pytest_taskservice.drivers.receivers import OF_TASKS, OF_WORKERS, receivers_heard
from pytest_taskservice.drivers.replaced import Replaced
from pytest_taskservice.simulator.freezing import frozen_by_freezegun

__all__ = ["Unshared", "keeps_mail"]

_ELSEWHERE = "the worlds celery-sim and celery-eager show it"


class Unshared:
    """What tests have to themselves, in whole lines; it hears of some of it until it is closed.

    ``relayed`` names signals of the worker that reach the test all the same.
    """

    def __init__(self, *, relayed: Collection[str] = ()) -> None:
        self._relayed = relayed
        self._listened: dict[str, None] = {}
        self._sent: dict[str, Any] = {}
        self._app: Any = None
        self._settings: dict[str, Any] = {}
        self._held: dict[Any, bool] = {}
        self._replaced = Replaced()
        # From before the first test on: a fixture of a wider scope may replace something for all of them.
        self._replaced.listen()

    @contextmanager
    def listening(self, app: Any = None) -> Iterator[None]:
        """Hear what one test does, whose workers have the settings that ``app``, if it is one, has now."""
        self._replaced.listen()
        self._listened.clear()
        self._sent.clear()
        self._held.clear()
        self._app, self._settings = app, {} if app is None else dict(app.conf.changes)
        names = (name for name in (*OF_TASKS, *OF_WORKERS) if name not in self._relayed)
        with receivers_heard(names, self._note_receiver):
            yield

    def of(self, task: Any) -> list[str]:
        """Return what a worker process does not see of the test that sends ``task`` now."""
        self._sent[task.name] = task
        replaced = (_replaced(task, name) for name in self._replaced.names())
        return [
            *_open_transactions(task),
            *_overridden_settings(task),
            *_in_its_module(task),
            *_moved_clock(task),
            *replaced,
            *self._set_since(task),
            *self._on_its_app(task),
        ]

    def kept_apart(self) -> list[str]:
        """Return what the test has listened to in vain, and what its tasks change for their worker alone.

        To be asked where a test has failed: sources are read for it.
        """
        changed = {name: changed_by(task) for name, task in self._sent.items()}
        lines = [
            f"{name} changes {'; '.join(found)}: in the worker, another process, so the test does not see "
            f"it; {_ELSEWHERE}"
            for name, found in changed.items()
            if found
        ]
        return [*self._listened, *lines]

    def close(self) -> None:
        """Hear of nothing any more."""
        self._replaced.close()

    def _set_since(self, task: Any) -> Iterator[str]:
        if task.app is not self._app:
            return
        known = self._settings
        since = [name for name, value in task.app.conf.changes.items() if known.get(name, known) is not value]
        if since:
            yield (
                f"{task.name} was sent after the test had set {', '.join(sorted(since))}: the worker, in "
                "another process, does not know; @pytest.mark.taskservice(config={...}) sets it there too"
            )

    def _on_its_app(self, task: Any) -> Iterator[str]:
        app = task.app
        names = own_attributes(app)
        if not names:
            return
        if app not in self._held:
            self._held[app] = find_app(app) is not None
        # Of one that a module holds nobody knows what that module has set.
        if not self._held[app]:
            yield (
                f"{task.name} was sent while its app, which no module holds, had {', '.join(names)}: the "
                f"worker, another process, made an app without; {_ELSEWHERE}"
            )

    def _note_receiver(self, name: str) -> None:
        line = (
            f"{name} was listened to: it is sent in the worker, another process, to those whom the modules "
            f"that it imports connect; {_ELSEWHERE}"
        )
        self._listened[line] = None


def keeps_mail() -> bool:
    """Return whether Django's test environment keeps mail from being sent."""
    # By its outbox: the setting is EMAIL_BACKEND or MAILERS, and asking for the wrong one is an error.
    return hasattr(sys.modules.get("django.core.mail"), "outbox")


def _open_transactions(task: Any) -> Iterator[str]:
    database: Any = sys.modules.get("django.db")
    if database is None or _django() is None:
        return
    for connection in database.connections.all(initialized_only=True):
        if connection.in_atomic_block:
            yield (
                f"{task.name} was sent from inside a transaction on {connection.alias!r}: a worker does not "
                "see its rows before it is committed, which django_db(transaction=True) and "
                f"TransactionTestCase do; {_ELSEWHERE} without"
            )


def _overridden_settings(task: Any) -> Iterator[str]:
    django = _django()
    if django is None:
        return
    conf: Any = sys.modules["django.conf"]
    held, names = django._wrapped, set()  # noqa: SLF001 - Django has no public name for what is overridden
    while isinstance(held, conf.UserSettingsHolder) and held.default_settings is not conf.global_settings:
        names |= {name for name in vars(held) if name.isupper()}
        held = held.default_settings
    if names:
        yield (
            f"{task.name} was sent while the test overrode {', '.join(sorted(names))}: the worker, another "
            f"process, has the project's settings; {_ELSEWHERE}"
        )


def _in_its_module(task: Any) -> Iterator[str]:
    """Look at what the names in a task's module stand for."""
    module = sys.modules.get(task.__module__)
    mock: Any = sys.modules.get("unittest.mock")
    cache = _own_cache()
    if module is None or (mock is None and cache is None):
        return
    cached = False
    for name, value in list(vars(module).items()):
        # By its type: a mock with a spec says that it is something else.
        if mock is not None and issubclass(type(value), mock.NonCallableMock):
            yield _replaced(task, f"{module.__name__}.{name}")
        cached = cached or (cache is not None and (value is cache.cache or value is cache.caches))
    if cached:
        yield (
            f"{module.__name__} uses Django's cache, which is a LocMemCache: each process has its own; "
            f"{_ELSEWHERE} shared"
        )


def _moved_clock(task: Any) -> Iterator[str]:
    time_machine: Any = sys.modules.get("time_machine")
    moved_by = {
        "time-machine": time_machine is not None and time_machine.escape_hatch.is_travelling(),
        "freezegun": frozen_by_freezegun(),
    }
    for name in (name for name, moved in moved_by.items() if moved):
        yield (
            f"{task.name} was sent while the test had moved the clock with {name}: the worker, another "
            f"process, has the real one; {_ELSEWHERE}"
        )


def _replaced(task: Any, name: str) -> str:
    return (
        f"{task.name} was sent while the test had replaced {name}: the worker, another process, has the "
        f"real one; {_ELSEWHERE}"
    )


def _own_cache() -> Any:
    """Return Django's cache module if a cache in use is this process's own."""
    cache: Any = sys.modules.get("django.core.cache")
    local: Any = sys.modules.get("django.core.cache.backends.locmem")
    if cache is None or local is None or _django() is None:
        return None
    used = cache.caches.all(initialized_only=True)
    return cache if any(isinstance(one, local.LocMemCache) for one in used) else None


def _django() -> Any:
    conf: Any = sys.modules.get("django.conf")
    return conf.settings if conf is not None and conf.settings.configured else None
