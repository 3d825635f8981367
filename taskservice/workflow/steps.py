"""Steps: one call of a function out of a workflow, and what that function may know of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from inspect import Parameter, iscoroutinefunction, signature
from typing import Any, Final

from taskservice.errors import WorkflowMisuseError
from taskservice.tasks import RetryPolicy, TaskDefinition

__all__ = ["StepCall", "StepInfo", "current_step", "step_call", "telling"]

IDEMPOTENCY_KEYWORD: Final = "idempotency_key"
_current: ContextVar[StepInfo | None] = ContextVar("taskservice_workflow_step", default=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class StepInfo:
    """The step under way. ``key`` stays the same however often the step is done.

    ``attempt`` counts from 1 within this execution. ``emit(kind, data, coalesce=False)`` is the
    context's, for functions that have no context; any thread may call it while the step lasts, and it
    never blocks for long.
    """

    run_id: str
    index: int
    name: str
    key: str
    attempt: int
    emit: Callable[..., None] = field(repr=False)


def current_step() -> StepInfo:
    """Return the step that calls this; `WorkflowMisuseError` outside of one."""
    found = _current.get()
    if found is None:
        raise WorkflowMisuseError("current_step() is for functions that ctx.step calls: no step is under way")

    return found


@contextmanager
def telling(info: StepInfo) -> Iterator[None]:
    """Have `current_step` return ``info`` in the block."""
    token = _current.set(info)
    try:
        yield
    finally:
        _current.reset(token)


@dataclass(frozen=True, kw_only=True, slots=True)
class StepCall:
    """A function to be called, ready but for its idempotency key."""

    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    name: str
    key: str | None
    retry: RetryPolicy | None
    wants_key: bool
    is_async: bool

    def bound(self, key: str) -> Callable[[], Any]:
        """Return the call itself."""
        extra = {IDEMPOTENCY_KEYWORD: key} if self.wants_key else {}
        return partial(self.func, *self.args, **self.kwargs, **extra)


def step_call(
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    key: str | None,
    retry: RetryPolicy | None,
) -> StepCall:
    """Return how ``func`` is called; a `TaskDefinition` brings its name and retry policy."""
    if not callable(func):
        raise WorkflowMisuseError(f"ctx.step wants a function and its arguments, got {type(func).__name__}")

    plain = func.func if isinstance(func, TaskDefinition) else func
    if isinstance(func, TaskDefinition) and retry is None:
        retry = func.retry
    return StepCall(
        func=plain,
        args=args,
        kwargs=kwargs,
        name=func.name if isinstance(func, TaskDefinition) else _name_of(func),
        key=key,
        retry=retry,
        wants_key=IDEMPOTENCY_KEYWORD not in kwargs and _takes_key(plain),
        is_async=iscoroutinefunction(_inner(plain)) or iscoroutinefunction(getattr(plain, "__call__", None)),  # noqa: B004 - the method itself is asked about
    )


def _inner(func: Any) -> Any:
    while isinstance(func, partial):
        func = func.func
    return func


def _name_of(func: Any) -> str:
    # Without the module: a function that moves is still the same step.
    inner = _inner(func)
    return str(getattr(inner, "__qualname__", None) or type(inner).__qualname__)


def _takes_key(func: Callable[..., Any]) -> bool:
    try:
        found = signature(func).parameters.get(IDEMPOTENCY_KEYWORD)
    except (TypeError, ValueError):  # some builtins have none
        return False
    return found is not None and found.kind in {Parameter.KEYWORD_ONLY, Parameter.POSITIONAL_OR_KEYWORD}
