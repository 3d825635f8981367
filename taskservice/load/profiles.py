"""Shapes of load: how many users there are at each moment. Pure; Locust is told by `shapes`.

In the open model a user is a source of arrivals, so that a shape of users is a shape of the rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from taskservice.errors import ConfigurationError

__all__ = ["SHAPES", "Profile", "ShapeName"]

ShapeName = Literal["flat", "ramp", "spike", "soak", "steps"]
SHAPES: Final = ("flat", "ramp", "spike", "soak", "steps")
SOAK_RAMP: Final = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """``users`` over ``duration`` seconds.

    - ``flat``: all of them from the start on.
    - ``ramp``: from one to all, evenly.
    - ``spike``: all of them, ``factor`` times as many for ``spike_for`` seconds after a quarter of the
      time, and again all
      of them, so that the recovery can be seen.
    - ``soak``: up within a tenth of the time, then on and on.
    - ``steps``: ``users`` more at each of ``steps`` steps of equal length, until something breaks.
    """

    name: ShapeName = "flat"
    users: int
    duration: float
    factor: float = 5.0
    spike_for: float | None = None
    steps: int = 10

    def __post_init__(self) -> None:
        if self.users < 1:
            raise ConfigurationError(f"need at least 1 user, got {self.users}")
        if self.duration <= 0:
            raise ConfigurationError(f"need a duration of more than 0 s, got {self.duration:g} s")
        if self.factor <= 1 and self.name == "spike":
            raise ConfigurationError(f"a spike needs a factor above 1, got {self.factor:g}")

    @property
    def most(self) -> int:
        """How many users there are at the most."""
        if self.name == "spike":
            return round(self.users * self.factor)
        return self.users * self.steps if self.name == "steps" else self.users

    def users_at(self, elapsed: float) -> int | None:
        """Return how many users there are ``elapsed`` seconds after the start; ``None`` after the end."""
        if elapsed >= self.duration:
            return None

        match self.name:
            case "ramp":
                return self._up_to(elapsed / self.duration)
            case "soak":
                return self._up_to(elapsed / (self.duration * SOAK_RAMP))
            case "spike":
                return self.most if self._in_spike(elapsed) else self.users
            case "steps":
                return self.users * (self.step_at(elapsed) + 1)
            case _:
                return self.users

    def step_at(self, elapsed: float) -> int:
        """Return the number of the step, from 0."""
        return min(int(elapsed / self.duration * self.steps), self.steps - 1)

    def _up_to(self, share: float) -> int:
        return max(1, min(self.users, round(self.users * share)))

    def _in_spike(self, elapsed: float) -> bool:
        starts = self.duration / 4
        lasts = self.duration / 6 if self.spike_for is None else self.spike_for
        return starts <= elapsed < starts + lasts
