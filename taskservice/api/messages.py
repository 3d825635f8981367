"""Messages: what a WebSocket's client may send, and how it is read."""

from __future__ import annotations

from json import loads
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from taskservice.api.problems import Fault, ProblemError
from taskservice.api.values import Reply, Start, Text
from taskservice.submission import LONGEST_KEY

__all__ = ["Auth", "CheckStatus", "InitData", "Input", "Message", "Stop", "faults", "read_message"]


class _Referred(BaseModel):
    model_config = ConfigDict(extra="forbid")

    ref: Text | int | None = None


class Auth(_Referred):
    """Who it is, where no header could be sent."""

    action: Literal["auth"]
    token: str = Field(max_length=1000, repr=False)


class InitData(_Referred, Start):
    """Start a run, and follow it."""

    action: Literal["init_data"]
    workflow: Text
    idempotency_key: Annotated[Text, Field(min_length=1, max_length=LONGEST_KEY)] | None = None


class CheckStatus(_Referred):
    """Say where the run stands."""

    action: Literal["check_status"]


class Input(_Referred, Reply):
    """Answer its question."""

    action: Literal["input"]


class Stop(_Referred):
    """End it."""

    action: Literal["stop"]


Message = InitData | CheckStatus | Input | Stop
_MESSAGES: Final[TypeAdapter[Message]] = TypeAdapter(Annotated[Message, Field(discriminator="action")])


def read_message(text: str) -> tuple[dict[str, Any], Message | ProblemError]:
    """Return what an answer repeats of ``text``, and the message or what is wrong with it."""
    try:
        found = loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        return {}, ProblemError(422, "invalid", "send a JSON object")

    echo = {name: found[name] for name in ("action", "ref") if isinstance(found.get(name), str | int)}
    try:
        return echo, _MESSAGES.validate_python(found)
    except ValidationError as error:
        told = "; ".join(
            f"{'.'.join(map(str, each.where))}: {each.problem}" for each in faults(error.errors())
        )
        return echo, ProblemError(422, "invalid", told)


def faults(errors: Any) -> list[Fault]:
    """Return pydantic's errors without what was sent: it may be long, or a secret."""
    return [Fault(where=list(each["loc"]), problem=each["msg"]) for each in errors]
