"""Shortcuts on a message's way: what is declared already, and frames that turn errors into others."""

from __future__ import annotations

from functools import partial, wraps
from queue import LifoQueue
from typing import TYPE_CHECKING, Any

from kombu import Queue
from kombu.exceptions import OperationalError, SerializerNotInstalled, reraise
from kombu.utils.functional import lazy

from pytest_taskservice.simulator.celery.shortcuts import Shortcut

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["SENDING_SHORTCUTS"]


def _declared(original: Any) -> Any:
    def maybe_declare(producer: Any, entity: Any, retry: bool = False, **policy: Any) -> Any:
        # A bound one may belong to a connection that is gone.
        if type(entity) is Queue and not entity.is_bound and entity.can_cache_declaration:
            connection = producer.channel.connection
            if connection and hash(entity) in connection.client.declared_entities:
                return False
        return original(producer, entity, retry, **policy)

    return maybe_declare


def _ensured(original: Any) -> Any:
    def ensure(connection: Any, obj: Any, fun: Any, *policy: Any, **policies: Any) -> Any:
        def first_of_all(*args: Any, **kwargs: Any) -> Any:
            try:
                return fun(*args, **kwargs)
            except Exception as error:  # noqa: BLE001 - the original meets it again
                failed = [error]

            @wraps(fun)
            def again(*args: Any, **kwargs: Any) -> Any:
                # The first attempt was ours.
                if failed:
                    raise failed.pop()
                return fun(*args, **kwargs)

            return original(connection, obj, again, *policy, **policies)(*args, **kwargs)

        return first_of_all

    return ensure


def _acquired(original: Any) -> Any:
    def acquire(pool: Any, block: bool = False, timeout: float | None = None) -> Any:
        resources = pool._resource  # noqa: SLF001 - the text of the original is known
        # Nobody waits for room in a queue without bounds, and nobody gets a resource before it is prepared.
        if type(resources) is not LifoQueue or pool._closed or not pool._limit or not resources.queue:  # noqa: SLF001 - as above
            return original(pool, block, timeout)
        with resources.mutex:
            found = resources.queue.pop() if resources.queue else None
        if found is None:
            return original(pool, block, timeout)
        if callable(found) or isinstance(found, lazy):
            # Not made yet: back it goes.
            resources.put_nowait(found)
            return original(pool, block, timeout)
        try:
            found = pool.prepare(found)
        except BaseException:
            pool.release(found)
            raise
        pool._dirty.add(found)  # noqa: SLF001 - as above
        found.release = partial(pool.release, found)
        return found

    return acquire


def _released(original: Any) -> Any:
    def release(pool: Any, resource: Any) -> Any:
        resources = pool._resource  # noqa: SLF001 - the text of the original is known
        if type(resources) is not LifoQueue or not pool._limit or resources.maxsize > 0:  # noqa: SLF001 - as above
            return original(pool, resource)
        pool._dirty.discard(resource)  # noqa: SLF001 - as above
        with resources.mutex:
            resources.queue.append(resource)
            resources.unfinished_tasks += 1
            if vars(resources.not_empty).get("_waiters", True):
                resources.not_empty.notify()
        return pool.release_resource(resource)

    return release


def _as_dict(original: Any) -> Any:
    def as_dict(entity: Any, recurse: bool = False) -> Any:
        if recurse:
            return original(entity, recurse)
        found = {}
        for name, convert in entity.attrs:
            value = getattr(entity, name)
            found[name] = convert(value) if convert and value is not None else value
        return found

    return as_dict


class _Reraised:
    """What ``kombu.serialization._reraise_errors`` makes of a generator."""

    __slots__ = ("_exclude", "_include", "_wrapper")

    def __init__(
        self,
        wrapper: Any,
        include: tuple[type[BaseException], ...] = (Exception,),
        exclude: tuple[type[BaseException], ...] = (SerializerNotInstalled,),
    ) -> None:
        self._wrapper = wrapper
        self._include = include
        self._exclude = exclude

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and issubclass(kind, self._include) and not issubclass(kind, self._exclude):
            reraise(self._wrapper, self._wrapper(error), trace)


def _reraised(_: Any) -> Any:
    return _Reraised


class _Library:
    """What ``Connection._reraise_as_library_errors`` makes of a generator."""

    __slots__ = ("_channel", "_connection", "_owner")

    def __init__(self, owner: Any, connection: Any, channel: Any) -> None:
        self._owner = owner
        self._connection = connection
        self._channel = channel

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or issubclass(kind, (self._connection, self._channel)):
            return
        if issubclass(kind, self._owner.recoverable_connection_errors):
            raise self._connection(str(error)) from error
        if issubclass(kind, self._owner.recoverable_channel_errors):
            raise self._channel(str(error)) from error


def _library(_: Any) -> Any:
    def _reraise_as_library_errors(
        connection: Any,
        ConnectionError: Any = OperationalError,  # noqa: N803, A002 - kombu's signature
        ChannelError: Any = OperationalError,  # noqa: N803 - as above
    ) -> _Library:
        return _Library(connection, ConnectionError, ChannelError)

    return _reraise_as_library_errors


SENDING_SHORTCUTS = (
    Shortcut(place="kombu.resource:Resource.release", make=_released, texts=frozenset({"ca422c3327d7"})),
    Shortcut(place="kombu.abstract:Object.as_dict", make=_as_dict, texts=frozenset({"35ca64987a0f"})),
    Shortcut(
        place="kombu.connection:Connection.ensure",
        make=_ensured,
        texts=frozenset({"c6068ad27241", "3b79c3645251"}),
    ),
    Shortcut(place="kombu.resource:Resource.acquire", make=_acquired, texts=frozenset({"3721f2cfe245"})),
    Shortcut(
        place="kombu.messaging:Producer.maybe_declare",
        make=_declared,
        besides=(
            "kombu.common:maybe_declare",
            "kombu.common:_maybe_declare",
            "kombu.common:_imaybe_declare",
            "kombu.common:_ensure_channel_is_bound",
            "kombu.entity:Queue.__hash__",
        ),
        texts=frozenset({"42e67a204557", "b2e97ce793ce"}),
    ),
    Shortcut(place="kombu.serialization:_reraise_errors", make=_reraised, texts=frozenset({"565dfe503220"})),
    Shortcut(
        place="kombu.connection:Connection._reraise_as_library_errors",
        make=_library,
        texts=frozenset({"c6ff5886022d"}),
    ),
)
