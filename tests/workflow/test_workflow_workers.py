"""Workflow runs on real Celery workers, killed, stopped and too late."""

from __future__ import annotations

import os
import signal
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from taskservice.errors import QuestionError, WorkflowExpiredError, WorkflowOverError
from taskservice.workflow import FailureReason, WorkflowEngine, WorkflowStatus
from taskservice.workflow.tasks import continue_workflow, stop_workflow
from tests.workflow.real_workers import WAIT, asked, diary, ended, engine_on, flow_settings, pid_in, worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from taskservice import Settings

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    with flow_settings(workflow_busy=timedelta(seconds=WAIT)) as found:
        yield found


@pytest.fixture(scope="module")
def one_worker(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A worker shared by the tests that do it no harm; its log."""
    log = tmp_path_factory.mktemp("worker") / "log"
    with worker(settings, log):
        yield log


@pytest.fixture
async def engine(settings: Settings) -> AsyncIterator[WorkflowEngine]:
    async with engine_on(settings) as opened:
        yield opened


def kinds(engine: WorkflowEngine, run_id: str) -> list[Any]:
    events = engine.store.events(run_id).events
    return [each.data["status"] if each.kind in {"status", "question"} else each.kind for each in events]


@pytest.mark.usefixtures("one_worker")
@pytest.mark.parametrize("name", ["flows.refund", "flows.refund_async"])
async def test_a_run_asks_and_goes_on_with_its_answer(
    engine: WorkflowEngine, tmp_path: Path, name: str
) -> None:
    started = await engine.start(name, str(tmp_path), "7", owner="ann")
    question_id = await asked(engine, started.id)

    await engine.answer(started.id, question_id, {"approved": True})
    run = await ended(engine, started.id)

    assert (run.status, run.result, run.owner) == (WorkflowStatus.SUCCESS, "pay 7", "ann")
    assert diary(tmp_path) == ["load 7", "pay 7"]
    assert kinds(engine, run.id) == [
        *("WAITING", "RUNNING", "INPUT", "INPUT_OVER", "RUNNING", "progress", "SUCCESS")
    ]


@pytest.mark.usefixtures("one_worker")
async def test_one_of_many_answers_is_taken(engine: WorkflowEngine, tmp_path: Path) -> None:
    started = await engine.start("flows.refund", str(tmp_path), "7")
    question_id = await asked(engine, started.id)
    refused: list[Exception] = []

    async def answer() -> None:
        try:
            await engine.answer(started.id, question_id, {"approved": True})
        except (QuestionError, WorkflowOverError) as error:
            refused.append(error)

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(answer)
    run = await ended(engine, started.id)

    assert len(refused) == 4
    assert run.status is WorkflowStatus.SUCCESS
    assert diary(tmp_path) == ["load 7", "pay 7"]


async def test_a_run_goes_on_elsewhere_when_its_worker_is_killed_in_a_step(
    engine: WorkflowEngine, settings: Settings, tmp_path: Path
) -> None:
    with worker(settings, tmp_path / "log", queues="apart") as first:
        started = await engine.start("flows.held_apart", str(tmp_path))
        killed = await pid_in(tmp_path, "held")
        os.killpg(first.pid, signal.SIGKILL)
    (tmp_path / "held.gate").touch()

    with worker(settings, tmp_path / "log", queues="apart"):
        run = await ended(engine, started.id)

    assert (run.status, run.result) == (WorkflowStatus.SUCCESS, "after")
    assert diary(tmp_path) == ["before", "after"]
    assert engine.store.journal(run.id)[1].value != killed
    assert kinds(engine, run.id) == ["WAITING", "RUNNING", "progress", "SUCCESS"]


@pytest.mark.usefixtures("one_worker")
async def test_a_run_goes_on_when_its_pool_process_is_killed(engine: WorkflowEngine, tmp_path: Path) -> None:
    started = await engine.start("flows.held", str(tmp_path))
    killed = await pid_in(tmp_path, "held")

    os.kill(killed, signal.SIGKILL)
    (tmp_path / "held.gate").touch()
    run = await ended(engine, started.id)

    assert run.status is WorkflowStatus.SUCCESS
    assert diary(tmp_path) == ["before", "after"]


@pytest.mark.usefixtures("one_worker")
async def test_a_stopped_run_ends_at_once_and_its_worker_within_the_step(
    engine: WorkflowEngine, tmp_path: Path
) -> None:
    started = await engine.start("flows.held", str(tmp_path))
    await pid_in(tmp_path, "held")

    stopped = await engine.stop(started.id)
    (tmp_path / "held.gate").touch()
    following = await engine.start("flows.quick")
    await ended(engine, following.id)  # the only slot is free again

    assert (stopped.status, stopped.reason) == (WorkflowStatus.FAILED, FailureReason.STOPPED)
    assert (await engine.load(started.id)).version == stopped.version
    assert diary(tmp_path) == ["before"]


@pytest.mark.usefixtures("one_worker")
async def test_a_run_that_no_worker_takes_is_busy_and_its_message_does_nothing_later(
    engine: WorkflowEngine, settings: Settings, tmp_path: Path
) -> None:
    late = await engine.start("flows.elsewhere", str(tmp_path))
    run = await ended(engine, late.id)

    patient = await engine.start("flows.elsewhere_patient", str(tmp_path))
    with worker(settings, tmp_path / "log", queues="elsewhere"):
        await ended(engine, patient.id)

    assert (run.status, run.reason) == (WorkflowStatus.FAILED, FailureReason.BUSY)
    assert diary(tmp_path) == ["in time"]


@pytest.mark.usefixtures("one_worker")
async def test_a_question_that_nobody_answers_ends_its_run(engine: WorkflowEngine) -> None:
    started = await engine.start("flows.impatient")

    run = await ended(engine, started.id)

    assert (run.status, run.reason) == (WorkflowStatus.FAILED, FailureReason.INPUT_TIMEOUT)


@pytest.mark.usefixtures("one_worker")
async def test_a_run_of_which_nothing_is_heard_is_stale(engine: WorkflowEngine, tmp_path: Path) -> None:
    started = await engine.start("flows.silent", str(tmp_path))
    run = await ended(engine, started.id)

    (tmp_path / "silent.gate").touch()
    following = await engine.start("flows.quick")
    await ended(engine, following.id)

    assert (run.status, run.reason) == (WorkflowStatus.FAILED, FailureReason.STALE)
    assert diary(tmp_path) == []


@pytest.mark.usefixtures("one_worker")
async def test_a_function_that_changed_ends_its_run_and_says_where(
    engine: WorkflowEngine, tmp_path: Path
) -> None:
    started = await engine.start("flows.fickle", str(tmp_path))
    question_id = await asked(engine, started.id)
    (tmp_path / "changed").touch()

    await engine.answer(started.id, question_id, None)
    run = await ended(engine, started.id)

    assert run.reason is FailureReason.CHANGED
    assert run.error is not None
    assert run.error["type"] == "WorkflowChangedError"
    assert run.error["args"] == [started.id, 0, "step 'note'", "step 'hold'"]


@pytest.mark.usefixtures("one_worker")
async def test_a_workflow_that_no_worker_knows_fails_as_unknown(engine: WorkflowEngine) -> None:
    started = await engine.start("flows.refnd", "folder")

    run = await ended(engine, started.id)

    assert run.reason is FailureReason.UNKNOWN
    assert run.error is not None
    assert run.error["args"][0] == "flows.refnd"


@pytest.mark.usefixtures("one_worker")
async def test_continuing_and_stopping_what_is_gone_say_so(engine: WorkflowEngine) -> None:
    launch = engine.service.launch_and_await_task

    answers = [(await launch(task, "no-such-run"))[1] for task in (continue_workflow, stop_workflow)]

    assert answers == ["workflow_expired", "workflow_expired"]
    with pytest.raises(WorkflowExpiredError):
        await engine.stop("no-such-run")
