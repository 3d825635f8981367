"""What can go wrong in the task service.

Every leaf is rebuilt from ``args``: errors cross processes by pickle and by Celery's JSON.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "BackendUnavailableError",
    "ChordError",
    "ConfigurationError",
    "DeadLetterNotFoundError",
    "LaunchOptionError",
    "LeaseLostError",
    "MaxStepsError",
    "PackedNotRegisteredError",
    "PayloadError",
    "PayloadSizeError",
    "QuestionError",
    "ResultTimeoutError",
    "RunCancelledError",
    "RunExpiredError",
    "RunFailedError",
    "RunLostError",
    "RunNotClaimableError",
    "RunNotFoundError",
    "ScheduleError",
    "ServiceClosedError",
    "SoftTimeLimitError",
    "StepFailedError",
    "TaskNotRegisteredError",
    "TaskServiceError",
    "TimeLimitError",
    "UnknownBackendError",
    "UnknownWorkflowError",
    "WorkflowChangedError",
    "WorkflowConflictError",
    "WorkflowError",
    "WorkflowExpiredError",
    "WorkflowFailedError",
    "WorkflowMisuseError",
    "WorkflowOverError",
]


class TaskServiceError(Exception):
    """Root of all errors of the task service."""


class ConfigurationError(TaskServiceError, ValueError):
    """A setting, an app or a decorator is wrong; the message says which and how to put it right."""


class LaunchOptionError(ConfigurationError):
    """An option of a launch, or of ``@task``, cannot be honoured; nothing was sent."""

    def __init__(self, option: str, problem: str) -> None:
        super().__init__(option, problem)
        self.option = option
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.option}: {self.problem}"


class ScheduleError(ConfigurationError):
    """An entry of ``beat_schedule`` is wrong; nothing was scheduled."""

    def __init__(self, entry: str, field: str, problem: str) -> None:
        super().__init__(entry, field, problem)
        self.entry = entry
        self.field = field
        self.problem = problem

    def __str__(self) -> str:
        return f"beat_schedule, entry {self.entry!r}, {self.field}: {self.problem}"


class UnknownBackendError(ConfigurationError):
    """No back end has this name."""

    def __init__(self, found: str, known: tuple[str, ...]) -> None:
        # Celery's JSON turns a tuple into a list, and equality should survive it.
        super().__init__(found, tuple(known))
        self.found = found
        self.known = tuple(known)

    def __str__(self) -> str:
        hint = _nearest(self.found, self.known)
        return f"unknown backend {self.found!r}; {hint}known: {', '.join(self.known)}"


class BackendUnavailableError(TaskServiceError, ConnectionError):
    """A back end was asked for by name and cannot be reached."""

    def __init__(self, backend: str, reason: str) -> None:
        super().__init__(backend, reason)
        self.backend = backend
        self.reason = reason

    def __str__(self) -> str:
        return f"start or configure the {self.backend} back end: {self.reason}"


class TaskNotRegisteredError(TaskServiceError, LookupError):
    """A function was launched that no worker could find by name."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        super().__init__(name, tuple(known))
        self.name = name
        self.known = tuple(known)

    def __str__(self) -> str:
        hint = _nearest(self.name, self.known)
        return (
            f"decorate {self.name!r} with @task or @app.task, in a module that the worker imports: "
            f"{hint}no task has this name"
        )


class PackedNotRegisteredError(TaskNotRegisteredError):
    """A packed message reached a worker whose app does not know such messages."""

    def __init__(self, name: str, known: tuple[str, ...] = ()) -> None:
        super().__init__(name, known)

    def __str__(self) -> str:
        return (
            f"the worker knows no task {self.name!r}: start it by 'taskservice worker', have its app made by "
            "create_app() or call register_packed(app) in its module, or launch with per_message=1"
        )


class RunNotFoundError(TaskServiceError, LookupError):
    """No run has this id, or it was forgotten after its retention."""

    def __init__(self, run_id: str) -> None:
        super().__init__(run_id)
        self.run_id = run_id

    def __str__(self) -> str:
        return f"no run {self.run_id!r}: it was never launched here, or its retention is over"


class DeadLetterNotFoundError(TaskServiceError, LookupError):
    """No dead letter of this run is kept: there was none, or it was requeued, dropped or forgotten."""

    def __init__(self, run_id: str) -> None:
        super().__init__(run_id)
        self.run_id = run_id

    def __str__(self) -> str:
        return (
            f"no dead letter of run {self.run_id!r}: "
            "it has not failed, or was requeued, dropped or forgotten since"
        )


class RunLostError(TaskServiceError, RuntimeError):
    """A run was given up because the workers that began it died, ``deliveries`` of them one after another."""

    def __init__(self, run_id: str, deliveries: int) -> None:
        super().__init__(run_id, deliveries)
        self.run_id = run_id
        self.deliveries = deliveries

    def __str__(self) -> str:
        return (
            f"run {self.run_id!r} was begun {self.deliveries} times, and its worker died each time; "
            "it is kept as a dead letter"
        )


