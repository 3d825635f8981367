"""What workflow functions may do and must not, in process, on both event loops."""

from __future__ import annotations

import threading
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from taskservice import AnyIOBackend, RetryPolicy, Settings, TaskService, task
from taskservice.errors import ConfigurationError, PayloadError, StepFailedError, WorkflowMisuseError
from taskservice.workflow import (
    AsyncWorkflowContext,
    FailureReason,
    WorkflowContext,
    WorkflowEngine,
    WorkflowRegistry,
    WorkflowStatus,
    current_step,
    workflow,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from taskservice.workflow import WorkflowRun

pytestmark = pytest.mark.anyio

WAIT = 20.0
QUICK = RetryPolicy(max_attempts=3, base=timedelta(milliseconds=5))


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Bench:
    """An engine in this process, with workflows of one test."""

    def __init__(self, engine: WorkflowEngine, registry: WorkflowRegistry) -> None:
        self.engine = engine
        self._registry = registry

    async def start(self, function: Callable[..., Any], *args: Any, **options: Any) -> str:
        definition = workflow(function.__name__, registry=self._registry, **options)(function)
        return (await self.engine.start(definition, *args, owner="ann")).id

    async def run(self, function: Callable[..., Any], *args: Any, **options: Any) -> WorkflowRun:
        """Start it, answer whatever it asks with "yes", and return how it ended."""
        run_id = await self.start(function, *args, **options)
        while True:
            run = await self.until(run_id, WorkflowStatus.INPUT, *ENDED)
            if run.question is None:
                return run
            await self.engine.answer(run_id, run.question.id, "yes")

    async def until(self, run_id: str, *wanted: WorkflowStatus) -> WorkflowRun:
        with anyio.fail_after(WAIT):
            while (run := await self.engine.load(run_id)).status not in wanted:  # noqa: ASYNC110 - a thread
                await anyio.sleep(0.001)
        return run

    def events(self, run_id: str) -> list[tuple[str, Any]]:
        found = self.engine.store.events(run_id).events
        return [(each.kind, each.data) for each in found if each.kind not in {"status", "question"}]


ENDED = (WorkflowStatus.SUCCESS, WorkflowStatus.FAILED)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    registry = WorkflowRegistry()
    settings = Settings(workflow_sweep_interval=timedelta(milliseconds=20))
    async with (
        TaskService(AnyIOBackend(grace=0)) as service,
        WorkflowEngine(service, registry=registry, settings=settings) as engine,
    ):
        yield Bench(engine, registry)


def misused(run: WorkflowRun) -> str:
    assert run.status is WorkflowStatus.FAILED
    assert run.reason is FailureReason.ERROR
    assert run.error is not None
    assert run.error["type"] == "WorkflowMisuseError"
    return str(run.error["args"][0])


class DeclinedError(Exception):
    def __init__(self, order: int, reason: str) -> None:
        super().__init__(order, reason)
        self.order = order


async def test_steps_run_once_and_answers_come_back_as_their_schema(bench: Bench) -> None:
    calls: list[str] = []

    def note(text: str) -> str:
        calls.append(text)
        return text

    def plain(ctx: WorkflowContext, word: str) -> list[Any]:
        first = ctx.step(note, word)
        answer = ctx.ask("sure?", schema=str, data={"word": word})
        return [first, answer, ctx.step(note, "last"), ctx.owner, ctx.workflow]

    run = await bench.run(plain, "first")

    assert run.result == ["first", "yes", "last", "ann", "plain"]
    assert calls == ["first", "last"]


async def test_async_functions_await_the_same(bench: Bench) -> None:
    calls: list[str] = []

    async def note(text: str) -> str:
        await anyio.lowlevel.checkpoint()
        calls.append(text)
        return text

    async def awaited(ctx: AsyncWorkflowContext) -> list[Any]:
        first = await ctx.step(note, "async")
        async with anyio.create_task_group():  # makes a group of what leaves it
            answer = await ctx.ask("sure?", schema=str)
        return [first, answer, await ctx.step(threading.get_ident) != threading.get_ident()]

    run = await bench.run(awaited)

    assert run.result == ["async", "yes", True]
    assert calls == ["async"]


async def test_time_and_chance_are_the_same_when_the_run_goes_on(bench: Bench) -> None:
    seen: list[Any] = []

    def varied(ctx: WorkflowContext) -> None:
        seen.append((ctx.now(), ctx.random()))
        ctx.ask("go on?")

    async def varied_async(ctx: AsyncWorkflowContext) -> None:
        seen.append((await ctx.now(), await ctx.random()))
        await ctx.ask("go on?")

    for function in (varied, varied_async):
        seen.clear()
        run = await bench.run(function)

        assert run.status is WorkflowStatus.SUCCESS
        assert len(seen) == 2
        assert seen[0] == seen[1]


async def test_a_step_gets_its_idempotency_key(bench: Bench) -> None:
    def charge(amount: int, *, idempotency_key: str) -> list[Any]:
        return [amount, idempotency_key, current_step().key, current_step().attempt]

    def charging(ctx: WorkflowContext) -> list[Any]:
        return [ctx.step(charge, 5), ctx.step(charge, 6, key="order-6")]

    run = await bench.run(charging)

    assert run.result == [[5, f"{run.id}:0", f"{run.id}:0", 1], [6, "order-6", "order-6", 1]]
    with pytest.raises(WorkflowMisuseError, match="no step is under way"):
        current_step()


async def test_a_step_is_tried_again_as_its_policy_says(bench: Bench) -> None:
    attempts: list[int] = []

    @task(retry=QUICK)
    def flaky() -> int:
        attempts.append(current_step().attempt)
        if len(attempts) % 3:
            raise DeclinedError(1, "not yet")
        return len(attempts)

    def patient(ctx: WorkflowContext) -> int:
        return int(ctx.step(flaky))

    async def patient_async(ctx: AsyncWorkflowContext) -> int:
        return int(await ctx.step(flaky.func, retry=QUICK))

    assert (await bench.run(patient)).result == 3
    assert (await bench.run(patient_async)).result == 6
    assert attempts == [1, 2, 3, 1, 2, 3]


async def test_a_failed_step_raises_the_same_again_when_the_run_goes_on(bench: Bench) -> None:
    calls: list[int] = []
    caught: list[object] = []

    def decline() -> None:
        calls.append(1)
        raise DeclinedError(7, "no funds")

    def strange() -> None:
        raise type("LocalError", (Exception,), {})("only here")

    def declined(ctx: WorkflowContext) -> str:
        try:
            ctx.step(decline)
        except DeclinedError as error:
            caught.append(error.order)
        with pytest.raises(StepFailedError, match="only here"):
            ctx.step(strange)
        return str(ctx.ask("anyway?"))

    run = await bench.run(declined)

    assert run.result == "yes"
    assert calls == [1]
    assert caught == [7, 7]


async def test_an_error_of_the_function_ends_its_run(bench: Bench) -> None:
    def broken(ctx: WorkflowContext) -> None:
        ctx.step(int, "1")
        raise DeclinedError(7, "no funds")

    run = await bench.run(broken)

    assert (run.status, run.reason) == (WorkflowStatus.FAILED, FailureReason.ERROR)
    assert run.error == {"module": __name__, "type": "DeclinedError", "args": [7, "no funds"]}


async def test_an_answer_that_does_not_fit_is_asked_for_again(bench: Bench) -> None:
    def counting(ctx: WorkflowContext) -> int:
        return int(ctx.ask("how many?", schema=int))

    run_id = await bench.start(counting)
    first = (await bench.until(run_id, WorkflowStatus.INPUT)).question
    assert first is not None
    await bench.engine.answer(run_id, first.id, "many")
    with anyio.fail_after(WAIT):
        while (again := (await bench.engine.load(run_id)).question) is None:  # noqa: ASYNC110 - a thread
            await anyio.sleep(0.001)
    await bench.engine.answer(run_id, again.id, 3)
    run = await bench.until(run_id, *ENDED)

    assert (again.prompt, again.schema) == ("how many?", {"type": "integer"})
    assert "valid integer" in again.problem
    assert "many" not in again.problem
    assert run.result == 3


async def test_empty_answers_are_answers(bench: Bench) -> None:
    def asking(ctx: WorkflowContext) -> list[Any]:
        return [ctx.ask("text?", schema=str), ctx.ask("nothing?")]

    run_id = await bench.start(asking)
    for empty in ("", None):
        with anyio.fail_after(WAIT):
            while (question := (await bench.engine.load(run_id)).question) is None:  # noqa: ASYNC110 - a thread
                await anyio.sleep(0.001)
        await bench.engine.answer(run_id, question.id, empty)

    assert (await bench.until(run_id, *ENDED)).result == ["", None]


async def test_events_come_once_however_often_the_function_is_run(bench: Bench) -> None:
    def telling(ctx: WorkflowContext) -> None:
        ctx.emit("progress", 1)
        ctx.ask("go on?")
        ctx.emit("progress", 2)
        ctx.step(lambda: current_step().emit("progress", 3))
        ctx.emit("progress", 4)

    async def telling_async(ctx: AsyncWorkflowContext) -> None:
        await ctx.emit("progress", 1)
        await ctx.ask("go on?")
        await ctx.emit("progress", 2)
        await ctx.step(lambda: current_step().emit("progress", 3))
        await ctx.emit("progress", 4)

    for function in (telling, telling_async):
        run = await bench.run(function)

        assert bench.events(run.id) == [("progress", 1), ("progress", 2), ("progress", 3), ("progress", 4)]


async def test_bursts_of_text_are_joined_and_lose_nothing(bench: Bench) -> None:
    def talking(ctx: WorkflowContext) -> None:
        for number in range(500):
            ctx.emit("token", {"delta": f"{number} "}, coalesce=True)

    run = await bench.run(talking)
    events = bench.events(run.id)

    assert "".join(data["delta"] for _, data in events) == "".join(f"{number} " for number in range(500))
    assert len(events) < 500


def asks_in_step(ctx: WorkflowContext) -> None:
    ctx.step(lambda: ctx.ask("inside?"))


def steps_in_step(ctx: WorkflowContext) -> None:
    with suppress(Exception):
        ctx.step(lambda: ctx.step(int, "1"))


def asks_elsewhere(ctx: WorkflowContext) -> None:
    def ask() -> None:
        with suppress(WorkflowMisuseError):
            ctx.ask("from a thread?")

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()


async def asks_in_task(ctx: AsyncWorkflowContext) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(ctx.ask, "from a task?")


def swallows(ctx: WorkflowContext) -> str:
    try:
        ctx.ask("anybody?")
    except BaseException:  # noqa: BLE001 - that is what it is about
        return "went on"
    return "answered"


def awaits_nothing(ctx: WorkflowContext) -> None:
    async def later() -> None: ...

    ctx.step(later)


def steps_on_nothing(ctx: WorkflowContext) -> None:
    ctx.step("load")  # type: ignore[arg-type] # that is what it is about


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (asks_in_step, "ctx.ask was called inside step 'asks_in_step.<locals>.<lambda>'"),
        (steps_in_step, "ctx.step was called inside step"),
        (asks_elsewhere, "ctx.ask was called from another thread"),
        (asks_in_task, "ctx.ask was called from another thread or task"),
        (swallows, "a bare `except` took what suspends it"),
        (awaits_nothing, "make the workflow function async"),
        (steps_on_nothing, "a function and its arguments, got str"),
    ],
)
async def test_misuse_ends_the_run_and_says_what_to_do(
    bench: Bench, function: Callable[..., Any], message: str
) -> None:
    run = await bench.run(function)

    assert message in misused(run)


