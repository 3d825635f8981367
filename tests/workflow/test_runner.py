"""Workers that lose a run, stores that are away, and several sweepers: one process stands for all."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from taskservice import CeleryBackend, RetryPolicy, Settings, TaskService, create_app
from taskservice.errors import BackendUnavailableError, ConfigurationError
from taskservice.payloads import PAYLOAD_LIMIT
from taskservice.workflow import (
    FailureReason,
    WorkflowContext,
    WorkflowEngine,
    WorkflowRegistry,
    WorkflowStatus,
)
from taskservice.workflow import workflow as define
from taskservice.workflow.definitions import new_run
from taskservice.workflow.runtime import WorkflowRuntime, deadlines_of, open_store
from taskservice.workflow.store.base import apply_signal
from taskservice.workflow.store.memory import MemoryStore
from taskservice.workflow.sweeper import SweeperThread, sweep
from taskservice.workflow.transitions import Stop

if TYPE_CHECKING:
    from collections.abc import Iterator

    from taskservice.workflow import AsyncWorkflowContext, WorkflowRun

WAIT = 20.0


class World:
    """A store, a clock, and one run of ``body``."""

    def __init__(self, body: Callable[..., Any], **deadlines: Any) -> None:
        self.now = 1000.0
        self.store = MemoryStore()
        self.registry = WorkflowRegistry()
        definition = define("body", registry=self.registry, deadlines=deadlines)(body)  # type: ignore[arg-type] # any of them
        run = new_run(definition, owner="ann", now=self.now, payload_limit=PAYLOAD_LIMIT)
        self.id = run.id
        self.store.create(run, ("status", {"status": "WAITING"}))

    def runtime(self, store: Any = None) -> WorkflowRuntime:
        return WorkflowRuntime(store or self.store, registry=self.registry, clock=lambda: self.now)

    def execute(self, store: Any = None) -> str:
        runtime = self.runtime(store)
        try:
            return runtime.runner.execute(self.id)
        finally:
            runtime.close()

    def run(self) -> WorkflowRun:
        run = self.store.load(self.id)
        assert run is not None
        return run


class AwayStore:
    """A store whose writes fail while ``away`` says so."""

    def __init__(self, store: MemoryStore, away: Callable[[], bool]) -> None:
        self._store = store
        self._away = away

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def write(self, *args: Any, **kwargs: Any) -> bool:
        if self._away():
            raise BackendUnavailableError("redis", "connection refused")
        return self._store.write(*args, **kwargs)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as executor:
        yield executor


def test_a_worker_that_was_thought_dead_writes_nothing(pool: ThreadPoolExecutor) -> None:
    reached, gate, first = threading.Event(), threading.Event(), threading.Lock()

    def hold() -> str:
        if not first.acquire(blocking=False):
            return "second"
        reached.set()
        gate.wait(WAIT)
        return "first"

    def body(ctx: WorkflowContext) -> str:
        held = ctx.step(hold)
        ctx.emit("held", held)
        return str(held)

    world = World(body)
    paused = pool.submit(world.execute)
    assert reached.wait(WAIT)
    world.now += 16
    assert [run.id for run in sweep(world.store, now=world.now)] == [world.id]
    other = world.execute()
    gate.set()

    assert (paused.result(WAIT), other) == ("left", "SUCCESS")
    assert world.run().result == "second"
    assert [entry.value for entry in world.store.journal(world.id)] == ["second"]
    assert [event.data for event in world.store.events(world.id).events if event.kind == "held"] == ["second"]


def test_a_worker_that_was_paused_between_steps_begins_no_step_that_another_has_done(
    pool: ThreadPoolExecutor,
) -> None:
    reached, gate, first = threading.Event(), threading.Event(), threading.Lock()
    effects: list[str] = []

    def body(ctx: WorkflowContext) -> None:
        ctx.step(effects.append, "one")
        if first.acquire(blocking=False):
            reached.set()
            gate.wait(WAIT)
        ctx.step(effects.append, "two")

    world = World(body)
    paused = pool.submit(world.execute)
    assert reached.wait(WAIT)
    world.now += 16
    sweep(world.store, now=world.now)
    other = world.execute()
    gate.set()

    assert (paused.result(WAIT), other) == ("left", "SUCCESS")
    assert effects == ["one", "two"]


def test_a_stop_ends_a_wait_between_attempts(pool: ThreadPoolExecutor) -> None:
    failed = threading.Event()

    def fail() -> None:
        failed.set()
        raise ConnectionError

    patient = RetryPolicy(max_attempts=2, base=timedelta(minutes=5))
    world = World(lambda ctx: ctx.step(fail, retry=patient))
    executing = pool.submit(world.execute)
    assert failed.wait(WAIT)
    apply_signal(world.store, world.id, Stop(), now=world.now)

    assert executing.result(WAIT) == "left"


@pytest.mark.parametrize("waits_in", ["step", "retry"])
def test_a_stop_cancels_what_an_async_function_awaits(pool: ThreadPoolExecutor, waits_in: str) -> None:
    reached = threading.Event()
    left: list[str] = []

    async def wait() -> None:
        reached.set()
        if waits_in == "retry":
            raise ConnectionError
        try:
            await anyio.sleep_forever()
        finally:
            left.append("step")

    async def body(ctx: AsyncWorkflowContext) -> None:
        await ctx.step(wait, retry=RetryPolicy(max_attempts=2, base=timedelta(minutes=5)))

    world = World(body)
    executing = pool.submit(world.execute)
    assert reached.wait(WAIT)
    apply_signal(world.store, world.id, Stop(), now=world.now)

    assert executing.result(WAIT) == "left"
    assert left == (["step"] if waits_in == "step" else [])


def test_a_lease_is_renewed_while_a_step_lasts() -> None:
    def wait_for_news(run_id: str) -> bool:
        seen: set[int] = set()
        end = time.monotonic() + WAIT
        while len(seen) < 4 and time.monotonic() < end:
            run = world.store.load(run_id)
            assert run is not None
            seen.add(run.version)
            time.sleep(0.001)
        return len(seen) == 4

    world = World(lambda ctx: ctx.step(wait_for_news, ctx.run_id), lease=0.03)

    assert world.execute() == "SUCCESS"
    assert world.run().result is True


def test_a_run_outlasts_a_store_that_is_away_for_less_than_its_lease() -> None:
    calls: list[int] = []
    answers = iter([False, True, True, False, True])  # the claim, then each write
    world = World(lambda ctx: ctx.step(calls.append, 1))

    assert world.execute(AwayStore(world.store, lambda: next(answers, False))) == "SUCCESS"
    assert calls == [1]


def test_a_run_is_left_to_others_when_its_store_is_away_for_longer() -> None:
    def away() -> bool:
        return world.now > 1000

    def body(ctx: WorkflowContext) -> None:
        world.now += 60
        ctx.step(int, "1")

    world = World(body)

    assert world.execute(AwayStore(world.store, away)) == "left"
    assert world.run().status is WorkflowStatus.RUNNING


def test_a_process_that_ends_leaves_the_run_to_others() -> None:
    calls: list[str] = []

    def body(ctx: WorkflowContext) -> str:
        ctx.step(calls.append, "done")
        if world.now == 1000:
            raise SystemExit
        return "went on"

    world = World(body)
    with pytest.raises(SystemExit):
        world.execute()
    world.now += 16
    sweep(world.store, now=world.now)

    assert world.execute() == "SUCCESS"
    assert calls == ["done"]


def test_what_is_not_to_be_taken_up_is_answered_by_a_code() -> None:
    world = World(lambda ctx: ctx.ask("sure?"))

    assert world.execute() == "INPUT"
    assert world.execute() == "not_claimable"
    world.now += 86401
    assert sweep(world.store, now=world.now) == []
    assert world.run().reason is FailureReason.INPUT_TIMEOUT
    assert world.execute() == "workflow_over"
    world.store.forget(world.id)
    assert world.execute() == "workflow_expired"


def test_a_run_whose_message_died_is_offered_again_before_it_is_busy() -> None:
    world = World(lambda ctx: None, busy=9)
    offered = []
    for _ in range(20):
        world.now += 0.5
        offered += [world.now - 1000 for _ in sweep(world.store, now=world.now)]

    assert offered == [3, 6]
    assert world.run().reason is FailureReason.BUSY
    assert world.execute() == "workflow_over"


def test_of_many_sweepers_one_gets_an_orphan(pool: ThreadPoolExecutor) -> None:
    def leave(ctx: WorkflowContext) -> None:
        raise SystemExit

    world = World(leave)
    with pytest.raises(SystemExit):
        world.execute()
    world.now += 16

    swept = pool.map(lambda _: sweep(world.store, now=world.now), range(20))

    assert [run.id for runs in swept for run in runs] == [world.id]


def test_a_sweeper_goes_on_after_an_error() -> None:
    world = World(lambda ctx: None)
    world.now += 11
    stores = iter([BackendUnavailableError("redis", "away"), OSError("odd")])
    ended = threading.Event()

    def store() -> MemoryStore:
        for error in stores:
            raise error
        if world.run().status.final:
            ended.set()
        return world.store

    thread = SweeperThread(store, lambda run: None, interval=0.001, clock=lambda: world.now)
    thread.start()

    assert ended.wait(WAIT)
    thread.stop()
    assert world.run().reason is FailureReason.BUSY


def test_the_settings_are_the_deadlines_of_runs_that_have_none() -> None:
    defaults = deadlines_of(Settings(workflow_busy=30, workflow_max_steps=5))  # type: ignore[arg-type] # seconds
    own = define("own", registry=WorkflowRegistry(), deadlines={"input": 60})(lambda ctx: None)

    run = new_run(own, owner="", now=0, defaults=defaults, payload_limit=PAYLOAD_LIMIT)

    assert (run.deadlines.busy, run.deadlines.input, run.deadlines.max_steps) == (30, 60, 5)
    assert run.deadline == 10  # when it is offered again


def test_memory_that_workers_would_not_see_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="set workflow_store to 'redis' or 'auto'"):
        open_store(Settings(workflow_store="memory"), shared=True, held=ExitStack())


def test_an_eager_app_executes_runs_before_start_returns() -> None:
    registry = WorkflowRegistry()

    @define("eager", registry=registry)
    def eager(ctx: WorkflowContext) -> str:
        return str(ctx.ask("sure?", schema=str))

    async def main() -> WorkflowRun:
        app = create_app(Settings())
        app.conf.task_always_eager = True
        async with (
            TaskService(CeleryBackend(app)) as service,
            WorkflowEngine(service, registry=registry, settings=Settings()) as engine,
        ):
            run = await engine.load((await engine.start(eager)).id)
            assert run.question is not None
            await engine.answer(run.id, run.question.id, "yes")
            return await engine.load(run.id)

    assert anyio.run(main).result == "yes"


def test_a_workflow_in_process_loads_no_celery_and_no_redis() -> None:
    code = """
import sys, anyio
from taskservice import AnyIOBackend, Settings, TaskService
from taskservice.workflow import WorkflowEngine, workflow

@workflow("lean")
def lean(ctx):
    return ctx.step(int, "1")

async def main():
    async with TaskService(AnyIOBackend()) as service, WorkflowEngine(service, settings=Settings()) as engine:
        run = await engine.start(lean)
        with anyio.fail_after(20):
            while not (await engine.load(run.id)).status.final:
                await anyio.sleep(0.001)

anyio.run(main)
print(*sorted({"celery", "redis"} & sys.modules.keys()))
"""

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == []
