"""What clients see, as plain JSON, and errors as a journal keeps them.

Stricter than `taskservice.payloads`: no dates, no bytes, no NaN, for a browser could not read them.
"""

from __future__ import annotations

import sys
from json import dumps
from typing import Any, Final, NoReturn

from taskservice.errors import PayloadError, PayloadSizeError, StepFailedError, TaskServiceError
from taskservice.payloads import wire_value
from taskservice.texts import text_of

__all__ = ["error_record", "json_value", "rebuilt_error"]

LONGEST_MESSAGE: Final = 2000


def json_value(value: Any, where: str, *, limit: int) -> Any:
    """Return a copy of ``value`` as it will be read again.

    `PayloadError` about ``where`` for what is not plain JSON, `PayloadSizeError` for more than ``limit``
    bytes.
    """
    copied = wire_value(value, where, limit=limit)
    try:
        text = dumps(copied, allow_nan=False, default=_refuse)
    except _NotPlainError as found:
        raise PayloadError(where, str(found)) from None
    except ValueError:
        raise PayloadError(where, "a number that JSON does not have, NaN or an infinity") from None
    if len(text) > limit:
        raise PayloadSizeError(where, limit)
    return copied


def error_record(error: BaseException, *, limit: int) -> dict[str, Any]:
    """Return ``error`` as ``{"module", "type", "args"}``; without a module if it cannot be rebuilt."""
    kind = type(error)
    try:
        args = json_value(list(error.args), "error", limit=min(limit, 100_000))
    except TaskServiceError:
        return _by_name(error)

    record = {"module": kind.__module__, "type": kind.__qualname__, "args": args}
    return record if _rebuild(record) is not None else _by_name(error)


def rebuilt_error(record: dict[str, Any]) -> Exception:
    """Return the error again, or `StepFailedError` where its type is not known or takes other arguments.

    Nothing is imported for it: a step's errors are best defined in, or imported by, the module of the
    workflow.
    """
    found = _rebuild(record) if record["module"] else None
    if found is not None:
        return found

    name = f"{record['module']}.{record['type']}" if record["module"] else record["type"]
    return StepFailedError(name, ", ".join(str(arg) for arg in record["args"]))


def _rebuild(record: dict[str, Any]) -> Exception | None:
    found: Any = sys.modules.get(record["module"])
    for part in record["type"].split("."):
        found = getattr(found, part, None)
    if not isinstance(found, type) or not issubclass(found, Exception):
        return None

    try:
        return found(*record["args"])
    except Exception:  # noqa: BLE001 - somebody's constructor, which may raise anything
        return None


def _by_name(error: BaseException) -> dict[str, Any]:
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return {"module": "", "type": name, "args": [text_of(error)[:LONGEST_MESSAGE]]}


class _NotPlainError(Exception):
    """Names the type of a value that JSON does not have."""


def _refuse(value: object) -> NoReturn:
    raise _NotPlainError(f"{type(value).__module__}.{type(value).__qualname__}")