async def test_a_context_is_over_with_its_function(bench: Bench) -> None:
    kept: list[WorkflowContext] = []

    def leaking(ctx: WorkflowContext) -> None:
        kept.append(ctx)

    run = await bench.run(leaking)

    with pytest.raises(WorkflowMisuseError, match=f"after workflow run '{run.id}' had been left"):
        kept[0].emit("late")
    assert (await bench.engine.load(run.id)).status is WorkflowStatus.SUCCESS


@pytest.mark.parametrize(
    ("function", "where"),
    [
        (lambda ctx: object(), "the workflow's result"),
        (lambda ctx: ctx.step(object), "the value of step 'object'"),
        (lambda ctx: ctx.emit("progress", float("nan")), "event 'progress'"),
        (lambda ctx: ctx.emit("progress", Decimal(1)), "event 'progress'"),
    ],
)
async def test_what_is_not_json_is_refused(bench: Bench, function: Callable[..., Any], where: str) -> None:
    run = await bench.run(function)

    assert run.reason is FailureReason.ERROR
    assert run.error is not None
    assert run.error["type"] == "PayloadError"
    assert run.error["args"][0].startswith(where)


async def test_arguments_are_checked_before_a_run_begins(bench: Bench) -> None:
    def picky(ctx: WorkflowContext, order: int) -> None: ...

    with pytest.raises(TypeError, match="missing a required argument: 'order'"):
        await bench.start(picky)
    with pytest.raises(PayloadError, match="argument 'order'"):
        await bench.start(picky, object())


