"""One launch of many runs on Celery: their ids, the messages they travel in, and sending them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taskservice.backends.bulk import BATCH, Message, publish_all
from taskservice.backends.calls_many import checked_per_message
from taskservice.backends.packed import pack_arguments, packed_options, packed_task, refuse_unpackable
from taskservice.runs import new_run_id

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

    from celery import Celery, Task

__all__ = ["ManyLaunch"]


class ManyLaunch:
    """Calls of one task on their way; filled by `add`, sent by `send`."""

    def __init__(self, app: Celery, task: Task[..., Any], *, per_message: int = 1) -> None:
        self.task = task
        self._app = app
        self._per_message = checked_per_message(per_message)
        self._calls: list[Message] = []
        self._packs: dict[str, str] = {}
        if per_message > 1 and not app.conf.task_always_eager:
            refuse_unpackable(app, task)

    def add(self, prepared: Iterable[tuple[list[Any], dict[str, Any]]]) -> None:
        """Give each call an id."""
        self._calls = [Message(new_run_id(), args, kwargs) for args, kwargs in prepared]

    @property
    def ids(self) -> list[str]:
        """The calls' run ids, in their order."""
        return [call.id for call in self._calls]

    def send(self, only: Container[str] | None = None) -> None:
        """Send them, or ``only`` some run ids, in order; it blocks for a few round trips."""
        calls = self._calls if only is None else [call for call in self._calls if call.id in only]
        if not calls:
            return
        if self._per_message == 1:
            publish_all(self._app, self.task, calls, {})
            return

        starts = range(0, len(calls), self._per_message)
        packs = {new_run_id(): calls[start : start + self._per_message] for start in starts}
        messages = [Message(pack_id, self._packed(runs), {}) for pack_id, runs in packs.items()]
        packed = packed_task(self._app, self.task)
        # As many calls at once as would go alone: workers begin while the rest is still being made.
        batch = max(1, BATCH // self._per_message)
        publish_all(self._app, packed, messages, packed_options(self._app, self.task), batch=batch)
        self._packs.update({run.id: pack_id for pack_id, runs in packs.items() for run in runs})

    def pack_of(self, run_id: str) -> str | None:
        """Return the id of the message that a run shares with others, once sent."""
        return self._packs.get(run_id)

    def _packed(self, runs: Sequence[Message]) -> tuple[str, list[list[Any]]]:
        return pack_arguments(self.task, [(run.id, run.args, run.kwargs) for run in runs])
