"""Dead letters: runs that ended in failure for good, kept with their cause and their payload."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taskservice.runs import TaskHandle

__all__ = ["DeadLetter", "DeadLetterCause", "DeadLetters"]


class DeadLetterCause(StrEnum):
    """Why a run will not be attempted again."""

    ATTEMPTS = "attempts"
    """Its retry policy is used up, or it has none and failed."""
    ERROR = "error"
    """It has a policy that does not retry this error."""
    TIME_LIMIT = "time_limit"
    """It ran into its time limit."""
    WORKER_LOST = "worker_lost"
    """Its worker died, as often as is allowed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DeadLetter:
    """A run that failed for good; ``id`` is the run's, ``args`` and ``kwargs`` are what it was called with.

    ``queue`` and ``priority`` are those of its last message, ``None`` where there was none.
    ``attempts`` counts the attempts, ``deliveries`` how often a worker began the last of them. ``at`` is in
    seconds since the epoch. ``error_message`` and ``traceback`` are cut to a few thousand characters.
    """

    id: str
    task: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    cause: DeadLetterCause
    error_type: str
    error_message: str
    at: float
    traceback: str = ""
    attempts: int = 1
    deliveries: int = 1
    queue: str | None = None
    priority: int | None = None
    worker: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as data that Celery's JSON can write, dates and the like included."""
        return {**asdict(self), "cause": self.cause.value, "args": list(self.args), "kwargs": {**self.kwargs}}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> DeadLetter:
        """Read what `to_json` returned; `ValueError` for anything else."""
        try:
            read = {**stored, "cause": DeadLetterCause(stored["cause"]), "args": tuple(stored["args"])}
            return cls(**read)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not a dead letter: {error}") from error


class DeadLetters(Protocol):
    """The dead letters that a back end keeps, bounded by number and by age.

    A run that failed becomes one a moment after its failure can be seen. Every method raises
    `ServiceClosedError` once the back end is closed, and `BackendUnavailableError` if the place where
    they are kept does not answer.
    """

    async def list(self, *, limit: int = 100, task: str | None = None) -> list[DeadLetter]:
        """Return at most ``limit`` of them, newest first; with ``task``, those of that task alone."""

    async def get(self, run_id: str) -> DeadLetter:
        """Return the one of this run, or raise `DeadLetterNotFoundError`."""

    async def requeue(self, run_id: str) -> TaskHandle:
        """Run it again under its old id, with attempts counted from 1, and take the letter away.

        The run goes to the queue it came from, with its payload and priority and with the options its
        task has now; what followed it in a chain, and its callbacks, do not go with it.
        Whoever asks for the id from now on finds the new run; a handle that has seen the old end keeps it.
        Of several who requeue the same letter at once, one does, and the others get
        `DeadLetterNotFoundError`. If it cannot be sent, the letter stays and the error comes through.
        """

    async def drop(self, run_id: str) -> bool:
        """Forget it, and return whether there was one."""

    async def count(self) -> int:
        """Return how many there are."""
