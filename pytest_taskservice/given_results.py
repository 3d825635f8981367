"""Results that a world has given to an app whose settings name no result backend.

Such tests pass, and what they test raises in production.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any

import pytest

from pytest_taskservice.fixtures import APP, NO_RESULTS
from pytest_taskservice.sightings import Sightings

if TYPE_CHECKING:
    from celery import Celery

__all__ = ["GivenResults"]

# Whatever a test asks a result or a chord for ends in one of them.
_ASKED = ("apply_chord", "get_many", "get_task_meta", "iter_native", "wait_for_pending")
_WORDS = (
    "results of the app {app} were read, whose settings name no result backend: the world gave it one, "
    "without which get(), state and chords raise"
)


class GivenResults(Sightings):
    """Says whose results a session's tests have read that are kept nowhere else."""

    def __init__(self, config: pytest.Config) -> None:
        super().__init__(config, name="taskservice-given-results", words=_WORDS)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Watch a test whose app has a result backend of the world's."""
        app = item.stash.get(APP, None)
        if app is None or not item.stash.get(NO_RESULTS, False):
            return (yield)
        with self._watching(app, item):
            return (yield)

    @contextmanager
    def _watching(self, app: Celery, item: pytest.Item) -> Iterator[None]:
        backend: Any = app.backend
        names = [name for name in _ASKED if hasattr(backend, name)]

        def watched(original: Any) -> Any:
            @wraps(original)
            def ask(*args: Any, **options: Any) -> Any:
                self.note(app, item.nodeid)
                return original(*args, **options)

            return ask

        for name in names:
            setattr(backend, name, watched(getattr(backend, name)))
        try:
            yield
        finally:
            for name in names:
                vars(backend).pop(name, None)
