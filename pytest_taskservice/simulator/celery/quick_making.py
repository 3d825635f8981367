"""Shortcuts for what apps and workers make again and again: connections, entities, classes found by name."""

from __future__ import annotations

import sys
from typing import Any

from vine import promise

from pytest_taskservice.simulator.celery.shortcuts import Shortcut

__all__ = ["MAKING_SHORTCUTS"]

_MOST = 64


def _either(original: Any) -> Any:
    def either(app: Any, default_key: str, *defaults: Any) -> Any:
        for value in defaults:
            if isinstance(value, promise):
                return original(app, default_key, *defaults)
            if value is not None:
                return value
        return app.conf.get(default_key)

    return either


def _first(original: Any) -> Any:
    def first(view: Any, *keys: str) -> Any:
        for key in keys:
            value = view.get(key)
            if isinstance(value, promise):
                return original(view, *keys)
            if value is not None:
                return value
        return None

    return first


def _made(_: Any) -> Any:
    def make(entity: Any, *args: Any, **kwargs: Any) -> None:
        for name, convert in entity.attrs:
            value = kwargs.get(name)
            if value is not None:
                setattr(entity, name, convert(value) if convert else value)
            elif not hasattr(entity, name):
                setattr(entity, name, None)

    return make


def _symbol(original: Any) -> Any:
    def symbol_by_name(name: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(name, str):
            return name
        if not args and not kwargs:
            module, _, attribute = name.rpartition(":" if ":" in name else ".")
            # What is not imported yet, or has no such attribute, is the original's to tell.
            found = getattr(sys.modules.get(module), attribute, None) if module and attribute else None
            if found is not None:
                return found
        return original(name, *args, **kwargs)

    return symbol_by_name


# By address, without those that say more than where.
_addresses: dict[str, dict[str, Any]] = {}


def _parsed(original: Any) -> Any:
    def parse_url(url: Any) -> dict[str, Any]:
        if type(url) is not str or "?" in url:
            return dict(original(url))
        found = _addresses.get(url)
        if found is None:
            if len(_addresses) >= _MOST:
                _addresses.clear()
            found = _addresses[url] = original(url)
        return dict(found)

    return parse_url


MAKING_SHORTCUTS = (
    Shortcut(
        place="celery.app.base:Celery.either",
        make=_either,
        besides=("celery.utils.functional:first", "celery.utils.functional:evaluate_promises"),
        texts=frozenset({"b29fe2edffc3"}),
    ),
    Shortcut(
        place="celery.utils.collections:ConfigurationView.first",
        make=_first,
        besides=("celery.utils.functional:first", "celery.utils.functional:evaluate_promises"),
        texts=frozenset({"bd29b3fb30dc"}),
    ),
    Shortcut(
        place="kombu.abstract:Object.__init__",
        make=_made,
        besides=("kombu.abstract:_any",),
        texts=frozenset({"321c80f839d7"}),
    ),
    *(
        Shortcut(place=f"{module}:symbol_by_name", make=_symbol, texts=frozenset({"2e8af3865e68"}))
        # Where others take it from it stays: they may be imported now.
        for module in ("celery.bootsteps", "celery.worker.strategy")
    ),
    Shortcut(
        place="kombu.connection:parse_url",
        make=_parsed,
        besides=("kombu.utils.url:url_to_parts",),
        texts=frozenset({"1b48b6a9dd16"}),
    ),
)
