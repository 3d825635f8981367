"""Django's databases, for a worker process: those of the test, and none at all until they have been made.

A worker that reads the settings anew would work on the real ones. Nothing is imported for it: a suite without
Django pays a look into ``sys.modules``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

__all__ = ["await_databases", "find_databases", "use_databases"]

_REFUSED = (
    "this worker has no database: Django's test databases had not been made when its test began, and the "
    "real ones are not for tests; mark the test with django_db(transaction=True)"
)

_awaited = False


def await_databases(awaited: bool) -> None:
    """Say whether test databases are still to be made."""
    global _awaited  # noqa: PLW0603 - Django's connections are the process's, too
    _awaited = awaited


def find_databases() -> dict[str, str | None]:
    """Return the names of Django's databases, by alias; empty without a Django that is set up.

    Once pytest-django has made its test databases these are their names, and ``None`` before.
    """
    django = sys.modules.get("django.db")
    if django is None or not sys.modules["django.conf"].settings.configured:
        return {}
    connections = django.connections
    return {
        alias: None if _awaited else str(connections[alias].settings_dict["NAME"]) for alias in connections
    }


def use_databases(names: Mapping[str, str | None]) -> None:
    """Have Django work on these, before anything connects to the real ones; refuse those without a name."""
    if not names:
        return
    # Django's own view of its settings: it has a default where they name no database at all.
    databases = import_module("django.db").connections.databases
    for alias, name in names.items():
        databases[alias]["NAME"] = name or ""
    if None in names.values():
        import_module("django.db.backends.base.base").BaseDatabaseWrapper.ensure_connection = _refuse


def _refuse(_: Any) -> None:
    raise RuntimeError(_REFUSED)
