"""Which minors of Celery and kombu are here; what that changes stands where they are leaned on."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

import celery

__all__ = ["CELERY", "KOMBU", "celery_version"]

# Untyped in the stubs.
_kombu: Any = import_module("kombu")

CELERY: Final[tuple[int, int]] = (celery.VERSION.major, celery.VERSION.minor)
"""From 5.5 to 5.7."""
KOMBU: Final[tuple[int, int]] = (_kombu.VERSION.major, _kombu.VERSION.minor)
"""Celery 5.5 takes 5.5 alone; 5.6 takes 5.6 and later; 5.7 takes 5.7."""


def celery_version() -> str:
    """Return Celery's version as it is told to people."""
    return str(celery.__version__)
