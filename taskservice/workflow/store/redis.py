"""Workflow runs in Redis: each write is one script, so it happens as a whole or not at all.

``wf:run:ID`` is the run, ``wf:journal:ID`` its journal, ``wf:events:ID`` its events, as a stream and,
for whoever watches, as a channel; ``wf:deadlines`` holds the ids by deadline. Each key of a run lives
for a while after its last write, and instants are seconds that the caller gave.
"""

# ruff: noqa: D102 - WorkflowStore documents the contract, once

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import RedisError

from taskservice.errors import BackendUnavailableError, LeaseLostError
from taskservice.workflow.model import FailureReason, WorkflowStatus
from taskservice.workflow.store.base import EventPage, lifetime
from taskservice.workflow.store.codec import (
    decode_entry,
    decode_event,
    decode_run,
    encode_changes,
    encode_entry,
    encode_event,
    encode_run,
)
from taskservice.workflow.store.feed import EventFeed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from taskservice.backends.storage import Storage
    from taskservice.workflow.model import JournalEntry, WorkflowRun
    from taskservice.workflow.store.base import EventWatcher
    from taskservice.workflow.transitions import Change

__all__ = ["RedisStore"]

_LOST: Final = -1


class RedisStore:
    """Keeps runs in the service's Redis, 6.2 or later; ``storage`` stays its owner's to close."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._client: Any = storage.client
        self._deadlines = storage.key("wf", "deadlines")
        self._transition = self._script("transition")
        self._emit = self._script("emit")
        self._due = self._script("due")
        self._feed = EventFeed(self._client)

    @property
    def local(self) -> bool:
        return False

    def create(self, run: WorkflowRun, event: tuple[str, Any]) -> bool:
        first = encode_event(*event, run.created_at)
        return self._write(run, run.created_at, _Write(seen="", event=first, fields=encode_run(run)))

    def load(self, run_id: str) -> WorkflowRun | None:
        with _reaching():
            found: dict[Any, Any] = self._client.hgetall(self._key("run", run_id))
        fields = {_text(name): _text(value) for name, value in found.items()}
        return decode_run(run_id, fields) if fields else None

    def journal(self, run_id: str) -> list[JournalEntry]:
        with _reaching():
            found: dict[Any, Any] = self._client.hgetall(self._key("journal", run_id))
        return [decode_entry(index, packed) for index, packed in sorted(_numbered(found))]

    def write(
        self, before: WorkflowRun, change: Change, *, now: float, entry: JournalEntry | None = None
    ) -> bool:
        written, removed = encode_changes(before, change.run)
        write = _Write(
            seen=str(before.version),
            event="" if change.event is None else encode_event(*change.event, now),
            fields=written,
            removed=removed,
            entry=("", "") if entry is None else (str(entry.index), encode_entry(entry)),
        )
        return self._write(change.run, now, write)

    def emit(
        self,
        run_id: str,
        token: int,
        events: Sequence[tuple[tuple[int, int], str, Any]],
        *,
        now: float,
    ) -> None:
        arguments: list[str | int] = [token, repr(now)]
        for (steps, count), kind, data in events:
            arguments += (steps, count, encode_event(kind, data, now))
        with _reaching():
            found = self._emit(keys=self._keys(run_id), args=arguments)
        if found == _LOST:
            raise LeaseLostError(run_id, token)

    def events(self, run_id: str, *, after: int = 0, limit: int = 500) -> EventPage:
        first = max(after, 0) + 1
        with _reaching():
            found = self._client.xrange(self._key("events", run_id), min=f"{first}-0", count=limit)
        events = tuple(
            decode_event(int(_text(number).partition("-")[0]), _text(*fields.values()))
            for number, fields in found
        )
        return EventPage(events=events, trimmed=bool(events) and events[0].id > first)

    def watch(self, run_id: str, watcher: EventWatcher) -> Callable[[], None]:
        return self._feed.watch(self._key("events", run_id), watcher)

    def due(self, now: float, *, limit: int = 100) -> list[str]:
        with _reaching():
            found = self._due(keys=[self._deadlines], args=[repr(now), limit, self._key("run", "")])
        return [_text(run_id) for run_id in found]

    def forget(self, run_id: str) -> bool:
        with _reaching():
            pipe = self._client.pipeline()
            pipe.unlink(self._key("run", run_id))
            pipe.unlink(*self._keys(run_id)[1:])
            pipe.zrem(self._deadlines, run_id)
            return bool(pipe.execute()[0])

    def count_keys(self, run_id: str) -> int:
        """Return how many keys the server holds for a run."""
        with _reaching():
            return int(self._client.exists(*self._keys(run_id)))

    def close(self) -> None:
        self._feed.close()

    def _write(self, run: WorkflowRun, now: float, write: _Write) -> bool:
        rests = run.status.final or run.status is WorkflowStatus.INPUT
        arguments = [
            run.id,
            write.seen,
            0 if run.reason is FailureReason.EXPIRED else max(1, int(lifetime(run, now) * 1000)),
            "" if run.deadline is None else repr(run.deadline),
            write.event,
            run.deadlines.max_events,
            "1" if rests else "",
            *write.entry,
            len(write.fields),
            *(text for pair in write.fields.items() for text in pair),
            *write.removed,
        ]
        with _reaching():
            return bool(self._transition(keys=[*self._keys(run.id), self._deadlines], args=arguments))

    def _key(self, kind: str, run_id: str) -> str:
        return self._storage.key("wf", kind, run_id)

    def _keys(self, run_id: str) -> list[str]:
        return [self._key(kind, run_id) for kind in ("run", "journal", "events")]

    def _script(self, name: str) -> Any:
        return self._client.register_script(files(__package__).joinpath(f"{name}.lua").read_text("utf-8"))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Write:
    """What ``transition.lua`` is told besides the run itself; empty strings are nothing."""

    seen: str
    event: str
    fields: Mapping[str, str]
    removed: Sequence[str] = ()
    entry: tuple[str, str] = ("", "")


@contextmanager
def _reaching() -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError) as error:
        raise BackendUnavailableError("redis", str(error)) from error


def _numbered(found: Mapping[Any, Any]) -> list[tuple[int, str]]:
    return [(int(_text(index)), _text(packed)) for index, packed in found.items()]


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode()
