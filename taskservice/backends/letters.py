"""Dead letters as back ends make and keep them, wherever they are stored."""

# ruff: noqa: D102 - DeadLetters documents the contract, once

from __future__ import annotations

from time import time
from traceback import format_exception
from typing import TYPE_CHECKING, Any, Final, Protocol

import anyio

from taskservice.backends.remote import limit_error
from taskservice.deadletters import DeadLetter, DeadLetterCause
from taskservice.errors import (
    DeadLetterNotFoundError,
    PayloadError,
    PayloadSizeError,
    RunLostError,
    SoftTimeLimitError,
    TimeLimitError,
)
from taskservice.texts import text_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from taskservice.runs import TaskHandle
    from taskservice.tasks import RetryPolicy

__all__ = [
    "LetterStore",
    "MemoryLetters",
    "StoredDeadLetters",
    "cause_of",
    "cut_traceback",
    "describe_error",
    "letter_of",
]

MESSAGE_CHARACTERS: Final = 2_000
TRACEBACK_CHARACTERS: Final = 4_000


class LetterStore(Protocol):
    """Where letters lie. A claim keeps others from requeueing one, and lapses by itself."""

    async def list(self, limit: int, task: str | None) -> list[DeadLetter]: ...

    async def get(self, run_id: str) -> DeadLetter | None: ...

    async def drop(self, run_id: str) -> bool: ...

    async def count(self) -> int: ...

    async def claim(self, run_id: str) -> DeadLetter | None:
        """Return the letter if nobody else has a claim on it."""

    async def settle(self, letter: DeadLetter, *, requeued: bool) -> None:
        """Give the claim back and, once ``requeued``, forget the letter, but not a newer one of the run."""


class StoredDeadLetters:
    """`DeadLetters` in a store; ``relaunch`` sends a letter's run again, ``check_open`` may refuse."""

    def __init__(
        self,
        store: LetterStore,
        *,
        relaunch: Callable[[DeadLetter], Awaitable[TaskHandle]],
        check_open: Callable[[], object],
    ) -> None:
        self._store = store
        self._relaunch = relaunch
        self._check_open = check_open

    async def list(self, *, limit: int = 100, task: str | None = None) -> list[DeadLetter]:
        self._check_open()
        if limit < 1:
            raise ValueError(f"need limit >= 1, got {limit}")

        return await self._store.list(limit, task)

    async def get(self, run_id: str) -> DeadLetter:
        self._check_open()
        return _found(await self._store.get(run_id), run_id)

    async def requeue(self, run_id: str) -> TaskHandle:
        self._check_open()
        letter = _found(await self._store.claim(run_id), run_id)
        sent = False
        try:
            handle = await self._relaunch(letter)
            sent = True
        finally:
            # The letter goes last: whoever dies in between leaves one too many, and loses no run.
            with anyio.CancelScope(shield=True):
                await self._store.settle(letter, requeued=sent)
        return handle

    async def drop(self, run_id: str) -> bool:
        self._check_open()
        return await self._store.drop(run_id)

    async def count(self) -> int:
        self._check_open()
        return await self._store.count()


class MemoryLetters:
    """A `LetterStore` of this process, for one event loop; beside each letter it keeps what runs it again."""

    def __init__(self, *, count: int, seconds: float) -> None:
        self._count = count
        self._seconds = seconds
        self._kept: dict[str, tuple[DeadLetter, Any]] = {}
        self._claimed: set[str] = set()

    def add(self, letter: DeadLetter, again: object) -> None:
        """Keep ``letter``, the newest one, and forget what is too much or too old."""
        self._kept.pop(letter.id, None)
        self._kept[letter.id] = (letter, again)
        self._forget_old()

    def again(self, letter: DeadLetter) -> Any:
        """Return what was kept beside ``letter``, or raise `DeadLetterNotFoundError`."""
        try:
            return self._kept[letter.id][1]
        except KeyError:
            raise DeadLetterNotFoundError(letter.id) from None

    async def list(self, limit: int, task: str | None) -> list[DeadLetter]:
        self._forget_old()
        newest = [letter for letter, _ in reversed(self._kept.values()) if task in {None, letter.task}]
        return newest[:limit]

    async def get(self, run_id: str) -> DeadLetter | None:
        self._forget_old()
        return self._kept[run_id][0] if run_id in self._kept else None

    async def drop(self, run_id: str) -> bool:
        self._forget_old()
        return self._kept.pop(run_id, None) is not None

    async def count(self) -> int:
        self._forget_old()
        return len(self._kept)

    async def claim(self, run_id: str) -> DeadLetter | None:
        if run_id in self._claimed:
            return None

        found = await self.get(run_id)
        if found is not None:
            self._claimed.add(run_id)
        return found

    async def settle(self, letter: DeadLetter, *, requeued: bool) -> None:
        self._claimed.discard(letter.id)
        kept = self._kept.get(letter.id)
        if requeued and kept is not None and kept[0] is letter:
            del self._kept[letter.id]

    def _forget_old(self) -> None:
        oldest = time() - self._seconds
        while self._kept:
            run_id, (letter, _) = next(iter(self._kept.items()))
            if len(self._kept) <= self._count and letter.at >= oldest:
                return
            del self._kept[run_id]


