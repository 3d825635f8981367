"""What clients of workflow runs see: in process on both event loops, and with a real Celery worker."""

from __future__ import annotations

import gc
from contextlib import aclosing, closing
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from weakref import ref

import anyio
import pytest

from pytest_taskservice.redis import RedisRequest, acquire
from taskservice import (
    FailureReason,
    Question,
    QuestionError,
    ResultTimeoutError,
    ServiceClosedError,
    Settings,
    WorkflowClient,
    WorkflowEvent,
    WorkflowExpiredError,
    WorkflowFailedError,
    WorkflowOverError,
    WorkflowStatus,
)
from tests.commands import running
from tests.workflow import client_flows as flows

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.anyio

WAIT = 20.0
WORLDS = [("memory", "asyncio"), ("memory", "trio"), ("celery", "asyncio"), ("celery", "trio")]


@pytest.fixture(scope="module")
def shared_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of a Redis of our own and of one real worker on it."""
    log = tmp_path_factory.mktemp("worker") / "log"
    with closing(acquire(RedisRequest())) as server:
        environment = {
            "TASKSERVICE_REDIS_URL": server.url,
            "TASKSERVICE_IMPORTS": "tests.workflow.client_flows",
            "TASKSERVICE_WORKFLOW_SWEEP_INTERVAL": "0.05",
        }
        with running("worker", "-c", "2", log=log, environment=environment, patience=WAIT):
            yield Settings(
                backend="celery",
                redis_url=server.url,
                imports=("tests.workflow.client_flows",),
                workflow_busy=timedelta(seconds=WAIT),
            )


@pytest.fixture(params=WORLDS, ids=["-".join(world) for world in WORLDS])
def world(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Where the runs are kept and executed, and the client's event loop."""
    kept, loop = request.param
    return kept, loop


@pytest.fixture
def anyio_backend(world: tuple[str, str]) -> str:
    return world[1]


@pytest.fixture
def settings(world: tuple[str, str], request: pytest.FixtureRequest) -> Settings:
    if world[0] == "memory":
        interval = timedelta(milliseconds=20)
        return Settings(backend="anyio", workflow_sweep_interval=interval, grace=timedelta(0))

    found: Settings = request.getfixturevalue("shared_settings")
    return found


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[WorkflowClient]:
    """A client for everybody's runs, with a service of its own."""
    async with WorkflowClient.from_settings(settings) as opened:
        yield opened


async def asked(client: WorkflowClient, run_id: str, *, after: int = 0) -> Question:
    """Return the question of the run, once it asks one after the event ``after``."""
    with anyio.fail_after(WAIT):
        async for event in client.events(run_id, after=after):
            if event.kind == "question":
                found = await client.question(run_id)
                assert found is not None
                return found
    raise AssertionError("the run is over and has not asked")


async def read(client: WorkflowClient, run_id: str, *, after: int = 0) -> list[WorkflowEvent]:
    with anyio.fail_after(WAIT):
        return [event async for event in client.events(run_id, after=after)]


async def exists(client: WorkflowClient, run_id: str) -> bool:
    try:
        await client.status(run_id)
    except WorkflowExpiredError:
        return False
    return True


@pytest.mark.parametrize("flow", [flows.refund, flows.refund_async, "client.refund"])
async def test_a_run_is_started_watched_answered_and_returns(client: WorkflowClient, flow: Any) -> None:
    seen = []
    run_id = await client.start(flow, order="7")
    with anyio.fail_after(WAIT):
        async for event in client.events(run_id):
            seen.append(event)
            if event.kind == "question":
                question = await client.question(run_id)
                taken = await client.send_input(run_id, {"approved": True}, event.data["id"])

    assert question is not None
    assert (question.prompt, question.data) == ("approve?", {"order": "7"})
    assert taken.status is WorkflowStatus.INPUT_OVER
    assert await client.result(run_id, timeout=WAIT) == "paid 7"
    assert (await client.status(run_id)).status is WorkflowStatus.SUCCESS
    assert await client.question(run_id) is None
    assert [event.id for event in seen] == list(range(1, 8))
    assert [event.data.get("status", event.kind) for event in seen] == [
        *("WAITING", "RUNNING", "INPUT", "INPUT_OVER", "RUNNING", "progress", "SUCCESS")
    ]


