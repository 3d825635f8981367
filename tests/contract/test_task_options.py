"""Options, limits and the order of completion mean the same on every back end and event loop."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import anyio
import pytest

from taskservice import (
    BackendCapability,
    LaunchOptionError,
    LaunchOptions,
    RunExpiredError,
    SoftTimeLimitError,
    TaskBackend,
    TaskHandle,
    TaskService,
    TaskState,
    TimeLimitError,
)

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from celery import Celery

pytestmark = pytest.mark.anyio

WAIT = 15.0
SLOTS = 2


def needs(backend: TaskBackend, capability: BackendCapability) -> None:
    if capability not in backend.capabilities:
        pytest.skip(f"{backend.name} cannot: {capability}")


async def until_started(*handles: TaskHandle) -> None:
    with anyio.fail_after(WAIT):
        for handle in handles:
            while await handle.status() is not TaskState.STARTED:  # noqa: ASYNC110 - another process
                await anyio.sleep(0.005)


async def until(instant: datetime) -> None:
    with anyio.fail_after(WAIT):
        while datetime.now(tz=UTC) <= instant:  # noqa: ASYNC110 - the wall clock tells nobody
            await anyio.sleep(0.005)


async def test_an_eta_holds_the_run_back(backend: TaskBackend, tasks: ModuleType) -> None:
    needs(backend, BackendCapability.COUNTDOWN)
    eta = datetime.now(tz=UTC) + timedelta(seconds=0.3)

    handle = await backend.launch_task(tasks.add, [1, 2], options=LaunchOptions(eta=eta))

    assert not await handle.ready()
    assert await handle.result(WAIT) == 3
    assert datetime.now(tz=UTC) >= eta


async def test_a_run_that_starts_in_time_does_not_expire(backend: TaskBackend, tasks: ModuleType) -> None:
    handle = await backend.launch_task(tasks.add, [1, 2], options=LaunchOptions(expires=60))

    assert await handle.result(WAIT) == 3


@pytest.mark.parametrize("by", ["call", "task"])
async def test_a_run_that_does_not_start_in_time_is_revoked(
    backend: TaskBackend, tasks: ModuleType, tmp_path: Path, by: str, slots: int
) -> None:
    needs(backend, BackendCapability.EXPIRES)
    gate, diary = tmp_path / "gate", tmp_path / "diary"
    occupied = [await backend.launch_task(tasks.wait_for, [str(gate)]) for _ in range(slots)]
    await until_started(*occupied)

    if by == "task":
        late = await backend.launch_task(tasks.short_lived, [str(diary)])
    else:
        options = LaunchOptions(expires=0.2)
        late = await backend.launch_task(tasks.flaky, [str(diary), 0], options=options)
    await until(datetime.now(tz=UTC) + timedelta(seconds=0.2))
    gate.touch()

    with pytest.raises(RunExpiredError, match="expired before it could start") as caught:
        await late.result(WAIT)
    assert caught.value.reason == "expired"
    assert await late.status() is TaskState.REVOKED
    assert await late.attempts() == 0
    assert not diary.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (LaunchOptions(expires=datetime(2020, 1, 1, tzinfo=UTC)), "expires: .* is in the past"),
        (LaunchOptions(countdown=1e300), "countdown: 1e[+]300 is beyond the calendar"),
    ],
)
async def test_what_the_clock_forbids_is_refused_at_launch(
    backend: TaskBackend, tasks: ModuleType, options: LaunchOptions, message: str
) -> None:
    with pytest.raises(LaunchOptionError, match=message):
        await backend.launch_task(tasks.add, [1, 2], options=options)


async def test_an_eta_after_the_tasks_own_expiry_is_refused(
    backend: TaskBackend, tasks: ModuleType, tmp_path: Path
) -> None:
    with pytest.raises(LaunchOptionError, match="is not after the eta"):
        await backend.launch_task(
            tasks.short_lived, [str(tmp_path / "diary")], options=LaunchOptions(countdown=5)
        )


async def test_a_queue_decides_where_a_run_goes_or_is_said_not_to(
    backend: TaskBackend, tasks: ModuleType, backend_app: Celery
) -> None:
    elsewhere = f"elsewhere-{uuid4()}"
    options = LaunchOptions(queue=elsewhere, priority=9)
    handle = await backend.launch_task(tasks.add, [1, 2], options=options)

    if BackendCapability.QUEUES not in backend.capabilities:
        assert await handle.result(WAIT) == 3
        return
    assert BackendCapability.PRIORITIES in backend.capabilities
    with backend_app.connection_for_write() as connection:
        channel: Any = connection.default_channel
        message = channel.basic_get(elsewhere, no_ack=True)
        channel.queue_delete(elsewhere)
    assert message.headers["id"] == handle.id
    assert message.properties["priority"] == 9


async def test_the_tasks_keywords_and_the_options_do_not_meet(
    unopened: TaskBackend, tasks: ModuleType
) -> None:
    async with TaskService(unopened) as service:
        launcher = service.options(expires=60, priority=0)

        _, value = await launcher.launch_and_await_task(tasks.keywords, countdown=7, queue="x", options=1)
        _, handle = await launcher.launch_task(tasks.keywords, expires=8)

        assert value == {"countdown": 7, "queue": "x", "options": 1}
        assert await handle.result(WAIT) == {"expires": 8}


async def test_a_function_may_catch_its_soft_limit_and_clean_up(
    backend: TaskBackend, tasks: ModuleType, tmp_path: Path
) -> None:
    diary = tmp_path / "diary"

    handle = await backend.launch_task(tasks.tidy, [str(diary)])

    assert await handle.result(WAIT) == "tidied"
    assert diary.read_text() == "0.1"


async def test_a_soft_limit_that_is_not_caught_fails_the_run_and_is_retried(
    backend: TaskBackend, tasks: ModuleType
) -> None:
    handle = await backend.launch_task(tasks.careless)

    with pytest.raises(SoftTimeLimitError, match=r"soft time limit of 0\.1 s") as caught:
        await handle.result(WAIT)
    assert caught.value.seconds == 0.1
    assert await handle.status() is TaskState.FAILURE
    assert await handle.attempts() == 2


async def test_a_hard_limit_fails_an_async_run_for_good(backend: TaskBackend, tasks: ModuleType) -> None:
    handle = await backend.launch_task(tasks.endless)

    with pytest.raises(TimeLimitError, match=r"time limit of 0\.2 s"):
        await handle.result(WAIT)
    assert await handle.status() is TaskState.FAILURE
    assert isinstance(await handle.exception(), TimeLimitError)
    assert await handle.attempts() == 1


async def test_a_hard_limit_fails_a_plain_run_for_good(
    backend: TaskBackend, tasks: ModuleType, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    handle = await backend.launch_task(tasks.stuck, [str(gate)])

    try:
        with pytest.raises(TimeLimitError, match=r"time limit of 0\.3 s"):
            await handle.result(WAIT)
    finally:
        gate.touch()  # for the thread that was left to itself
    assert await handle.status() is TaskState.FAILURE
    assert await handle.attempts() == 1


@pytest.mark.parametrize("name", ["brisk", "leisurely"])
async def test_a_run_within_its_limits_knows_nothing_of_them(
    backend: TaskBackend, tasks: ModuleType, name: str
) -> None:
    handle = await backend.launch_task(getattr(tasks, name))

    assert await handle.result(WAIT) == "in time"


async def test_a_soft_limit_reaches_a_plain_function_or_is_refused(
    backend: TaskBackend, tasks: ModuleType, tmp_path: Path, world: str
) -> None:
    gate = tmp_path / "gate"
    if world == "anyio":
        with pytest.raises(LaunchOptionError, match=r"tidy_plain.*thread of this process.*make it async"):
            await backend.launch_task(tasks.tidy_plain, [str(gate)])
        return

    handle = await backend.launch_task(tasks.tidy_plain, [str(gate)])
    if world in {"eager", "celery-threads", "celery-solo"}:
        with pytest.raises(LaunchOptionError, match="tidy_plain"):
            await handle.result(WAIT)
        return
    assert await handle.result(WAIT) == "tidied after 0.2 s"


async def test_handles_come_in_the_order_in_which_their_runs_end(
    unopened: TaskBackend, tasks: ModuleType, tmp_path: Path
) -> None:
    needs(unopened, BackendCapability.BACKGROUND)
    gates = [tmp_path / "first", tmp_path / "second"]
    async with TaskService(unopened) as service:
        handles = [(await service.launch_task(tasks.wait_for, str(gate)))[1] for gate in gates]
        completed = service.as_completed(handles)

        gates[1].touch()
        with anyio.fail_after(WAIT):
            assert await anext(completed) is handles[1]
            assert not await handles[0].ready()
            gates[0].touch()
            assert [handle async for handle in completed] == [handles[0]]


async def test_failed_revoked_and_finished_runs_all_come(
    unopened: TaskBackend, tasks: ModuleType, tmp_path: Path
) -> None:
    async with TaskService(unopened) as service:
        _, failed = await service.launch_task(tasks.decline, 7)
        _, finished = await service.launch_task(tasks.add, 1, 2)
        handles = [failed, finished]
        await finished.result(WAIT)
        if BackendCapability.CANCEL_WAITING in service.backend.capabilities:
            waiting = service.options(countdown=60)
            _, revoked = await waiting.launch_task(tasks.flaky, str(tmp_path / "diary"), 0)
            assert await revoked.cancel()
            handles.append(revoked)

        with anyio.fail_after(WAIT):
            came = [handle async for handle in service.as_completed([*handles, failed])]

    assert sorted(handle.id for handle in came) == sorted(handle.id for handle in [*handles, failed])


async def test_a_thousand_runs_complete_without_a_thread_each(
    unopened: TaskBackend, tasks: ModuleType
) -> None:
    async with TaskService(unopened) as service:
        handles = [(await service.launch_task(tasks.add, number, 1))[1] for number in range(1000)]
        await handles[0].result(WAIT)
        before = threading.active_count()
        results = set()
        threads = 0

        with anyio.fail_after(60):
            async for handle in service.as_completed(handles):
                threads = max(threads, threading.active_count())
                results.add(await handle.result(0))

    assert results == set(range(1, 1001))
    assert threads <= before + SLOTS


async def test_nobody_waits_for_ever_for_a_service_that_closes(
    unopened: TaskBackend, tasks: ModuleType, tmp_path: Path
) -> None:
    needs(unopened, BackendCapability.BACKGROUND)
    ends: list[object] = []
    async with TaskService(unopened) as service:
        waiting = service.options(countdown=60)
        _, handle = await waiting.launch_task(tasks.flaky, str(tmp_path / "diary"), 0)

        async def follow() -> None:
            try:
                ends.extend([found async for found in service.as_completed([handle])])
            except Exception as error:  # noqa: BLE001 - each back end has its own end
                ends.append(error)

        with anyio.fail_after(WAIT):
            async with anyio.create_task_group() as group:
                group.start_soon(follow)
                await anyio.wait_all_tasks_blocked()
                await service.backend.close()

    assert len(ends) == 1
