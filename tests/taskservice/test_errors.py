from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import pytest

from taskservice import errors

if TYPE_CHECKING:
    from taskservice.errors import TaskServiceError

EXAMPLES = (
    errors.ConfigurationError("set redis_url"),
    errors.UnknownBackendError("celry", ("auto", "celery", "anyio")),
    errors.BackendUnavailableError("celery", "connection refused"),
    errors.TaskNotRegisteredError("shop.ad", ("shop.add",)),
    errors.RunNotFoundError("r1"),
    errors.ResultTimeoutError("r1", "shop.add", 2.5, "STARTED"),
    errors.RunFailedError("shop.Boom", "no funds", "Traceback ..."),
    errors.RunCancelledError("r1"),
    errors.PayloadError("argument 'x'", "object"),
    errors.PayloadSizeError("result", 10_000_000),
    errors.ServiceClosedError("task service"),
    errors.LaunchOptionError("priority", "need 0 to 9, got 10"),
    errors.RunExpiredError("r1"),
    errors.SoftTimeLimitError(2.5),
    errors.TimeLimitError(None),
    errors.PackedNotRegisteredError("taskservice.packed"),
    errors.WorkflowError("something"),
    errors.WorkflowExpiredError("r1"),
    errors.WorkflowOverError("r1", "FAILED", "stopped"),
    errors.WorkflowFailedError("r1", "error", {"module": "shop", "type": "DeclinedError", "args": [7]}),
    errors.RunNotClaimableError("r1", "RUNNING"),
    errors.LeaseLostError("r1", 3),
    errors.QuestionError("r1", "q1", None),
    errors.WorkflowConflictError("r1", 100),
    errors.UnknownWorkflowError("refnd", ("refund",)),
    errors.WorkflowChangedError("w1", 2, "step 'load'", "question 'sure?'"),
    errors.MaxStepsError("w1", 10),
    errors.WorkflowMisuseError("ask outside of steps"),
    errors.StepFailedError("shop.DeclinedError", "no funds"),
    errors.ScheduleError("nightly", "schedule", "cron needs five fields"),
    errors.DeadLetterNotFoundError("r1"),
    errors.RunLostError("r1", 3),
    errors.ChordError("r1", "ValueError('no')"),
)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_survives_pickling(error: TaskServiceError) -> None:
    copy = pickle.loads(pickle.dumps(error))

    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_is_rebuilt_from_its_arguments(error: TaskServiceError) -> None:
    kind: Any = type(error)

    assert str(kind(*error.args)) == str(error)


def test_every_error_has_an_example() -> None:
    named = {type(error).__name__ for error in EXAMPLES} | {"TaskServiceError"}

    assert named == set(errors.__all__)


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.ConfigurationError, ValueError),
        (errors.UnknownBackendError, ValueError),
        (errors.BackendUnavailableError, ConnectionError),
        (errors.TaskNotRegisteredError, LookupError),
        (errors.RunNotFoundError, LookupError),
        (errors.ResultTimeoutError, TimeoutError),
        (errors.RunFailedError, RuntimeError),
        (errors.PayloadError, TypeError),
        (errors.PayloadSizeError, ValueError),
        (errors.ServiceClosedError, RuntimeError),
        (errors.LaunchOptionError, ValueError),
        (errors.ScheduleError, ValueError),
        (errors.SoftTimeLimitError, TimeoutError),
        (errors.TimeLimitError, TimeoutError),
        (errors.DeadLetterNotFoundError, LookupError),
        (errors.RunLostError, RuntimeError),
        (errors.ChordError, RuntimeError),
    ],
)
def test_an_error_is_also_the_builtin_one_would_guess(
    kind: type[TaskServiceError], builtin: type[Exception]
) -> None:
    assert issubclass(kind, builtin)


def test_an_unknown_name_comes_with_the_nearest_one() -> None:
    assert str(EXAMPLES[1]) == ("unknown backend 'celry'; did you mean 'celery'? known: auto, celery, anyio")
    assert "did you mean 'shop.add'?" in str(EXAMPLES[3])
