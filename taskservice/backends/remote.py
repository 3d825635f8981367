"""Remote outcomes: what a Celery result says, read without trusting it.

Only exception types of modules that this process has already imported are rebuilt: a stored result
must not decide what gets imported or called.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from re import DOTALL, fullmatch, search
from typing import TYPE_CHECKING, Any, Final

from taskservice.errors import (
    ChordError,
    PackedNotRegisteredError,
    PayloadError,
    RunCancelledError,
    RunExpiredError,
    RunFailedError,
    SoftTimeLimitError,
    TimeLimitError,
)
from taskservice.runs import TaskState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["RemoteOutcome", "limit_error", "read_outcome", "read_pack"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteOutcome:
    """A run's state as its result backend has it; ``error`` is set for FAILURE and REVOKED."""

    state: TaskState
    value: Any = None
    error: BaseException | None = None
    attempts: int = 0


_STATES: Final = {state.value: state for state in TaskState}


def read_outcome(meta: Mapping[str, Any] | None, run_id: str) -> RemoteOutcome:
    """Return what ``meta`` says; ``None`` is a run nothing is stored about."""
    if meta is None:
        return RemoteOutcome(state=TaskState.PENDING)

    state = _state(str(meta["status"]))
    attempts = _attempts(meta, state)
    if state is TaskState.SUCCESS:
        return RemoteOutcome(state=state, value=meta.get("result"), attempts=attempts)
    if state is TaskState.FAILURE:
        error = _rebuild(meta.get("result"), meta.get("traceback"))
        return RemoteOutcome(state=state, error=error, attempts=attempts)
    if state is TaskState.REVOKED:
        return RemoteOutcome(state=state, error=_revocation(meta.get("result"), run_id), attempts=attempts)
    return RemoteOutcome(state=state, attempts=attempts)


def read_pack(meta: Mapping[str, Any] | None, run_id: str) -> RemoteOutcome:
    """Return what the end of a packed message means for a run in it that has no result."""
    outcome = read_outcome(meta, run_id)
    if outcome.state is TaskState.SUCCESS:
        return RemoteOutcome(state=TaskState.PENDING)
    stored = meta.get("result") if meta is not None else None
    if isinstance(stored, dict) and stored.get("exc_type") == "NotRegistered":
        name = ", ".join(str(arg) for arg in stored.get("exc_message", ()))
        return RemoteOutcome(state=outcome.state, error=PackedNotRegisteredError(name))
    return outcome


def _state(status: str) -> TaskState:
    known = _STATES.get(status)
    if known is not None:
        return known

    # Whatever a task calls its progress by update_state, it is running.
    return TaskState.PENDING if status in {"RECEIVED", "REJECTED"} else TaskState.STARTED


def _attempts(meta: Mapping[str, Any], state: TaskState) -> int:
    retries = int(meta.get("retries") or 0)
    if state is TaskState.PENDING and meta.get("retries") is None:
        return 0
    # A worker revokes an attempt before it starts, unless it was told to kill it.
    if state is TaskState.REVOKED and "terminated" not in _reasons(meta.get("result")):
        return retries

    return retries + 1


def _revocation(stored: object, run_id: str) -> RunCancelledError:
    # The worker's word for a message it took after its time; any other is somebody's wish.
    return RunExpiredError(run_id) if "expired" in _reasons(stored) else RunCancelledError(run_id)


def _reasons(stored: object) -> list[Any]:
    told = stored.get("exc_message", ()) if isinstance(stored, dict) else getattr(stored, "args", ())
    return list(told) if isinstance(told, list | tuple) else [told]


def _rebuild(stored: object, remote_traceback: str | None) -> BaseException:
    if isinstance(stored, BaseException):
        return limit_error(stored) or stored
    if not isinstance(stored, dict):
        return RunFailedError("unknown error", repr(stored), remote_traceback)

    module, name = stored.get("exc_module"), str(stored.get("exc_type"))
    args = stored.get("exc_message", ())
    args = list(args) if isinstance(args, list | tuple) else [args]
    if name == "UnpickleableExceptionWrapper" and len(args) == 4:
        module, name, args, _ = args
    if (module, name) == ("kombu.exceptions", "EncodeError"):
        # Celery's own check of a result, told in the words of ours.
        text = str(args[0]) if args else "an unknown type"
        named = search(r"type (\S+) is not JSON", text)
        return PayloadError("result", named[1] if named else text)

    error: Exception | None
    if module in _LIMIT_MODULES and name in _LIMITS:
        error = _limit_error(name, args)
    elif (module, name) == ("celery.exceptions", "ChordError"):
        error = _chord_error(str(args[0]) if args else "an unknown error")
    else:
        error = _construct(_find_type(module, name), args)
    if error is None:
        error = RunFailedError(name, ", ".join(str(arg) for arg in args), remote_traceback)
    if remote_traceback:
        # A cause and no note: pytest.raises(match=...) reads notes as part of the message.
        error.__cause__ = _RemoteTraceback(remote_traceback)
    return error


def limit_error(error: BaseException) -> Exception | None:
    """Return ours for Celery's own error of a time limit, caused by it; ``None`` for any other."""
    kind = type(error)
    if kind.__module__ not in _LIMIT_MODULES or kind.__name__ not in _LIMITS:
        return None

    found = _limit_error(kind.__name__, error.args)
    found.__cause__ = error
    return found


def _limit_error(name: str, args: Sequence[Any]) -> Exception:
    known = bool(args) and isinstance(args[0], int | float)
    return _LIMITS[name](args[0] if known else None)


def _chord_error(text: str) -> ChordError:
    told = fullmatch(r"Dependency (\S+) raised (.*)", text, DOTALL)
    return ChordError("", text) if told is None else ChordError(told[1], told[2])


_LIMIT_MODULES: Final = frozenset({"billiard.exceptions", "celery.exceptions"})
_LIMITS: Final = {"SoftTimeLimitExceeded": SoftTimeLimitError, "TimeLimitExceeded": TimeLimitError}


class _RemoteTraceback(Exception):  # noqa: N818 - never raised, only shown as a cause
    def __str__(self) -> str:
        return f"raised in a worker:\n{self.args[0]}"


def _find_type(module: object, name: str) -> type[Exception] | None:
    found: object = sys.modules.get(str(module))
    for part in name.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) and issubclass(found, Exception) else None


def _construct(kind: type[Exception] | None, args: list[Any]) -> Exception | None:
    if kind is None:
        return None

    try:
        return kind(*args)
    except Exception:  # noqa: BLE001 - somebody else's constructor; the caller falls back
        return None
