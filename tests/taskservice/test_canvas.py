from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any

import anyio
import pytest

from taskservice import (
    AnyIOBackend,
    Canvas,
    Chain,
    Chord,
    ChordError,
    ConfigurationError,
    Group,
    LaunchOptionError,
    LaunchOptions,
    Map,
    PayloadSizeError,
    RunEvent,
    RunEventKind,
    RunNotFoundError,
    Signature,
    TaskRegistry,
    TaskState,
    chain,
    chord,
    group,
    signature,
    task,
)
from taskservice.backends.canvas.plan import plan_canvas
from taskservice.backends.canvas.progress import Progress
from taskservice.backends.remote import RemoteOutcome

REGISTRY = TaskRegistry()


@task(registry=REGISTRY)
async def add(left: int, right: int = 0) -> int:
    return left + right


@task(registry=REGISTRY)
async def fail(value: object = None) -> None:
    raise ValueError(value)


@task(registry=REGISTRY)
async def collect(values: list[int]) -> list[int]:
    return values


def shout(text: str) -> str:
    return text.upper()


def test_a_task_writes_down_its_calls() -> None:
    assert add.s(1, right=2) == Signature(func=add, args=(1,), kwargs={"right": 2})
    assert add.si(1).immutable
    assert add.map([1, 2]) == Map(func=add, items=(1, 2))
    assert add.starmap([(1, 2)]) == Map(func=add, items=((1, 2),), star=True)
    assert signature(shout, "a").func is shout


@pytest.mark.parametrize("build", [chain, group])
def test_steps_come_one_by_one_or_as_one_iterable(build: Any) -> None:
    steps = (add.s(1), add.s(2))

    assert build(*steps) == build(steps) == build(iter(steps))
    assert build(add.s(1)) == build([add.s(1)])


def test_chains_in_chains_and_groups_in_groups_are_one() -> None:
    a, b, c = add.s(1), add.s(2), add.s(3)

    assert chain(chain(a, b), c) == Chain((a, b, c))
    assert group(a, group(b, c)) == Group((a, b, c))
    assert chord([group(a, b), c], a) == Chord(Group((a, b, c)), a)


def test_options_are_set_on_a_copy() -> None:
    call = add.s(1)

    assert call.set(queue="slow").options.queue == "slow"
    assert call.options.queue is None
    assert add.map([1]).set(priority=3).options.priority == 3
    with pytest.raises(LaunchOptionError, match="priority"):
        call.set(priority=10)


