"""The contract of `TaskBackend.launch_canvas` for what Celery's own `chain` and `group` have made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from taskservice import ConfigurationError, TaskBackend

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from celery import Celery

pytestmark = pytest.mark.anyio

WAIT = 20.0


async def test_celerys_own_canvas_means_what_it_means_there(
    backend: TaskBackend, tasks: ModuleType, backend_app: Celery
) -> None:
    celery = pytest.importorskip("celery")
    add, total, echo = (backend_app.tasks[f"contract_tasks.{name}"] for name in ("add", "total", "echo"))

    async def value(canvas: Any) -> Any:
        handle = await backend.launch_canvas(canvas)
        assert handle.id
        return await handle.result(WAIT)

    assert await value(add.s(1, 2)) == 3
    assert await value(add.s(1, 2) | add.s(10) | add.s(100)) == 113
    assert await value(celery.group(add.s(number, number) for number in range(3))) == [0, 2, 4]
    assert await value(celery.chord([add.s(1, 1), add.s(2, 2)], total.s())) == 6
    assert await value(add.s(1, 1) | celery.group(add.s(1), add.s(2)) | total.s() | add.si(4, 5)) == 9
    assert await value(add.s(1, 1) | celery.group([add.s(1)]) | add.s(1)) == 4
    assert await value(celery.group([celery.group([echo.s(1), echo.s(2)]), echo.s(3)])) == [1, 2, 3]
    assert await value(echo.map([1, 2])) == [1, 2]
    assert await value(celery.group([echo.map([1, 2]), echo.s(3)])) == [[1, 2], 3]
    assert await value(celery.chord([echo.map([1, 2]), echo.map([3])], echo.s())) == [[1, 2], [3]]
    assert await value(add.s(1, 1) | echo.map([1, 2]) | echo.s()) == [1, 2]
    assert await value(add.starmap([(1, 2), (3, 4)])) == [3, 7]
    assert await value(add.chunks([(1, 2), (3, 4), (5, 6)], 2)) == [[3, 7], [11]]


async def test_the_same_canvas_of_celery_can_be_launched_again(
    backend: TaskBackend, backend_app: Celery
) -> None:
    add = backend_app.tasks["contract_tasks.add"]
    canvas = add.s(1, 2) | add.s(10)

    first = await backend.launch_canvas(canvas)
    second = await backend.launch_canvas(canvas)

    assert (await first.result(WAIT), await second.result(WAIT)) == (13, 13)
    assert {run.id for run in first.runs}.isdisjoint(run.id for run in second.runs)


async def test_a_chain_of_celerys_that_fails(
    backend: TaskBackend, tasks: ModuleType, backend_app: Celery
) -> None:
    halve, echo = backend_app.tasks["contract_tasks.halve"], backend_app.tasks["contract_tasks.echo"]

    handle = await backend.launch_canvas(halve.s(7) | echo.s() | echo.s())

    with pytest.raises(tasks.DeclinedError, match="order 7"):
        await handle.result(WAIT)


async def test_signatures_linked_into_a_ring_are_refused(backend: TaskBackend, backend_app: Celery) -> None:
    echo = backend_app.tasks["contract_tasks.echo"]
    first, second = echo.s(1), echo.s()
    first.link(second)
    second.link(first)

    with pytest.raises(ConfigurationError, match=r"link\[0\].*leads back to itself"):
        await backend.launch_canvas(first)


async def test_a_group_of_celerys_that_contains_itself_is_refused(
    backend: TaskBackend, backend_app: Celery
) -> None:
    celery = pytest.importorskip("celery")
    echo = backend_app.tasks["contract_tasks.echo"]
    ring = celery.group([echo.s(1), echo.s(2)], app=backend_app)
    ring.tasks.append(ring)

    with pytest.raises(ConfigurationError, match="leads back to itself"):
        await backend.launch_canvas(ring)


async def test_links_are_kept_by_workers_and_refused_elsewhere(
    backend: TaskBackend, world: str, tmp_path: Path, backend_app: Celery
) -> None:
    echo, mark = backend_app.tasks["contract_tasks.echo"], backend_app.tasks["contract_tasks.mark"]
    linked = echo.s(1)
    linked.link(mark.si(str(tmp_path / "diary")).set(task_id=f"linked-{tmp_path}"))

    if not world.startswith("celery"):
        with pytest.raises(
            ConfigurationError, match=r"link of 'contract_tasks\.echo' is something that only"
        ):
            await backend.launch_canvas(linked)
        return

    handle = await backend.launch_canvas(linked)

    assert await handle.result(WAIT) == 1
    assert await (await backend.get_task(f"linked-{tmp_path}")).result(WAIT) == "marked"
