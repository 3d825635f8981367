"""Django's settings where code has made them, ``settings.configure(...)``: a worker process is told them.

No module holds such settings, so that another process could import them. What cannot be told is left out,
and a worker that asks for it hears why it has none.
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
    settings = decode(dict(told), _special_value)
    left_out = {name: value for name, value in settings.items() if isinstance(value, _LeftOut)}
    conf.settings.configure(**{name: value for name, value in settings.items() if name not in left_out})
    if left_out:
        conf.settings._wrapped.__class__ = _explaining(conf.UserSettingsHolder, left_out)  # noqa: SLF001 - as above
    # A module that the worker imports may do what it did in the test's process.
    conf.LazySettings.configure = _configured_already
    import_module("django").setup()


def _told(held: Any, defaults: Any) -> Iterator[tuple[str, Any]]:
    below = held.default_settings
    for name in sorted({*vars(held), *(() if below is defaults else dir(below))}):
        if name.isupper() and hasattr(held, name):
            try:
                yield name, encode(getattr(held, name), _special)
            except UnportableError as error:
                yield name, {"!left_out": error.what}


def _special(value: Any) -> Mapping[str, Any] | None:
    return {"!path": str(value)} if isinstance(value, Path) else None


def _special_value(kind: str, told: str) -> Path | _LeftOut:
    return _LeftOut(told) if kind == "!left_out" else Path(told)


class _LeftOut(str):
    """What a setting is that cannot be told."""

    __slots__ = ()


def _explaining(base: Any, left_out: Mapping[str, _LeftOut]) -> Any:
    """Return Django's class of settings, whose error for a setting that was left out says so."""

    def __getattr__(self: Any, name: str) -> Any:  # noqa: N807 - a method of the class that is made here
        try:
            return base.__getattr__(self, name)
        except AttributeError as error:
            if name not in left_out:
                raise
            raise AttributeError(
                f"{error}: in the tests it is a {left_out[name]}, which code has made, and a worker process "
                "cannot be told. Keep it in a settings module, where workers import it"
            ) from None

    return type(base.__name__, (base,), {"__getattr__": __getattr__})


def _configured_already(*_: Any, **__: Any) -> None: ...
