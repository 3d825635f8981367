"""Routes of tasks: launch, look at, cancel. Whoever launched a run sees it, and administrators do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import APIRouter, Body, Response

from taskservice.api.core import Asker, Core, Held
from taskservice.api.problems import ProblemError, documented
from taskservice.api.records import scoped
from taskservice.api.values import Cancelled, Error, Launch, Launched, Options, TaskView, Termination, plain
from taskservice.errors import PayloadError, RunFailedError, RunNotFoundError
from taskservice.runs import TaskState
from taskservice.submission import LaunchOptions, plan_launch

if TYPE_CHECKING:
    from taskservice.api.access import Principal
    from taskservice.runs import TaskHandle

__all__ = ["router"]

RESULT_SECONDS: Final = 5.0
"""How long reading a result may take that is there."""
GENTLY: Final = Termination()

router = APIRouter(prefix="/tasks", tags=["tasks"])


@router.post("", status_code=202, responses=documented(404))
async def launch_task(launch: Launch, core: Held, asker: Asker, answer: Response) -> Launched:
    """Launch a task by its name, and return its id at once."""
    func = core.catalog.task(launch.name)
    if not asker.admin:
        core.catalog.check_queue(launch.options.queue)
    options = _options(launch.options, asker)
    delay = plan_launch(options).delay
    try:
        handle = await core.service.backend.launch_task(func, launch.args, launch.kwargs, options=options)
    except PayloadError:
        raise
    except TypeError as error:
        raise ProblemError(422, "invalid", f"the task does not take these arguments: {error}") from error
    await core.records.own(asker.owner, handle.id, delay)
    answer.headers["Location"] = f"/tasks/{handle.id}"
    return Launched(id=handle.id)


@router.get("/{task_id}", responses=documented(404))
async def get_task(task_id: str, core: Held, asker: Asker) -> TaskView:
    """Return where a run stands, and what came of it."""
    handle = await _handle(task_id, core, asker)
    status = await handle.status()
    result, error = None, None
    if status is TaskState.SUCCESS:
        result = plain(await handle.result(timeout=RESULT_SECONDS))
    elif status.final:
        error = _error(await handle.exception())
    return TaskView(id=handle.id, status=status, result=result, error=error)


@router.post("/{task_id}/cancel", responses=documented(404))
async def cancel_task(
    task_id: str, core: Held, asker: Asker, how: Annotated[Termination, Body()] = GENTLY
) -> Cancelled:
    """Stop a run if it can be stopped, and say whether it was."""
    handle = await _handle(task_id, core, asker)
    done = await handle.cancel(terminate=how.terminate)
    return Cancelled(id=handle.id, cancelled=done)


async def _handle(task_id: str, core: Core, asker: Principal) -> TaskHandle:
    if not asker.admin and not await core.records.owns(asker.owner, task_id):
        raise RunNotFoundError(task_id)

    return await core.service.get_task(task_id)


def _options(wanted: Options, asker: Principal) -> LaunchOptions:
    given: dict[str, Any] = {name: getattr(wanted, name) for name in type(wanted).model_fields}
    if wanted.idempotency_key is not None:
        # Two owners may well think of the same key.
        given["idempotency_key"] = scoped(asker.owner, "task", wanted.idempotency_key)
    return LaunchOptions(**given)


def _error(error: BaseException | None) -> Error | None:
    if error is None:
        return None
    if isinstance(error, RunFailedError):
        return Error(type=error.type_name, message=plain(error.message))

    return Error(type=type(error).__qualname__, message=plain(str(error)))
