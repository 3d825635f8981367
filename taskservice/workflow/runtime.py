"""Runtimes: what a process needs to execute workflow runs, and how it comes by it.

A service makes its own, a worker's processes make theirs of the worker's settings when the first message
comes. Nothing of a runtime outlives a fork.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from time import time
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from taskservice.errors import ConfigurationError
from taskservice.payloads import PAYLOAD_LIMIT
from taskservice.workflow.definitions import WorkflowRegistry, default_workflows
from taskservice.workflow.model import DEFAULT_DEADLINES, Deadlines
from taskservice.workflow.runner import WorkflowRunner

if TYPE_CHECKING:
    from celery import Celery

    from taskservice.settings import Settings
    from taskservice.workflow.store.base import WorkflowStore

__all__ = [
    "WorkflowRuntime",
    "deadlines_of",
    "lend_runtime",
    "open_store",
    "remember_settings",
    "use_runtime",
    "worker_runtime",
]


class WorkflowRuntime:
    """A store, the workflows known here, the defaults of their runs, and the runner of all that."""

    def __init__(  # noqa: PLR0913 - by name
        self,
        store: WorkflowStore,
        *,
        registry: WorkflowRegistry = default_workflows,
        deadlines: Deadlines = DEFAULT_DEADLINES,
        payload_limit: int = PAYLOAD_LIMIT,
        clock: Callable[[], float] = time,
        runner: WorkflowRunner | None = None,
    ) -> None:
        self.store = store
        self.registry = registry
        self.deadlines = deadlines
        self.payload_limit = payload_limit
        self.clock = clock
        self.runner = runner or WorkflowRunner(store, registry, payload_limit=payload_limit, clock=clock)

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        *,
        store: WorkflowStore,
        registry: WorkflowRegistry = default_workflows,
    ) -> WorkflowRuntime:
        """Return a runtime over ``store`` with the limits of ``settings``."""
        return cls(
            store,
            registry=registry,
            deadlines=deadlines_of(settings),
            payload_limit=settings.payload_limit,
        )

    def close(self) -> None:
        """End its threads; the store stays open."""
        self.runner.close()


def deadlines_of(settings: Settings) -> Deadlines:
    """Return the deadlines of runs whose workflow says nothing else."""
    return Deadlines(
        busy=settings.workflow_busy.total_seconds(),
        input=settings.workflow_input.total_seconds(),
        stale=settings.workflow_stale.total_seconds(),
        lease=settings.workflow_lease.total_seconds(),
        kept=settings.workflow_kept.total_seconds(),
        max_steps=settings.workflow_max_steps,
        max_events=settings.workflow_max_events,
        data=None if settings.workflow_data is None else settings.workflow_data.total_seconds(),
    )


def open_store(settings: Settings, *, shared: bool, held: ExitStack) -> WorkflowStore:
    """Return the store that ``settings`` ask for; ``shared`` if other processes must see its runs.

    Leaving ``held`` gives its connections back; none is made yet. `ConfigurationError` for memory that
    should be shared.
    """
    wanted = settings.workflow_store
    if wanted == "memory" and shared:
        raise ConfigurationError(
            "set workflow_store to 'redis' or 'auto': workers are other processes, and would not see runs "
            "that are kept in the memory of this one"
        )
    if wanted == "redis" or shared:
        from taskservice.backends.probing import connect_redis
        from taskservice.backends.storage import SECONDS, Storage
        from taskservice.workflow.store.redis import RedisStore

        storage = Storage(connect_redis(settings.redis_url, SECONDS), settings.key_prefix)
        held.callback(storage.close)
        shared_store = RedisStore(storage)
        held.callback(shared_store.close)
        return shared_store

    from taskservice.workflow.store.memory import MemoryStore

    store = MemoryStore()
    held.callback(store.close)
    return store


_bound: ContextVar[WorkflowRuntime | None] = ContextVar("taskservice_workflow_runtime", default=None)
_lock = threading.Lock()
_settings: WeakKeyDictionary[Celery, Settings] = WeakKeyDictionary()
_runtimes: WeakKeyDictionary[Celery, WorkflowRuntime] = WeakKeyDictionary()


@contextmanager
def use_runtime(runtime: WorkflowRuntime) -> Iterator[None]:
    """Have tasks that are run in this context, by an eager app, use ``runtime``."""
    token = _bound.set(runtime)
    try:
        yield
    finally:
        _bound.reset(token)


@contextmanager
def lend_runtime(app: Celery, runtime: WorkflowRuntime) -> Iterator[None]:
    """Have workers of ``app`` in this process use ``runtime`` in the block; it stays its owner's to close."""
    with _lock:
        before = _runtimes.get(app)
        _runtimes[app] = runtime
    try:
        yield
    finally:
        with _lock:
            _runtimes.pop(app, None)
            if before is not None:
                _runtimes[app] = before


def remember_settings(app: Celery, settings: Settings) -> None:
    """Have the workers of ``app`` make their runtimes of ``settings``."""
    _settings[app] = settings


def worker_runtime(app: Celery) -> WorkflowRuntime:
    """Return this process's runtime for the workers of ``app``, made at the first call."""
    bound = _bound.get()
    if bound is not None:
        return bound

    with _lock:
        found = _runtimes.get(app)
        if found is None:
            from taskservice.settings import load_settings

            settings = _settings.get(app) or load_settings()
            # Its connections are held as long as the process lasts.
            store = open_store(settings, shared=True, held=ExitStack())
            found = WorkflowRuntime.from_settings(settings, store=store)
            _runtimes[app] = found
        return found


def _forget_parent() -> None:
    global _lock  # noqa: PLW0603 - a thread of the parent may have held it
    _lock = threading.Lock()
    # Its connections and threads are the parent's.
    _runtimes.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parent)
