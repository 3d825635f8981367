from __future__ import annotations

import threading
from typing import Literal

import pytest

from taskservice import (
    AnyIOBackend,
    BlockingTaskService,
    Call,
    ResultTimeoutError,
    ServiceClosedError,
    TaskRegistry,
    TaskState,
    task,
)

REGISTRY = TaskRegistry()
GATE = threading.Event()


@task(registry=REGISTRY)
async def add(left: int, right: int) -> int:
    return left + right


@task(registry=REGISTRY)
def wait_for_gate() -> bool:
    return GATE.wait(10)


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_a_result_is_waited_for_without_an_event_loop(loop: Literal["asyncio", "trio"]) -> None:
    with BlockingTaskService(AnyIOBackend(), loop=loop) as service:
        task_id, value = service.launch_and_await_task(add, 1, right=2)
        handle = service.get_task(task_id)

        assert value == 3
        assert handle.id == task_id
        assert handle.result(timeout=5) == 3
        assert handle.status() is TaskState.SUCCESS
        assert handle.attempts() == 1
        assert handle.ready()
        assert handle.exception() is None
        assert not handle.cancel()
        assert service.health().healthy


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_many_are_launched_without_an_event_loop(loop: Literal["asyncio", "trio"]) -> None:
    with BlockingTaskService(AnyIOBackend(), loop=loop) as service:
        handles = service.launch_many(add, [(1, 2), Call((3,), {"right": 4})], per_message=2)

        assert [handle.result(timeout=5) for handle in handles] == [3, 7]


def test_a_late_result_times_out_in_the_calling_thread() -> None:
    GATE.clear()
    with BlockingTaskService(AnyIOBackend()) as service:
        _, handle = service.launch_task(wait_for_gate)

        with pytest.raises(ResultTimeoutError):
            handle.result(timeout=0.02)

        GATE.set()
        assert handle.result(timeout=5) is True


def test_it_is_closed_outside_its_block() -> None:
    service = BlockingTaskService(AnyIOBackend())

    with pytest.raises(ServiceClosedError, match="open the blocking task service first"):
        service.launch_task(add, 1, 2)
    with service:
        pass
    with pytest.raises(ServiceClosedError):
        service.health()