class ResultTimeoutError(TaskServiceError, TimeoutError):
    """A result did not come in time. The run itself goes on."""

    def __init__(self, run_id: str, task: str, seconds: float, state: str) -> None:
        super().__init__(run_id, task, seconds, state)
        self.args = (run_id, task, seconds, state)  # OSError keeps two of them
        self.run_id = run_id
        self.task = task
        self.seconds = seconds
        self.state = state

    def __str__(self) -> str:
        return (
            f"run {self.run_id!r} of {self.task!r} had no result "
            f"after {self.seconds:g} s; its last state was {self.state}"
        )


class RunFailedError(TaskServiceError, RuntimeError):
    """A run failed elsewhere, with an exception that cannot be rebuilt in this process."""

    def __init__(self, type_name: str, message: str, remote_traceback: str | None = None) -> None:
        super().__init__(type_name, message, remote_traceback)
        self.type_name = type_name
        self.message = message
        self.remote_traceback = remote_traceback

    def __str__(self) -> str:
        return f"{self.type_name}: {self.message}"


class RunCancelledError(TaskServiceError):
    """A run was cancelled, so it has no result; ``reason`` is ``cancelled``."""

    reason = "cancelled"

    def __init__(self, run_id: str) -> None:
        super().__init__(run_id)
        self.run_id = run_id

    def __str__(self) -> str:
        return f"run {self.run_id!r} was cancelled"


class RunExpiredError(RunCancelledError):
    """A run had not started when it expired, so it never will; ``reason`` is ``expired``."""

    reason = "expired"

    def __str__(self) -> str:
        return f"run {self.run_id!r} expired before it could start"


class ChordError(TaskServiceError, RuntimeError):
    """A run of a chord's header failed, so that its body never ran.

    ``run_id`` is the failed run's, empty where a worker did not tell; ``reason`` is the ``repr`` of its
    error, which is the cause where it is known.
    """

    def __init__(self, run_id: str, reason: str) -> None:
        super().__init__(run_id, reason)
        self.run_id = run_id
        self.reason = reason

    def __str__(self) -> str:
        failed = f"run {self.run_id!r} of the header failed" if self.run_id else "the header failed"
        return f"the chord's body never ran: {failed} with {self.reason}"


class SoftTimeLimitError(TaskServiceError, TimeoutError):
    """Raised inside a function that ran into its soft limit; it may catch it and clean up.

    ``seconds`` is the limit, ``None`` where a worker did not tell.
    """

    def __init__(self, seconds: float | None = None) -> None:
        super().__init__(seconds)
        self.seconds = seconds

    def __str__(self) -> str:
        return f"the function ran into its soft time limit{_of(self.seconds)}"


class TimeLimitError(TaskServiceError, TimeoutError):
    """A run was given up at its hard limit, ``seconds``; it is never retried."""

    def __init__(self, seconds: float | None = None) -> None:
        super().__init__(seconds)
        self.seconds = seconds

    def __str__(self) -> str:
        return f"the run was given up at its time limit{_of(self.seconds)}"


class PayloadError(TaskServiceError, TypeError):
    """An argument or a result is not JSON, so it cannot travel between processes."""

    def __init__(self, where: str, type_name: str) -> None:
        super().__init__(where, type_name)
        self.where = where
        self.type_name = type_name

    def __str__(self) -> str:
        return f"{self.where} is {self.type_name}, which is not JSON; send plain data or an id"


class PayloadSizeError(TaskServiceError, ValueError):
    """Arguments, or a result, are longer than the limit of ``limit`` bytes; nothing was sent."""

    def __init__(self, where: str, limit: int) -> None:
        super().__init__(where, limit)
        self.where = where
        self.limit = limit

    def __str__(self) -> str:
        return (
            f"{self.where} takes this payload over {self.limit:,} bytes: store it and send where it lies, "
            "or raise payload_limit"
        )


class WorkflowError(TaskServiceError):
    """Root of what can go wrong with a workflow run; ``code`` tells one from the other."""

    code = "workflow_error"


class WorkflowExpiredError(WorkflowError, LookupError):
    """A workflow run is unknown, or its data is gone; for somebody else's run too."""

    code = "workflow_expired"

    def __init__(self, run_id: str) -> None:
        super().__init__(run_id)
        self.run_id = run_id

    def __str__(self) -> str:
        return f"no workflow run {self.run_id!r}: it was never started here, or its data has expired"


class WorkflowOverError(WorkflowError, RuntimeError):
    """A workflow run is over, so nothing can be done to it any more."""

    code = "workflow_over"

    def __init__(self, run_id: str, status: str, reason: str = "") -> None:
        super().__init__(run_id, status, reason)
        self.run_id = run_id
        self.status = str(status)
        self.reason = reason

    def __str__(self) -> str:
        why = f" ({self.reason})" if self.reason else ""
        return f"workflow run {self.run_id!r} is over: {self.status}{why}"


