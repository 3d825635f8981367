"""Routes of workflow runs: start, look at, answer, stop, and follow their events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Body, Header, Query, Response
from pydantic import Field

from taskservice.api.core import Asker, Core, Held
from taskservice.api.problems import ProblemError, documented
from taskservice.api.records import scoped
from taskservice.api.streams import EventStream
from taskservice.api.values import EVENT_ID, Absent, Reply, RunView, Start, run_view
from taskservice.errors import PayloadError
from taskservice.submission import LONGEST_KEY

if TYPE_CHECKING:
    from taskservice.api.access import Principal
    from taskservice.workflow.model import WorkflowRun

__all__ = ["router", "start_run"]

EventNumber = Annotated[int, Field(ge=0, le=EVENT_ID)]
StartKey = Annotated[str, Field(min_length=1, max_length=LONGEST_KEY)]
NOTHING = Start()
_TEXT = {"type": "string"}
STREAM: dict[str, Any] = {
    "description": "Events as they come: `event` is the kind, `data` JSON with `id`, `kind`, `data`, `at`.",
    "content": {
        "text/event-stream": {
            "schema": {
                "type": "object",
                "properties": {"id": _TEXT, "event": _TEXT, "data": _TEXT, "retry": {"type": "integer"}},
            }
        }
    },
}

router = APIRouter(prefix="/workflows", tags=["workflows"])


@router.post("/{name}/runs", status_code=202, responses=documented(404))
async def start_workflow(  # noqa: PLR0913, PLR0917 - a route
    name: str,
    core: Held,
    asker: Asker,
    answer: Response,
    start: Annotated[Start, Body()] = NOTHING,
    idempotency_key: Annotated[StartKey | Absent, Header()] = None,
) -> RunView:
    """Start a run; with the same Idempotency-Key, the same one once."""
    run = await start_run(core, asker, name, start, idempotency_key)
    answer.headers["Location"] = f"/workflows/runs/{run.id}"
    return run_view(run)


async def start_run(
    core: Core, asker: Principal, name: str, start: Start, key: str | None = None
) -> WorkflowRun:
    """Start a run of the workflow called ``name`` for ``asker``, or find the one that ``key`` started."""
    core.catalog.check_workflow(name)
    client = core.workflows.for_owner(asker.owner)

    async def begin() -> str:
        return await client.start(name, *start.args, **start.kwargs)

    try:
        run_id = await (
            begin()
            if key is None
            else core.records.start_once(scoped(asker.owner, "workflow", name, key), begin)
        )
    except PayloadError:
        raise
    except TypeError as error:
        raise ProblemError(422, "invalid", f"the workflow does not take these arguments: {error}") from error
    return await client.status(run_id)


@router.get("/runs/{run_id}", responses=documented(404))
async def get_run(run_id: str, core: Held, asker: Asker) -> RunView:
    """Return where a run stands: its question, its result, or why it failed."""
    return run_view(await core.runs_of(asker).status(run_id))


@router.post("/runs/{run_id}/input", responses=documented(404, 409))
async def send_input(run_id: str, reply: Reply, core: Held, asker: Asker) -> RunView:
    """Answer the open question; one of several answers is taken."""
    return run_view(await core.runs_of(asker).send_input(run_id, reply.value, reply.question_id))


@router.post("/runs/{run_id}/stop", responses=documented(404, 409))
async def stop_run(run_id: str, core: Held, asker: Asker) -> RunView:
    """End a run at once, whatever it does."""
    return run_view(await core.runs_of(asker).stop(run_id))


@router.get(
    "/runs/{run_id}/events",
    response_class=Response,
    responses={
        **documented(404),
        200: STREAM,
        204: {"description": "There will be no more: do not come back."},
    },
)
async def follow_events(
    run_id: str,
    core: Held,
    asker: Asker,
    after: Annotated[EventNumber, Query()] = 0,
    last_event_id: Annotated[EventNumber | Absent, Header()] = None,
) -> Response:
    """Follow a run's events from the one after `after`, or after `Last-Event-ID`, which counts more.

    It ends after the final event. Comments come while there is no event.
    """
    client = core.runs_of(asker)
    run = await client.status(run_id)
    seen = after if last_event_id is None else last_event_id
    if run.status.final and seen >= run.last_event:
        return Response(status_code=204)

    events = client.events(run_id, after=seen)
    return EventStream(events, streams=core.streams, principal=asker, times=core.times)
