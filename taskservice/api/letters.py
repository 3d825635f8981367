"""Routes of dead letters, for administrators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, Field

from taskservice.api.core import Asker, Held
from taskservice.api.problems import ProblemError, documented
from taskservice.api.values import Absent, Launched, instant, plain
from taskservice.deadletters import DeadLetterCause
from taskservice.errors import DeadLetterNotFoundError

if TYPE_CHECKING:
    from taskservice.deadletters import DeadLetter

__all__ = ["router"]


class LetterView(BaseModel):
    """A run that failed for good."""

    id: str
    task: str
    cause: DeadLetterCause
    error_type: str
    error_message: str
    at: str
    attempts: int
    deliveries: int
    queue: str | None = None
    worker: str | None = None


class FullLetter(LetterView):
    """A run that failed for good, and what it was called with."""

    args: list[Any]
    kwargs: dict[str, Any]
    traceback: str


def _admins_only(asker: Asker) -> None:
    if not asker.admin:
        raise ProblemError(403, "forbidden", "dead letters are for administrators")


router = APIRouter(prefix="/dead-letters", tags=["dead letters"], dependencies=[Depends(_admins_only)])


@router.get("", responses=documented())
async def list_letters(
    core: Held,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    task: Annotated[Annotated[str, Field(max_length=500)] | Absent, Query()] = None,
) -> list[LetterView]:
    """List them, newest first, without their payload."""
    found = await core.service.dead_letters.list(limit=limit, task=task)
    return [LetterView.model_validate(_fields(letter)) for letter in found]


@router.get("/{run_id}", responses=documented(404))
async def get_letter(run_id: str, core: Held) -> FullLetter:
    """Return one, with its payload and its traceback."""
    return FullLetter.model_validate(_fields(await core.service.dead_letters.get(run_id)))


@router.post("/{run_id}/requeue", status_code=202, responses=documented(404))
async def requeue_letter(run_id: str, core: Held) -> Launched:
    """Run it again under its old id."""
    return Launched(id=(await core.service.dead_letters.requeue(run_id)).id)


@router.delete("/{run_id}", status_code=204, responses=documented(404))
async def drop_letter(run_id: str, core: Held) -> Response:
    """Forget it."""
    if not await core.service.dead_letters.drop(run_id):
        raise DeadLetterNotFoundError(run_id)

    return Response(status_code=204)


def _fields(letter: DeadLetter) -> dict[str, Any]:
    return {**plain(letter.to_json()), "at": instant(letter.at).isoformat()}