async def test_a_failed_run_raises_what_its_function_raised(client: WorkflowClient) -> None:
    run_id = await client.start(flows.refund, "7")
    await asked(client, run_id)

    await client.send_input(run_id, {"approved": False})
    with pytest.raises(WorkflowFailedError, match="failed: error, DeclinedError") as failed:
        await client.result(run_id, timeout=WAIT)

    assert failed.value.reason == FailureReason.ERROR
    assert isinstance(failed.value.__cause__, flows.DeclinedError)
    assert failed.value.__cause__.order == "7"


async def test_a_result_that_is_late_leaves_the_run_alone(client: WorkflowClient) -> None:
    run_id = await client.start(flows.refund, "7")
    await asked(client, run_id)

    with pytest.raises(ResultTimeoutError, match=r"client\.refund.* its last state was INPUT"):
        await client.result(run_id, timeout=0.01)
    await client.send_input(run_id, {"approved": True})

    assert await client.result(run_id, timeout=WAIT) == "paid 7"


async def test_a_stopped_run_takes_nothing_any_more(client: WorkflowClient) -> None:
    run_id = await client.start(flows.refund, "7")
    question = await asked(client, run_id)

    stopped = await client.stop(run_id)

    assert (stopped.status, stopped.reason) == (WorkflowStatus.FAILED, FailureReason.STOPPED)
    with pytest.raises(WorkflowFailedError, match="stopped"):
        await client.result(run_id)
    with pytest.raises(WorkflowOverError):
        await client.stop(run_id)
    for question_id in (None, question.id):
        with pytest.raises(WorkflowOverError):
            await client.send_input(run_id, {"approved": True}, question_id)


async def test_an_answer_that_does_not_fit_leads_to_a_question_that_says_why(client: WorkflowClient) -> None:
    run_id = await client.start(flows.refund, "7")
    first = await asked(client, run_id)
    events = (await client.status(run_id)).last_event

    await client.send_input(run_id, {"approved": "perhaps"})
    again = await asked(client, run_id, after=events)
    await client.send_input(run_id, {"approved": True})

    assert again.id != first.id
    assert "approved: Input should be a valid boolean" in again.problem
    assert "perhaps" not in again.problem
    assert await client.result(run_id, timeout=WAIT) == "paid 7"


async def test_empty_answers_are_answers_and_old_questions_take_none(client: WorkflowClient) -> None:
    run_id = await client.start(flows.anything)
    first = await asked(client, run_id)
    await client.send_input(run_id, None)
    second = await asked(client, run_id, after=3)

    with pytest.raises(QuestionError):
        await client.send_input(run_id, "twice", first.id)
    await client.send_input(run_id, "", second.id)

    assert await client.result(run_id, timeout=WAIT) == [None, ""]


async def test_an_answer_to_nothing_is_refused(client: WorkflowClient, tmp_path: Path) -> None:
    run_id = await client.start(flows.held, str(tmp_path / "gate"))

    with pytest.raises(QuestionError, match="waits for no answer now"):
        await client.send_input(run_id, "hello")
    (tmp_path / "gate").touch()

    assert await client.result(run_id, timeout=WAIT) == "through"


