"""Results of a packed message on Redis: written together, and told together on the message's own channel.

Who waits for runs of a pack follows the channel of the pack. What is published there, besides Celery's own
word about the message, is a JSON list. An item is a result as it is stored: of a run that is over, or of one
that goes on alone, by a retry for one, and whose own channel is to be followed from then on. ``null`` means
that what is stored should be looked at. Every result is published on its run's own channel as well.

Leaned on, with a check in `ResultBuffer`: ``Backend._store_result``, ``_get_result_meta``, ``_set`` and what
they use (celery/backends/base.py and redis.py). It writes what they would have written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self

from celery import states
from celery.backends.redis import RedisBackend
from redis.exceptions import ResponseError

from taskservice.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["LOOK", "ResultBuffer", "is_plain_redis", "send_off"]

LOOK: Final = b"[null]"

# A run that succeeded keeps its result, and one that asked for a retry any later end. Of each key: the value,
# its seconds to live, and the states that it must not be written over.
_WRITE: Final = """
local told = {}
for at = 2, #KEYS do
    local value, seconds, kept = ARGV[3 * at - 5], ARGV[3 * at - 4], ARGV[3 * at - 3]
    local before = redis.call('GET', KEYS[at])
    local read, meta = pcall(cjson.decode, before or '')
    local status = read and type(meta) == 'table' and meta.status
    if not (type(status) == 'string' and string.find(kept, '|' .. status .. '|', 1, true)) then
        if seconds == '0' then
            redis.call('SET', KEYS[at], value)
        else
            redis.call('SET', KEYS[at], value, 'EX', seconds)
        end
        redis.call('PUBLISH', KEYS[at], value)
        told[#told + 1] = value
    end
end
if #told > 0 then
    redis.call('PUBLISH', KEYS[1], '[' .. table.concat(told, ',') .. ']')
end
"""
_KEPT_BY_RETRY: Final = "|SUCCESS|FAILURE|REVOKED|"
_KEPT: Final = "|SUCCESS|"
_SEAMS: Final = (
    "_MAX_STR_VALUE_SIZE",
    "_get_result_meta",
    "_set",
    "_store_result",
    "compression",
    "decode_result",
    "ensure",
    "expires",
    "failure_expires",
    "get_key_for_task",
    "serializer",
)


def is_plain_redis(backend: Any) -> bool:
    """Return whether `ResultBuffer` may be used: on Redis, and with a result backend for each thread.

    One that threads share would hold back the results of other messages too.
    """
    return type(backend) is RedisBackend and not getattr(backend, "thread_safe", True)


def send_off(backend: Any, pack_id: str, run_ids: Iterable[str]) -> None:
    """Have all who wait for these runs follow each one's own channel; elsewhere than on Redis do nothing."""
    if not isinstance(backend, RedisBackend):
        return

    found: Any = backend
    items = ",".join(f'{{"status": "RETRY", "task_id": "{run_id}"}}' for run_id in run_ids)
    found.ensure(found.client.publish, (found.get_key_for_task(pack_id), f"[{items}]"))


class ResultBuffer:
    """Collects the results of a pack that a Redis backend is given, and writes them in one round trip.

    Used as a context manager, by the thread that ``backend`` belongs to. A retry is written at once:
    its next attempt may be over before this one's buffer. STARTED is not written at all.
    """

    def __init__(self, backend: RedisBackend, pack_id: str) -> None:
        self._backend: Any = backend
        self._pack_id = pack_id
        self._pending: dict[str, tuple[Any, str]] = {}
        for name in _SEAMS:
            if not hasattr(backend, name):
                raise ConfigurationError(
                    f"RedisBackend.{name} is gone; taskservice.backends.packed_results must follow"
                )
        # Then results can be put into a list, and read by a script, as they are.
        own: Any = backend
        self._in_json = own.serializer == "json" and not own.compression

    def __enter__(self) -> Self:
        self._original = self._backend._store_result  # noqa: SLF001 - listed above
        self._backend._store_result = self._store  # noqa: SLF001 - listed above
        return self

    def __exit__(self, *_: object) -> None:
        del self._backend._store_result  # noqa: SLF001 - listed above
        self.flush()

    def flush(self) -> None:
        """Write what has been collected; a run that already succeeded keeps its result."""
        pending, self._pending = self._pending, {}
        if pending:
            self._backend.ensure(self._write, (pending,))

    def _store(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: Any = None,
        request: Any = None,
        **options: Any,
    ) -> Any:
        if state == states.STARTED:
            return result
        at_once = state == states.RETRY and self._in_json
        if (state not in {states.SUCCESS, states.FAILURE} and not at_once) or options:
            return self._store_alone(task_id, result, state, traceback, request=request, **options)

        backend = self._backend
        meta = backend._get_result_meta(  # noqa: SLF001 - listed above
            result=result, state=state, traceback=traceback, request=request
        )
        meta["task_id"] = task_id
        encoded = backend.encode(meta)
        if len(encoded) > backend._MAX_STR_VALUE_SIZE:  # noqa: SLF001 - Celery's own error tells of it
            return self._store_alone(task_id, result, state, traceback, request=request)
        self._pending[task_id] = (encoded, state)
        if at_once:
            self.flush()
        return result

    def _store_alone(self, task_id: str, *args: Any, **options: Any) -> Any:
        try:
            return self._original(task_id, *args, **options)
        finally:
            send_off(self._backend, self._pack_id, [task_id])

    def _write(self, pending: dict[str, tuple[Any, str]]) -> None:
        if not self._in_json:
            self._write_plainly(pending)
            return

        backend = self._backend
        keys = [backend.get_key_for_task(task_id) for task_id in (self._pack_id, *pending)]
        values: list[Any] = []
        for encoded, state in pending.values():
            kept = _KEPT_BY_RETRY if state == states.RETRY else _KEPT
            values += [encoded, self._seconds(state), kept]
        try:
            backend.client.eval(_WRITE, len(keys), *keys, *values)
        except ResponseError:  # there may be no scripts here; any other refusal comes again
            self._write_plainly(pending)

    def _write_plainly(self, pending: dict[str, tuple[Any, str]]) -> None:
        backend = self._backend
        keys = {task_id: backend.get_key_for_task(task_id) for task_id in pending}
        stored = backend.client.mget(list(keys.values()))
        with backend.client.pipeline() as pipe:
            for (task_id, (encoded, state)), before in zip(pending.items(), stored, strict=True):
                if before is not None and backend.decode_result(before)["status"] == states.SUCCESS:
                    continue
                pipe.set(keys[task_id], encoded, ex=self._seconds(state) or None)
                pipe.publish(keys[task_id], encoded)
            pipe.publish(backend.get_key_for_task(self._pack_id), LOOK)
            pipe.execute()

    def _seconds(self, state: str) -> int:
        backend = self._backend
        failed = state == states.FAILURE and backend.failure_expires is not None
        return int((backend.failure_expires if failed else backend.expires) or 0)
