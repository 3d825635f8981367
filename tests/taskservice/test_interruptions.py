"""Having an ``async`` function leave, whenever the wish comes."""

from __future__ import annotations

import anyio
import pytest

from taskservice.backends.interruptions import InterruptedRunError, call_interruptibly, interrupt

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_a_wish_that_comes_before_the_function_is_there_is_not_lost() -> None:
    interrupt("early")

    with pytest.raises(InterruptedRunError):
        await call_interruptibly("early", anyio.sleep_forever)


async def test_a_running_function_leaves_at_its_await_and_no_other_does() -> None:
    left: list[str] = []

    async def run(name: str) -> None:
        with pytest.raises(InterruptedRunError):
            await call_interruptibly(name, anyio.sleep_forever)
        left.append(name)
        if name == "mine":
            interrupt("other")

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(run, "other")
            group.start_soon(run, "mine")
            await anyio.wait_all_tasks_blocked()
            interrupt("mine")

    assert left == ["mine", "other"]
