from __future__ import annotations

from typing import Any

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from taskservice.backends.remote import read_outcome
from taskservice.errors import (
    PayloadError,
    RunCancelledError,
    RunExpiredError,
    RunFailedError,
    SoftTimeLimitError,
    TimeLimitError,
)
from taskservice.runs import TaskState


class BoomError(Exception):
    class InnerError(Exception):
        pass

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


def failure(module: str, name: str, *args: object) -> dict[str, Any]:
    stored = {"exc_module": module, "exc_type": name, "exc_message": list(args)}
    return {"status": "FAILURE", "result": stored, "traceback": "Traceback: here", "retries": 2}


def test_a_known_exception_is_rebuilt_with_its_remote_traceback() -> None:
    outcome = read_outcome(failure(__name__, "BoomError", 3), "r1")

    assert isinstance(outcome.error, BoomError)
    assert outcome.error.size == 3
    assert str(outcome.error.__cause__) == "raised in a worker:\nTraceback: here"
    assert outcome.attempts == 3


def test_a_nested_exception_is_rebuilt() -> None:
    outcome = read_outcome(failure(__name__, "BoomError.InnerError"), "r1")

    assert isinstance(outcome.error, BoomError.InnerError)


@pytest.mark.parametrize(
    ("module", "name", "args"),
    [
        ("no.such.module", "LostError", ["no funds"]),
        (__name__, "NoSuchError", ["no funds"]),
        (__name__, "BoomError", ["too", "many"]),
        ("os", "system", ["true"]),
        ("builtins", "SystemExit", [1]),
        ("builtins", "print", ["no"]),
    ],
)
def test_what_is_no_exception_here_is_told_not_called(
    module: str, name: str, args: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    error = read_outcome(failure(module, name, *args), "r1").error

    assert isinstance(error, RunFailedError)
    assert error.type_name == name
    assert error.remote_traceback == "Traceback: here"
    assert capsys.readouterr().out == ""


def test_celerys_own_refusal_of_a_result_reads_like_ours() -> None:
    text = "TypeError('Object of type set is not JSON serializable')"

    error = read_outcome(failure("kombu.exceptions", "EncodeError", text), "r1").error

    assert isinstance(error, PayloadError)
    assert error.args == ("result", "set")


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("PENDING", TaskState.PENDING),
        ("RECEIVED", TaskState.PENDING),
        ("PROGRESS", TaskState.STARTED),
        ("RETRY", TaskState.RETRY),
    ],
)
def test_a_state_that_is_not_final_has_no_error(status: str, state: TaskState) -> None:
    outcome = read_outcome({"status": status, "result": None}, "r1")

    assert (outcome.state, outcome.error) == (state, None)


def test_a_revoked_run_is_a_cancelled_one() -> None:
    outcome = read_outcome({"status": "REVOKED", "result": {}}, "r1")

    assert isinstance(outcome.error, RunCancelledError)


@pytest.mark.parametrize(
    ("stored", "kind", "seconds"),
    [
        ({"exc_type": "TimeLimitExceeded", "exc_message": [20]}, TimeLimitError, 20),
        ({"exc_type": "SoftTimeLimitExceeded", "exc_message": []}, SoftTimeLimitError, None),
    ],
)
@pytest.mark.parametrize("module", ["billiard.exceptions", "celery.exceptions"])
def test_celerys_time_limits_are_told_as_ours(
    stored: dict[str, Any],
    kind: type[TimeLimitError | SoftTimeLimitError],
    seconds: float | None,
    module: str,
) -> None:
    meta = {"status": "FAILURE", "result": {**stored, "exc_module": module}, "traceback": "where it was"}

    error = read_outcome(meta, "r1").error

    assert isinstance(error, kind)
    assert error.seconds == seconds
    assert "where it was" in str(error.__cause__)


def test_a_time_limit_that_was_rebuilt_by_celery_stays_as_the_cause() -> None:
    original = SoftTimeLimitExceeded()

    error = read_outcome({"status": "FAILURE", "result": original}, "r1").error

    assert isinstance(error, SoftTimeLimitError)
    assert error.__cause__ is original


@pytest.mark.parametrize(
    ("reason", "kind", "attempts"),
    [
        ("expired", RunExpiredError, 2),
        ("revoked", RunCancelledError, 2),
        ("terminated", RunCancelledError, 3),
    ],
)
def test_a_revoked_run_says_why(reason: str, kind: type[RunCancelledError], attempts: int) -> None:
    stored = {"exc_type": "TaskRevokedError", "exc_message": [reason], "exc_module": "celery.exceptions"}

    outcome = read_outcome({"status": "REVOKED", "result": stored, "retries": 2}, "r1")

    assert type(outcome.error) is kind
    assert outcome.attempts == attempts
