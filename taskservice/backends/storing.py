"""Storing results in Redis in one round trip, where Celery takes two and two more commands.

Celery reads what is stored, so that a run that succeeded keeps its result, and then sets and publishes in a
transaction. A script does all of it at once, for one result or for many. That a run has started is sent
before its function is called, and nobody waits for the answer.

Leaned on, with a check by whoever stores: ``Backend._store_result``, ``_get_result_meta``, ``ensure``
and what they use (celery/backends/base.py and redis.py); and that a stored result begins with its status,
without which the script reads all of it. See `scripting` for redis-py's.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from celery import states
from celery.backends.redis import RedisBackend
from redis.exceptions import RedisError, ResponseError

from taskservice.backends.scripting import ScriptLine
from taskservice.backends.versions import CELERY
from taskservice.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from celery import Celery

__all__ = [
    "WRITE",
    "OneTripRedisBackend",
    "StoredResult",
    "install_storing",
    "is_plain_redis",
    "require_storing",
    "seconds_to_live",
    "stores_in_json",
    "write_results",
]

logger = logging.getLogger(__name__)

# ARGV[1] is a channel that gets a list of all that was written, or empty. Seconds to live, the states that
# must not be written over, and the value of each key follow.
WRITE: Final = """
local seconds, kept, told = ARGV[2], ARGV[3], {}
for at = 1, #KEYS do
    local value = ARGV[3 + at]
    local before = redis.call('GET', KEYS[at])
    local status = before and string.match(before, '^{"status": "(%u+)"')
    if before and not status then
        local read, meta = pcall(cjson.decode, before)
        status = read and type(meta) == 'table' and meta.status
    end
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
if ARGV[1] ~= '' and #told > 0 then
    redis.call('PUBLISH', ARGV[1], '[' .. table.concat(told, ',') .. ']')
end
"""
_KEPT_BY_RETRY: Final = "|SUCCESS|FAILURE|REVOKED|"
_KEPT: Final = "|SUCCESS|"
_SEAMS: Final = (
    "_MAX_STR_VALUE_SIZE",
    "_get_result_meta",
    "_set",
    "_store_result",
    "current_task_children",
    "decode_result",
    "encode",
    "encode_result",
    "ensure",
    "get_key_for_task",
    "max_connections",
    "store_result",
)
# Before Celery 5.7 results are never compressed, and failures last as long as anything else.
_SINCE_5_7: Final = ("compression", "failure_expires") if CELERY >= (5, 7) else ()
_INSTANCE_SEAMS: Final = ("expires", "serializer", *_SINCE_5_7)


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredResult:
    """A result as Celery encodes it."""

    run_id: str
    state: str
    encoded: str | bytes


def require_storing(backend: Any) -> None:
    """Raise `ConfigurationError` if a place of Celery is gone that this needs."""
    missing = [name for name in _SEAMS if not hasattr(RedisBackend, name)]
    missing += [name for name in _INSTANCE_SEAMS if not hasattr(backend, name)]
    if missing:
        raise ConfigurationError(
            f"RedisBackend.{missing[0]} is gone; taskservice.backends.storing must follow"
        )


def stores_in_json(backend: Any) -> bool:
    """Return whether a script can read what is stored, and put it into a list."""
    return backend.serializer == "json" and not getattr(backend, "compression", None)


def is_plain_redis(backend: Any) -> bool:
    """Return whether it stores as Celery's own does, with a result backend for each thread."""
    return type(backend) in {RedisBackend, OneTripRedisBackend} and not getattr(backend, "thread_safe", True)


def seconds_to_live(backend: Any, state: str) -> int:
    """Return how long a result is kept, 0 for ever."""
    of_failure = getattr(backend, "failure_expires", None)
    failed = state == states.FAILURE and of_failure is not None
    return int((of_failure if failed else backend.expires) or 0)


