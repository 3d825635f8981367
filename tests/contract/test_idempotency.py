"""Idempotency keys, over every implementation and event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import anyio
import pytest

from taskservice import LaunchOptionError, LaunchOptions, TaskBackend, TaskService, task

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

pytestmark = pytest.mark.anyio

WAIT = 15.0


def once() -> LaunchOptions:
    return LaunchOptions(idempotency_key=str(uuid4()))


async def test_the_same_key_launches_once(backend: TaskBackend, tasks: ModuleType, tmp_path: Path) -> None:
    diary, key = tmp_path / "diary", once()

    first = await backend.launch_task(tasks.note, [str(diary), "a"], options=key)
    second = await backend.launch_task(tasks.note, [str(diary), "a"], options=key)

    assert second.id == first.id
    assert await second.result(WAIT) == await first.result(WAIT)
    assert diary.read_text(encoding="utf-8") == "a"


async def test_a_key_is_still_taken_when_its_run_is_over(
    backend: TaskBackend, tasks: ModuleType, tmp_path: Path
) -> None:
    diary, key = tmp_path / "diary", once()
    first = await backend.launch_task(tasks.note, [str(diary), "a"], options=key)
    await first.result(WAIT)

    second = await backend.launch_task(tasks.note, [str(diary), "a"], options=key)

    assert second.id == first.id
    assert await second.result(WAIT) == 1


async def test_of_many_at_the_same_time_one_launches(
    backend: TaskBackend, tasks: ModuleType, tmp_path: Path
) -> None:
    diary, key = tmp_path / "diary", once()
    found: list[str] = []

    async def launch() -> None:
        handle = await backend.launch_task(tasks.note, [str(diary), "a"], options=key)
        found.append(handle.id)
        await handle.result(WAIT)

    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(launch)

    assert len(found) == 20
    assert len(set(found)) == 1
    assert diary.read_text(encoding="utf-8") == "a"


async def test_other_keys_and_other_tasks_launch_their_own(backend: TaskBackend, tasks: ModuleType) -> None:
    key = once()

    handles = [
        await backend.launch_task(tasks.add, [1, 2], options=key),
        await backend.launch_task(tasks.add, [1, 2], options=once()),
        await backend.launch_task(tasks.echo, [3], options=key),
        await backend.launch_task(tasks.add, [1, 2]),
    ]

    assert len({handle.id for handle in handles}) == 4


async def test_a_task_makes_the_key_of_its_arguments(
    backend: TaskBackend, tasks: ModuleType, tmp_path: Path
) -> None:
    order, diary = str(uuid4()), tmp_path / "diary"

    first = await backend.launch_task(tasks.refund, [order, str(diary)])
    second = await backend.launch_task(tasks.refund, [], {"order": order, "diary": str(diary)})
    other = await backend.launch_task(tasks.refund, [str(uuid4()), str(diary)])

    assert second.id == first.id
    assert other.id != first.id
    await first.result(WAIT)
    await other.result(WAIT)
    assert diary.read_text(encoding="utf-8") == "rr"


@pytest.mark.parametrize("per_message", [1, 3])
async def test_of_many_calls_each_key_launches_once(
    backend: TaskBackend, tasks: ModuleType, tmp_path: Path, per_message: int
) -> None:
    diary, orders = str(tmp_path / "diary"), [str(uuid4()) for _ in range(4)]
    known = await backend.launch_task(tasks.refund, [orders[0], diary])

    handles = await backend.launch_many(
        tasks.refund,
        [(orders[0], diary), (orders[1], diary), (orders[2], diary), (orders[1], diary), ("", diary)],
        per_message=per_message,
    )

    assert handles[0].id == known.id
    assert handles[3].id == handles[1].id
    assert len({handle.id for handle in handles}) == 4
    for handle in handles:
        assert await handle.result(WAIT) == "refunded"
    assert await anyio.Path(diary).read_text(encoding="utf-8") == "rrrr"


async def test_a_launch_that_failed_leaves_its_key_free(backend: TaskBackend, tasks: ModuleType) -> None:
    key = once()
    with pytest.raises(TypeError):
        await backend.launch_task(tasks.add, [1, 2, 3], options=key)

    handle = await backend.launch_task(tasks.add, [1, 2], options=key)

    assert await handle.result(WAIT) == 3


async def test_the_service_takes_a_key(backend: TaskBackend, tasks: ModuleType) -> None:
    service = TaskService(backend)
    async with service:
        launcher = service.options(idempotency_key=str(uuid4()))

        first, _ = await launcher.launch_task(tasks.add, 1, 2)
        second, handle = await launcher.launch_task(tasks.add, 1, 2)

        assert second == first
        assert await handle.result(WAIT) == 3


@pytest.mark.parametrize("key", ["", "x" * 1001, 7, b"key"])
def test_a_key_is_text_of_some_length(key: object) -> None:
    with pytest.raises(LaunchOptionError, match="idempotency_key"):
        LaunchOptions(idempotency_key=key)  # type: ignore[arg-type] # the point


def test_a_tasks_key_is_a_function() -> None:
    with pytest.raises(LaunchOptionError, match="idempotency_key: need a function"):
        task(name="keyless", idempotency_key="order")(print)  # type: ignore[call-overload] # the point
