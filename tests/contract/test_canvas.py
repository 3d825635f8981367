"""The contract of `TaskBackend.launch_canvas`, over every implementation and event loop."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from taskservice import (
    AnyIOBackend,
    BackendCapability,
    BlockingTaskService,
    CeleryBackend,
    ChordError,
    ConfigurationError,
    LaunchOptionError,
    PayloadError,
    ResultTimeoutError,
    RunCancelledError,
    ServiceClosedError,
    TaskBackend,
    TaskHandle,
    TaskNotRegisteredError,
    TaskService,
    TaskState,
    chain,
    chord,
    group,
    signature,
)
from taskservice.backends.versions import CELERY

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import ModuleType


pytestmark = pytest.mark.anyio

WAIT = 20.0


def needs(backend: TaskBackend, capability: BackendCapability) -> None:
    if capability not in backend.capabilities:
        pytest.skip(f"{backend.name} cannot: {capability}")


def repeats_what_follows(backend: TaskBackend) -> bool:
    # What it puts into messages, before 5.7, for each member of a group.
    sends = backend.name == "celery" and BackendCapability.BACKGROUND in backend.capabilities
    return sends and CELERY < (5, 7)


async def until(handle: TaskHandle, state: TaskState) -> None:
    with anyio.fail_after(WAIT):
        while await handle.status() is not state:  # noqa: ASYNC110 - another process
            await anyio.sleep(0.005)


async def states(handles: Sequence[TaskHandle]) -> list[str]:
    # Celery sends a chain's next step before it stores the result of this one.
    for handle in handles:
        with suppress(Exception):
            await handle.result(WAIT)
    return [str(await handle.status()) for handle in handles]


async def test_a_step_gets_the_value_of_the_one_before(backend: TaskBackend, tasks: ModuleType) -> None:
    handle = await backend.launch_canvas(chain(tasks.add.s(1, 2), tasks.add_async.s(10), tasks.add.s(100)))

    assert await handle.result(WAIT) == 113
    assert await handle.status() is TaskState.SUCCESS
    assert await handle.exception() is None
    assert await handle.attempts() == 3
    assert [await run.result(WAIT) for run in handle.runs] == [3, 13, 113]


async def test_the_handle_of_a_chain_goes_by_the_id_of_its_last_run(
    backend: TaskBackend, tasks: ModuleType
) -> None:
    handle = await backend.launch_canvas(chain(tasks.add.s(1, 2), tasks.add.s(10)))
    await handle.result(WAIT)

    assert handle.id == handle.runs[-1].id
    assert await (await backend.get_task(handle.id)).result(WAIT) == 13
    assert await (await backend.get_task(handle.runs[0].id)).result(WAIT) == 3


async def test_an_immutable_step_gets_nothing(backend: TaskBackend, tasks: ModuleType) -> None:
    handle = await backend.launch_canvas(chain(tasks.add.s(1, 2), tasks.add.si(5, 6), tasks.add.s(1)))

    assert await handle.result(WAIT) == 12


async def test_a_group_is_the_list_of_its_values_in_order(backend: TaskBackend, tasks: ModuleType) -> None:
    handle = await backend.launch_canvas(group(tasks.add.s(number, number) for number in range(10)))

    assert await handle.result(WAIT) == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]
    assert len(handle.runs) == 10


async def test_a_group_in_a_chain_gives_its_values_to_what_follows(
    backend: TaskBackend, tasks: ModuleType
) -> None:
    handle = await backend.launch_canvas(
        chain(
            tasks.add.s(1, 2),
            group(tasks.add.s(10), chain(tasks.add.s(20), tasks.add.s(5))),
            tasks.total.s(),
            tasks.add.s(1000),
        )
    )

    assert await handle.result(WAIT) == 1041
    assert await handle.attempts() == 6


async def test_the_body_of_a_chord_gets_the_list(backend: TaskBackend, tasks: ModuleType) -> None:
    handle = await backend.launch_canvas(chord([tasks.add.s(1, 1), tasks.add.s(2, 2)], tasks.collect.s("x")))

    assert await handle.result(WAIT) == [2, 4, "x"]


async def test_groups_of_every_shape_keep_theirs(backend: TaskBackend, tasks: ModuleType) -> None:
    one = group(tasks.add.s(1))
    both = group(tasks.add.s(1), tasks.add.s(2))
    pair = [tasks.echo.si(1), tasks.echo.si(2)]

    async def value(canvas: Any) -> Any:
        return await (await backend.launch_canvas(canvas)).result(WAIT)

    # Nested groups are one; a group of one is a list of one, wherever it stands.
    assert await value(group(group(pair), tasks.echo.s(3))) == [1, 2, 3]
    assert await value(group(tasks.echo.s(3))) == [3]
    assert await value(chain(tasks.echo.s(1), one)) == [2]
    assert await value(chain(tasks.echo.s(1), one, tasks.collect.s())) == [2]
    assert await value(chain(tasks.echo.s(1), both)) == [2, 3]
    # A value that is a list itself stays one, also where workers have to put it together.
    assert await value(chord([chain(tasks.echo.s(1), both), tasks.echo.s(9)], tasks.collect.s())) == [
        [2, 3],
        9,
    ]
    assert await value(chord([chain(tasks.echo.s(1), one), tasks.echo.s(9)], tasks.collect.s())) == [[2], 9]
    assert await value(chain(group(pair), group(tasks.collect.s("a"), tasks.collect.s("b")))) == [
        [1, 2, "a"],
        [1, 2, "b"],
    ]
    assert await value(chain(group(pair), group(tasks.total.s(), tasks.total.s()), tasks.total.s())) == 6
    assert await value(chord([chord(pair, tasks.total.s()), tasks.echo.s(4)], tasks.total.s())) == 7
    assert await value(group(chain(tasks.echo.s(1), both), chord(pair, group(tasks.total.s())))) == [
        [2, 3],
        [3],
    ]


async def test_a_map_is_one_run(backend: TaskBackend, tasks: ModuleType) -> None:
    handle = await backend.launch_canvas(tasks.halve.map([2, 4, 6]))
    pairs = await backend.launch_canvas(chain(tasks.add_async.starmap([(1, 2), (3, 4)]), tasks.total.s()))

    assert await handle.result(WAIT) == [1, 2, 3]
    assert await handle.attempts() == 1
    assert len(handle.runs) == 1
    assert await pairs.result(WAIT) == 10


async def test_an_item_that_fails_fails_the_map(backend: TaskBackend, tasks: ModuleType) -> None:
    handle = await backend.launch_canvas(tasks.halve.map([2, 3, 5]))

    with pytest.raises(tasks.DeclinedError, match="order 3 declined"):
        await handle.result(WAIT)


async def test_a_chain_fails_with_the_step_that_failed(
    backend: TaskBackend, tasks: ModuleType, tmp_path: Path
) -> None:
    diary = tmp_path / "diary"
    handle = await backend.launch_canvas(
        chain(
            tasks.echo.s(7),
            tasks.decline.s(),
            tasks.mark_after.s(str(diary)),
            group(tasks.mark_after.s(str(diary)), tasks.mark_after.s(str(diary))),
        )
    )

    with pytest.raises(tasks.DeclinedError, match=r"^order 7 declined: no funds$"):
        await handle.result(WAIT)

    assert await handle.status() is TaskState.FAILURE
    assert isinstance(await handle.exception(), tasks.DeclinedError)
    assert not diary.exists()
    assert await states(handle.runs) == ["SUCCESS", "FAILURE", "FAILURE", "FAILURE", "FAILURE"]
    assert await handle.attempts() == 2
    with pytest.raises(tasks.DeclinedError, match="order 7"):
        await handle.runs[-1].result(WAIT)


async def test_a_group_that_fails_waits_for_all_and_raises_the_first_in_order(
    backend: TaskBackend, tasks: ModuleType
) -> None:
    handle = await backend.launch_canvas(group(tasks.halve.s(number) for number in (2, 5, 3, 4)))

    with pytest.raises(tasks.DeclinedError, match="order 5 declined"):
        await handle.result(WAIT)

    assert await states(handle.runs) == ["SUCCESS", "FAILURE", "FAILURE", "SUCCESS"]


async def test_a_header_that_fails_is_a_chord_error_and_the_body_never_runs(
    backend: TaskBackend, tasks: ModuleType, tmp_path: Path
) -> None:
    diary = tmp_path / "diary"
    handle = await backend.launch_canvas(
        chord(
            [tasks.echo.s(1), chain(tasks.echo.s(3), tasks.halve.s(), tasks.echo.s()), tasks.halve.s(5)],
            chain(tasks.mark_after.s(str(diary)), tasks.mark_after.s(str(diary))),
        )
    )

    with pytest.raises(ChordError) as caught:
        await handle.result(WAIT)

    failed = handle.runs[2]
    assert str(caught.value) == (
        f"the chord's body never ran: run {failed.id!r} of the header failed with DeclinedError(3, 'odd')"
    )
    assert isinstance(caught.value.__cause__, tasks.DeclinedError)
    assert not diary.exists()
    assert await states(handle.runs[-2:]) == ["FAILURE", "FAILURE"]
    assert await handle.status() is TaskState.FAILURE


async def test_a_link_of_a_chain_is_retried(backend: TaskBackend, tasks: ModuleType, tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    handle = await backend.launch_canvas(
        chain(tasks.echo.s(1), tasks.flaky_after.s(str(diary), 2), tasks.add.s(10))
    )

    assert await handle.result(WAIT) == 11
    assert await handle.runs[1].attempts() == 3
    assert diary.read_text() == "xxx"


async def test_a_link_that_used_up_its_attempts_fails_the_chain(
    backend: TaskBackend, tasks: ModuleType, tmp_path: Path
) -> None:
    handle = await backend.launch_canvas(
        chain(tasks.echo.s(1), tasks.flaky_after.s(str(tmp_path / "diary"), 99), tasks.add.s(10))
    )

    with pytest.raises(tasks.DeclinedError, match="order 3 declined"):
        await handle.result(WAIT)


async def test_cancelling_stops_what_waits_and_starts_nothing_later(
    backend: TaskBackend, tasks: ModuleType, tmp_path: Path
) -> None:
    needs(backend, BackendCapability.CANCEL_WAITING)
    gate, diary = tmp_path / "gate", tmp_path / "diary"
    handle = await backend.launch_canvas(
        chain(
            tasks.echo.s(1),
            tasks.hold.s(str(gate)),
            tasks.mark_after.s(str(diary)),
            group(tasks.mark_after.s(str(diary)), tasks.mark_after.s(str(diary))),
            tasks.collect.s(),
        )
    )
    await until(handle.runs[1], TaskState.STARTED)
    assert await handle.status() is TaskState.STARTED

    assert await handle.cancel()

    assert await handle.status() is TaskState.REVOKED
    with pytest.raises(RunCancelledError):
        await handle.result(WAIT)
    gate.touch()
    # A function in a thread or a process goes on to its end.
    assert await handle.runs[1].result(WAIT) == 1
    assert await states(handle.runs) == ["SUCCESS", "SUCCESS", "REVOKED", "REVOKED", "REVOKED", "REVOKED"]
    assert not diary.exists()
    assert not await handle.cancel()


async def test_cancelling_reaches_members_that_run(
    backend: TaskBackend, tasks: ModuleType, tmp_path: Path
) -> None:
    needs(backend, BackendCapability.CANCEL_RUNNING)
    handle = await backend.launch_canvas(
        chain(
            group(tasks.linger.s(str(tmp_path / "diary")), tasks.echo.s(1).set(countdown=60)),
            tasks.collect.s(),
        )
    )
    await until(handle.runs[0], TaskState.STARTED)

    assert await handle.cancel()

    assert await states(handle.runs) == ["REVOKED", "REVOKED", "REVOKED"]
    assert await handle.status() is TaskState.REVOKED
    with pytest.raises(RunCancelledError):
        await handle.result(WAIT)


async def test_a_step_cancelled_by_itself_ends_the_chain(
    backend: TaskBackend, tasks: ModuleType, tmp_path: Path
) -> None:
    needs(backend, BackendCapability.CANCEL_WAITING)
    gate, diary = tmp_path / "gate", tmp_path / "diary"
    handle = await backend.launch_canvas(
        chain(tasks.wait_for.s(str(gate)), tasks.echo.s(), tasks.mark_after.s(str(diary)))
    )
    await until(handle.runs[0], TaskState.STARTED)

    assert await (await backend.get_task(handle.runs[1].id)).cancel()

    with pytest.raises(RunCancelledError, match=handle.runs[1].id):
        await handle.result(WAIT)
    gate.touch()
    assert await states(handle.runs[1:]) == ["REVOKED", "REVOKED"]
    assert await handle.runs[0].result(WAIT) == "opened"
    assert not diary.exists()


async def test_a_finished_canvas_cannot_be_cancelled(backend: TaskBackend, tasks: ModuleType) -> None:
    handle = await backend.launch_canvas(group(tasks.echo.s(1), tasks.echo.s(2)))
    await handle.result(WAIT)

    assert not await handle.cancel()


async def test_a_late_result_says_what_was_waited_for(
    backend: TaskBackend, tasks: ModuleType, tmp_path: Path
) -> None:
    needs(backend, BackendCapability.BACKGROUND)
    gate = tmp_path / "gate"
    handle = await backend.launch_canvas(chain(tasks.wait_for.s(str(gate)), tasks.echo.s()))
    await until(handle.runs[0], TaskState.STARTED)

    with pytest.raises(ResultTimeoutError, match=r"'canvas of 2 runs' had no result .* was STARTED"):
        await handle.result(0.05)

    gate.touch()
    assert await handle.result(WAIT) == "opened"


async def test_it_comes_among_others_when_it_is_over(backend: TaskBackend, tasks: ModuleType) -> None:
    async with TaskService(backend) as service:
        _, fine = await service.launch_canvas(group(tasks.echo.s(1), tasks.echo.s(2)))
        _, failing = await service.launch_canvas(chain(tasks.decline.s(1), tasks.echo.s(), tasks.echo.s()))
        with anyio.fail_after(WAIT):
            over = [handle.id async for handle in service.as_completed([fine, failing, *failing.runs[:1]])]

        assert sorted(over) == sorted([fine.id, failing.id, failing.runs[0].id])


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_a_group_of_a_thousand(backend: TaskBackend, tasks: ModuleType) -> None:
    handle = await backend.launch_canvas(group(tasks.echo.s(number) for number in range(1000)))

    assert await handle.result(3 * WAIT) == list(range(1000))


async def test_a_chord_and_a_chain_of_a_hundred(backend: TaskBackend, tasks: ModuleType) -> None:
    wide = await backend.launch_canvas(
        chord([tasks.echo.s(number) for number in range(100)], tasks.total.s())
    )
    long = await backend.launch_canvas(chain(tasks.echo.s(0), *[tasks.add.s(1)] * 100))

    assert await wide.result(WAIT) == 4950
    assert await long.result(WAIT) == 100


async def test_what_is_as_deep_as_may_be_works(backend: TaskBackend, tasks: ModuleType) -> None:
    headers: Any = tasks.echo.s(1)
    bodies: Any = tasks.collect.s()
    for _ in range(8):
        headers = chord([headers, tasks.echo.s(2)], chain(tasks.collect.s(), tasks.echo.si(3)))
    for _ in range(7):
        bodies = chord([tasks.echo.si(1), tasks.echo.si(2)], group(bodies, tasks.total.s()))
    in_a_row = chain(*[group(tasks.echo.si(1), tasks.echo.si(2))] * 30, tasks.total.s())
    if repeats_what_follows(backend):
        for canvas in (bodies, in_a_row):
            with pytest.raises(ConfigurationError, match=r"calls into one message.* use Celery 5\.7"):
                await backend.launch_canvas(canvas)
        assert await (await backend.launch_canvas(headers)).result(WAIT) == 3
        return

    handles = [await backend.launch_canvas(each) for each in (headers, bodies, in_a_row)]

    assert await handles[0].result(WAIT) == 3
    assert await handles[1].result(WAIT) == [[[[[[[[1, 2], 3], 3], 3], 3], 3], 3], 3]
    assert await handles[2].result(WAIT) == 3


async def test_many_chords_at_once_do_not_starve_each_other(backend: TaskBackend, tasks: ModuleType) -> None:
    member = chain(tasks.echo.s(1), tasks.echo.s())
    canvas = chord([chord([member, member], tasks.total.s()), member], tasks.total.s())
    values: list[int] = []

    async def run() -> None:
        values.append(await (await backend.launch_canvas(canvas)).result(WAIT))

    async with anyio.create_task_group() as group_of_tasks:
        for _ in range(20):
            group_of_tasks.start_soon(run)

    assert values == [3] * 20


async def test_options_hold_for_the_step_that_has_them(backend: TaskBackend, tasks: ModuleType) -> None:
    needs(backend, BackendCapability.COUNTDOWN)
    start = anyio.current_time()

    handle = await backend.launch_canvas(chain(tasks.echo.s(1), tasks.add.s(1).set(countdown=0.3)))

    assert await handle.result(WAIT) == 2
    assert anyio.current_time() - start >= 0.25


async def test_a_wrong_argument_names_its_step_and_nothing_is_sent(
    backend: TaskBackend, tasks: ModuleType, tmp_path: Path
) -> None:
    diary = tmp_path / "diary"
    first = tasks.mark.s(str(diary))

    async def refused(canvas: Any, error: type[Exception], match: str) -> None:
        with pytest.raises(error, match=match):
            await backend.launch_canvas(canvas)

    await refused(chain(first, tasks.add.si(1)), TypeError, r"^chain\[1\]: missing .* 'right'")
    await refused(chain(first, tasks.add.s(1, 2)), TypeError, r"^chain\[1\]: too many positional")
    await refused(
        group(first, chain(tasks.echo.s(1), tasks.add.s(right={1, 2}))),
        PayloadError,
        r"^group\[1\]\.chain\[1\]: argument 'right' is set",
    )
    await refused(chord([first, tasks.echo.s()], tasks.total.s()), TypeError, r"^chord\.header\[1\]: missing")
    await refused(chord([first], tasks.echo.s(object)), TypeError, r"^chord\.body: too many")
    await refused(group(first, tasks.add.map([1])), TypeError, r"^group\[1\]\.items\[0\]: missing")
    await refused(tasks.echo.map([1, object()]), PayloadError, r"^\.?items\[1\]: argument 'value' is object")
    await refused(tasks.add.starmap([(1, 2), 3]), TypeError, r"items\[1\]: .* got int")
    await refused(
        chain(first, tasks.echo.s().set(countdown=9, expires=3)),
        LaunchOptionError,
        r"^expires: in chain\[1\]:",
    )
    await refused(
        group(first, tasks.careless.map([])), LaunchOptionError, r"limit: in group\[1\]: .* use a group"
    )
    assert not diary.exists()


async def test_an_unknown_task_is_refused_before_anything_is_sent(
    backend: TaskBackend, tasks: ModuleType, tmp_path: Path
) -> None:
    if backend.name == "anyio":
        pytest.skip("in process every function can be called")
    diary = tmp_path / "diary"

    with pytest.raises(TaskNotRegisteredError, match=r"decorate '.*needs' with @task"):
        await backend.launch_canvas(chain(tasks.mark.s(str(diary)), signature(needs, 1)))

    assert not diary.exists()


async def test_what_is_no_canvas_is_refused(backend: TaskBackend, tasks: ModuleType) -> None:
    with pytest.raises(ConfigurationError, match="launch_canvas got TaskDefinition; give what"):
        await backend.launch_canvas(tasks.add)


async def test_code_without_an_event_loop_has_it_too(unopened: TaskBackend, tasks: ModuleType) -> None:
    def run() -> None:
        with BlockingTaskService(unopened) as service:
            canvas_id, handle = service.launch_canvas(chain(tasks.add.s(1, 2), tasks.add.s(10)))

            assert handle.result(WAIT) == 13
            assert handle.id == canvas_id
            assert [run.result(WAIT) for run in handle.runs] == [3, 13]
            assert handle.status() is TaskState.SUCCESS

    await anyio.to_thread.run_sync(run)


async def test_a_closed_back_end_says_so(unopened: AnyIOBackend | CeleryBackend, tasks: ModuleType) -> None:
    with pytest.raises(ServiceClosedError):
        await unopened.launch_canvas(tasks.echo.s(1))
