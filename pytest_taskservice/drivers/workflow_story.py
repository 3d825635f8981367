"""A story's workflows by name, the deadlines it gives them, and what its history is told of their runs."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, cast

from pytest_taskservice.drivers.base import WorkflowOutcome
from pytest_taskservice.drivers.called import at_path
from pytest_taskservice.drivers.workflow_synthetic import (
    SYNTHETIC_WORKFLOW,
    arguments_of,
    synthetic_workflow,
)
from pytest_taskservice.errors import HarnessError, UnknownNameError
from pytest_taskservice.history import EventKind
from taskservice.texts import text_of
from taskservice.workflow.definitions import (
    DeadlineOptions,
    WorkflowDefinition,
    WorkflowRegistry,
    default_workflows,
)
from taskservice.workflow.values import rebuilt_error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_taskservice.drivers.base import Stage
    from pytest_taskservice.scenario.model import Config, Workflow
    from taskservice.workflow.model import WorkflowEvent, WorkflowRun

__all__ = ["StoryWorkflows", "find_workflow", "outcome_of", "settings_of", "told"]

_DEADLINES: Final = {
    "busy": "busy_after",
    "input": "input_timeout",
    "stale": "stale_after",
    "data": "data_ttl",
}
"""What the runtime calls a deadline, and what a story does."""


class StoryWorkflows:
    """The workflows of one story, over a registry of its own.

    The user's registered ones are in it too, for the story's tasks may start them; what the story says
    of deadlines holds for all. Nothing is added to the user's registry.
    """

    def __init__(self, stage: Stage | None, *, is_async: bool = False) -> None:
        self.limits = _limits(stage.config if stage is not None else None)
        self.registry = WorkflowRegistry()
        self._stories = {} if stage is None else dict(stage.workflows)
        self._labels: dict[str, str] = {}
        for definition in (*default_workflows, synthetic_workflow(is_async=is_async)):
            self.registry.register(self._limited(definition))
        self._called = {name: self._call(each) for name, each in self._stories.items() if each.call}

    def called(self, name: str, args: tuple[Any, ...]) -> tuple[WorkflowDefinition, tuple[Any, ...]]:
        """Return what is started for the story's workflow ``name``, and with what."""
        workflow = self._stories.get(name)
        if workflow is None:
            raise UnknownNameError("workflow", name, tuple(sorted(self._stories)))
        if workflow.call:
            return self._called[name], args
        if args:
            raise HarnessError(f"{workflow.mark}: workflow {name!r} is made of steps and takes no arguments")

        return self.registry.get(SYNTHETIC_WORKFLOW), arguments_of(workflow)

    def label(self, run: WorkflowRun) -> str:
        """Return what the story calls the workflow of ``run``."""
        if run.workflow == SYNTHETIC_WORKFLOW:
            return str(run.args[0])
        return self._labels.get(run.workflow, run.workflow)

    def _call(self, workflow: Workflow) -> WorkflowDefinition:
        definition = self._limited(find_workflow(str(workflow.call)))
        self.registry.register(definition)
        self._labels[definition.name] = workflow.name
        return definition

    def _limited(self, definition: WorkflowDefinition) -> WorkflowDefinition:
        # A workflow's own deadlines stand where the story says nothing.
        return replace(definition, deadlines=DeadlineOptions(**{**definition.deadlines, **self.limits}))


def find_workflow(place: str) -> WorkflowDefinition:
    """Return the workflow at a dotted path, or the one registered by that name."""
    if place in default_workflows:
        return default_workflows.get(place)

    found = at_path(place, kind="workflow")
    if isinstance(found, WorkflowDefinition):
        return found
    raise UnknownNameError("workflow", place, tuple(_places()))


def settings_of(limits: DeadlineOptions) -> dict[str, Any]:
    """Return these deadlines as fields of `Settings`."""
    given: dict[str, Any] = dict(limits)
    return {f"workflow_{name}": timedelta(seconds=seconds) for name, seconds in given.items()}


def outcome_of(run: WorkflowRun) -> WorkflowOutcome:
    """Return where a run stands."""
    record = run.error
    return WorkflowOutcome(
        status=run.status.value,
        reason="" if run.reason is None else run.reason.value,
        result=run.result,
        error="" if record is None else str(record["type"]).rpartition(".")[2],
        message="" if record is None else text_of(rebuilt_error(record)),
        question="" if run.question is None else run.question.id,
    )


def told(event: WorkflowEvent) -> Iterator[tuple[EventKind, dict[str, Any]]]:
    """Yield what the history is told of an event: a question is another status, too."""
    data = event.data
    if event.kind in {"status", "question", "snapshot"}:
        changed = {"status": data["status"], "reason": data.get("reason") or "", "id": event.id}
        yield EventKind.CHANGED, changed
    if event.kind == "question":
        yield EventKind.ASKED, {"question": data["id"], "prompt": data["prompt"], "id": event.id}
    if event.kind not in {"status", "question", "snapshot"}:
        yield EventKind.TOLD, {"kind": event.kind, "data": data, "id": event.id}


def _limits(config: Config | None) -> DeadlineOptions:
    found = {name: getattr(config, word, None) for name, word in _DEADLINES.items()}
    return cast("DeadlineOptions", {name: seconds for name, seconds in found.items() if seconds is not None})


def _places() -> Iterator[str]:
    for definition in default_workflows:
        yield f"{definition.func.__module__}.{definition.func.__name__}"