class WorkflowFailedError(WorkflowError, RuntimeError):
    """A workflow run ended without a result; ``reason`` is a `FailureReason`.

    ``error`` is what its function raised, as ``{"module", "type", "args"}``, if it did.
    """

    code = "workflow_failed"

    def __init__(self, run_id: str, reason: str, error: dict[str, Any] | None = None) -> None:
        super().__init__(run_id, str(reason), error)
        self.run_id = run_id
        self.reason = str(reason)
        self.error = error

    def __str__(self) -> str:
        kind = f", {self.error['type']}" if self.error else ""
        return f"workflow run {self.run_id!r} failed: {self.reason}{kind}"


class RunNotClaimableError(WorkflowError, RuntimeError):
    """A workflow run is not to be executed now: somebody does, or it waits for its user."""

    code = "not_claimable"

    def __init__(self, run_id: str, status: str) -> None:
        super().__init__(run_id, status)
        self.run_id = run_id
        self.status = str(status)

    def __str__(self) -> str:
        return f"workflow run {self.run_id!r} is {self.status} and not to be taken up now"


class LeaseLostError(WorkflowError, RuntimeError):
    """A worker wrote to a workflow run that is no longer its own."""

    code = "lease_lost"

    def __init__(self, run_id: str, token: int) -> None:
        super().__init__(run_id, token)
        self.run_id = run_id
        self.token = token

    def __str__(self) -> str:
        return f"workflow run {self.run_id!r} was stopped or taken over: token {self.token} no longer holds"


class QuestionError(WorkflowError, RuntimeError):
    """An answer came to a question that is not open: answered, too late, or never asked.

    ``question_id`` is empty if the answer named none, and no question was open.
    """

    code = "question_not_open"

    def __init__(self, run_id: str, question_id: str, open_id: str | None) -> None:
        super().__init__(run_id, question_id, open_id)
        self.run_id = run_id
        self.question_id = question_id
        self.open_id = open_id

    def __str__(self) -> str:
        if not self.question_id and self.open_id is None:
            return f"workflow run {self.run_id!r} waits for no answer now"

        now = "no question is" if self.open_id is None else f"question {self.open_id!r} is"
        return f"question {self.question_id!r} of workflow run {self.run_id!r} is not open; {now}"


class WorkflowConflictError(WorkflowError, RuntimeError):
    """Others wrote to a workflow run all the time, so this write gave up."""

    code = "conflict"

    def __init__(self, run_id: str, tries: int) -> None:
        super().__init__(run_id, tries)
        self.run_id = run_id
        self.tries = tries

    def __str__(self) -> str:
        return f"workflow run {self.run_id!r} was written by others {self.tries} times in a row; try again"


class UnknownWorkflowError(WorkflowError, LookupError):
    """Nobody here defines a workflow of this name."""

    code = "unknown_workflow"

    def __init__(self, name: str, known: tuple[str, ...] = ()) -> None:
        super().__init__(name, list(known))
        self.name = name
        self.known = tuple(known)

    def __str__(self) -> str:
        names = ", ".join(self.known) or "none"
        return (
            f"unknown workflow {self.name!r}; {_nearest(self.name, self.known)}known here: {names}; "
            "the module that defines it must be among the worker's imports"
        )


class WorkflowChangedError(WorkflowError, RuntimeError):
    """A workflow function did not do again what its journal says that it did.

    ``index`` counts from 0; ``journaled`` and ``found`` name the step then and now.
    """

    code = "changed"

    def __init__(self, run_id: str, index: int, journaled: str, found: str) -> None:
        super().__init__(run_id, index, journaled, found)
        self.run_id = run_id
        self.index = index
        self.journaled = journaled
        self.found = found

    def __str__(self) -> str:
        return (
            f"entry {self.index} of workflow run {self.run_id!r} was {self.journaled} and is {self.found} "
            "now: the function changed, or does not do the same each time; keep the order of its steps, and "
            "put what varies into a step"
        )


class MaxStepsError(WorkflowError, RuntimeError):
    """A workflow run has more steps and questions than it may."""

    code = "max_steps"

    def __init__(self, run_id: str, limit: int) -> None:
        super().__init__(run_id, limit)
        self.run_id = run_id
        self.limit = limit

    def __str__(self) -> str:
        return f"workflow run {self.run_id!r} wants more than {self.limit} steps; raise max_steps if it may"


class WorkflowMisuseError(WorkflowError, RuntimeError):
    """A workflow function did what it must not; the message says what to do instead."""

    code = "misuse"

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return self.problem


class StepFailedError(WorkflowError, RuntimeError):
    """A step raised an error of type ``type_name``, which cannot be rebuilt from its arguments."""

    code = "step_failed"

    def __init__(self, type_name: str, message: str) -> None:
        super().__init__(type_name, message)
        self.type_name = type_name
        self.message = message

    def __str__(self) -> str:
        return f"{self.type_name}: {self.message}"


class ServiceClosedError(TaskServiceError, RuntimeError):
    """A service or back end was used outside its ``async with`` block."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what

    def __str__(self) -> str:
        return f"open the {self.what} first and use it inside its `with` block: it is closed"


def _of(seconds: float | None) -> str:
    return "" if seconds is None else f" of {seconds:g} s"


def _nearest(found: str, known: tuple[str, ...]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(found, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}? " if near else ""
