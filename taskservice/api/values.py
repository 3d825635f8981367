"""Values: what requests and answers look like, for OpenAPI and for the checks."""

from __future__ import annotations

from base64 import b64encode
from datetime import UTC, date, datetime, time
from decimal import Decimal
from math import isfinite
from typing import TYPE_CHECKING, Annotated, Any, Final
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from taskservice.runs import TaskState
from taskservice.submission import HIGHEST_PRIORITY, LONGEST_KEY, LOWEST_PRIORITY
from taskservice.workflow.model import FailureReason, WorkflowStatus

if TYPE_CHECKING:
    from taskservice.workflow.model import WorkflowEvent, WorkflowRun

__all__ = [
    "EVENT_ID",
    "Absent",
    "Cancelled",
    "Error",
    "Launch",
    "Launched",
    "Options",
    "QuestionView",
    "Reply",
    "RunView",
    "Start",
    "TaskView",
    "Termination",
    "event_view",
    "plain",
    "run_view",
]

EVENT_ID: Final = 2**53 - 1
"""The largest id of an event that Redis and browsers count exactly."""
DEEPEST: Final = 100


def _checked(value: Any, depth: int = 0) -> Any:
    if depth > DEEPEST:
        raise ValueError(f"more than {DEEPEST} levels deep")
    if isinstance(value, float) and not isfinite(value):
        raise ValueError("a number that JSON does not have, NaN or an infinity")
    if isinstance(value, str):
        _check_text(value)
    elif isinstance(value, list):
        for item in value:
            _checked(item, depth + 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_text(key)
            _checked(item, depth + 1)
    return value


def _check_text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("half of a surrogate pair, which is no text") from None
    return text


def _check_instant(value: object) -> object:
    # Pydantic takes a number for seconds since the epoch.
    if not isinstance(value, str):
        raise ValueError("need a date and a time, as 2030-01-02T03:04:05Z")  # noqa: TRY004 - pydantic's rule
    return value


Json = Annotated[Any, AfterValidator(_checked)]
"""Any JSON that other programs can read."""
Text = Annotated[str, AfterValidator(_check_text)]
Instant = Annotated[AwareDatetime, BeforeValidator(_check_instant)]

Absent = SkipJsonSchema[None]
"""Where a header or a query is left out; it cannot be null."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Options(_Strict):
    """When, where and how urgently a run is wanted."""

    countdown: Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)] | None = Field(
        default=None, description="Seconds until it may start."
    )
    eta: Instant | None = Field(default=None, description="Earliest start, with a time zone.")
    expires: Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)] | Instant | None = Field(
        default=None, description="Seconds, or an instant: a run that has not started by then never does."
    )
    priority: Annotated[int, Field(ge=LOWEST_PRIORITY, le=HIGHEST_PRIORITY, strict=True)] | None = None
    queue: Annotated[Text, Field(min_length=1, max_length=200, pattern=r"^\S+$")] | None = None
    idempotency_key: Annotated[Text, Field(min_length=1, max_length=LONGEST_KEY)] | None = Field(
        default=None, description="The same key launches the same task once for each owner."
    )


class Launch(_Strict):
    """A task to launch."""

    name: Annotated[Text, Field(min_length=1, max_length=500)]
    args: list[Json] = []
    kwargs: dict[str, Json] = {}
    options: Options = Options()


class Launched(BaseModel):
    """A run that was accepted."""

    id: str


class Error(BaseModel):
    """What a function raised."""

    type: str
    message: str


class TaskView(BaseModel):
    """A run of a task."""

    id: str
    status: TaskState
    result: Any = None
    error: Error | None = None


class Termination(_Strict):
    """How a run is cancelled."""

    terminate: bool = Field(
        default=False, strict=True, description="End the process of a running plain function too."
    )


class Cancelled(BaseModel):
    """Whether a run was stopped."""

    id: str
    cancelled: bool


class Start(_Strict):
    """The arguments of a workflow."""

    args: list[Json] = []
    kwargs: dict[str, Json] = {}


class Reply(_Strict):
    """An answer; nothing is an answer too."""

    value: Json = None
    question_id: Annotated[Text, Field(min_length=1, max_length=200)] | None = Field(
        default=None, description="The question meant; without it, the one that is open."
    )


class QuestionView(BaseModel):
    """What a run waits for."""

    id: str
    prompt: str
    json_schema: dict[str, Any] | None = Field(default=None, alias="schema", serialization_alias="schema")
    data: Any = None
    problem: str = Field(default="", description="Why the last answer to it was not taken.")


class RunView(BaseModel):
    """A workflow run."""

    id: str
    workflow: str
    status: WorkflowStatus
    question: QuestionView | None = None
    result: Any = None
    reason: FailureReason | None = None
    error: Error | None = None
    last_event: int
    created_at: datetime
    updated_at: datetime


def run_view(run: WorkflowRun) -> RunView:
    """Return what its owner is told of ``run``."""
    asked = run.question
    error = run.error
    return RunView(
        id=run.id,
        workflow=run.workflow,
        status=run.status,
        question=None
        if asked is None
        else QuestionView(
            id=asked.id,
            prompt=asked.prompt,
            schema=asked.schema,
            data=plain(asked.data),
            problem=asked.problem,
        ),
        result=plain(run.result),
        reason=run.reason,
        error=None
        if error is None
        else Error(type=error["type"], message=plain(", ".join(str(each) for each in error["args"]))),
        last_event=run.last_event,
        created_at=instant(run.created_at),
        updated_at=instant(run.updated_at),
    )


def event_view(event: WorkflowEvent) -> dict[str, Any]:
    """Return what a stream says of ``event``."""
    return {
        "id": event.id,
        "kind": event.kind,
        "data": plain(event.data),
        "at": instant(event.at).isoformat(),
    }


def instant(at: float) -> datetime:
    """Return seconds since the epoch as a time in UTC."""
    return datetime.fromtimestamp(at, tz=UTC)


def plain(value: Any) -> Any:
    """Return ``value`` as JSON that a browser reads: no NaN, dates and numbers as text, bytes as Base64."""
    if isinstance(value, dict):
        return {plain(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if isfinite(value) else None

    return _as_text(value) if isinstance(value, _TEXTS) else value


_TEXTS: Final = (str, bytes, date, time, Decimal, UUID)


def _as_text(value: Any) -> str:
    if isinstance(value, bytes):
        return b64encode(value).decode()
    if isinstance(value, date | time):
        return value.isoformat()

    return str(value).encode(errors="replace").decode()
