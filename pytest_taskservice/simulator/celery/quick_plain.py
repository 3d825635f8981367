"""Shortcuts for what Celery does all the time: settings, cached properties, stacks, JSON, short texts."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import import_module
from types import CodeType
from typing import Any
from weakref import WeakKeyDictionary

from celery.app.task import Context

from pytest_taskservice.simulator.celery.shortcuts import Shortcut

__all__ = ["PLAIN_SHORTCUTS", "install_json"]

_kombu_json: Any = import_module("kombu.utils.json")
_encoding: Any = import_module("json.encoder")
_serialization: Any = import_module("kombu.serialization")

_NUMBERS = frozenset({int, float, bool, type(None)})
_LONGEST = 200
_BYTE_ORDER_MARK = "\ufeff"
_JSON = "application/json"


# All spellings of a setting's name, by prefix, spellers and name: only they decide.
_spelled: dict[tuple[Any, ...], tuple[str, ...]] = {}


def _setting(original: Any) -> Any:
    def get_setting(view: Any, key: Any) -> Any:
        own = view.__dict__
        if own["key_t"] is not None or type(key) is not str:
            return original(view, key)
        known = own["prefix"], own["_keys"], key
        try:
            keys = _spelled[known]
        except KeyError:
            keys = _spelled[known] = _spellings(view, key)
        for mapping in own["maps"]:
            if type(mapping) is not dict:
                return original(view, key)
            for name in keys:
                if name in mapping:
                    return mapping[name]
        return original(view, key)

    return get_setting


def _older_setting(original: Any) -> Any:
    # Until 5.6 a spelling was looked for in all places before the next one. What is the same in both is
    # written twice: a call would cost each setting some 5 %, and a function with both orders is hard to read.
    def get_setting(view: Any, key: Any) -> Any:
        own = view.__dict__
        if own["key_t"] is not None or type(key) is not str:
            return original(view, key)
        known = own["prefix"], own["_keys"], key
        try:
            keys = _spelled[known]
        except KeyError:
            keys = _spelled[known] = _spellings(view, key)
        maps = own["maps"]
        for name in keys:
            for mapping in maps:
                if type(mapping) is not dict:
                    return original(view, key)
                if name in mapping:
                    return mapping[name]
        return original(view, key)

    return get_setting


def _spellings(view: Any, key: str) -> tuple[str, ...]:
    keys = tuple(view._to_keys(key))  # noqa: SLF001 - what the originals ask
    # Until 5.6 it left out what the originals added.
    more = tuple(spell(key) for spell in view.__dict__["_keys"] or ())
    return keys if keys[len(keys) - len(more) :] == more else keys + more


# Which setting an option's name and name space stand for.
_options: dict[tuple[str, str], str] = {}


def _option(original: Any) -> Any:
    def find_value_for_key(settings: Any, name: str, namespace: str = "celery") -> Any:
        known = name, namespace
        if known not in _options:
            found = original(settings, name, namespace)
            parts = settings.find_option(name, namespace)[:-1]
            _options[known] = "_".join(part for part in parts if part)
            return found
        return settings[_options[known]]

    return find_value_for_key


def _now(_: Any) -> Any:
    # UTC is never ambiguous, and what Celery makes of an instant in UTC is that instant.
    def now(app: Any) -> datetime:
        return datetime.now(UTC).astimezone(app.timezone)

    return now


def _cached(original: Any) -> Any:
    def get_cached(prop: Any, instance: Any, owner: Any = None) -> Any:
        try:
            return instance.__dict__[prop.attrname]
        except (AttributeError, KeyError):
            return original(prop, instance, owner)

    return get_cached


def _push(_: Any) -> Any:
    def push(stack: Any, obj: Any) -> Any:
        local = stack._local  # noqa: SLF001 - the text of the original is known
        storage, ident = local.__storage__, local.__ident_func__()
        held = storage.setdefault(ident, {})
        found = held.get("stack")
        if found is None:
            found = held["stack"] = []
        found.append(obj)
        return found

    return push


def _popped(_: Any) -> Any:
    def pop(stack: Any) -> Any:
        local = stack._local  # noqa: SLF001 - as above
        storage, ident = local.__storage__, local.__ident_func__()
        held = storage.get(ident)
        found = held and held.get("stack")
        if found is None:
            return None
        if len(found) == 1:
            storage.pop(ident, None)
            return found[-1]
        return found.pop()

    return pop


_NO_HEADERS = frozenset({"lang", "task", "argsrepr", "kwargsrepr", "compression"})


def _headers(_: Any) -> Any:
    def _get_custom_headers(context: Any, *args: Any, **kwargs: Any) -> Any:
        known = vars(Context)
        given = dict(*args, **kwargs)
        return {key: given[key] for key in given if key not in known and key not in _NO_HEADERS} or None

    return _get_custom_headers


def _short_text(original: Any) -> Any:
    def saferepr(o: Any, maxlen: Any = None, maxlevels: Any = 3, seen: Any = None) -> Any:
        if seen is None and _is_plain(o):
            text = repr(o)
            # Nothing is cut off what is shorter, nor any part of it.
            if maxlen is None or len(text) < maxlen:
                return text
        return original(o, maxlen, maxlevels, seen)

    return saferepr


def _is_plain(value: Any) -> bool:
    """Return whether Celery writes a value as Python does."""
    kind = type(value)
    if kind is tuple or kind is list:
        return all(type(item) in _NUMBERS or _is_plain_text(item) for item in value)
    if kind is dict:
        return all(
            _is_plain_text(key) and (type(item) in _NUMBERS or _is_plain_text(item))
            for key, item in value.items()
        )
    return kind in _NUMBERS or _is_plain_text(value)


def _is_plain_text(value: Any) -> bool:
    # Celery escapes nothing but the quote.
    return (
        type(value) is str
        and len(value) < _LONGEST
        and value.isprintable()
        and "'" not in value
        and "\\" not in value
    )


# What billiard keeps of a function's code, with the position of each of its instructions, for every frame of
# every failure.
_codes: WeakKeyDictionary[CodeType, dict[str, Any]] = WeakKeyDictionary()


def _described(original: Any) -> Any:
    def describe(kept: Any, code: Any) -> None:
        known = _codes.get(code)
        if known is None:
            original(kept, code)
            _codes[code] = dict(kept.__dict__)
            return
        # Codes may be the same in all but the file that they are in.
        kept.__dict__.update(known, co_filename=code.co_filename)

    return describe


_TEXTS: tuple[tuple[Any, ...], ...] = tuple(
    (value, maxlen)
    for value in (
        (), [], {}, 0, -1, 1.5, None, True, "", "a b", 'a"b', (1,), (1, 2.5, None), [False, "x y", 10**30],
        {"a": 1, "b c": "d"}, ("it's",), ("a\\b",), ("a\nb",), [[1], (2,)], {1: 2}, float("inf"), "x" * 300,
    )
    for maxlen in (None, 5, 8, 12, 30, 1024)
)  # fmt: skip

PLAIN_SHORTCUTS = (
    Shortcut(place="billiard.einfo:_Code.__init__", make=_described, texts=frozenset({"0231eb8fc11d"})),
    *(
        Shortcut(
            place="celery.utils.collections:ConfigurationView.__getitem__",
            make=make,
            besides=(
                "celery.utils.collections:ConfigurationView._to_keys",
                "celery.utils.collections:ChainMap._key",
            ),
            texts=frozenset({text}),
        )
        for make, text in ((_setting, "0fa77318b54d"), (_older_setting, "759b7498dd7b"))
    ),
    Shortcut(
        place="celery.app.utils:Settings.find_value_for_key",
        make=_option,
        besides=("celery.app.utils:Settings.find_option", "celery.app.utils:Settings.get_by_parts"),
        texts=frozenset({"5d811868399d"}),
    ),
    Shortcut(
        place="celery.app.base:Celery.now",
        make=_now,
        besides=(
            "celery.utils.time:to_utc",
            "celery.utils.time:make_aware",
            "celery.utils.time:_is_ambiguous",
        ),
        texts=frozenset({"515608608d55", "b0a2c0de0e71"}),
    ),
    Shortcut(
        place="kombu.utils.objects:cached_property.__get__", make=_cached, texts=frozenset({"2a5348b9150f"})
    ),
    Shortcut(
        place="celery.utils.threads:_LocalStack.push",
        make=_push,
        besides=("celery.utils.threads:Local.__getattr__", "celery.utils.threads:Local.__setattr__"),
        texts=frozenset({"a9ecb6a5da15"}),
    ),
    Shortcut(
        place="celery.utils.threads:_LocalStack.pop",
        make=_popped,
        besides=("celery.utils.threads:Local.__getattr__", "celery.utils.threads:Local.__release_local__"),
        texts=frozenset({"3843b729ba46"}),
    ),
    Shortcut(
        place="celery.app.task:Context._get_custom_headers", make=_headers, texts=frozenset({"a87e9958e6dd"})
    ),
    *(
        Shortcut(place=f"celery.{module}:saferepr", make=_short_text, samples=_TEXTS)
        for module in ("app.amqp", "app.trace", "worker.request")
    ),
)


def install_json(patches: Any) -> None:
    """Let kombu read and write JSON with one decoder and one encoder, not with a new one for each message."""
    hook = _kombu_json.object_hook
    decoder: Any = json.JSONDecoder(object_hook=hook)
    for function, original, quick in (
        (_kombu_json.loads, json.loads, _loader(decoder, hook)),
        (_kombu_json.dumps, json.dumps, _dumper()),
    ):
        if original in (function.__defaults__ or ()):
            patches.default(function, original, quick)
    decoders = _serialization.registry._decoders  # noqa: SLF001 - kombu offers no way to ask which it is
    if decoders.get(_JSON) is _kombu_json.loads:
        patches.item(decoders, _JSON, _reader(decoder, _kombu_json.loads))


def _loader(decoder: Any, hook: Callable[[Any], Any]) -> Callable[..., Any]:
    scan = decoder.scan_once

    def loads(text: Any, **options: Any) -> Any:
        plain = type(text) is str and len(options) == 1 and options.get("object_hook") is hook
        if not plain or text.startswith(_BYTE_ORDER_MARK):
            return json.loads(text, **options)
        found = _scanned(scan, text)
        return decoder.decode(text) if found is _ODD else found

    return loads


def _reader(decoder: Any, original: Callable[[Any], Any]) -> Callable[[Any], Any]:
    scan = decoder.scan_once

    def loads(data: Any) -> Any:
        text = data.decode() if type(data) is bytes else data
        found = _scanned(scan, text) if type(text) is str else _ODD
        return original(data) if found is _ODD else found

    return loads


def _scanned(scan: Callable[[str, int], tuple[Any, int]], text: str) -> Any:
    """Return what ``text`` says; ``_ODD`` if it begins or ends in another way than kombu's own texts do."""
    if text[:1] not in _OPENING:
        return _ODD
    try:
        found, end = scan(text, 0)
    except StopIteration:
        return _ODD
    return found if end == len(text) else _ODD


def _dumper() -> Callable[..., Any]:
    kind = _kombu_json.JSONEncoder
    encoder = kind()
    under_way: dict[int, Any] = {}
    quick = _encoding.c_make_encoder and _encoding.c_make_encoder(
        under_way, encoder.default, _encoding.encode_basestring_ascii, None, encoder.key_separator,
        encoder.item_separator, encoder.sort_keys, encoder.skipkeys, encoder.allow_nan,
    )  # fmt: skip

    def dumps(value: Any, *, cls: Any, **options: Any) -> str:
        if cls is not kind or options:
            return json.dumps(value, cls=cls, **options)
        if quick is None or under_way or type(value) not in _CONTAINERS:
            return str(encoder.encode(value))
        try:
            return "".join(quick(value, 0))
        finally:
            # What failed has left what it was in.
            under_way.clear()

    return dumps


_ODD = object()
_OPENING = frozenset({"{", "[", '"'})
_CONTAINERS = frozenset({dict, list, tuple})
