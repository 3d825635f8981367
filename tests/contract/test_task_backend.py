"""The contract of `TaskBackend` and `TaskHandle`, over every implementation and event loop."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import anyio
import pytest

from taskservice import (
    AnyIOBackend,
    BackendCapability,
    CeleryBackend,
    LaunchOptions,
    PayloadError,
    PayloadSizeError,
    PoolState,
    ResultTimeoutError,
    RunCancelledError,
    RunNotFoundError,
    ServiceClosedError,
    TaskBackend,
    TaskNotRegisteredError,
    TaskService,
    TaskState,
)

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType


pytestmark = pytest.mark.anyio

WAIT = 15.0


def needs(backend: TaskBackend, capability: BackendCapability) -> None:
    if capability not in backend.capabilities:
        pytest.skip(f"{backend.name} cannot: {capability}")


async def until_started(backend: TaskBackend, task_id: str) -> None:
    handle = await backend.get_task(task_id)
    with anyio.fail_after(WAIT):
        while await handle.status() is not TaskState.STARTED:  # noqa: ASYNC110 - another process
            await anyio.sleep(0.005)


async def until_written(path: Path, text: str) -> None:
    with anyio.fail_after(WAIT):
        while not holds(path, text):  # noqa: ASYNC110 - another process
            await anyio.sleep(0.005)


def holds(path: Path, text: str) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == text


async def test_launch_returns_before_the_run_ends(
    backend: TaskBackend, tasks: ModuleType, tmp_path: Path
) -> None:
    needs(backend, BackendCapability.BACKGROUND)
    gate = tmp_path / "gate"

    handle = await backend.launch_task(tasks.wait_for, [str(gate)])

    assert not await handle.ready()
    gate.touch()
    assert await handle.result(WAIT) == "opened"
    assert await handle.ready()


async def test_the_id_is_a_uuid(backend: TaskBackend, tasks: ModuleType) -> None:
    handle = await backend.launch_task(tasks.add, [1, 2])

    assert str(UUID(handle.id)) == handle.id


async def test_the_result_is_what_the_function_returned(backend: TaskBackend, tasks: ModuleType) -> None:
    handle = await backend.launch_task(tasks.add, [2], {"right": 3})

    assert await handle.result(WAIT) == 5
    assert await handle.status() is TaskState.SUCCESS
    assert await handle.exception() is None
    assert await handle.attempts() == 1


async def test_an_async_function_is_awaited(backend: TaskBackend, tasks: ModuleType) -> None:
    handle = await backend.launch_task(tasks.add_async, [2, 3])

    assert await handle.result(WAIT) == 5


async def test_a_value_arrives_as_json_would_carry_it(backend: TaskBackend, tasks: ModuleType) -> None:
    handle = await backend.launch_task(tasks.echo, [{1: (2, 3)}])

    assert await handle.result(WAIT) == {"1": [2, 3]}


async def test_a_failed_run_raises_its_own_exception(backend: TaskBackend, tasks: ModuleType) -> None:
    handle = await backend.launch_task(tasks.decline, [7])

    with pytest.raises(tasks.DeclinedError, match=r"^order 7 declined: no funds$") as caught:
        await handle.result(WAIT)

    assert caught.value.order == 7
    assert await handle.status() is TaskState.FAILURE
    assert isinstance(await handle.exception(), tasks.DeclinedError)


async def test_a_retried_run_succeeds_and_counts_its_attempts(
    backend: TaskBackend, tasks: ModuleType, tmp_path: Path
) -> None:
    handle = await backend.launch_task(tasks.flaky, [str(tmp_path / "diary"), 2])

    assert await handle.result(WAIT) == 3
    assert await handle.attempts() == 3


async def test_an_exhausted_retry_raises_the_last_error(
    backend: TaskBackend, tasks: ModuleType, tmp_path: Path
) -> None:
    diary = tmp_path / "diary"
    handle = await backend.launch_task(tasks.flaky, [str(diary), 99])

    with pytest.raises(tasks.DeclinedError, match="order 3 declined"):
        await handle.result(WAIT)

    assert await handle.attempts() == 3
    assert diary.read_text() == "xxx"


async def test_a_countdown_holds_the_run_back(backend: TaskBackend, tasks: ModuleType) -> None:
    needs(backend, BackendCapability.COUNTDOWN)
    start = anyio.current_time()

    handle = await backend.launch_task(tasks.add, [1, 2], options=LaunchOptions(countdown=0.3))

    assert await handle.result(WAIT) == 3
    assert anyio.current_time() - start >= 0.25


async def test_a_waiting_run_can_be_cancelled(
    backend: TaskBackend, tasks: ModuleType, tmp_path: Path
) -> None:
    needs(backend, BackendCapability.CANCEL_WAITING)
    diary = tmp_path / "diary"
    handle = await backend.launch_task(tasks.flaky, [str(diary), 0], options=LaunchOptions(countdown=60))

    assert await handle.cancel()

    assert await handle.status() is TaskState.REVOKED
    with pytest.raises(RunCancelledError, match=handle.id):
        await handle.result(WAIT)
    assert not diary.exists()


async def test_a_running_plain_function_cannot_be_cancelled(
    backend: TaskBackend, tasks: ModuleType, tmp_path: Path
) -> None:
    needs(backend, BackendCapability.BACKGROUND)
    gate = tmp_path / "gate"
    handle = await backend.launch_task(tasks.wait_for, [str(gate)])
    await until_started(backend, handle.id)

    cancelled = await handle.cancel()

    gate.touch()
    assert not cancelled
    assert await handle.result(WAIT) == "opened"


async def test_fifty_megabytes_are_refused_before_anything_is_sent(
    backend: TaskBackend, tasks: ModuleType
) -> None:
    with pytest.raises(PayloadSizeError, match="argument 'text' takes this payload over 10,000,000 bytes"):
        await backend.launch_task(tasks.repeat, ["x" * 50_000_000, 1])

    with pytest.raises(PayloadSizeError, match="call 1: argument 'text'"):
        await backend.launch_many(tasks.repeat, [("x", 1), ("x" * 50_000_000, 1)])


async def test_a_result_of_fifty_megabytes_fails_the_run(backend: TaskBackend, tasks: ModuleType) -> None:
    handle = await backend.launch_task(tasks.repeat, ["x" * 1000, 50_000])

    with pytest.raises(PayloadSizeError, match="result takes"):
        await handle.result(WAIT)


async def test_a_running_async_function_leaves_and_tidies_up(
    backend: TaskBackend, tasks: ModuleType, tmp_path: Path
) -> None:
    needs(backend, BackendCapability.CANCEL_RUNNING)
    diary = tmp_path / "diary"
    handle = await backend.launch_task(tasks.linger, [str(diary)])
    await until_written(diary, "began")

    assert await handle.cancel()

    assert diary.read_text(encoding="utf-8") == "left"
    assert await handle.status() is TaskState.REVOKED
    with pytest.raises(RunCancelledError):
        await handle.result(WAIT)


async def test_cancelling_one_run_leaves_its_neighbour_alone(
    backend: TaskBackend, tasks: ModuleType, tmp_path: Path
) -> None:
    needs(backend, BackendCapability.CANCEL_RUNNING)
    diaries = [tmp_path / "one", tmp_path / "other"]
    handles = [await backend.launch_task(tasks.linger, [str(diary)]) for diary in diaries]
    for diary in diaries:
        await until_written(diary, "began")

    assert await handles[0].cancel()

    assert await handles[1].status() is TaskState.STARTED
    assert diaries[1].read_text(encoding="utf-8") == "began"
    assert await handles[1].cancel()


async def test_the_process_of_a_running_plain_function_can_be_ended(
    backend: TaskBackend, tasks: ModuleType, tmp_path: Path
) -> None:
    needs(backend, BackendCapability.TERMINATE)
    gate = tmp_path / "gate"
    handle = await backend.launch_task(tasks.wait_for, [str(gate)])
    await until_started(backend, handle.id)

    assert await handle.cancel(terminate=True)

    with pytest.raises(RunCancelledError):
        await handle.result(WAIT)
    after = await backend.launch_task(tasks.add, [1, 2])
    assert await after.result(WAIT) == 3


async def test_a_finished_run_cannot_be_cancelled(backend: TaskBackend, tasks: ModuleType) -> None:
    handle = await backend.launch_task(tasks.add, [1, 2])
    await handle.result(WAIT)

    assert not await handle.cancel()
    assert await handle.status() is TaskState.SUCCESS


async def test_an_undecorated_function_is_named_in_the_error(backend: TaskBackend) -> None:
    if backend.name == "anyio":
        pytest.skip("in process every function can be called")

    with pytest.raises(TaskNotRegisteredError, match=r"decorate '.*needs' with @task"):
        await backend.launch_task(needs)


async def test_an_argument_that_is_not_json_is_refused(backend: TaskBackend, tasks: ModuleType) -> None:
    with pytest.raises(PayloadError, match=r"argument 'value'\['items'\]\[1\] is object") as caught:
        await backend.launch_task(tasks.echo, [{"items": [1, object()]}])

    assert isinstance(caught.value, TypeError)


async def test_arguments_that_do_not_fit_are_refused(backend: TaskBackend, tasks: ModuleType) -> None:
    with pytest.raises(TypeError, match="missing a required argument: 'right'"):
        await backend.launch_task(tasks.add, [1])


async def test_a_result_that_is_not_json_fails_the_run(backend: TaskBackend, tasks: ModuleType) -> None:
    handle = await backend.launch_task(tasks.unserialisable)

    with pytest.raises(PayloadError, match="result is object"):
        await handle.result(WAIT)

    assert await handle.status() is TaskState.FAILURE


async def test_two_services_do_not_mix_up_their_runs(
    unopened: TaskBackend, world: str, request: pytest.FixtureRequest, tasks: ModuleType
) -> None:
    app = request.getfixturevalue("backend_app")
    other: TaskBackend = CeleryBackend(app) if world.startswith("celery") else AnyIOBackend()

    async with TaskService(unopened) as first, TaskService(other) as second:
        first_id, first_handle = await first.launch_task(tasks.add, 1, 1)
        second_id, second_handle = await second.launch_task(tasks.add, 2, right=2)

        assert first_id != second_id
        assert (await first_handle.result(WAIT), await second_handle.result(WAIT)) == (2, 4)


async def test_two_hundred_waiters_cost_no_thread_each(
    backend: TaskBackend, tasks: ModuleType, tmp_path: Path
) -> None:
    needs(backend, BackendCapability.BACKGROUND)
    gate = tmp_path / "gate"
    handle = await backend.launch_task(tasks.wait_for, [str(gate)])
    await until_started(backend, handle.id)
    before = threading.active_count()
    results: list[str] = []

    async def wait() -> None:
        results.append(await (await backend.get_task(handle.id)).result(WAIT))

    async with anyio.create_task_group() as group:
        for _ in range(200):
            group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        assert threading.active_count() <= before + 2
        gate.touch()

    assert results == ["opened"] * 200


async def test_two_hundred_runs_at_once_all_come_back(backend: TaskBackend, tasks: ModuleType) -> None:
    results: dict[int, int] = {}

    async def run(number: int) -> None:
        handle = await backend.launch_task(tasks.add, [number, number])
        results[number] = await handle.result(WAIT)

    async with anyio.create_task_group() as group:
        for number in range(200):
            group.start_soon(run, number)

    assert results == {number: 2 * number for number in range(200)}


async def test_a_late_result_says_what_was_waited_for(
    backend: TaskBackend, tasks: ModuleType, tmp_path: Path
) -> None:
    needs(backend, BackendCapability.BACKGROUND)
    gate = tmp_path / "gate"
    handle = await backend.launch_task(tasks.wait_for, [str(gate)])
    await until_started(backend, handle.id)

    with pytest.raises(ResultTimeoutError) as caught:
        await handle.result(0.05)

    gate.touch()
    assert str(caught.value) == (
        f"run {handle.id!r} of 'contract_tasks.wait_for' had no result "
        "after 0.05 s; its last state was STARTED"
    )
    assert isinstance(caught.value, TimeoutError)
    assert await handle.result(WAIT) == "opened"


async def test_a_run_is_found_again_by_its_id(backend: TaskBackend, tasks: ModuleType) -> None:
    launched = await backend.launch_task(tasks.add, [1, 2])

    found = await backend.get_task(launched.id)

    assert found.id == launched.id
    assert await found.result(WAIT) == 3


async def test_an_unknown_id_is_told_where_it_can_be(backend: TaskBackend) -> None:
    task_id = str(uuid4())
    if BackendCapability.KNOWS_RUNS not in backend.capabilities:
        assert await (await backend.get_task(task_id)).status() is TaskState.PENDING
        return

    with pytest.raises(RunNotFoundError, match=task_id):
        await backend.get_task(task_id)


async def test_the_back_end_is_healthy(backend: TaskBackend) -> None:
    health = await backend.health()

    assert health.healthy
    assert "\n" not in health.detail


async def test_health_names_who_runs_tasks_and_how_they_are(backend: TaskBackend, slots: int) -> None:
    needs(backend, BackendCapability.BACKGROUND)

    (worker,) = (await backend.health()).workers

    assert worker.slots == slots
    assert worker.pool_state in {PoolState.OK, PoolState.BUSY}
    assert worker.age < 10


async def test_closing_twice_is_closing_once(unopened: TaskBackend, tasks: ModuleType) -> None:
    async with unopened as backend:
        await backend.close()
        await backend.close()

        with pytest.raises(ServiceClosedError):
            await backend.launch_task(tasks.add, [1, 2])


async def test_nothing_is_launched_before_opening(unopened: TaskBackend, tasks: ModuleType) -> None:
    with pytest.raises(ServiceClosedError):
        await unopened.launch_task(tasks.add, [1, 2])
