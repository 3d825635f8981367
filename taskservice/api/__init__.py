"""The HTTP and WebSocket API, an extra: ``pip install 'taskservice[api]'``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taskservice.api.application import create_api
    from taskservice.api.serving import run_api

__all__ = ["create_api", "run_api"]

_HOME_OF = {"create_api": "application", "run_api": "serving"}


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    from importlib import import_module

    from taskservice.errors import ConfigurationError

    try:
        return getattr(import_module(f"{__name__}.{home}"), name)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"the API needs an extra: pip install 'taskservice[api]' ({error})"
        ) from error


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