async def test_events_go_on_where_a_reader_broke_off_without_gap_or_repetition(
    client: WorkflowClient,
) -> None:
    run_id = await client.start(flows.talk, 20)
    seen: list[WorkflowEvent] = []
    with anyio.fail_after(WAIT):
        while not seen or seen[-1].data != {"status": "SUCCESS", "result": None}:
            async with aclosing(client.events(run_id, after=seen[-1].id if seen else 0)) as events:
                async for event in events:
                    seen.append(event)
                    if event.kind == "question":
                        await client.send_input(run_id, "yes")
                    if event.id % 3 == 0:
                        break

    assert [event.id for event in seen] == list(range(1, len(seen) + 1))
    assert [event.data for event in seen if event.kind == "word"] == list(range(40))


async def test_readers_of_a_run_that_is_over_get_the_rest_and_its_end(client: WorkflowClient) -> None:
    run_id = await client.start(flows.whose, owner="the function's own")
    await client.result(run_id, timeout=WAIT)

    assert [event.id for event in await read(client, run_id)] == [1, 2, 3]
    assert [event.id for event in await read(client, run_id, after=2)] == [3]
    assert await read(client, run_id, after=3) == []
    assert await read(client, run_id, after=99) == []


async def test_a_trimmed_tail_is_told_with_a_snapshot_and_events_go_on(client: WorkflowClient) -> None:
    run_id = await client.start(flows.talk_trimmed, 20)
    question = await asked(client, run_id, after=21)

    seen = []
    with anyio.fail_after(WAIT):
        async for event in client.events(run_id, after=3):
            seen.append(event)
            if event.kind == "question":
                break
    await client.send_input(run_id, "yes")
    await client.result(run_id, timeout=WAIT)
    late = await read(client, run_id, after=3)

    assert [event.id for event in seen] == [17, 18, 19, 20, 21, 22, 23]
    assert seen[0].kind == "snapshot"
    assert seen[0].data == {
        "status": "INPUT",
        "question": {"id": question.id, "prompt": "more?", "schema": None, "data": None},
        "result": None,
        "reason": None,
        "error": None,
        "last_event": 23,
    }
    assert [event.data for event in seen[1:-1]] == [15, 16, 17, 18, 19]
    assert [event.id for event in late] == [40, 41, 42, 43, 44, 45, 46]
    assert (late[0].kind, late[0].data["status"], late[0].data["last_event"]) == ("snapshot", "SUCCESS", 46)
    assert await read(client, run_id, after=late[0].id) == late[1:]


async def test_a_reader_that_dawdles_loses_nothing(client: WorkflowClient) -> None:
    run_id = await client.start(flows.talk_when_told, 1000)
    await asked(client, run_id)
    events = client.events(run_id)
    begun = [await events.next() for _ in range(3)]
    await client.send_input(run_id, None)
    await client.result(run_id, timeout=WAIT)

    with anyio.fail_after(WAIT):
        seen = [event async for event in events]

    assert [event.id for event in begun if event] == [1, 2, 3]
    assert [event.id for event in seen] == list(range(4, 1007))


CALLS: dict[str, Callable[[WorkflowClient, str], Awaitable[Any]]] = {
    "status": lambda client, run_id: client.status(run_id),
    "question": lambda client, run_id: client.question(run_id),
    "send_input": lambda client, run_id: client.send_input(run_id, "mine"),
    "send_input to it": lambda client, run_id: client.send_input(run_id, "mine", "any"),
    "stop": lambda client, run_id: client.stop(run_id),
    "result": lambda client, run_id: client.result(run_id, timeout=WAIT),
    "events": lambda client, run_id: client.events(run_id).next(),
}


async def test_another_owners_run_does_not_exist_whatever_is_called(client: WorkflowClient) -> None:
    ann, bob = client.for_owner("ann"), client.for_owner("bob")
    run_id = await ann.start(flows.anything)
    await asked(ann, run_id)
    before = await client.status(run_id)

    codes = {}
    for name, call in CALLS.items():
        for who, wanted in ((bob, run_id), (bob, "no-such-run"), (client, "no-such-run")):
            with pytest.raises(WorkflowExpiredError) as refused:
                await call(who, wanted)
            assert refused.value.run_id == wanted
            codes[name] = refused.value.code

    assert codes == dict.fromkeys(CALLS, "workflow_expired")
    assert await client.status(run_id) == before
    assert (await ann.stop(run_id)).owner == "ann"