def letter_of(  # noqa: PLR0913 - a letter says a lot
    task: object,
    error: BaseException,
    *,
    run_id: str,
    name: str,
    args: Sequence[Any],
    kwargs: dict[str, Any],
    attempts: int,
) -> DeadLetter:
    """Return the letter of a run of ``task`` that ended in this process, now."""
    type_name, message = describe_error(error)
    return DeadLetter(
        id=run_id,
        task=name,
        args=tuple(args),
        kwargs=dict(kwargs),
        cause=cause_of(task, error, attempts),
        error_type=type_name,
        error_message=message,
        traceback=cut_traceback("".join(format_exception(error))),
        attempts=attempts,
        at=time(),
    )


def cause_of(task: object, error: BaseException, attempts: int) -> DeadLetterCause:
    """Return why ``error`` ended a run of ``task``: a definition, a Celery task or a function."""
    if isinstance(error, RunLostError) or _is_celerys(error, "WorkerLostError"):
        return DeadLetterCause.WORKER_LOST
    if isinstance(error, SoftTimeLimitError | TimeLimitError) or limit_error(error) is not None:
        return DeadLetterCause.TIME_LIMIT

    known = _find_policy(task)
    used_up = (
        _is_used_up(task, error, attempts) if known is None else _is_policy_used_up(known[0], error, attempts)
    )
    return DeadLetterCause.ATTEMPTS if used_up else DeadLetterCause.ERROR


def describe_error(error: BaseException) -> tuple[str, str]:
    """Return the name of its type, with its module, and what it says, cut to a bound."""
    wrapped = getattr(error, "exc_cls_name", None)  # Celery's stand-in for what cannot be pickled
    if wrapped is not None:
        module, name = str(getattr(error, "exc_module", "")), str(wrapped)
    else:
        module, name = type(error).__module__, type(error).__qualname__
    message = text_of(error)[:MESSAGE_CHARACTERS]
    return (name if module == "builtins" else f"{module}.{name}"), message


def cut_traceback(text: str) -> str:
    """Return the end of a traceback: the innermost frames and the error."""
    return text if len(text) <= TRACEBACK_CHARACTERS else "... " + text[-TRACEBACK_CHARACTERS:]


def _found(letter: DeadLetter | None, run_id: str) -> DeadLetter:
    if letter is None:
        raise DeadLetterNotFoundError(run_id)

    return letter


def _is_celerys(error: BaseException, name: str) -> bool:
    kinds = {(kind.__module__, kind.__name__) for kind in type(error).__mro__}
    return bool(kinds & {("billiard.exceptions", name), ("celery.exceptions", name)})


def _find_policy(task: object) -> tuple[RetryPolicy | None] | None:
    """Return the policy of a definition, or of the Celery task made of one; ``None`` for anything else."""
    from taskservice.tasks import TaskDefinition

    if isinstance(task, TaskDefinition):
        return (task.retry,)
    definition = getattr(task, "definition", None)
    return (definition.retry,) if isinstance(definition, TaskDefinition) else None


def _is_policy_used_up(policy: RetryPolicy | None, error: BaseException, attempts: int) -> bool:
    if policy is None:
        return True

    retried = isinstance(error, policy.retry_for) and not isinstance(error, PayloadError | PayloadSizeError)
    return retried and attempts >= policy.max_attempts


def _is_used_up(task: Any, error: BaseException, attempts: int) -> bool:
    if _is_celerys(error, "MaxRetriesExceededError"):
        return True

    # Task.retry(max_retries=...) stands over the task's own.
    most = getattr(task, "override_max_retries", None)
    most = getattr(task, "max_retries", 0) if most is None else most
    if most is not None and attempts > most:
        return True
    # One that never asked to be retried had but this attempt.
    return attempts <= 1 and not getattr(task, "autoretry_for", ())
