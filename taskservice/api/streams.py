"""Streams: events of a run as server-sent events, to clients that may be slow, dead or coming back."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from json import dumps
from typing import TYPE_CHECKING, Any, Final

import anyio
from fastapi import Response

from taskservice.api.problems import ProblemError, described, problem_of
from taskservice.api.values import event_view
from taskservice.errors import TaskServiceError

if TYPE_CHECKING:
    from taskservice.api.access import Principal
    from taskservice.workflow.events import WorkflowEvents
    from taskservice.workflow.model import WorkflowEvent

__all__ = ["EventStream", "OpenStreams", "StreamTimes"]

logger = logging.getLogger(__name__)

RETRY_MS: Final = 2000
LAST_SECONDS: Final = 1.0
"""How long the end of a stream may take to be sent: a server that stops waits for it."""
STILL_HERE: Final = ": still here\n\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamTimes:
    """How many seconds a stream may be silent, and its client take nothing in."""

    heartbeat: float
    patience: float


class OpenStreams:
    """The streams that are open: counted for each token, and closed together."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._count: Counter[str] = Counter()
        self._scopes: set[anyio.CancelScope] = set()
        self._closed = False

    @contextmanager
    def one(self, principal: Principal) -> Iterator[None]:
        """Count one more, and leave the block early when all are closed; a problem if there are too many."""
        if self._count[principal.key] >= self._most:
            raise ProblemError(429, "too_many_streams", f"this token has {self._most} streams open", 10)

        self._count[principal.key] += 1
        try:
            with anyio.CancelScope() as scope:
                self._scopes.add(scope)
                if self._closed:
                    scope.cancel()
                yield
        finally:
            self._scopes.discard(scope)
            self._count[principal.key] -= 1

    def close(self) -> None:
        """End all that are open, and each that still comes."""
        self._closed = True
        for scope in tuple(self._scopes):
            scope.cancel()


class EventStream(Response):
    """Sends events until the run is over, the client is gone, or all streams are closed.

    What a slow client has not taken stays in the run's store; one that takes nothing at all is cut off.
    """

    media_type = "text/event-stream"

    def __init__(
        self, events: WorkflowEvents, *, streams: OpenStreams, principal: Principal, times: StreamTimes
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._streams = streams
        self._principal = principal
        self._times = times

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve it."""
        listens = True
        with self._streams.one(self._principal):
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async with aclosing(self._events), anyio.create_task_group() as group:
                group.start_soon(_until_gone, receive, group.cancel_scope)
                listens = await self._serve(send)
                group.cancel_scope.cancel()
        if listens:
            # Otherwise it is left unfinished, and the server closes the connection.
            with anyio.move_on_after(LAST_SECONDS):
                await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _serve(self, send: Any) -> bool:
        try:
            text: str | None = f"retry: {RETRY_MS}\n\n"
            while text is not None:
                with anyio.fail_after(self._times.patience):
                    await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
                text = await self._next()
        except TimeoutError:
            logger.warning("an event stream was cut: its client took nothing in for too long")
            return False

        return True

    async def _next(self) -> str | None:
        with anyio.move_on_after(self._times.heartbeat):
            try:
                event = await self._events.next()
            except TaskServiceError as error:
                await self._events.aclose()
                return f"event: error\ndata: {dumps(described(problem_of(error), None))}\n\n"
            return None if event is None else _as_text(event)
        return STILL_HERE


def _as_text(event: WorkflowEvent) -> str:
    # A kind is a workflow's own word, and a line break in it would begin another field.
    kind = "".join(event.kind.splitlines()) or "message"
    return f"id: {event.id}\nevent: {kind}\ndata: {dumps(event_view(event))}\n\n"


async def _until_gone(receive: Any, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
