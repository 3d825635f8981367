"""What a load run is: who sends what, how often, for how long. A frozen value, and JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Self

from taskservice.errors import ConfigurationError
from taskservice.load.arrivals import ARRIVALS, ArrivalKind
from taskservice.load.calls import Call, How, Story
from taskservice.load.gates import parse_gate
from taskservice.load.profiles import SHAPES, Profile, ShapeName
from taskservice.load.tasks import NOOP, QUESTION

__all__ = ["KINDS", "WAYS", "LoadPlan"]

KINDS: Final = {"task": "TaskUser", "workflow": "WorkflowUser", "celery": "CeleryUser", "api": "ApiUser"}
"""What users do, and the class that does it."""
WAYS: Final[Mapping[str, How]] = {
    "TaskUser": "task",
    "WorkflowUser": "workflow",
    "CeleryUser": "celery",
}
"""How those send that send by the engine."""
PER_SOURCE: Final = 20.0
MOST_SOURCES: Final = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadPlan:
    """Everything a load run is told. Spans are in seconds, rates a second.

    With a ``rate`` the model is open: runs are due by the clock, at ``arrivals``, drawn from ``seed``.
    Without one it is closed: each user sends its next run when the last one is over, or every ``pace``
    seconds. ``until`` is a gate that ends a run in steps. With ``forget`` nobody awaits results: what is
    measured is sending. ``redirect`` is a Redis that takes the place of the app's broker and results.
    """

    call: Call | None = None
    story: Story | None = None
    app: str | None = None
    backend: str = "auto"
    redirect: str = ""
    events: bool = False
    users: int | None = None
    rate: float | None = None
    arrivals: ArrivalKind = "poisson"
    seed: int = 0
    pace: float | None = None
    duration: float = 10.0
    warmup: float = 0.0
    drain: float = 10.0
    shape: ShapeName = "flat"
    factor: float = 5.0
    steps: int = 10
    until: str = "p95>1s"
    forget: bool = False
    token: str = ""

    def __post_init__(self) -> None:
        for name in ("arrivals", "shape"):
            known = ARRIVALS if name == "arrivals" else SHAPES
            if getattr(self, name) not in known:
                raise ConfigurationError(
                    f"{name} is one of {', '.join(known)}; found {getattr(self, name)!r}"
                )
        if self.rate is not None and self.rate <= 0:
            raise ConfigurationError(f"need a rate above 0, got {self.rate:g}/s")
        if self.pace is not None and (self.pace <= 0 or self.rate is not None):
            raise ConfigurationError("a pace is above 0 s, and for users that wait; a rate has none")
        if not 0 <= self.warmup < self.duration:
            raise ConfigurationError(
                f"the warm-up is a part of the duration: {self.warmup:g} s of {self.duration:g} s"
            )
        if self.steps < 1:
            raise ConfigurationError(f"need at least 1 step, got {self.steps}")
        parse_gate(self.until)
        self.profile()  # which checks the rest

    @property
    def open(self) -> bool:
        """Whether runs come by the clock, whatever becomes of those before."""
        return self.rate is not None

    @property
    def user_count(self) -> int:
        """How many users there are, or sources of arrivals; unless told, so many that each has a low rate."""
        if self.users is not None:
            return self.users
        return 10 if self.rate is None else max(1, min(MOST_SOURCES, round(self.rate / PER_SOURCE)))

    @property
    def source_rate(self) -> float:
        """The rate of one user in the open model."""
        assert self.rate is not None
        return self.rate / self.user_count

    def profile(self) -> Profile:
        """Return how many users there are when."""
        return Profile(
            name=self.shape,
            users=self.user_count,
            duration=self.duration,
            factor=self.factor,
            steps=self.steps,
        )

    def calls(self, ways: Iterable[How]) -> list[Call]:
        """Return all that is sent in these ways, and by the story."""
        told = [] if self.story is None else [move.call for move in self.story.moves if move.call is not None]
        return [*told, *map(self.call_by, ways)]

    def call_by(self, how: How) -> Call:
        """Return what is sent in this way, by default what does nothing."""
        if self.call is not None:
            return replace(self.call, how=how, forget=self.forget)
        return Call(name=QUESTION if how == "workflow" else NOOP, how=how, forget=self.forget)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return what `to_json` was made of."""
        call = None if data.get("call") is None else Call.from_json(data["call"])
        story = None if data.get("story") is None else Story.from_json(data["story"])
        return cls(**{**data, "call": call, "story": story})
