"""Where runs are that have not ended: in a queue, with a worker, or lost.

On a Redis broker the messages themselves are looked at, waiting and unacknowledged ones (kombu's
``unacked`` hash), besides what the workers say. Elsewhere only the workers can be asked, and a run that
none of them has is ``unknown`` for as long as anything waits.
"""

from __future__ import annotations

import logging
from json import loads
from time import time
from typing import TYPE_CHECKING, Any, Final

from kombu.exceptions import OperationalError
from kombu.transport.redis import PRIORITY_STEPS, Channel
from redis.exceptions import RedisError

from taskservice.backends.overview import read_overview
from taskservice.backends.probing import connect_redis, first_broker_url
from taskservice.backends.queues import queue_names, read_queues
from taskservice.backends.results import FINAL_STATES, read_metas

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from celery import Celery

__all__ = ["Backlog", "find_runs"]

logger = logging.getLogger(__name__)

PAGE: Final = 500
SECONDS: Final = 2.0
PASSES: Final = 2
"""How often is looked before a run counts as lost: a worker that is busy answers late."""
UNACKED: Final = "unacked"
_UNREACHABLE: Final = (RedisError, OperationalError, OSError)


class Backlog:
    """How much waits, and how much is taken and not acknowledged."""

    def __init__(self, app: Celery, queues: Iterable[str] = ()) -> None:
        self._app = app
        self._names = queue_names(app, queues)

    def read(self) -> tuple[int | None, int | None]:
        """Return both, ``None`` for what nobody can tell; it blocks for two seconds at most."""
        try:
            found = read_queues(self._app, self._names, now=time(), seconds=SECONDS)
            waiting = sum(queue.depth for queue in found)
            return waiting, self._unacked()
        except _UNREACHABLE as error:
            logger.debug("the backlog could not be read: %s", error)
            return None, None

    def _unacked(self) -> int | None:
        if not _on_redis(self._app):
            return None

        with connect_redis(first_broker_url(self._app), SECONDS) as client:
            count: Any = client.hlen(_key(self._app, UNACKED))
        return int(count)


def find_runs(app: Celery, run_ids: Collection[str], queues: Iterable[str] = ()) -> dict[str, str]:
    """Return where each run is: ``queued``, ``taken``, ``done``, ``failed``, ``lost`` or ``unknown``."""
    try:
        return _find(app, set(run_ids), queue_names(app, queues))
    except _UNREACHABLE as error:
        logger.warning("the broker does not say where %d runs are: %s", len(run_ids), error)
        return dict.fromkeys(run_ids, "unknown")


def _find(app: Celery, missing: set[str], names: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for _ in range(PASSES):
        found.update(_look(app, missing - found.keys(), names))
        if missing == found.keys():
            return found

    # Nobody has them, as far as anybody answers.
    hidden = not _on_redis(app) and any(q.depth for q in read_queues(app, names, now=time(), seconds=SECONDS))
    rest = "unknown" if hidden or _silent_workers(app) else "lost"
    return {**found, **dict.fromkeys(missing - found.keys(), rest)}


def _look(app: Celery, wanted: set[str], names: list[str]) -> dict[str, str]:
    """Look at each place in the order in which a run passes through them, so that none slips by."""
    places: list[tuple[str, Callable[[], Iterator[str]]]] = [("taken", lambda: _with_workers(app))]
    if _on_redis(app):
        places = [
            ("queued", lambda: _waiting(app, names)),
            ("taken", lambda: _unacknowledged(app)),
            *places,
        ]
    found: dict[str, str] = {}
    for where, runs in places:
        if len(found) < len(wanted):
            found.update({run_id: where for run_id in runs() if run_id in wanted and run_id not in found})
    rest = sorted(wanted - found.keys())
    for run_id, meta in zip(rest, read_metas(app.backend, rest), strict=True):
        if meta is not None and meta["status"] in FINAL_STATES:
            found[run_id] = "done" if meta["status"] == "SUCCESS" else "failed"
    return found


def _silent_workers(app: Celery) -> bool:
    """Return whether a worker lives that does not say what it has."""
    answered: Any = app.control.inspect(timeout=1.0).active()
    return not answered and bool(read_overview(app, seconds=SECONDS).workers)


def _waiting(app: Celery, names: Iterable[str]) -> Iterator[str]:
    options = app.conf.broker_transport_options
    separator = options.get("sep", Channel.sep)
    steps = options.get("priority_steps", PRIORITY_STEPS)
    with connect_redis(first_broker_url(app), SECONDS) as client:
        for name in names:
            for step in steps:
                key = _key(app, f"{name}{separator}{step}" if step else name)
                # From the left, where messages come: workers take from the right, which moves nothing here.
                start = 0
                while page := client.lrange(key, start, start + PAGE - 1):
                    yield from filter(None, map(_run_of, page))
                    start += PAGE


def _unacknowledged(app: Celery) -> Iterator[str]:
    with connect_redis(first_broker_url(app), SECONDS) as client:
        for _, stored in client.hscan_iter(_key(app, UNACKED), count=PAGE):
            yield from filter(None, [_run_of(stored)])


def _run_of(stored: bytes) -> str | None:
    """Return the id of the run whose message this is, as it waits or as kombu notes it."""
    try:
        message = loads(stored)
        message = message[0] if isinstance(message, list) else message
        run_id = message["headers"]["id"]
    except (ValueError, LookupError, TypeError):
        return None
    return run_id if isinstance(run_id, str) else None


def _with_workers(app: Celery) -> Iterator[str]:
    inspect: Any = app.control.inspect(timeout=1.0)
    for asked in (inspect.active, inspect.reserved, inspect.scheduled):
        for requests in (asked() or {}).values():
            for request in requests:
                yield str(request.get("request", request).get("id", ""))


def _on_redis(app: Celery) -> bool:
    with app.connection_for_write() as connection:
        return connection.transport_cls in {"redis", "rediss"}


def _key(app: Celery, name: str) -> str:
    return f"{app.conf.broker_transport_options.get('global_keyprefix', '')}{name}"