async def test_a_run_belongs_to_its_client_and_not_to_an_argument(client: WorkflowClient) -> None:
    run_id = await client.for_owner("ann").start(flows.whose, owner="bob")

    assert await client.result(run_id, timeout=WAIT) == ["ann", "bob"]
    assert len(run_id) >= 32


async def test_of_answers_that_race_exactly_one_is_taken(client: WorkflowClient, settings: Settings) -> None:
    run_id = await client.start(flows.anything)
    question = await asked(client, run_id)
    taken: list[int] = []
    refused: list[Exception] = []

    async def answer(who: WorkflowClient, value: int) -> None:
        try:
            await who.send_input(run_id, value, question.id)
        except QuestionError as error:
            refused.append(error)
        else:
            taken.append(value)

    async with WorkflowClient.from_settings(settings) as other, anyio.create_task_group() as group:
        shared = settings.backend == "celery"
        for value in range(10):
            group.start_soon(answer, other if shared and value % 2 else client, value)
    await asked(client, run_id, after=5)
    await client.send_input(run_id, "last")

    assert (len(taken), len(refused)) == (1, 9)
    assert await client.result(run_id, timeout=WAIT) == [taken[0], "last"]


async def test_a_stop_that_races_with_the_end_leaves_one_of_them(client: WorkflowClient) -> None:
    for attempt in range(10):
        run_id = await client.start(flows.refund, "7")
        await asked(client, run_id)
        await client.send_input(run_id, {"approved": True})
        with anyio.fail_after(WAIT):
            async for event in client.events(run_id, after=4):
                if event.kind == "progress" or attempt % 2:
                    break
        try:
            wanted = (await client.stop(run_id)).status
        except WorkflowOverError:
            wanted = WorkflowStatus.SUCCESS
        events = await read(client, run_id)

        final = [
            event.data["status"] for event in events if event.data.get("status") in {"SUCCESS", "FAILED"}
        ]
        assert final == [wanted]
        assert (await client.status(run_id)).status is wanted


async def test_an_answer_after_the_data_is_gone_says_that_it_is(client: WorkflowClient) -> None:
    run_id = await client.start(flows.short_kept)
    question = await asked(client, run_id)
    await client.stop(run_id)
    with anyio.fail_after(WAIT):
        while await exists(client, run_id):  # noqa: ASYNC110 - its store forgets it
            await anyio.sleep(0.01)

    with pytest.raises(WorkflowExpiredError) as refused:
        await client.send_input(run_id, "late", question.id)

    assert refused.value.code == "workflow_expired"


async def test_who_waits_when_the_client_is_closed_is_told(settings: Settings) -> None:
    told: list[Exception] = []

    async def wait(wanted: Awaitable[Any]) -> None:
        with pytest.raises(ServiceClosedError) as closed:
            await wanted
        told.append(closed.value)

    async with anyio.create_task_group() as group, WorkflowClient.from_settings(settings) as client:
        run_id = await client.start(flows.anything)
        await asked(client, run_id)
        events = client.events(run_id, after=2)
        await events.next()
        group.start_soon(wait, events.next())
        group.start_soon(wait, client.result(run_id))
        await anyio.wait_all_tasks_blocked()

    assert len(told) == 2
    with pytest.raises(ServiceClosedError, match="workflow client"):
        await client.status(run_id)


async def test_a_reader_that_is_dropped_is_gone(client: WorkflowClient) -> None:
    run_id = await client.start(flows.anything)
    await asked(client, run_id)
    events = client.events(run_id)
    await events.next()
    dropped = ref(events)

    del events

    # The thread that has looked for it may be about to forget it.
    with anyio.fail_after(5):
        while dropped() is not None:
            gc.collect()
            await anyio.lowlevel.checkpoint()
