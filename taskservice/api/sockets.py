"""WebSockets: one conversation about one workflow run.

The client sends ``{"action": ...}``, with any ``ref`` that should come back with the answer; the server sends
``{"type": "answer" | "error" | "event" | "end", ...}``. A message that cannot be understood is answered, and
harms nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from json import dumps
from typing import TYPE_CHECKING, Annotated, Any, Final

import anyio
from fastapi import APIRouter, Query, WebSocket, WebSocketDisconnect
from pydantic import ValidationError

from taskservice.api.core import Core, Held
from taskservice.api.gate import CALL, Call
from taskservice.api.messages import Auth, CheckStatus, InitData, Input, Message, read_message
from taskservice.api.problems import ProblemError, described, problem_of
from taskservice.api.values import EVENT_ID, Start, event_view, run_view
from taskservice.api.workflows import start_run
from taskservice.errors import TaskServiceError

if TYPE_CHECKING:
    from taskservice.api.access import Principal
    from taskservice.workflow.client import WorkflowClient
    from taskservice.workflow.model import WorkflowRun

__all__ = ["CLOSE_REASONS", "router"]

logger = logging.getLogger(__name__)

FIRST_SECONDS: Final = 10.0
"""How long a client may take to say who it is."""
CLOSE_SECONDS: Final = 1.0
GONE: Final = 0
CLOSE_REASONS: Final = {
    1000: "the run is over",
    1003: "send text",
    1009: "the message is too long",
    1011: "the server failed",
    1012: "the server stops",
    4401: "send a token, in the header or as the first message",
    4404: "no such run",
    4408: "the client took nothing in for too long",
    4429: "too many streams are open",
}

router = APIRouter()


@router.websocket("/workflows/ws")
async def converse(socket: WebSocket, core: Held) -> None:
    """Talk about a run that ``init_data`` starts."""
    await _Conversation(socket, core).hold(None)


@router.websocket("/workflows/runs/{run_id}/ws")
async def converse_about(
    socket: WebSocket, core: Held, run_id: str, after: Annotated[int, Query(ge=0, le=EVENT_ID)] = 0
) -> None:
    """Talk about a run that is there, whose events come from the one after ``after``."""
    await _Conversation(socket, core).hold(run_id, after)


class _ClosedError(Exception):
    """The conversation is over; ``code`` is `GONE` where the client has hung up."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class _Conversation:
    def __init__(self, socket: WebSocket, core: Core) -> None:
        self._socket = socket
        self._core = core
        self._sending = anyio.Lock()
        self._run_id: str | None = None
        # What is cancelled from outside ends so: see OpenStreams.close.
        self._code = 1012
        self._group: anyio.abc.TaskGroup
        self._asker: Principal
        self._runs: WorkflowClient

    async def hold(self, run_id: str | None, after: int = 0) -> None:
        """Talk until one of the two, or the run, has enough."""
        await self._socket.accept()
        try:
            self._asker = await self._who()
            self._runs = self._core.runs_of(self._asker)
            with self._core.streams.one(self._asker):
                await self._talk(run_id, after)
        except _ClosedError as closed:
            self._code = closed.code
        except ProblemError:
            self._code = 4429
        call: Call = self._socket.scope[CALL]
        call.status = self._code
        if self._code != GONE:
            await self._close()

    async def _who(self) -> Principal:
        header = self._socket.headers.get("authorization")
        found = self._core.access.of_header(None if header is None else header.encode("latin-1"))
        if found is None and header is None:
            with anyio.move_on_after(FIRST_SECONDS):
                found = await self._introduced()
        if found is None:
            raise _ClosedError(4401)

        call: Call = self._socket.scope[CALL]
        call.principal = found
        return found

    async def _introduced(self) -> Principal | None:
        try:
            first = Auth.model_validate_json(await self._heard())
        except ValidationError:
            return None

        found = self._core.access.of_token(first.token.encode())
        if found is not None:
            await self._say({"type": "answer", "action": "auth", "ref": first.ref})
        return found

    async def _talk(self, run_id: str | None, after: int) -> None:
        if run_id is not None:
            try:
                await self._runs.status(run_id)
            except TaskServiceError as error:
                raise _ClosedError(4404 if problem_of(error).status == 404 else 1011) from error

        async with anyio.create_task_group() as self._group:
            if run_id is not None:
                self._follow(run_id, after)
            await self._until_closed(self._listen)

    async def _until_closed(self, part: Callable[..., Awaitable[None]], *args: Any) -> None:
        # A task group would raise it in a group, and both parts may at once.
        try:
            await part(*args)
        except _ClosedError as closed:
            self._code = closed.code
            self._group.cancel_scope.cancel()

    def _follow(self, run_id: str, after: int = 0) -> None:
        self._run_id = run_id
        self._group.start_soon(self._until_closed, self._report, run_id, after)

    async def _report(self, run_id: str, after: int) -> None:
        try:
            async with aclosing(self._runs.events(run_id, after=after)) as events:
                async for event in events:
                    await self._say({"type": "event", **event_view(event)})
            run = await self._runs.status(run_id)
        except TaskServiceError as error:
            await self._complain({}, error)
            raise _ClosedError(1011) from error

        await self._say({"type": "end", **_told(run)})
        raise _ClosedError(1000)

    async def _listen(self) -> None:
        while True:
            echo, message = read_message(await self._heard())
            seconds = self._core.rates.wait(self._asker)
            if seconds:
                message = ProblemError(
                    429, "rate_limited", f"too many messages; try again in {seconds} s", seconds
                )
            if isinstance(message, ProblemError):
                await self._complain(echo, message)
                continue

            try:
                run = await self._act(message)
            except TaskServiceError as error:
                await self._complain(echo, error)
                continue
            await self._say({"type": "answer", **echo, **_told(run)})
            if isinstance(message, InitData):
                # Its events come after the answer that says whose they are.
                self._follow(run.id)

    async def _act(self, message: Message) -> WorkflowRun:
        if isinstance(message, InitData):
            if self._run_id is not None:
                raise ProblemError(409, "conflict", "this socket has its run: open another for another")
            start = Start(args=message.args, kwargs=message.kwargs)
            return await start_run(self._core, self._asker, message.workflow, start, message.idempotency_key)
        if self._run_id is None:
            raise ProblemError(409, "conflict", "this socket has no run yet: send init_data first")
        if isinstance(message, CheckStatus):
            return await self._runs.status(self._run_id)
        if isinstance(message, Input):
            return await self._runs.send_input(self._run_id, message.value, message.question_id)
        return await self._runs.stop(self._run_id)

    async def _complain(self, echo: dict[str, Any], error: TaskServiceError) -> None:
        call: Call = self._socket.scope[CALL]
        problem = problem_of(error)
        if problem.status == 500:
            logger.error("socket %s failed", call.request_id, exc_info=error)
        await self._say({"type": "error", **echo, "problem": described(problem, call.request_id)})

    async def _heard(self) -> str:
        try:
            message = await self._socket.receive()
        except RuntimeError:  # it has hung up before
            raise _ClosedError(GONE) from None
        if message["type"] == "websocket.disconnect":
            raise _ClosedError(GONE)

        text = message.get("text")
        if text is None:
            raise _ClosedError(1003)
        if len(text) > self._core.settings.payload_limit:
            raise _ClosedError(1009)
        return str(text)

    async def _say(self, message: dict[str, Any]) -> None:
        async with self._sending:
            try:
                # What a slow client has not taken waits in the run's store, and not here.
                with anyio.fail_after(self._core.times.patience):
                    await self._socket.send_text(dumps(message))
            except TimeoutError:
                logger.warning("a socket was closed: its client took nothing in for too long")
                raise _ClosedError(4408) from None
            except (WebSocketDisconnect, RuntimeError):
                raise _ClosedError(GONE) from None

    async def _close(self) -> None:
        with anyio.move_on_after(CLOSE_SECONDS):
            try:
                await self._socket.close(self._code, CLOSE_REASONS[self._code])
            except (WebSocketDisconnect, RuntimeError):
                return


def _told(run: WorkflowRun) -> dict[str, Any]:
    return {"run": run_view(run).model_dump(mode="json", by_alias=True)}
