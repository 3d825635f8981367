"""One launch of many runs on Celery: their ids, the messages they travel in, and sending them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

from taskservice.backends.bulk import Message, publish_all
from taskservice.backends.calls_many import checked_per_message
from taskservice.backends.packed import pack_arguments, packed_options, packed_task, refuse_unpackable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from celery import Celery, Task

__all__ = ["ManyLaunch"]


class ManyLaunch:
    """Calls of one task on their way; filled by `add`, sent once, by `send`."""

    def __init__(self, app: Celery, task: Task[..., Any], *, per_message: int = 1) -> None:
        self.task = task
        self._app = app
        self._per_message = checked_per_message(per_message)
        self._singles: list[Message] = []
        self._packs: list[tuple[str, Sequence[Message]]] = []
        if per_message > 1 and not app.conf.task_always_eager:
            refuse_unpackable(app, task)

    def add(self, prepared: Iterable[tuple[list[Any], dict[str, Any]]]) -> None:
        """Give each call an id."""
        self._singles = [Message(str(uuid4()), args, kwargs) for args, kwargs in prepared]
        size = self._per_message
        if size > 1:
            starts = range(0, len(self._singles), size)
            self._packs = [(str(uuid4()), self._singles[start : start + size]) for start in starts]

    def send(self) -> None:
        """Send them all, in order; it blocks for a few round trips."""
        if not self._singles:
            return
        if not self._packs:
            publish_all(self._app, self.task, self._singles, {})
            return

        packed = packed_task(self._app, self.task)
        messages = [Message(pack_id, self._packed(runs), {}) for pack_id, runs in self._packs]
        publish_all(self._app, packed, messages, packed_options(self._app, self.task))

    def runs(self) -> Iterator[tuple[str, str | None]]:
        """Yield each run's id, and that of the message it shares with others, in the order of the calls."""
        if not self._packs:
            for run in self._singles:
                yield run.id, None
        for pack_id, runs in self._packs:
            for run in runs:
                yield run.id, pack_id

    def _packed(self, runs: Sequence[Message]) -> tuple[str, list[list[Any]]]:
        return pack_arguments(self.task, [(run.id, run.args, run.kwargs) for run in runs])
