"""Tasks: named callables, the registry they live in, and when a failed one is tried again.

Pure by design. What runs a task is a back end's business; what each makes of an option is told in
``docs/service.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from inspect import iscoroutinefunction
from math import log
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, overload

from taskservice.canvas import Map, Signature
from taskservice.errors import ConfigurationError, LaunchOptionError, TaskNotRegisteredError
from taskservice.submission import check_priority, check_queue, check_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = [
    "RetryPolicy",
    "TaskDefinition",
    "TaskRegistry",
    "default_registry",
    "next_delay",
    "task",
]

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryPolicy:
    """How often a run is attempted, how far apart, and after which errors.

    ``max_attempts`` counts the first one. The wait grows from ``base`` by ``factor`` up to ``cap``;
    ``jitter`` is the share of it, 0 to 1, that chance may take off.
    """

    max_attempts: int = 3
    base: timedelta = timedelta(seconds=1)
    cap: timedelta = timedelta(minutes=10)
    factor: float = 2.0
    jitter: float = 0.0
    retry_for: tuple[type[Exception], ...] = (Exception,)

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ValueError(f"need max_attempts >= 1, got {self.max_attempts}")

        if not timedelta(0) < self.base <= self.cap:
            raise ValueError(f"need 0 < base <= cap, got {self.base} and {self.cap}")

        if not 1 <= self.factor < float("inf"):
            raise ValueError(f"need a finite factor >= 1, got {self.factor}")

        if not 0 <= self.jitter <= 1:
            raise ValueError(f"need 0 <= jitter <= 1, got {self.jitter}")


def next_delay(policy: RetryPolicy, attempt: int, *, random: float = 0.0) -> timedelta | None:
    """Return the wait after failed ``attempt`` (1-based); ``None`` means give up.

    ``random`` is drawn by the caller, from 0 up to 1: the larger, the shorter the wait.
    """
    if attempt >= policy.max_attempts:
        return None

    # Compare logarithms: the power itself overflows a float at attempt 1,025.
    steps = attempt - 1
    most = policy.cap / policy.base
    capped = steps * log(policy.factor) >= log(most)
    delay = policy.cap if capped else min(policy.base * policy.factor**steps, policy.cap)
    return delay * (1 - policy.jitter * random)


@dataclass(frozen=True, kw_only=True)
class TaskDefinition(Generic[P, R]):
    """A named function that a back end can run; calling it runs the plain function here and now.

    Times are in seconds: ``expires`` from the launch, the limits from the start of each attempt. At
    the soft one `SoftTimeLimitError` is raised inside the function, at the hard one the run fails
    with `TimeLimitError`. ``idempotency_key`` makes a key of the arguments of a launch that gives none;
    ``None`` is none.
    """

    func: Callable[P, R]
    name: str
    queue: str | None = None
    retry: RetryPolicy | None = None
    priority: int | None = None
    expires: float | None = None
    soft_time_limit: float | None = None
    time_limit: float | None = None
    acks_late: bool | None = None
    idempotency_key: Callable[P, str | None] | None = None

    def __post_init__(self) -> None:
        if self.idempotency_key is not None and not callable(self.idempotency_key):
            raise LaunchOptionError(
                "idempotency_key", f"need a function of the task's arguments, got {self.idempotency_key!r}"
            )
        check_queue(self.queue)
        check_priority(self.priority)
        for option in ("expires", "soft_time_limit", "time_limit"):
            value = getattr(self, option)
            if value is not None:
                check_seconds(option, value)

        soft, hard = self.soft_time_limit, self.time_limit
        if soft is not None and hard is not None and soft >= hard:
            raise LaunchOptionError("soft_time_limit", f"need less than the time_limit of {hard}, got {soft}")

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the plain function; an ``async`` one must be awaited."""
        return self.func(*args, **kwargs)

    def s(self, /, *args: Any, **kwargs: Any) -> Signature:
        """Return the call with these arguments, for a canvas; a value from before goes in front."""
        return Signature(func=self, args=args, kwargs=kwargs)

    def si(self, /, *args: Any, **kwargs: Any) -> Signature:
        """Return the call with these arguments and no others: a value from before is left out."""
        return Signature(func=self, args=args, kwargs=kwargs, immutable=True)

    def map(self, items: Iterable[Any]) -> Map:
        """Return one run that calls it with each of ``items``."""
        return Map(func=self, items=tuple(items))

    def starmap(self, items: Iterable[Iterable[Any]]) -> Map:
        """Return one run that calls it with the positional arguments that each of ``items`` is."""
        return Map(func=self, items=tuple(items), star=True)

    def __hash__(self) -> int:
        # Of what tells them apart: it is looked up at each launch, and all its fields take ten times as long.
        return hash((self.func, self.name))

    @property
    def is_async(self) -> bool:
        """Whether the function must be awaited."""
        return iscoroutinefunction(self.func)

    @property
    def __wrapped__(self) -> Callable[P, R]:
        # So that inspect.signature() shows the function's own parameters.
        return self.func


