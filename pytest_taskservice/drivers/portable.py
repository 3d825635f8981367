"""Values that a worker process is told: JSON, and a few things that Celery's settings and tasks are made of.

Nothing is pickled. What is no JSON becomes a dictionary of one key: a tuple, a set, a duration, a queue, or
the dotted place of a class, function or module, which the other process imports.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from datetime import timedelta
from types import ModuleType
from typing import Any

__all__ = ["UnportableError", "decode", "encode", "place_of", "thing_at"]

_PLAIN = (str, int, float, bool, type(None))


class UnportableError(TypeError):
    """A value cannot be told to another process."""

    def __init__(self, what: str) -> None:
        super().__init__(what)  # rebuilt from args
        self.what = what

    def __str__(self) -> str:
        return f"{self.what} cannot be told to another process"


def encode(value: Any, special: Callable[[Any], Mapping[str, Any] | None] | None = None) -> Any:
    """Return ``value`` as JSON; ``special`` may know more kinds. Raise :class:`UnportableError`."""
    if special is not None and (told := special(value)) is not None:
        return dict(told)
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, dict):
        return _encode_dict(value, special)
    if isinstance(value, list):
        return [encode(item, special) for item in value]
    if isinstance(value, tuple):
        return {"!tuple": [encode(item, special) for item in value]}
    return _encode_thing(value, special)


def decode(value: Any, special: Callable[[str, Any], Any] | None = None) -> Any:
    """Return what :func:`encode` was given; ``special`` gets the kinds that are not known here."""
    if isinstance(value, list):
        return [decode(item, special) for item in value]
    if not isinstance(value, dict):
        return value
    kind = next(iter(value), "")
    if len(value) != 1 or not kind.startswith("!"):
        return {key: decode(item, special) for key, item in value.items()}
    told = value[kind]
    if kind in _DECODERS:
        return _DECODERS[kind](decode(told, special))
    assert special is not None, kind
    return special(kind, told)


def place_of(thing: Any) -> str | None:
    """Return ``module:name`` where a class or function is found again; ``None`` if it is not."""
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or module == "__main__":
        return None
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return f"{module}:{name}" if found is thing else None


def thing_at(place: str) -> Any:
    """Return what lies at ``module:name``."""
    module, _, name = place.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _encode_dict(value: dict[Any, Any], special: Any) -> dict[str, Any]:
    if not all(isinstance(key, str) and not key.startswith("!") for key in value):
        pairs = [encode(pair, special) for pair in value.items()]
        return {"!pairs": pairs}
    return {key: encode(item, special) for key, item in value.items()}


def _encode_thing(value: Any, special: Any) -> dict[str, Any]:
    if isinstance(value, (set, frozenset)):
        return {"!set": sorted((encode(item, special) for item in value), key=repr)}
    if isinstance(value, timedelta):
        return {"!seconds": value.total_seconds()}
    if isinstance(value, ModuleType) and value.__name__ in sys.modules:
        return {"!module": value.__name__}
    if (place := place_of(value)) is not None:
        return {"!place": place}
    kombu = sys.modules.get("kombu")
    if kombu is not None and isinstance(value, kombu.Queue) and not value.bindings:
        return {"!queue": encode(value.as_dict(recurse=True))}
    raise UnportableError(f"{type(value).__name__} {value!r:.80}")


def _queue(fields: dict[str, Any]) -> Any:
    from kombu import Exchange, Queue

    exchange = fields.pop("exchange")
    return Queue(exchange=Exchange(**exchange) if exchange else None, **fields)


_DECODERS: dict[str, Callable[[Any], Any]] = {
    "!tuple": tuple,
    "!set": set,
    "!seconds": lambda seconds: timedelta(seconds=seconds),
    "!pairs": dict,
    "!module": importlib.import_module,
    "!place": thing_at,
    "!queue": _queue,
}
