"""Control over workflow runs where everything is in this process and no event loop is at hand."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_taskservice.drivers.workflow_memory import keys_in
from pytest_taskservice.drivers.workflow_story import outcome_of
from taskservice.errors import TaskServiceError, WorkflowExpiredError
from taskservice.payloads import wire_value
from taskservice.workflow.client import open_question
from taskservice.workflow.definitions import new_run
from taskservice.workflow.engine import answer_question
from taskservice.workflow.events import next_events
from taskservice.workflow.store.base import apply_signal, load_run
from taskservice.workflow.transitions import Stop

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_taskservice.drivers.base import WorkflowOutcome
    from pytest_taskservice.drivers.workflow_story import StoryWorkflows
    from taskservice.workflow.model import WorkflowEvent, WorkflowRun
    from taskservice.workflow.runtime import WorkflowRuntime

__all__ = ["DirectControl"]


class DirectControl:
    """Does what the runtime's engine and client do, on the calling thread; ``send`` asks for a run.

    ``new_id`` gives runs their ids where chance must be the world's.
    """

    def __init__(
        self,
        workflows: StoryWorkflows,
        runtime: WorkflowRuntime,
        *,
        send: Callable[[WorkflowRun], object],
        send_again: Callable[[WorkflowRun], object],
        new_id: Callable[[], str] | None = None,
    ) -> None:
        self._workflows = workflows
        self._runtime = runtime
        self._send = send
        self._send_again = send_again
        self._new_id = new_id

    def start(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """Start a workflow of the stage and return its run's id."""
        runtime = self._runtime
        definition, given = self._workflows.called(name, args)
        run = new_run(
            definition,
            given,
            kwargs,
            owner="",
            now=runtime.clock(),
            defaults=runtime.deadlines,
            payload_limit=runtime.payload_limit,
        )
        if self._new_id is not None:
            run = replace(run, id=self._new_id())
        runtime.store.create(run, ("status", {"status": run.status.value}))
        try:
            self._send(run)
        except Exception:
            # As the engine does: if no message can be sent, nothing is left of the run.
            runtime.store.forget(run.id)
            raise
        return run.id

    def answer(self, run_id: str, value: Any, *, question: str | None = None) -> None:
        """Answer the open question, or the one with the id ``question``."""
        runtime = self._runtime
        answer = wire_value(value, "the answer", limit=runtime.payload_limit)
        asked = open_question(self._load(run_id)) if question is None else question
        run = answer_question(runtime, run_id, asked, answer)
        try:
            self._send(run)
        except TaskServiceError:
            return  # it is taken, and a sweeper asks again

    def resume(self, run_id: str) -> None:
        """Send one more message, as a sweeper does."""
        run = self._load(run_id)
        if not run.status.final:
            self._send_again(run)

    def stop(self, run_id: str) -> None:
        """End the run at once."""
        runtime = self._runtime
        apply_signal(runtime.store, run_id, Stop(), now=runtime.clock())

    def outcome(self, run_id: str) -> WorkflowOutcome | None:
        """Return where the run stands; ``None`` when its data is gone."""
        try:
            return outcome_of(self._load(run_id))
        except WorkflowExpiredError:
            return None

    def events(self, run_id: str, *, after: int = 0) -> list[WorkflowEvent]:
        """Return what a client that reads on is told by now; `WorkflowExpiredError` when the data is gone."""
        run = self._load(run_id)
        found: list[WorkflowEvent] = []
        while after < run.last_event:
            found += next_events(self._runtime.store, run, after=after)
            after = found[-1].id
        return found

    def stored_keys(self, run_id: str) -> int:
        """Return how many keys a Redis would hold for the run."""
        return keys_in(self._runtime.store, run_id)

    def _load(self, run_id: str) -> WorkflowRun:
        return load_run(self._runtime.store, run_id, now=self._runtime.clock())
