"""Django's settings where code has made them, ``settings.configure(...)``: a worker process is told them.

No module holds such settings, so that another process could import them. What cannot be told is left out.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from pytest_taskservice.drivers.portable import UnportableError, decode, encode

__all__ = ["configure_django", "find_configured"]


def find_configured() -> dict[str, Any]:
    """Return the settings by name, as JSON; empty without a Django, and where a module holds them."""
    conf: Any = sys.modules.get("django.conf")
    if conf is None or not conf.settings.configured:
        return {}
    held = conf.settings._wrapped  # noqa: SLF001 - Django has no public name for what was configured
    # Beneath what tests override meanwhile.
    kinds = (conf.Settings, conf.UserSettingsHolder)
    while isinstance(below := getattr(held, "default_settings", None), kinds):
        held = below
    return {} if isinstance(held, conf.Settings) else dict(_told(held, conf.global_settings))


def configure_django(told: Mapping[str, Any]) -> None:
    """Have the settings that :func:`find_configured` returned, and set Django up; do nothing without any."""
    if not told:
        return
    conf: Any = import_module("django.conf")
    conf.settings.configure(**decode(dict(told), _path))
    # A module that the worker imports may do what it did in the test's process.
    conf.LazySettings.configure = _configured_already
    import_module("django").setup()


def _told(held: Any, defaults: Any) -> Iterator[tuple[str, Any]]:
    below = held.default_settings
    for name in sorted({*vars(held), *(() if below is defaults else dir(below))}):
        if name.isupper() and hasattr(held, name):
            try:
                yield name, encode(getattr(held, name), _special)
            except UnportableError:
                continue


def _special(value: Any) -> Mapping[str, Any] | None:
    return {"!path": str(value)} if isinstance(value, Path) else None


def _path(_: str, told: str) -> Path:
    return Path(told)


def _configured_already(*_: Any, **__: Any) -> None: ...
