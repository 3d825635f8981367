"""The contract of `DeadLetters`, over every implementation and event loop."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING
from uuid import uuid4

import anyio
import pytest

from taskservice import (
    BlockingTaskService,
    DeadLetter,
    DeadLetterCause,
    DeadLetterNotFoundError,
    ServiceClosedError,
    TaskBackend,
    TaskService,
    TaskState,
)

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from taskservice import TaskHandle


pytestmark = pytest.mark.anyio

WAIT = 15.0


async def letter_of(backend: TaskBackend, handle: TaskHandle) -> DeadLetter:
    """Wait for the run to fail and for its letter, which comes a moment later."""
    with anyio.fail_after(WAIT):
        while not await handle.ready():  # noqa: ASYNC110 - another process
            await anyio.sleep(0.005)
        while True:
            try:
                return await backend.dead_letters.get(handle.id)
            except DeadLetterNotFoundError:
                await anyio.sleep(0.005)


async def test_a_run_without_retry_that_failed_is_kept_with_its_payload(
    backend: TaskBackend, tasks: ModuleType
) -> None:
    before = datetime.now(tz=UTC).timestamp()

    letter = await letter_of(backend, await backend.launch_task(tasks.decline, [7]))

    assert letter.task == "contract_tasks.decline"
    assert (letter.args, letter.kwargs) == ((7,), {})
    assert letter.cause is DeadLetterCause.ATTEMPTS
    assert letter.error_type == "contract_tasks.DeclinedError"
    assert letter.error_message == "order 7 declined: no funds"
    assert "raise DeclinedError(order" in letter.traceback
    assert (letter.attempts, letter.deliveries) == (1, 1)
    assert before <= letter.at <= datetime.now(tz=UTC).timestamp()


async def test_a_used_up_policy_and_an_error_it_does_not_retry_are_told_apart(
    backend: TaskBackend, tasks: ModuleType, tmp_path: Path
) -> None:
    used_up = await letter_of(backend, await backend.launch_task(tasks.flaky, [str(tmp_path / "diary"), 99]))
    refused = await letter_of(backend, await backend.launch_task(tasks.refuse, [1]))

    assert (used_up.cause, used_up.attempts) == (DeadLetterCause.ATTEMPTS, 3)
    assert (refused.cause, refused.attempts) == (DeadLetterCause.ERROR, 1)


async def test_a_time_limit_is_a_cause_of_its_own(backend: TaskBackend, tasks: ModuleType) -> None:
    letter = await letter_of(backend, await backend.launch_task(tasks.endless))

    assert letter.cause is DeadLetterCause.TIME_LIMIT


async def test_a_run_that_succeeded_leaves_none(
    backend: TaskBackend, tasks: ModuleType, tmp_path: Path
) -> None:
    handle = await backend.launch_task(tasks.flaky, [str(tmp_path / "diary"), 2])
    await handle.result(WAIT)

    with pytest.raises(DeadLetterNotFoundError, match=handle.id):
        await backend.dead_letters.get(handle.id)


async def test_a_payload_keeps_its_types(backend: TaskBackend, tasks: ModuleType, tmp_path: Path) -> None:
    value = {"day": date(2026, 3, 29), "raw": b"\xff\x00"}

    handle = await backend.launch_task(tasks.fail_until, [str(tmp_path / "gate")], {"value": value})

    assert (await letter_of(backend, handle)).kwargs == {"value": value}


async def test_the_newest_come_first_and_may_be_asked_for_by_task(
    backend: TaskBackend, tasks: ModuleType
) -> None:
    first = await letter_of(backend, await backend.launch_task(tasks.decline, [1]))
    second = await letter_of(backend, await backend.launch_task(tasks.refuse, [2]))
    third = await letter_of(backend, await backend.launch_task(tasks.decline, [3]))

    mine, letters = {first.id, second.id, third.id}, backend.dead_letters

    everything = await letters.list(limit=1000)
    declined = await letters.list(limit=1000, task="contract_tasks.decline")

    # The worker is shared, so other tests' letters lie between.
    assert [letter for letter in everything if letter.id in mine] == [third, second, first]
    assert [letter for letter in declined if letter.id in mine] == [third, first]
    assert {letter.task for letter in declined} == {"contract_tasks.decline"}
    assert len(await letters.list(limit=2)) == 2
    assert await letters.list(task="contract_tasks.add") == []
    with pytest.raises(ValueError, match="limit >= 1"):
        await letters.list(limit=0)


async def test_requeued_it_runs_again_under_its_id_and_is_gone(
    backend: TaskBackend, tasks: ModuleType, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    launched = await backend.launch_task(tasks.fail_until, [str(gate), "at last"])
    await letter_of(backend, launched)
    gate.touch()

    handle = await backend.dead_letters.requeue(launched.id)

    assert handle.id == launched.id
    assert await handle.result(WAIT) == "at last"
    found = await backend.get_task(launched.id)
    assert await found.status() is TaskState.SUCCESS
    assert await found.attempts() == 1
    with pytest.raises(DeadLetterNotFoundError):
        await backend.dead_letters.get(launched.id)


async def test_requeued_in_vain_it_becomes_a_newer_letter(
    backend: TaskBackend, tasks: ModuleType, tmp_path: Path
) -> None:
    launched = await backend.launch_task(tasks.flaky, [str(tmp_path / "diary"), 99])
    first = await letter_of(backend, launched)

    handle = await backend.dead_letters.requeue(launched.id)

    second = await letter_of(backend, handle)
    assert second.at > first.at
    assert second.attempts == 3
    assert second.error_message == "order 6 declined: try again"


async def test_of_several_who_requeue_it_at_once_one_does(
    backend: TaskBackend, tasks: ModuleType, tmp_path: Path
) -> None:
    gate, letters = tmp_path / "gate", backend.dead_letters
    launched = await backend.launch_task(tasks.fail_until, [str(gate), 1])
    await letter_of(backend, launched)
    gate.touch()
    outcomes: list[str] = []

    async def requeue() -> None:
        try:
            await letters.requeue(launched.id)
            outcomes.append("requeued")
        except DeadLetterNotFoundError:
            outcomes.append("not found")

    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(requeue)

    assert sorted(outcomes) == ["not found", "not found", "not found", "requeued"]


async def test_dropped_it_is_forgotten(backend: TaskBackend, tasks: ModuleType) -> None:
    letter = await letter_of(backend, await backend.launch_task(tasks.decline, [1]))
    letters = backend.dead_letters
    assert await letters.count() >= 1

    assert await letters.drop(letter.id)

    assert not await letters.drop(letter.id)
    with pytest.raises(DeadLetterNotFoundError):
        await letters.requeue(letter.id)


async def test_an_unknown_id_is_an_error_that_names_it(backend: TaskBackend) -> None:
    run_id = str(uuid4())

    with pytest.raises(DeadLetterNotFoundError, match=run_id) as caught:
        await backend.dead_letters.get(run_id)

    assert caught.value.run_id == run_id
    with pytest.raises(LookupError):
        await backend.dead_letters.requeue(run_id)


async def test_of_many_launched_at_once_each_that_failed_is_kept(
    backend: TaskBackend, tasks: ModuleType
) -> None:
    handles = await backend.launch_many(tasks.halve, [(1,), (2,), (3,)], per_message=3)

    letters = [await letter_of(backend, handles[index]) for index in (0, 2)]

    assert [letter.args for letter in letters] == [(1,), (3,)]
    assert {letter.task for letter in letters} == {"contract_tasks.halve"}
    assert await handles[1].result(WAIT) == 1


async def test_a_closed_back_end_says_so(unopened: TaskBackend, tasks: ModuleType) -> None:
    async with unopened as backend:
        letters = backend.dead_letters
        await letters.count()

    with pytest.raises(ServiceClosedError):
        await letters.list()


async def test_the_service_has_those_of_its_back_end(unopened: TaskBackend, tasks: ModuleType) -> None:
    async with TaskService(unopened) as service:
        _, handle = await service.launch_task(tasks.decline, 5)
        letter = await letter_of(service.backend, handle)

        assert await service.dead_letters.get(handle.id) == letter


def test_blocking_code_has_them_too(unopened: TaskBackend, tasks: ModuleType, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with BlockingTaskService(unopened) as service:
        run_id, handle = service.launch_task(tasks.fail_until, str(gate), 3)
        with pytest.raises(tasks.DeclinedError):
            handle.result(WAIT)
        letters = service.dead_letters
        deadline = time.monotonic() + WAIT
        while run_id not in {letter.id for letter in letters.list(limit=1000)}:
            assert time.monotonic() < deadline, "no letter"
            time.sleep(0.005)
        gate.touch()

        assert letters.count() >= 1
        assert letters.get(run_id).args == (str(gate), 3)
        assert letters.requeue(run_id).result(WAIT) == 3
        assert letters.drop(run_id) is False