async def test_a_run_of_too_many_steps_ends(bench: Bench) -> None:
    def endless(ctx: WorkflowContext) -> None:
        while True:
            with suppress(Exception):
                ctx.step(int, "1")

    run = await bench.run(endless, max_steps=4)

    assert run.reason is FailureReason.MAX_STEPS
    assert run.steps == 4


async def test_a_question_times_out(bench: Bench) -> None:
    def impatient(ctx: WorkflowContext) -> None:
        ctx.ask("anybody?", timeout=0.05)

    run_id = await bench.start(impatient)
    run = await bench.until(run_id, *ENDED)

    assert run.reason is FailureReason.INPUT_TIMEOUT


async def test_a_stopped_run_does_no_further_step(bench: Bench) -> None:
    reached, gate, left = threading.Event(), threading.Event(), threading.Event()
    calls: list[int] = []

    def hold() -> None:
        reached.set()
        gate.wait(WAIT)

    def held(ctx: WorkflowContext) -> None:
        try:
            ctx.step(hold)
            ctx.step(calls.append, 1)
        finally:
            left.set()

    run_id = await bench.start(held)
    await anyio.to_thread.run_sync(reached.wait, WAIT)
    await bench.engine.stop(run_id)
    gate.set()
    await anyio.to_thread.run_sync(left.wait, WAIT)

    assert (await bench.engine.load(run_id)).reason is FailureReason.STOPPED
    assert calls == []


@pytest.mark.parametrize(
    "options", [{"deadlines": {"busy": -1}}, {"deadlines": {"bussy": 1}}, {"max_steps": 0}]
)
async def test_wrong_options_are_refused_where_they_are_written(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        workflow("wrong", registry=WorkflowRegistry(), **options)(lambda ctx: None)


async def test_a_function_without_a_context_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="needs a first parameter for its context"):
        workflow("wrong", registry=WorkflowRegistry())(lambda: None)


async def test_a_name_belongs_to_one_function() -> None:
    registry = WorkflowRegistry()
    workflow("refund", registry=registry)(asks_in_step)

    workflow("refund", registry=registry)(asks_in_step)
    with pytest.raises(ConfigurationError, match="give one of them another name"):
        workflow("refund", registry=registry)(steps_in_step)
