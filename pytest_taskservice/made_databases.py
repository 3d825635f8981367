"""What notes when pytest-django has made its test databases: a worker process has none before."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from pytest_taskservice.drivers.databases import await_databases

__all__ = ["MAKES_DATABASES", "MadeDatabases"]

MAKES_DATABASES = "django_db_setup"
"""The fixture that makes them; a project may have one of its own."""


class MadeDatabases:
    """A plugin for pytest, where pytest-django is one."""

    def __init__(self) -> None:
        await_databases(True)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None, Any, Any]:
        """Note that they are there."""
        made = yield
        if fixturedef.argname == MAKES_DATABASES:
            await_databases(False)
        return made
