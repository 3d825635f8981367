"""Results of a packed message on Redis: written together, and told together on the message's own channel.

Who waits for runs of a pack follows the channel of the pack. What is published there, besides Celery's own
word about the message, is a JSON list. An item is a result as it is stored: of a run that is over, or of one
that goes on alone, by a retry for one, and whose own channel is to be followed from then on. ``null`` means
that what is stored should be looked at. Every result is published on its run's own channel as well.

Leaned on: ``Backend.store_result`` and ``_store_result``, which are replaced on the instance while a pack
runs, ``current_task_children``, and what `storing` has on its list and checks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self

from celery import states
from celery.backends.redis import RedisBackend
from redis.exceptions import ResponseError

from taskservice.backends.packed_successes import SuccessTemplate, success_template
from taskservice.backends.storing import (
    StoredResult,
    require_storing,
    seconds_to_live,
    stores_in_json,
    write_results,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["LOOK", "ResultBuffer", "send_off"]

LOOK: Final = b"[null]"


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

    def __init__(self, given: RedisBackend, pack_id: str) -> None:
        backend: Any = given
        self._backend = backend
        self._pack_id = pack_id
        self._pending: dict[str, StoredResult] = {}
        require_storing(backend)
        self._in_json = stores_in_json(backend)
        self._longest: int = backend._MAX_STR_VALUE_SIZE  # noqa: SLF001 - listed above
        self._template: SuccessTemplate | None = None
        self._untried = self._in_json

    def __enter__(self) -> Self:
        self._original = self._backend._store_result  # noqa: SLF001 - listed above
        self._store_result = self._backend.store_result
        self._backend._store_result = self._store  # noqa: SLF001 - listed above
        self._backend.store_result = self._store_simply
        return self

    def __exit__(self, *_: object) -> None:
        del self._backend.store_result
        del self._backend._store_result  # noqa: SLF001 - listed above
        self.flush()

    def flush(self) -> None:
        """Write what has been collected; a run that already succeeded keeps its result."""
        pending, self._pending = self._pending, {}
        if pending:
            self._backend.ensure(self._write, (pending,))

    def _store_simply(
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
        template = self._template
        if template is None or state != states.SUCCESS or request is None or traceback or options:
            return self._store_result(task_id, result, state, traceback, request=request, **options)

        value = self._backend.encode_result(result, state)
        try:
            encoded = template.fill(request, task_id, value)
        except (TypeError, ValueError):  # Celery has an error of its own for what is not JSON
            encoded = ""
        if not 0 < len(encoded) <= self._longest:
            return self._store_result(task_id, result, state, request=request)
        self._pending[task_id] = StoredResult(run_id=task_id, state=state, encoded=encoded)
        return value

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
        if self._untried and state == states.SUCCESS and request is not None:
            self._untried = False
            self._template = success_template(backend, request, meta, encoded)
        if len(encoded) > self._longest:  # Celery's own error tells of it
            return self._store_alone(task_id, result, state, traceback, request=request)
        self._pending[task_id] = StoredResult(run_id=task_id, state=state, encoded=encoded)
        if at_once:
            self.flush()
        return result

    def _store_alone(self, task_id: str, *args: Any, **options: Any) -> Any:
        try:
            return self._original(task_id, *args, **options)
        finally:
            send_off(self._backend, self._pack_id, [task_id])

    def _write(self, pending: dict[str, StoredResult]) -> None:
        if not self._in_json:
            self._write_plainly(pending)
            return

        try:
            write_results(self._backend, list(pending.values()), channel=self._channel())
        except ResponseError:  # there may be no scripts here; any other refusal comes again
            self._write_plainly(pending)

    def _write_plainly(self, pending: dict[str, StoredResult]) -> None:
        backend = self._backend
        keys = [backend.get_key_for_task(task_id) for task_id in pending]
        stored = backend.client.mget(keys)
        with backend.client.pipeline() as pipe:
            for key, each, before in zip(keys, pending.values(), stored, strict=True):
                if before is not None and backend.decode_result(before)["status"] == states.SUCCESS:
                    continue
                pipe.set(key, each.encoded, ex=seconds_to_live(backend, each.state) or None)
                pipe.publish(key, each.encoded)
            pipe.publish(self._channel(), LOOK)
            pipe.execute()

    def _channel(self) -> Any:
        return self._backend.get_key_for_task(self._pack_id)