NO_STEP: Any = None
TASK: Any = add
FOREIGN: Any = {"task": "x"}
CYCLE: list[Any] = [add.s(1)]
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: chain(CYCLE), r"chain\[1\] is the list it stands in: a cycle never ends"),
        (lambda: chord(CYCLE, add.s()), r"chord.header\[1\] is the list it stands in"),
        (chain, "give chain at least one step"),
        (lambda: group([]), "give group at least one step"),
        (lambda: chord([], add.s()), "give group at least one step"),
        (lambda: chain(add.s(1), [add.s(2)]), r"chain\[1\] is list; make its steps a chain or a group"),
        (lambda: chain(add.s(1), TASK), r"chain\[1\] is .*TaskDefinition; give a call of it: .s\(...\)"),
        (lambda: group(add.s(1), NO_STEP), r"group\[1\] is NoneType; give what .s\(\)"),
        (lambda: group(add.s(1), FOREIGN), r"group\[1\] is dict; build all of it with taskservice"),
        (lambda: chord([add.s(1)], TASK), "chord.body.* is .*TaskDefinition"),
        (lambda: Chord([add.s(1)], add.s()), "chord.header is list; give a group"),  # type: ignore[arg-type] # wrong on purpose
        (lambda: signature(3), "a signature of int: give a task or a function"),  # type: ignore[arg-type] # wrong on purpose
    ],
)
def test_what_cannot_be_meant_is_refused_when_it_is_written(build: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build()


def nested(levels: int) -> Canvas:
    canvas: Canvas = add.s(1)
    for level in range(levels):
        canvas = chain(add.si(1), canvas) if level % 2 else group(add.si(1), canvas)
    return canvas


@pytest.mark.anyio
async def test_a_cycle_that_was_forged_is_refused() -> None:
    inner = group(add.s(1), add.s(2))
    canvas = chain(add.s(1), inner)
    object.__setattr__(inner, "members", (add.s(1), canvas))

    async with AnyIOBackend() as backend:
        with pytest.raises(ConfigurationError, match=r"is the Chain it stands in: a cycle never ends"):
            await backend.launch_canvas(canvas)


@pytest.mark.anyio
@pytest.mark.parametrize("levels", [17, 5000])
async def test_a_canvas_that_is_too_deep_is_refused(levels: int) -> None:
    async with AnyIOBackend() as backend:
        assert await backend.launch_canvas(nested(16))
        with pytest.raises(ConfigurationError, match="more than 16 levels deep; launch parts of it apart"):
            await backend.launch_canvas(nested(levels))


@pytest.mark.anyio
async def test_too_many_groups_in_a_row_are_refused() -> None:
    pair = group(add.si(1), add.si(2))

    async with AnyIOBackend() as backend:
        with pytest.raises(ConfigurationError, match=r"chain has 31 groups in a row and 30 is the most"):
            await backend.launch_canvas(chain([pair] * 31))


@pytest.mark.anyio
async def test_arguments_that_are_too_long_name_their_step() -> None:
    async with AnyIOBackend(payload_limit=100) as backend:
        with pytest.raises(PayloadSizeError, match=r"^chain\[1\]: argument 'values' takes"):
            await backend.launch_canvas(chain(add.s(1), collect.si(["x" * 200])))
        with pytest.raises(PayloadSizeError, match=r"^items takes this payload over 100 bytes"):
            await backend.launch_canvas(collect.map(["x" * 60, "y" * 60]))


@pytest.mark.anyio
async def test_a_run_that_may_be_another_ones_is_refused() -> None:
    keyed = Signature(func=add, args=(1,), options=LaunchOptions(idempotency_key="k"))

    async with AnyIOBackend() as backend:
        with pytest.raises(LaunchOptionError, match=r"^idempotency_key: in group\[1\]: a run of a"):
            await backend.launch_canvas(group(add.s(1), keyed))


@pytest.mark.anyio
async def test_cancelling_ends_the_members_that_run() -> None:
    @task(registry=TaskRegistry())
    async def sleep() -> None:
        await anyio.sleep_forever()

    async with AnyIOBackend() as backend:
        handle = await backend.launch_canvas(chord([sleep.s(), add.s(1)], collect.s()))
        assert await handle.runs[1].result(5) == 1

        assert await handle.cancel()

        assert [str(await run.status()) for run in handle.runs] == ["REVOKED", "SUCCESS", "REVOKED"]
        assert await handle.status() is TaskState.REVOKED


@pytest.mark.anyio
async def test_a_plain_function_needs_no_decorator_in_process() -> None:
    async with AnyIOBackend() as backend:
        handle = await backend.launch_canvas(chain(signature(shout, "a"), signature(shout)))

        assert await handle.result(5) == "A"


@pytest.mark.anyio
async def test_a_thousand_steps_behind_a_failure_end_with_it() -> None:
    async with AnyIOBackend(retention_count=2000) as backend:
        handle = await backend.launch_canvas(chain(fail.s(7), *[add.s(1)] * 1000))

        with pytest.raises(ValueError, match="7"):
            await handle.result(5)
        assert {await run.status() for run in handle.runs} == {TaskState.FAILURE}
        assert (await backend.health()).detail.startswith("in process, 0 runs not over")


@pytest.mark.anyio
async def test_members_of_one_group_do_not_share_the_value_before() -> None:
    @task(registry=TaskRegistry())
    async def append(values: list[int], value: int) -> list[int]:
        values.append(value)
        return values

    async with AnyIOBackend() as backend:
        handle = await backend.launch_canvas(chain(collect.s([0]), group(append.s(1), append.s(2))))

        assert await handle.result(5) == [[0, 1], [0, 2]]


@pytest.mark.anyio
async def test_what_is_kept_of_runs_stays_within_its_bound() -> None:
    async with AnyIOBackend(retention_count=2) as backend:
        handle = await backend.launch_canvas(chain(add.s(1), add.s(1), add.s(1)))
        assert await handle.result(5) == 3

        with pytest.raises(RunNotFoundError):
            await backend.get_task(handle.runs[0].id)
        assert await (await backend.get_task(handle.id)).result(5) == 3
        assert await handle.runs[0].result(5) == 1


@pytest.mark.anyio
async def test_listeners_hear_of_runs_in_the_order_in_which_things_happen() -> None:
    heard: list[RunEvent] = []
    async with AnyIOBackend(listener=heard.append) as backend:
        handle = await backend.launch_canvas(chain(add.s(1), fail.s(), add.s(1)))
        with pytest.raises(ValueError, match="1"):
            await handle.result(5)

    first, second, _ = (run.id for run in handle.runs)
    assert [(event.run, event.kind) for event in heard] == [
        (first, RunEventKind.SENT),
        (first, RunEventKind.STARTED),
        (first, RunEventKind.SUCCEEDED),
        (second, RunEventKind.SENT),
        (second, RunEventKind.STARTED),
        (second, RunEventKind.FAILED),
    ]


@pytest.mark.anyio
async def test_closing_ends_what_runs_and_what_waits_for_its_turn() -> None:
    @task(registry=TaskRegistry())
    async def sleep() -> None:
        await anyio.sleep_forever()

    async with AnyIOBackend(grace=0) as backend:
        handle = await backend.launch_canvas(chain(sleep.s(), add.si(1), group(add.s(1), add.s(2))))

    assert [await run.status() for run in handle.runs] == [TaskState.REVOKED] * 4
    assert await handle.status() is TaskState.REVOKED


@pytest.mark.anyio
async def test_closing_lets_a_canvas_end_within_its_grace() -> None:
    async with AnyIOBackend(grace=10) as backend:
        handle = await backend.launch_canvas(chain(*[add.s(1)] * 20))

    assert await handle.result(0) == 20


@pytest.mark.anyio
async def test_a_step_that_is_due_too_late_expires() -> None:
    soon = datetime.now(tz=UTC) + timedelta(milliseconds=300)

    @task(registry=TaskRegistry())
    async def outlast() -> None:
        while datetime.now(tz=UTC) <= soon:  # noqa: ASYNC110 - it waits for the clock
            await anyio.sleep(0.01)

    async with AnyIOBackend() as backend:
        handle = await backend.launch_canvas(chain(outlast.s(), add.si(1).set(expires=soon), add.s(1)))

        with pytest.raises(Exception, match="expired before it could start"):
            await handle.result(10)
        assert [str(await run.status()) for run in handle.runs] == ["SUCCESS", "REVOKED", "REVOKED"]


def test_progress_comes_to_the_same_end_in_any_order() -> None:
    canvas = chain(add.s(1), group(add.s(1), chain(fail.s(), add.s(1))), collect.s(), add.s(1))
    plan = plan_canvas(canvas)
    first, member, failing, behind, body, last = (run.id for run in plan.runs)
    done = RemoteOutcome(state=TaskState.SUCCESS, value=1)
    failed = RemoteOutcome(state=TaskState.FAILURE, error=ValueError("no"))
    told = [(first, done), (member, done), (failing, failed)]

    for order in permutations(told):
        progress = Progress(plan)
        for run_id, outcome in order:
            progress.note(run_id, outcome)

        assert progress.outcome is not None
        assert isinstance(progress.outcome.error, ChordError)
        assert progress.outcome.error.run_id == failing
        assert {run.id for run, _ in progress.skipped} == {behind, body, last}


def test_the_last_value_is_enough_where_workers_keep_no_others() -> None:
    plan = plan_canvas(chain(add.s(1), add.s(1), add.s(1)))
    progress = Progress(plan)

    progress.note(plan.runs[-1].id, RemoteOutcome(state=TaskState.SUCCESS, value=3))

    assert progress.outcome == RemoteOutcome(state=TaskState.SUCCESS, value=3)
