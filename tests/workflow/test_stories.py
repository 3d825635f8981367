"""What goes wrong with workflows, told as the guide to their troubles tells it: real worker, real Redis."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import anyio
import pytest
from redis import Redis

from taskservice import Settings, TaskService
from taskservice.errors import WorkflowExpiredError
from taskservice.workflow import FailureReason, WorkflowEngine, WorkflowStatus
from taskservice.workflow.tasks import continue_workflow, stop_workflow
from tests.workflow.real_workers import WAIT, asked, diary, ended, engine_on, flow_settings, pid_in, worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    with flow_settings() as found:
        yield found


@pytest.fixture(scope="module", autouse=True)
def one_worker(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A worker with one slot."""
    with worker(settings, tmp_path_factory.mktemp("worker") / "log"):
        yield


@pytest.fixture
async def engine(settings: Settings) -> AsyncIterator[WorkflowEngine]:
    async with engine_on(settings) as opened:
        yield opened


async def quick_run(engine: WorkflowEngine) -> None:
    """Return once the only slot is free, and has taken all that was sent before."""
    run = await ended(engine, (await engine.start("flows.quick")).id)
    assert run.status is WorkflowStatus.SUCCESS


def keys_of(settings: Settings, run_id: str) -> list[bytes]:
    with Redis.from_url(settings.redis_url) as client:
        kept = client.zscore(f"{settings.key_prefix}wf:deadlines", run_id)
        return [*client.scan_iter(f"*{run_id}*"), *([b"deadline"] if kept is not None else [])]


async def test_a_run_without_news_is_failed_as_stale_and_cleaned_up(
    engine: WorkflowEngine, settings: Settings, tmp_path: Path
) -> None:
    started = await engine.start("flows.forgotten", str(tmp_path))
    await pid_in(tmp_path, "forgotten")

    run = await ended(engine, started.id)
    with anyio.fail_after(WAIT):
        while keys_of(settings, started.id):  # noqa: ASYNC110 - the server forgets it
            await anyio.sleep(0.02)
    (tmp_path / "forgotten.gate").touch()
    await quick_run(engine)

    assert (run.status, run.reason) == (WorkflowStatus.FAILED, FailureReason.STALE)
    assert diary(tmp_path) == []
    with pytest.raises(WorkflowExpiredError):
        await engine.load(started.id)


async def test_a_run_that_a_busy_worker_does_not_take_is_failed_and_not_run_later(
    engine: WorkflowEngine, tmp_path: Path
) -> None:
    waiting = await engine.start("flows.asking", str(tmp_path))
    question_id = await asked(engine, waiting.id)
    holding = await engine.start("flows.held", str(tmp_path))
    await pid_in(tmp_path, "held")

    queued = await engine.start("flows.queued", str(tmp_path))
    await engine.answer(waiting.id, question_id, True)
    late = [await ended(engine, queued.id), await ended(engine, waiting.id)]
    (tmp_path / "held.gate").touch()
    held = await ended(engine, holding.id)
    await quick_run(engine)

    assert [(run.status, run.reason) for run in late] == [(WorkflowStatus.FAILED, FailureReason.BUSY)] * 2
    assert held.status is WorkflowStatus.SUCCESS
    assert diary(tmp_path) == ["before", "after"]


async def test_a_run_whose_data_is_gone_is_answered_as_expired(
    engine: WorkflowEngine, tmp_path: Path
) -> None:
    started = await engine.start("flows.asking", str(tmp_path))
    question_id = await asked(engine, started.id)
    engine.store.forget(started.id)
    launch = engine.service.launch_and_await_task

    by_workers = [(await launch(task, started.id))[1] for task in (continue_workflow, stop_workflow)]

    with pytest.raises(WorkflowExpiredError) as continued:
        await engine.answer(started.id, question_id, True)
    with pytest.raises(WorkflowExpiredError) as stopped:
        await engine.stop(started.id)
    codes = [*by_workers, continued.value.code, stopped.value.code]
    assert codes == ["workflow_expired"] * 4
    assert diary(tmp_path) == []


async def test_without_celery_runs_go_on_in_process_and_the_service_says_so(tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        away = Settings(redis_url=f"redis://127.0.0.1:{nobody.getsockname()[1]}/0", imports=("worker_flows",))
        service = TaskService.from_settings(away)
        async with service, WorkflowEngine(service, settings=away) as engine:
            started = await engine.start("flows.refund", str(tmp_path), "7", owner="ann")
            question_id = await asked(engine, started.id)
            await engine.answer(started.id, question_id, {"approved": True})
            run = await ended(engine, started.id)
            health = await service.health()

    assert (run.status, run.result) == (WorkflowStatus.SUCCESS, "pay 7")
    assert diary(tmp_path) == ["load 7", "pay 7"]
    assert (health.backend, health.requested) == ("anyio", "auto")
    assert health.reason.startswith("no broker")