def write_results(backend: Any, results: Sequence[StoredResult], *, channel: str | bytes = "") -> None:
    """Write and publish results, and all together on ``channel``.

    Over a success nothing is written, and over no end that a run is to be retried.

    One round trip for those that are kept alike; ``redis.exceptions.ResponseError`` where there are no
    scripts.
    """
    if isinstance(backend, OneTripRedisBackend) and backend.wrote(results, channel=channel):
        return

    for some in _alike(backend, results):
        keys, arguments = _script_arguments(backend, some, channel)
        backend.client.eval(WRITE, len(keys), *keys, *arguments)


def _alike(backend: Any, results: Sequence[StoredResult]) -> Iterable[list[StoredResult]]:
    found: dict[tuple[int, str], list[StoredResult]] = {}
    for each in results:
        found.setdefault(_how_kept(backend, each), []).append(each)
    return found.values()


def _how_kept(backend: Any, result: StoredResult) -> tuple[int, str]:
    # The attempt that follows may have ended before this one could say so.
    kept = _KEPT_BY_RETRY if result.state == states.RETRY else _KEPT
    return seconds_to_live(backend, result.state), kept


def _script_arguments(
    backend: Any, alike: Sequence[StoredResult], channel: str | bytes
) -> tuple[list[Any], list[Any]]:
    keys = [backend.get_key_for_task(each.run_id) for each in alike]
    return keys, [channel, *_how_kept(backend, alike[0]), *[each.encoded for each in alike]]


class OneTripRedisBackend(RedisBackend):
    """Celery's result backend on Redis; what it stores is the same."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        require_storing(self)
        self._line: ScriptLine | None = None

    def _store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: Any = None,
        request: Any = None,
        **options: Any,
    ) -> Any:
        own: Any = self
        if options or not stores_in_json(own):
            return self._store_plainly(task_id, result, state, traceback, request, **options)

        meta = own._get_result_meta(  # noqa: SLF001 - listed above
            result=result, state=state, traceback=traceback, request=request
        )
        meta["task_id"] = task_id
        encoded = own.encode(meta)
        if len(encoded) > own._MAX_STR_VALUE_SIZE:  # noqa: SLF001 - Celery's own error tells of it
            return self._store_plainly(task_id, result, state, traceback, request)

        stored = StoredResult(run_id=task_id, state=state, encoded=encoded)
        if self.wrote([stored], wait=state != states.STARTED):
            return result
        try:
            own.ensure(write_results, (own, [stored]))
        except ResponseError:  # there may be no scripts here; any other refusal comes again
            return self._store_plainly(task_id, result, state, traceback, request)
        return result

    def wrote(self, results: Sequence[StoredResult], *, channel: str | bytes = "", wait: bool = True) -> bool:
        """Do what `write_results` does on a connection of its own; False leaves open what was done.

        To write twice does no harm. Without ``wait`` it is sent, and nobody hears of an error.
        """
        own: Any = self
        if own.max_connections or getattr(own, "thread_safe", True):
            return False  # there may be no connection to keep, or more than one thread to use it
        try:
            if self._line is None:
                self._line = ScriptLine(own.client, WRITE)
            if self._line.busy:
                return False
            for some in _alike(own, results):
                self._line.run(*_script_arguments(own, some, channel), wait=wait)
        except (RedisError, OSError) as error:
            # Met again, and told in Celery's own way, by what comes next.
            logger.debug("%d results not stored at once: %s", len(results), error)
            return False
        return True

    def _store_plainly(self, *args: Any, **options: Any) -> Any:
        plain: Any = super()
        return plain._store_result(*args, **options)  # noqa: SLF001 - Celery's own, listed above


def install_storing(app: Celery) -> None:
    """Have ``app`` store in Redis in one round trip, unless it has a result backend of its own making."""
    loader: Any = app.loader
    own = f"{OneTripRedisBackend.__module__}:{OneTripRedisBackend.__qualname__}"
    loader.override_backends = {"redis": own, "rediss": own, **loader.override_backends}
