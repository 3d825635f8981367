"""What is sent: a task of the service, somebody's Celery task, or a workflow; and a story made of several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

__all__ = ["Call", "How", "Move", "Story"]

How = Literal["task", "celery", "workflow"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One run to be launched.

    ``name`` is a registered name, or ``package.module:attribute``. ``options`` are `LaunchOptions` of a
    task and those of ``send_task`` for Celery's; ``answer`` is what a workflow gets to hear when it asks.
    Of a call to ``forget`` nobody awaits the end: where its run is, is looked up once, when all is over.
    """

    name: str
    how: How = "task"
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    answer: Any = True
    forget: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return what `to_json` was made of."""
        return cls(**{**data, "args": tuple(data["args"])})


@dataclass(frozen=True, kw_only=True, slots=True)
class Move:
    """A step of a story: at ``at`` seconds from its start, or ``after`` the step before, one of three things.

    Launch ``call`` ``count`` times, to be known as ``name``; await the runs of the names in ``awaits``; or
    wait ``pause`` seconds.
    """

    at: float | None = None
    after: float = 0.0
    call: Call | None = None
    count: int = 1
    name: str = ""
    awaits: tuple[str, ...] = ()
    pause: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return what `to_json` was made of."""
        call = None if data["call"] is None else Call.from_json(data["call"])
        return cls(**{**data, "call": call, "awaits": tuple(data["awaits"])})


@dataclass(frozen=True, kw_only=True, slots=True)
class Story:
    """What one user does again and again.

    ``imports`` are modules that workers must import for it; ``ignored`` says in words what of its source is
    no load.
    """

    name: str
    moves: tuple[Move, ...]
    imports: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return what `to_json` was made of."""
        moves = tuple(Move.from_json(move) for move in data["moves"])
        return cls(
            name=data["name"], moves=moves, imports=tuple(data["imports"]), ignored=tuple(data["ignored"])
        )
