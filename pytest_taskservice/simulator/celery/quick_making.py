"""Shortcuts for what apps and workers make again and again: connections, entities, classes found by name."""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from queue import LifoQueue
from types import FunctionType
from typing import Any
from weakref import WeakKeyDictionary

from kombu import Connection
from kombu.utils.functional import lazy
from vine import promise

from pytest_taskservice.simulator.celery.shortcuts import Shortcut

# Untyped in the stubs.
_entities: Any = import_module("kombu.entity")
Exchange, Queue = _entities.Exchange, _entities.Queue
_promise_channel: Any = import_module("kombu.utils.functional").ChannelPromise

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


def _copied(original: Any) -> Any:
    # By class: its attributes and what converts them, and those that an entity has for want of a value.
    attributes = {kind: (kind.attrs, _bare(kind)) for kind in (Exchange, Queue)}

    def __copy__(entity: Any) -> Any:  # noqa: N807 - what it stands for
        kind: Any = type(entity)
        known = attributes.get(kind)
        if known is None:
            return original(entity)
        own = entity.__dict__
        copy = kind.__new__(kind)
        made = copy.__dict__
        made.update(known[1])
        for name, convert in known[0]:
            value = own.get(name)
            if value is None:
                continue
            if convert is not None and type(value) not in _CONVERTED.get(convert, _MODE):
                # Somebody has set it since.
                return original(entity)
            made[name] = value
        if kind is Queue and not _finished(copy):
            return original(entity)
        return copy

    return __copy__


def _finished(queue: Any) -> bool:
    """Do what ``Queue.__init__`` does with its attributes; return whether they are what it knows."""
    if not isinstance(queue.exchange, (Exchange, type(None))):
        return False
    made = queue.__dict__
    made["bindings"] = bindings = set(made["bindings"] or ())
    made["on_declared"] = None
    if bindings:
        made["exchange"] = None
    if queue.exclusive:
        made["auto_delete"] = True
    return True


_CONVERTED: dict[Any, frozenset[type]] = {
    bool: frozenset({bool}), int: frozenset({int}), float: frozenset({float}), list: frozenset({set}),
}  # fmt: skip
_MODE = frozenset({int})


def _bare(kind: Any) -> dict[str, None]:
    return {name: None for name, _ in kind.attrs if not hasattr(kind, name)}


def _revived(original: Any) -> Any:
    def revive(producer: Any, channel: Any) -> None:
        exchange = producer.exchange
        if type(exchange) is not Exchange or not exchange._is_bound or not isinstance(channel, Connection):  # noqa: SLF001 - the text of the original is known
            original(producer, channel)
            return
        # The exchange is the producer's own copy already.
        producer.__connection__ = channel
        producer._channel = exchange._channel = _promise_channel(lambda: channel.default_channel)  # noqa: SLF001 - as above

    return revive


# By a task's function, and whether it is bound: what decided on the head, and the head.
_heads: WeakKeyDictionary[FunctionType, dict[bool, tuple[tuple[Any, ...], Any]]] = WeakKeyDictionary()


def _headed(original: Any) -> Any:
    def head_from_fun(fun: Any, bound: bool = False) -> Any:
        # Whoever listens is told the head's text.
        if type(fun) is not FunctionType or type(bound) is not bool or _logger.isEnabledFor(logging.DEBUG):
            return original(fun, bound)
        spec = (
            fun.__code__, fun.__defaults__, fun.__kwdefaults__, fun.__name__, fun.__module__,
            fun.__dict__.get("__signature__"),
        )  # fmt: skip
        known = _heads.setdefault(fun, {})
        found = known.get(bound)
        if found is None or any(one is not other for one, other in zip(found[0], spec, strict=True)):
            found = known[bound] = spec, original(fun, bound)
        return found[1]

    return head_from_fun


_logger = logging.getLogger("celery.utils.functional")


def _stocked(original: Any) -> Any:
    def setup(pool: Any) -> None:
        taken = len(pool._resource.queue) + len(pool._dirty)  # noqa: SLF001 - as above
        if pool.limit and not _put_in(pool, [lazy(pool.new) for _ in range(pool.limit - taken)]):
            original(pool)

    return setup


def _stocked_anew(original: Any) -> Any:
    def setup(pool: Any) -> None:
        if pool.limit and not _put_in(pool, [pool.new() for _ in range(pool.limit)]):
            original(pool)

    return setup


def _put_in(pool: Any, fresh: list[Any]) -> bool:
    """Put resources into ``pool``; return whether its queue takes any number at once."""
    resources = pool._resource  # noqa: SLF001 - as above
    if type(resources) is not LifoQueue or resources.maxsize > 0:
        return False
    with resources.mutex:
        resources.queue.extend(fresh)
        resources.unfinished_tasks += len(fresh)
        resources.not_empty.notify(len(fresh))
    return True


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
    # Before the shortcut for Object.__init__, whose text it knows.
    Shortcut(
        place="kombu.abstract:Object.__copy__",
        make=_copied,
        besides=(
            "kombu.abstract:Object.__init__",
            "kombu.entity:Exchange.__init__",
            "kombu.entity:Queue.__init__",
        ),
        texts=frozenset({"11f35c69cf13"}),
    ),
    Shortcut(
        place="kombu.messaging:Producer.revive",
        make=_revived,
        besides=("kombu.abstract:MaybeChannelBound.maybe_bind", "kombu.abstract:MaybeChannelBound.bind"),
        texts=frozenset({"ca81069c3a18"}),
    ),
    Shortcut(
        place="celery.app.base:head_from_fun",
        make=_headed,
        besides=("celery.utils.functional:_argsfromspec",),
        texts=frozenset({"5337a84f2718", "9c8bf8447e0d"}),
    ),
    Shortcut(place="kombu.connection:ConnectionPool.setup", make=_stocked, texts=frozenset({"04e6fbda92bf"})),
    Shortcut(place="kombu.pools:ProducerPool.setup", make=_stocked_anew, texts=frozenset({"b14f5c6c7361"})),
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
