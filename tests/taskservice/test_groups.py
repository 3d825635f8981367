"""Groups of in-process runs: whoever opened one leaves when all of them are gone."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from taskservice.backends.groups import open_group

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_what_a_run_starts_is_waited_for_as_well() -> None:
    ended: list[str] = []
    group = await open_group()

    async def second() -> None:
        await anyio.lowlevel.checkpoint()
        ended.append("second")

    async def first() -> None:
        await anyio.lowlevel.checkpoint()
        group.start(second)
        ended.append("first")

    group.start(first)
    await group.join()

    assert ended == ["first", "second"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_cancelled_task_waits_for_its_runs_before_it_goes(anyio_backend: str) -> None:
    ended: list[str] = []
    done = asyncio.Event()

    async def run() -> None:
        await done.wait()
        ended.append("run")

    async def host() -> None:
        group = await open_group()
        group.start(run)
        try:
            await group.join()
        finally:
            ended.append("host")

    task = asyncio.create_task(host())
    await anyio.wait_all_tasks_blocked()
    task.cancel()
    await anyio.wait_all_tasks_blocked()
    done.set()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert ended == ["run", "host"]
