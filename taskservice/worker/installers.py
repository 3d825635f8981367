"""What else a worker is to be given: the way in for packages that this one must not import.

Imports no Celery: whoever defines a workflow imports this.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celery import Celery

    from taskservice.settings import Settings

__all__ = ["Installer", "add_installer", "installers"]

Installer = Callable[["Celery", "Settings"], None]
"""Makes workers of an app do one more thing; a second call must do nothing."""

_installers: list[Installer] = []


def add_installer(installer: Installer) -> None:
    """Have every worker of this process that starts from now on call ``installer`` first."""
    if installer not in _installers:
        _installers.append(installer)


def installers() -> tuple[Installer, ...]:
    """Return all that were added."""
    return tuple(_installers)
