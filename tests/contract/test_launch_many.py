"""The contract of `TaskBackend.launch_many`, over every implementation and event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from taskservice import (
    BackendCapability,
    Call,
    PayloadError,
    ServiceClosedError,
    TaskBackend,
    TaskService,
    TaskState,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import ModuleType
    from typing import Any

    from taskservice.runs import TaskHandle

pytestmark = pytest.mark.anyio

WAIT = 30.0
PER_MESSAGE = (1, 7)


@pytest.fixture(params=PER_MESSAGE)
def per_message(request: pytest.FixtureRequest) -> int:
    """How many calls share a message, where there are messages."""
    return int(request.param)


async def results(handles: Sequence[TaskHandle]) -> list[Any]:
    """Await them all at once, in order."""
    found: list[Any] = [None] * len(handles)

    async def wait(place: int, handle: TaskHandle) -> None:
        found[place] = await handle.result(WAIT)

    async with anyio.create_task_group() as group:
        for place, handle in enumerate(handles):
            group.start_soon(wait, place, handle)
    return found


async def test_handles_and_results_come_in_the_order_of_the_calls(
    backend: TaskBackend, tasks: ModuleType, per_message: int
) -> None:
    calls = [Call((number,), {"right": 1}) for number in range(20)]

    handles = await backend.launch_many(tasks.add, calls, per_message=per_message)

    assert await results(handles) == list(range(1, 21))
    assert len({handle.id for handle in handles}) == 20
    assert [await handle.status() for handle in handles] == [TaskState.SUCCESS] * 20
    assert await handles[3].attempts() == 1


async def test_a_tuple_is_positional_arguments(backend: TaskBackend, tasks: ModuleType) -> None:
    handles = await backend.launch_many(tasks.add, ((number, 2) for number in range(3)))

    assert await results(handles) == [2, 3, 4]


async def test_async_functions_are_awaited(backend: TaskBackend, tasks: ModuleType, per_message: int) -> None:
    handles = await backend.launch_many(tasks.add_async, [(1, 2), (3, 4)], per_message=per_message)

    assert await results(handles) == [3, 7]


async def test_no_calls_are_no_runs(backend: TaskBackend, tasks: ModuleType, per_message: int) -> None:
    assert await backend.launch_many(tasks.add, [], per_message=per_message) == []


async def test_a_failing_call_fails_alone(backend: TaskBackend, tasks: ModuleType, per_message: int) -> None:
    handles = await backend.launch_many(tasks.halve, [(0,), (1,), (2,), (3,)], per_message=per_message)

    assert await handles[0].result(WAIT) == 0
    assert await handles[2].result(WAIT) == 1
    for number in (1, 3):
        with pytest.raises(tasks.DeclinedError, match=f"^order {number} declined: odd$"):
            await handles[number].result(WAIT)
        assert await handles[number].status() is TaskState.FAILURE


async def test_a_result_that_is_not_json_fails_its_call_alone(
    backend: TaskBackend, tasks: ModuleType, per_message: int
) -> None:
    handles = await backend.launch_many(tasks.unserialisable, [(), ()], per_message=per_message)

    for handle in handles:
        with pytest.raises(PayloadError, match="result is object"):
            await handle.result(WAIT)


async def test_a_call_is_retried_by_itself(
    backend: TaskBackend, tasks: ModuleType, tmp_path: Path, per_message: int
) -> None:
    diaries = [tmp_path / str(number) for number in range(3)]
    calls = [(str(diary), failures) for diary, failures in zip(diaries, (0, 2, 99), strict=True)]

    handles = await backend.launch_many(tasks.flaky, calls, per_message=per_message)

    assert await results(handles[:2]) == [1, 3]
    with pytest.raises(tasks.DeclinedError, match="order 3 declined"):
        await handles[2].result(WAIT)
    assert [diary.read_text() for diary in diaries] == ["x", "xxx", "xxx"]
    assert [await handle.attempts() for handle in handles] == [1, 3, 3]


async def test_a_bad_argument_names_its_call_and_nothing_is_sent(
    backend: TaskBackend, tasks: ModuleType, tmp_path: Path, per_message: int
) -> None:
    diary = tmp_path / "diary"
    calls = [(str(diary), 0), (object(), 0), (str(diary), 0)]

    with pytest.raises(PayloadError, match=r"^call 1: argument 'diary' is object"):
        await backend.launch_many(tasks.flaky, calls, per_message=per_message)

    # What runs after it would have run after them.
    assert await (await backend.launch_task(tasks.add, [1, 1])).result(WAIT) == 2
    assert not diary.exists()


async def test_arguments_that_do_not_fit_name_their_call(backend: TaskBackend, tasks: ModuleType) -> None:
    with pytest.raises(TypeError, match=r"^call 2: missing a required argument: 'right'"):
        await backend.launch_many(tasks.add, [(1, 2), (1, 2), (1,)])


async def test_a_call_that_is_none_is_named(backend: TaskBackend, tasks: ModuleType) -> None:
    with pytest.raises(TypeError, match=r"^call 1 is str; give a Call or a tuple"):
        await backend.launch_many(tasks.echo, [("a",), "b"])  # type: ignore[list-item]


@pytest.mark.parametrize("nonsense", [0, -1, True, 1.5])
async def test_a_nonsensical_pack_is_refused(backend: TaskBackend, tasks: ModuleType, nonsense: int) -> None:
    with pytest.raises(ValueError, match="need per_message >= 1"):
        await backend.launch_many(tasks.add, [(1, 2)], per_message=nonsense)


async def test_two_thousand_calls_all_come_back(
    backend: TaskBackend, tasks: ModuleType, world: str, per_message: int
) -> None:
    count = 2000 if world != "eager" else 200

    handles = await backend.launch_many(
        tasks.add, ((number, 1) for number in range(count)), per_message=per_message * 5
    )

    assert await results(handles) == list(range(1, count + 1))


async def test_many_and_single_launches_mix(
    backend: TaskBackend, tasks: ModuleType, per_message: int
) -> None:
    before = await backend.launch_task(tasks.add, [1, 1])
    many = await backend.launch_many(tasks.add, [(2, 2), (3, 3)], per_message=per_message)
    after = await backend.launch_task(tasks.add, [4, 4])

    assert await results([before, *many, after]) == [2, 4, 6, 8]


async def test_a_run_of_many_is_found_by_its_id(
    backend: TaskBackend, tasks: ModuleType, per_message: int
) -> None:
    handles = await backend.launch_many(tasks.add, [(1, 2), (3, 4)], per_message=per_message)

    found = await backend.get_task(handles[1].id)

    assert await found.result(WAIT) == 7


async def test_the_service_launches_many(unopened: TaskBackend, tasks: ModuleType) -> None:
    async with TaskService(unopened) as service:
        handles = await service.launch_many(tasks.add, [(1, 2), (3, 4)], per_message=2)

        assert await results(handles) == [3, 7]


async def test_a_packed_call_that_waits_cannot_be_cancelled(
    backend: TaskBackend, tasks: ModuleType, tmp_path: Path
) -> None:
    if BackendCapability.DURABLE not in backend.capabilities:
        pytest.skip("there are no messages")
    gate = tmp_path / "gate"

    handles = await backend.launch_many(tasks.wait_for, [(str(gate),), (str(gate),)], per_message=2)

    assert not await handles[1].cancel()
    gate.touch()
    assert await results(handles) == ["opened", "opened"]


async def test_nothing_is_launched_after_closing(backend: TaskBackend, tasks: ModuleType) -> None:
    await backend.close()

    with pytest.raises(ServiceClosedError):
        await backend.launch_many(tasks.add, [(1, 2)])
