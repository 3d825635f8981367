"""Control over workflow runs through the runtime's own client, on an event loop behind a portal.

Any thread may call it; who races, races in the loop or in the store.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from pytest_taskservice.drivers.workflow_story import outcome_of
from taskservice.errors import WorkflowExpiredError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from anyio.from_thread import BlockingPortal

    from pytest_taskservice.drivers.base import WorkflowOutcome
    from pytest_taskservice.drivers.workflow_story import StoryWorkflows
    from taskservice.workflow.client import WorkflowClient
    from taskservice.workflow.model import WorkflowEvent, WorkflowRun

__all__ = ["ClientControl"]


class ClientControl:
    """``started`` is told of each run in the loop, ``keys`` counts what a store holds of one."""

    def __init__(
        self,
        portal: BlockingPortal,
        client: WorkflowClient,
        workflows: StoryWorkflows,
        *,
        started: Callable[[WorkflowRun], object],
        keys: Callable[[str], int],
    ) -> None:
        self._portal = portal
        self._client = client
        self._workflows = workflows
        self._started = started
        self._keys = keys

    def start(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """Start a workflow of the stage and return its run's id."""
        definition, given = self._workflows.called(name, args)

        async def launch() -> str:
            run = await self._client.engine.launch(definition, given, kwargs)
            self._started(run)
            return run.id

        return self._portal.call(launch)

    def answer(self, run_id: str, value: Any, *, question: str | None = None) -> None:
        """Answer the open question, or the one with the id ``question``."""
        self._portal.call(self._client.send_input, run_id, value, question)

    def resume(self, run_id: str) -> None:
        """Send one more message, as a sweeper does."""

        async def dispatch() -> None:
            run = await self._client.status(run_id)
            if not run.status.final:
                await self._client.engine.dispatch(run, again=True)

        self._portal.call(dispatch)

    def stop(self, run_id: str) -> None:
        """End the run at once."""
        self._portal.call(self._client.stop, run_id)

    def outcome(self, run_id: str) -> WorkflowOutcome | None:
        """Return where the run stands; ``None`` when its data is gone."""
        try:
            return outcome_of(self._portal.call(self._client.status, run_id))
        except WorkflowExpiredError:
            return None

    def events(self, run_id: str, *, after: int = 0) -> list[WorkflowEvent]:
        """Return what a client that reads on is told by now; `WorkflowExpiredError` when the data is gone."""
        return self._portal.call(self._read_on, run_id, after)

    def stored_keys(self, run_id: str) -> int:
        """Return how many keys the store holds for the run."""
        return self._keys(run_id)

    async def _read_on(self, run_id: str, after: int) -> list[WorkflowEvent]:
        last = (await self._client.status(run_id)).last_event
        found: list[WorkflowEvent] = []
        if after >= last:
            return found

        async with aclosing(self._client.events(run_id, after=after)) as events:
            async for event in events:
                found.append(event)
                if event.id >= last:
                    break
        return found