class TaskRegistry:
    """Definitions by name. A name belongs to one function."""

    def __init__(self) -> None:
        self._definitions: dict[str, TaskDefinition[..., Any]] = {}

    def register(self, definition: TaskDefinition[..., Any]) -> None:
        """Add ``definition``; the same function may come again, as it does on a module reload."""
        found = self._definitions.get(definition.name)
        if found is not None and _origin(found) != _origin(definition):
            raise ConfigurationError(
                f"give one of them another name: task {definition.name!r} is {_origin(found)} "
                f"and {_origin(definition)}"
            )

        self._definitions[definition.name] = definition

    def get(self, name: str) -> TaskDefinition[..., Any]:
        """Return the definition called ``name``, or raise `TaskNotRegisteredError`."""
        try:
            return self._definitions[name]
        except KeyError:
            raise TaskNotRegisteredError(name, self.names()) from None

    def names(self) -> tuple[str, ...]:
        """Return all names, sorted."""
        return tuple(sorted(self._definitions))

    def __contains__(self, name: object) -> bool:
        return name in self._definitions

    def __iter__(self) -> Iterator[TaskDefinition[..., Any]]:
        return iter(tuple(self._definitions.values()))

    def __len__(self) -> int:
        return len(self._definitions)


default_registry = TaskRegistry()
"""Where `task` puts definitions unless told otherwise, and where a worker looks for them."""


@overload
def task(func: Callable[P, R], /) -> TaskDefinition[P, R]: ...
@overload
def task(
    *,
    name: str | None = None,
    queue: str | None = None,
    retry: RetryPolicy | None = None,
    priority: int | None = None,
    expires: float | None = None,
    soft_time_limit: float | None = None,
    time_limit: float | None = None,
    acks_late: bool | None = None,
    idempotency_key: Callable[..., str | None] | None = None,
    registry: TaskRegistry | None = None,
) -> Callable[[Callable[P, R]], TaskDefinition[P, R]]: ...
def task(  # noqa: PLR0913 - all optional, all by name
    func: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    queue: str | None = None,
    retry: RetryPolicy | None = None,
    priority: int | None = None,
    expires: float | None = None,
    soft_time_limit: float | None = None,
    time_limit: float | None = None,
    acks_late: bool | None = None,
    idempotency_key: Callable[..., str | None] | None = None,
    registry: TaskRegistry | None = None,
) -> Any:
    """Make a function, plain or ``async``, a task: ``@task`` or ``@task(name=..., retry=...)``.

    The name defaults to ``module.qualname``, as Celery's does. Without ``queue`` the routes and the
    default queue decide; without ``retry`` the first error is final. For the rest see
    `TaskDefinition` and `LaunchOptions`; ``acks_late`` is Celery's, and leaves it to the app if not
    given.
    """

    def define(function: Callable[P, R]) -> TaskDefinition[P, R]:
        definition = TaskDefinition(
            func=function,
            name=name or _full_name(function),
            queue=queue,
            retry=retry,
            priority=priority,
            expires=expires,
            soft_time_limit=soft_time_limit,
            time_limit=time_limit,
            acks_late=acks_late,
            idempotency_key=idempotency_key,
        )
        (default_registry if registry is None else registry).register(definition)
        return definition

    return define if func is None else define(func)


def _full_name(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def _origin(definition: TaskDefinition[..., Any]) -> str:
    return _full_name(definition.func)
