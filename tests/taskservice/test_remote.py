from __future__ import annotations

from typing import Any

import pytest

from taskservice.backends.remote import read_outcome
from taskservice.errors import PayloadError, RunCancelledError, RunFailedError
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
