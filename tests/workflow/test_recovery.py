"""Random programs, crashed at random instants: they end as if nothing had happened."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskservice.errors import BackendUnavailableError
from taskservice.payloads import PAYLOAD_LIMIT
from taskservice.workflow import EntryKind, WorkflowRegistry, WorkflowStatus, workflow
from taskservice.workflow.definitions import new_run
from taskservice.workflow.engine import answer_question
from taskservice.workflow.runtime import WorkflowRuntime
from taskservice.workflow.store.memory import MemoryStore
from taskservice.workflow.sweeper import sweep

if TYPE_CHECKING:
    from taskservice.workflow import AsyncWorkflowContext, JournalEntry, WorkflowContext, WorkflowRun
    from taskservice.workflow.store.base import WorkflowStore
    from taskservice.workflow.transitions import Change

OWN = frozenset({"said", "token"})


class CrashError(BaseException):
    """The worker is gone."""


@dataclass(frozen=True, kw_only=True)
class CrashAt:
    """At the worker's ``call``-th call to its store, before it is done or after."""

    call: int
    after: bool


class DyingStore:
    """What one worker has of a store, until it dies."""

    local = True

    def __init__(self, store: WorkflowStore, crash: CrashAt | None) -> None:
        self._store = store
        self._crash = crash
        self._calls = 0
        self._dead = False
        self._thread = threading.get_ident()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def write(
        self, before: WorkflowRun, change: Change, *, now: float, entry: JournalEntry | None = None
    ) -> bool:
        return bool(self._call(lambda: self._store.write(before, change, now=now, entry=entry)))

    def emit(
        self, run_id: str, token: int, events: Sequence[tuple[tuple[int, int], str, Any]], *, now: float
    ) -> None:
        self._call(lambda: self._store.emit(run_id, token, events, now=now))

    def _call(self, call: Callable[[], Any]) -> Any:
        if threading.get_ident() != self._thread:
            if self._dead:
                raise BackendUnavailableError("memory", "its worker is gone")
            return call()

        crash = self._crash is not None and self._calls == self._crash.call
        self._calls += 1
        if self._dead or (crash and self._crash is not None and not self._crash.after):
            self._die()
        found = call()
        if crash:
            self._die()
        return found

    def _die(self) -> None:
        self._dead = True
        raise CrashError


class World:
    """A run of a random program, its workers, and what they did outside."""

    def __init__(self, program: Sequence[str], *, is_async: bool) -> None:
        self.program = program
        self.now = 1000.0
        self.store = MemoryStore()
        self.done: list[int] = []
        self.registry = WorkflowRegistry()
        workflow("random", registry=self.registry)(self.body_async if is_async else self.body)

    def effect(self, place: int) -> int:
        assert place not in self.finished(), "a finished step was done again"
        self.done.append(place)
        if self.program[place] == "fail":
            raise ValueError(place)
        return place

    def finished(self) -> set[Any]:
        journal = self.store.journal(self.run_id)
        steps = [entry for entry in journal if entry.kind is EntryKind.STEP]
        return {entry.value if entry.error is None else entry.error["args"][0] for entry in steps}

    def body(self, ctx: WorkflowContext) -> list[Any]:
        found: list[Any] = []
        for place, what in enumerate(self.program):
            if what in {"step", "fail"}:
                try:
                    found.append(ctx.step(self.effect, place))
                except ValueError as error:
                    found.append(f"failed {error}")
            elif what == "ask":
                found.append(ctx.ask(f"question {place}"))
            else:
                ctx.emit(what, f"{place},", coalesce=what == "token")
        return found

    async def body_async(self, ctx: AsyncWorkflowContext) -> list[Any]:
        found: list[Any] = []
        for place, what in enumerate(self.program):
            if what in {"step", "fail"}:
                try:
                    found.append(await ctx.step(self.effect, place))
                except ValueError as error:
                    found.append(f"failed {error}")
            elif what == "ask":
                found.append(await ctx.ask(f"question {place}"))
            else:
                await ctx.emit(what, f"{place},", coalesce=what == "token")
        return found

    def live(self, crashes: Sequence[CrashAt]) -> WorkflowRun:
        """Start the run, and bring it to its end with one worker after the other."""
        run = new_run(self.registry.get("random"), owner="ann", now=self.now, payload_limit=PAYLOAD_LIMIT)
        self.run_id = run.id
        self.store.create(run, ("status", {"status": "WAITING"}))
        left = list(crashes)
        while not (run := self.load()).status.final:
            if run.question is not None:
                answer_question(self.runtime(self.store), run.id, run.question.id, run.question.prompt)
            if run.status is WorkflowStatus.RUNNING:
                self.now += run.deadlines.lease + 1
                assert [orphan.id for orphan in sweep(self.store, now=self.now)] == [run.id]
            self.work(left.pop(0) if left else None)
        return run

    def work(self, crash: CrashAt | None) -> None:
        runtime = self.runtime(DyingStore(self.store, crash))
        try:
            runtime.runner.execute(self.run_id)
        except CrashError:
            pass
        finally:
            runtime.close()

    def runtime(self, store: WorkflowStore) -> WorkflowRuntime:
        return WorkflowRuntime(store, registry=self.registry, clock=lambda: self.now)

    def load(self) -> WorkflowRun:
        run = self.store.load(self.run_id)
        assert run is not None
        return run

    def expected(self) -> list[Any]:
        values = {"step": lambda place: place, "fail": "failed {}".format, "ask": "question {}".format}
        return [values[what](place) for place, what in enumerate(self.program) if what in values]

    def said(self) -> list[str]:
        found = self.store.events(self.run_id, limit=10_000).events
        return "".join(event.data for event in found if event.kind in OWN).split(",")[:-1]


programs = st.lists(st.sampled_from(["step", "fail", "ask", "said", "token"]), max_size=12)
crash_points = st.lists(
    st.builds(CrashAt, call=st.integers(min_value=0, max_value=12), after=st.booleans()), max_size=8
)


@pytest.mark.parametrize("is_async", [False, True], ids=["plain", "async"])
@given(program=programs, crashes=crash_points)
@settings(max_examples=80, deadline=None)
def test_a_run_ends_as_if_nobody_had_crashed(
    is_async: bool, program: list[str], crashes: list[CrashAt]
) -> None:
    world = World(program, is_async=is_async)

    run = world.live(crashes)

    assert (run.status, run.result, run.error) == (WorkflowStatus.SUCCESS, world.expected(), None)
    assert world.said() == [str(place) for place, what in enumerate(program) if what in OWN]
    assert set(world.done) == {place for place, what in enumerate(program) if what in {"step", "fail"}}
    assert len(world.done) - len(set(world.done)) <= len(crashes)
