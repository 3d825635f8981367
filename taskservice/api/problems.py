"""Problems: every error of the API as ``application/problem+json`` (RFC 9457)."""

from __future__ import annotations

from http import HTTPStatus
from json import dumps
from typing import TYPE_CHECKING, Any, Final

from fastapi import Response
from kombu.exceptions import OperationalError
from pydantic import BaseModel, Field
from redis.exceptions import RedisError

from taskservice.errors import (
    BackendUnavailableError,
    ConfigurationError,
    DeadLetterNotFoundError,
    LaunchOptionError,
    PayloadError,
    PayloadSizeError,
    QuestionError,
    ResultTimeoutError,
    RunNotFoundError,
    ServiceClosedError,
    TaskServiceError,
    WorkflowConflictError,
    WorkflowExpiredError,
    WorkflowOverError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["MEDIA_TYPE", "Fault", "Problem", "ProblemError", "documented", "problem_of", "response"]

MEDIA_TYPE: Final = "application/problem+json"


class Fault(BaseModel):
    """One thing that is wrong with a request."""

    where: list[str | int] = Field(description="The way to it: `body`, `args`, 0.")
    problem: str


class Problem(BaseModel):
    """What went wrong."""

    type: str = Field(description="`urn:taskservice:` and the code.")
    title: str
    status: int
    detail: str
    code: str = Field(description="What a program tells problems apart by.")
    request_id: str | None = Field(default=None, description="Also in the header and in the server's log.")
    errors: list[Fault] | None = None


class ProblemError(TaskServiceError):
    """A request that is refused; the message is for its sender."""

    def __init__(self, status: int, code: str, detail: str, retry_after: int | None = None) -> None:
        super().__init__(status, code, detail, retry_after)
        self.status = status
        self.code = code
        self.detail = detail
        self.retry_after = retry_after

    def __str__(self) -> str:
        return self.detail

    @property
    def headers(self) -> dict[str, str]:
        """What belongs into the response's header."""
        found = {"WWW-Authenticate": "Bearer"} if self.status == HTTPStatus.UNAUTHORIZED else {}
        if self.retry_after is not None:
            found["Retry-After"] = str(self.retry_after)
        return found


_KNOWN: Final[tuple[tuple[type[TaskServiceError], int, str], ...]] = (
    (WorkflowExpiredError, 404, "workflow_expired"),
    (RunNotFoundError, 404, "not_found"),
    (DeadLetterNotFoundError, 404, "not_found"),
    (QuestionError, 409, "question_not_open"),
    (WorkflowOverError, 409, "workflow_over"),
    (WorkflowConflictError, 409, "conflict"),
    (PayloadSizeError, 413, "too_large"),
    (PayloadError, 422, "invalid"),
    (LaunchOptionError, 422, "invalid"),
)
_UNAVAILABLE: Final = (
    BackendUnavailableError,
    ServiceClosedError,
    ConfigurationError,
    ResultTimeoutError,
    # From reading a task's state, which the service hands through.
    RedisError,
    OperationalError,
)


def problem_of(error: Exception) -> ProblemError:
    """Return what a client is told of ``error``: nothing of what is inside."""
    if isinstance(error, ProblemError):
        return error
    for kind, status, code in _KNOWN:
        if isinstance(error, kind):
            return ProblemError(status, code, str(error))
    if isinstance(error, _UNAVAILABLE):
        # Their messages name hosts and settings.
        return ProblemError(503, "unavailable", "what this needs does not answer or is not set up", 2)
    return ProblemError(500, "internal", "the server failed; its log has more under the request id")


def response(
    error: ProblemError,
    request_id: str | None,
    *,
    faults: Sequence[Fault] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return ``error`` as a response."""
    return Response(
        dumps(described(error, request_id, faults)),
        status_code=error.status,
        headers={**error.headers, **(headers or {})},
        media_type=MEDIA_TYPE,
    )


def described(
    error: ProblemError, request_id: str | None, faults: Sequence[Fault] | None = None
) -> dict[str, Any]:
    """Return ``error`` as the members of a problem."""
    problem = Problem(
        type=f"urn:taskservice:{error.code}",
        title=HTTPStatus(error.status).phrase,
        status=error.status,
        detail=error.detail,
        code=error.code,
        request_id=request_id,
        errors=None if faults is None else list(faults),
    )
    return problem.model_dump(exclude_none=True)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return for OpenAPI: these problems, and those that any request may meet."""
    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: schema}}
        for status in sorted({400, 401, 403, 408, 413, 422, 429, 500, 503, *statuses})
    }
