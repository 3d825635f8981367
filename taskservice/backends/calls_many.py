"""Many calls of one function: how they are written down, and all of them checked before any is sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from taskservice.backends.calls import prepare_arguments
from taskservice.errors import PayloadError, PayloadSizeError
from taskservice.payloads import PAYLOAD_LIMIT

if TYPE_CHECKING:
    from taskservice.backends.base import TaskFunction

__all__ = ["Call", "Calls", "checked_calls", "checked_per_message", "prepare_calls"]

Prepared = tuple[list[Any], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Call:
    """The arguments of one call: ``Call((7,), {"width": 800})``."""

    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


Calls = Iterable[Call | tuple[Any, ...]]
"""Each one a `Call`, or a tuple of nothing but positional arguments."""


def checked_calls(calls: Calls) -> list[Call]:
    """Return every call as a `Call`; `TypeError` names the index of what is neither."""
    return [_as_call(index, call) for index, call in enumerate(calls)]


def checked_per_message(per_message: int) -> int:
    """Return ``per_message`` if it is a number of calls, at least one."""
    if isinstance(per_message, bool) or not isinstance(per_message, int) or per_message < 1:
        raise ValueError(f"need per_message >= 1, got {per_message!r}")

    return per_message


def prepare_calls(
    func: TaskFunction, calls: Sequence[Call], *, first: int = 0, limit: int = PAYLOAD_LIMIT
) -> list[Prepared]:
    """Return the arguments as the function will get them; errors name the call's index.

    ``first`` is the index of the first one, ``limit`` the most bytes of each.
    """
    return [_prepare(func, index, call, limit) for index, call in enumerate(calls, first)]


def _as_call(index: int, call: object) -> Call:
    if isinstance(call, Call):
        return call
    if isinstance(call, tuple):
        return Call(call)

    raise TypeError(f"call {index} is {type(call).__name__}; give a Call or a tuple of positional arguments")


def _prepare(func: TaskFunction, index: int, call: Call, limit: int) -> Prepared:
    try:
        return prepare_arguments(func, call.args, call.kwargs, limit=limit)
    except PayloadError as error:
        raise PayloadError(f"call {index}: {error.where}", error.type_name) from None
    except PayloadSizeError as error:
        raise PayloadSizeError(f"call {index}: {error.where}", error.limit) from None
    except TypeError as error:
        raise TypeError(f"call {index}: {error}") from None
