"""Shortcuts of the Redis result backend: keys, first attempts, and following what is waited for."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from kombu.utils.encoding import ensure_bytes

from pytest_taskservice.simulator.celery.shortcuts import Shortcut

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["LISTENING_SHORTCUTS"]

_PROVEN = "_taskservice_retry_policy_is_one"

logger = logging.getLogger("celery.backends.redis")


def _key(original: Any) -> Any:
    def _get_key_for(backend: Any, prefix: Any, id: Any, key: Any = "") -> Any:  # noqa: A002 - Celery's signature
        if (
            type(id) is str
            and type(key) is str
            and type(prefix) is bytes
            and backend.__dict__.get("key_t") is ensure_bytes
        ):
            return prefix + id.encode() + key.encode()
        return original(backend, prefix, id, key)

    return _get_key_for


def _task_key(original: Any) -> Any:
    def get_key_for_task(backend: Any, task_id: Any, key: Any = "") -> Any:
        prefix = backend.task_keyprefix
        plain = type(task_id) is str and task_id and not key and type(prefix) is bytes
        if plain and backend.__dict__.get("key_t") is ensure_bytes:
            return prefix + task_id.encode()
        return original(backend, task_id, key)

    return get_key_for_task


def _ensure(original: Any) -> Any:
    def ensure(backend: Any, fun: Any, args: Any, **policy: Any) -> Any:
        # The first call of each back end tells whether its policy is one.
        if policy or _PROVEN not in backend.__dict__:
            found = original(backend, fun, args, **policy)
            backend.__dict__[_PROVEN] = True
            return found
        try:
            return fun(*args)
        except backend.connection_errors as error:
            failed = [error]

        def again(*arguments: Any) -> Any:
            # The first attempt was ours.
            if failed:
                raise failed.pop()
            return fun(*arguments)

        return original(backend, again, args)

    return ensure


def _waiting(original: Any) -> Any:
    def _waiting_on(pending_results: Any, task_id: Any) -> Any:
        for mapping in pending_results:
            if task_id in mapping:
                return original(pending_results, task_id)
        return []

    return _waiting_on


class _Locked:
    """What ``ResultConsumer._locked`` makes of a generator."""

    __slots__ = ("_consumer",)

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer

    def __enter__(self) -> None:
        consumer = self._consumer
        consumer._pubsub_lock.acquire()  # noqa: SLF001 - the text of the original is known
        consumer._lock_depth.value += 1  # noqa: SLF001 - as above

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        consumer = self._consumer
        consumer._lock_depth.value -= 1  # noqa: SLF001 - as above
        consumer._pubsub_lock.release()  # noqa: SLF001 - as above
        if not consumer._pending_unsubscribe:  # noqa: SLF001 - as above
            return
        if kind is None:
            consumer._flush_pending_unsubscribe()  # noqa: SLF001 - as above
            return
        try:
            consumer._flush_pending_unsubscribe()  # noqa: SLF001 - as above
        except Exception:
            logger.exception("Failed to unsubscribe pending results")


class _Reconnecting:
    """What ``BaseResultConsumer.reconnect_on_error`` makes of a generator."""

    __slots__ = ("_consumer", "_original")

    def __init__(self, consumer: Any, original: Any) -> None:
        self._consumer = consumer
        self._original = original

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if kind is None:
            return None
        frame = self._original(self._consumer)
        frame.__enter__()
        swallowed: bool | None = frame.__exit__(kind, error, trace)
        return swallowed


def _in_lock(_: Any) -> Any:
    def _locked(consumer: Any) -> _Locked:
        return _Locked(consumer)

    return _locked


def _reconnecting(original: Any) -> Any:
    return lambda consumer: _Reconnecting(consumer, original)


LISTENING_SHORTCUTS = (
    Shortcut(
        place="celery.backends.base:BaseKeyValueStoreBackend._get_key_for",
        make=_key,
        besides=("kombu.utils.encoding:ensure_bytes", "kombu.utils.encoding:str_to_bytes"),
        texts=frozenset({"036ee5f9d5be", "5a2c01619a14"}),
    ),
    Shortcut(
        place="celery.backends.base:BaseKeyValueStoreBackend.get_key_for_task",
        make=_task_key,
        besides=("kombu.utils.encoding:ensure_bytes", "kombu.utils.encoding:str_to_bytes"),
        texts=frozenset({"0f640eef90a0"}),
    ),
    Shortcut(
        place="celery.backends.redis:RedisBackend.ensure", make=_ensure, texts=frozenset({"4defc75b4c02"})
    ),
    Shortcut(
        place="celery.backends.asynchronous:_waiting_on", make=_waiting, texts=frozenset({"ab34d25a4de1"})
    ),
    Shortcut(
        place="celery.backends.redis:ResultConsumer._locked",
        make=_in_lock,
        besides=("celery.backends.redis:ResultConsumer._flush_pending_unsubscribe",),
        texts=frozenset({"e579c7abb1ff"}),
    ),
    Shortcut(
        place="celery.backends.asynchronous:BaseResultConsumer.reconnect_on_error",
        make=_reconnecting,
        texts=frozenset({"4f4a434299a6"}),
    ),
)
