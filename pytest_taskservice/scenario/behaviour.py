"""What a synthetic task does, as a value that crosses processes as JSON.

Every duration is a float of seconds.
"""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["EXCEPTIONS", "SYNTHETIC", "Behaviour", "Retry", "SyntheticError"]

SYNTHETIC = "taskservice.synthetic"


class SyntheticError(Exception):
    """A synthetic task failed with a text that names no built-in exception."""


def _buildable(candidate: object) -> bool:
    """Tell whether ``candidate`` is an ordinary exception made from one text."""
    if not (isinstance(candidate, type) and issubclass(candidate, Exception)):
        return False

    # Inside a coroutine these two end it instead of failing it.
    if issubclass(candidate, StopIteration | StopAsyncIteration | Warning):
        return False

    try:
        candidate("")
    except TypeError:
        return False
    return True


EXCEPTIONS: Mapping[str, type[Exception]] = {
    found.__name__: found for found in vars(builtins).values() if _buildable(found)
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Retry:
    """How often a synthetic task is attempted, and how far apart.

    The wait after the first failed attempt is ``delay``; each later one is ``factor`` times the one
    before, at most ``max_delay``.
    """

    max_attempts: int
    delay: float = 0.0
    factor: float = 1.0
    max_delay: float = 3600.0

    def __post_init__(self) -> None:
        if not 1 <= self.max_attempts <= 1000:
            raise ValueError(f"need 1 <= max_attempts <= 1000, got {self.max_attempts}")

        if not 1 <= self.factor <= 1000:
            raise ValueError(f"need 1 <= factor <= 1000, got {self.factor}")

        if min(self.delay, self.max_delay) < 0:
            raise ValueError(f"need delays >= 0, got {self.delay} and {self.max_delay}")

    def delay_after(self, attempt: int) -> float | None:
        """Return the wait after failed ``attempt`` (1-based); ``None`` means give up."""
        if attempt >= self.max_attempts:
            return None

        try:
            grown = self.delay * self.factor ** (attempt - 1)
        except OverflowError:
            grown = self.max_delay if self.delay else 0.0
        return min(grown, self.max_delay)


@dataclass(frozen=True, kw_only=True, slots=True)
class Behaviour:
    """What a synthetic task does at each attempt: it runs, then fails or returns.

    ``fails_with`` alone fails every attempt; ``fails_times`` only the first so many. ``retry``
    follows such a failure, never a time limit.
    """

    runs_for: float = 0.0
    returns: Any = None
    fails_with: str | None = None
    fails_times: int | None = None
    ignores_soft_limit: bool = False
    retry: Retry | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what differs from the defaults, as JSON data: the synthetic task's argument."""
        plain: dict[str, Any] = {
            "runs_for": self.runs_for,
            "returns": self.returns,
            "fails_with": self.fails_with,
            "fails_times": self.fails_times,
            "ignores_soft_limit": self.ignores_soft_limit,
        }
        said = {key: value for key, value in plain.items() if value not in (None, False)}
        # 0 and False are equal: both returned values must survive.
        if self.returns is not None:
            said["returns"] = self.returns
        if self.retry is not None:
            said["retry"] = {
                "max_attempts": self.retry.max_attempts,
                "delay": self.retry.delay,
                "factor": self.retry.factor,
                "max_delay": self.retry.max_delay,
            }
        return said

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Behaviour:
        """Rebuild what :meth:`to_json` gave."""
        retry = data.get("retry")
        return cls(**{**data, "retry": None if retry is None else Retry(**retry)})

    @property
    def attempts(self) -> int:
        """How often it is attempted if nothing from outside ends an attempt."""
        if self.retry is None or (self.fails_with is None and self.fails_times is None):
            return 1
        most = self.retry.max_attempts
        return most if self.fails_times is None else min(self.fails_times + 1, most)

    def failure(self, attempt: int) -> Exception | None:
        """Return what ``attempt`` (1-based) raises; ``None`` if it succeeds."""
        if self.fails_with is None and self.fails_times is None:
            return None

        if self.fails_times is not None and attempt > self.fails_times:
            return None

        text = self.fails_with or f"attempt {attempt} failed"
        name, _, message = text.partition(":")
        if name in EXCEPTIONS:
            return EXCEPTIONS[name](message.strip()) if message.strip() else EXCEPTIONS[name]()
        return SyntheticError(text)

    def retry_delay(self, attempt: int) -> float | None:
        """Return the wait between failed ``attempt`` and the next; ``None`` if there is no next."""
        return None if self.retry is None else self.retry.delay_after(attempt)
