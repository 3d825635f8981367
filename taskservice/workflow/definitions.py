"""Workflows: named functions whose runs are durable, and the registry they live in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from inspect import Parameter, Signature, iscoroutinefunction, signature
from secrets import token_urlsafe
from typing import TYPE_CHECKING, Any, Final, TypedDict, cast

from taskservice.errors import ConfigurationError, UnknownWorkflowError
from taskservice.payloads import wire_arguments
from taskservice.submission import check_queue
from taskservice.worker.installers import add_installer
from taskservice.workflow.model import DEFAULT_DEADLINES, Deadlines, WorkflowRun
from taskservice.workflow.transitions import MESSAGES

if TYPE_CHECKING:
    from celery import Celery

    from taskservice.settings import Settings

__all__ = [
    "DeadlineOptions",
    "WorkflowDefinition",
    "WorkflowRegistry",
    "default_workflows",
    "new_run",
    "workflow",
]

ID_BYTES: Final = 24
LONGEST_NAME: Final = 200


class DeadlineOptions(TypedDict, total=False):
    """The fields of `Deadlines`, for a workflow that has some of its own."""

    busy: float
    input: float
    stale: float
    lease: float
    kept: float
    max_steps: int
    max_events: int
    data: float | None


@dataclass(frozen=True, kw_only=True)
class WorkflowDefinition:
    """A named workflow function. ``deadlines`` stand over the settings', field by field."""

    func: Callable[..., Any]
    name: str
    queue: str | None = None
    deadlines: DeadlineOptions = field(default_factory=DeadlineOptions)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not 0 < len(self.name) <= LONGEST_NAME:
            raise ConfigurationError(
                f"give the workflow a name of 1 to {LONGEST_NAME} characters, got {self.name!r}"
            )
        check_queue(self.queue)
        self.own_deadlines(DEFAULT_DEADLINES)
        self.signature()

    @property
    def is_async(self) -> bool:
        """Whether the function must be awaited."""
        return iscoroutinefunction(self.func)

    def own_deadlines(self, defaults: Deadlines) -> Deadlines:
        """Return ``defaults`` with what this workflow says itself."""
        try:
            return replace(defaults, **self.deadlines)
        except TypeError as error:
            raise ConfigurationError(f"workflow {self.name!r}: {error}") from error

    def signature(self) -> Signature:
        """Return how it is started: its parameters but the context."""
        found = signature(self.func)
        parameters = list(found.parameters.values())
        if not parameters or parameters[0].kind not in _POSITIONAL:
            raise ConfigurationError(
                f"workflow {self.name!r} needs a first parameter for its context: "
                f"def {self.func.__name__}(ctx, ...)"
            )
        if parameters[0].kind is not Parameter.VAR_POSITIONAL:
            del parameters[0]
        return found.replace(parameters=parameters)


_POSITIONAL: Final = frozenset(
    {Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD, Parameter.VAR_POSITIONAL}
)


class WorkflowRegistry:
    """Workflows by name. A name belongs to one function."""

    def __init__(self) -> None:
        self._definitions: dict[str, WorkflowDefinition] = {}

    def register(self, definition: WorkflowDefinition) -> None:
        """Add ``definition``; the same function may come again, as it does on a module reload."""
        found = self._definitions.get(definition.name)
        if found is not None and _name(found.func) != _name(definition.func):
            raise ConfigurationError(
                f"give one of them another name: workflow {definition.name!r} is {_name(found.func)} "
                f"and {_name(definition.func)}"
            )

        self._definitions[definition.name] = definition

    def get(self, name: str) -> WorkflowDefinition:
        """Return the definition called ``name``, or raise `UnknownWorkflowError`."""
        try:
            return self._definitions[name]
        except KeyError:
            raise UnknownWorkflowError(name, self.names()) from None

    def names(self) -> tuple[str, ...]:
        """Return all names, sorted."""
        return tuple(sorted(self._definitions))

    def __contains__(self, name: object) -> bool:
        return name in self._definitions

    def __iter__(self) -> Iterator[WorkflowDefinition]:
        return iter(tuple(self._definitions.values()))

    def __len__(self) -> int:
        return len(self._definitions)


default_workflows = WorkflowRegistry()
"""Where `workflow` puts definitions unless told otherwise, and where a worker looks for them."""


def workflow(
    name: str,
    /,
    *,
    queue: str | None = None,
    deadlines: Deadlines | DeadlineOptions | None = None,
    max_steps: int | None = None,
    registry: WorkflowRegistry | None = None,
) -> Callable[[Callable[..., Any]], WorkflowDefinition]:
    """Make a function, plain or ``async``, a workflow: ``@workflow("refund", deadlines={"busy": 30})``.

    Its first parameter is the `WorkflowContext`, or the `AsyncWorkflowContext`; the others are JSON, given
    at the start. Without ``queue`` the routes and the default queue decide which workers run it. A name
    stays as long as there are runs: it is how a worker finds the function.
    """
    add_installer(_install)
    options = _options(deadlines)
    if max_steps is not None:
        options["max_steps"] = max_steps

    def define(function: Callable[..., Any]) -> WorkflowDefinition:
        definition = WorkflowDefinition(func=function, name=name, queue=queue, deadlines=options)
        (default_workflows if registry is None else registry).register(definition)
        return definition

    return define


def new_run(  # noqa: PLR0913 - by name
    wanted: WorkflowDefinition | str,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    owner: str,
    now: float,
    defaults: Deadlines = DEFAULT_DEADLINES,
    payload_limit: int,
) -> WorkflowRun:
    """Return a run to be created: WAITING since ``now``, with an id that nobody can guess.

    A workflow given by name, where its function is not known, has no queue and no deadlines of its
    own, and its arguments are not checked against the function.
    """
    named: dict[str, Any] = dict(kwargs or {})
    names: tuple[str, ...] = ()
    definition = wanted if isinstance(wanted, WorkflowDefinition) else None
    if definition is not None:
        found = definition.signature()
        found.bind(*args, **named)
        names = tuple(found.parameters)
    limits = defaults if definition is None else definition.own_deadlines(defaults)
    first = limits.busy / MESSAGES
    positional, named = wire_arguments(args, named, names, limit=payload_limit)
    return WorkflowRun(
        id=token_urlsafe(ID_BYTES),
        workflow=wanted if isinstance(wanted, str) else wanted.name,
        owner=owner,
        args=positional,
        kwargs=named,
        created_at=now,
        updated_at=now,
        deadline=now + (first if limits.data is None else min(first, limits.data)),
        deadlines=limits,
        queue="" if definition is None else definition.queue or "",
    )


def _install(app: Celery, settings: Settings) -> None:
    # Whoever defines a workflow and has no workers loads no Celery for it.
    from taskservice.workflow.install import install_workflows

    install_workflows(app, settings)


def _options(deadlines: Deadlines | DeadlineOptions | None) -> DeadlineOptions:
    if deadlines is None:
        return DeadlineOptions()
    if isinstance(deadlines, Deadlines):
        return cast("DeadlineOptions", asdict(deadlines))
    return DeadlineOptions(**deadlines)


def _name(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"
