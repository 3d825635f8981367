"""What only the in-process back end does: retention, events, closing, Celery tasks as they are."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest
from celery import Celery

from taskservice import (
    AnyIOBackend,
    LaunchOptionError,
    LaunchOptions,
    PayloadError,
    RetryPolicy,
    RunCancelledError,
    RunEvent,
    RunExpiredError,
    RunFailedError,
    RunNotFoundError,
    TaskRegistry,
    TaskState,
    TimeLimitError,
    task,
)

if TYPE_CHECKING:
    from celery import Task

pytestmark = pytest.mark.anyio

WAIT = 10.0
REGISTRY = TaskRegistry()
QUICK = RetryPolicy(max_attempts=2, base=timedelta(milliseconds=1))

# Nobody listens on this port: a message that is published, or a result stored, is an error.
app = Celery("inline", broker="redis://127.0.0.1:1/0", backend="redis://127.0.0.1:1/0")
app.conf.broker_transport_options = {"socket_connect_timeout": 1}
app.conf.task_publish_retry = False


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def ident(value: int) -> int:
    return value


@task(registry=REGISTRY)
async def forever() -> None:
    await anyio.sleep_forever()


@task(registry=REGISTRY, retry=QUICK)
async def always_fails() -> None:
    raise ValueError("no")


@task(registry=REGISTRY, retry=RetryPolicy(retry_for=(KeyError,)))
async def fails_finally() -> None:
    raise ValueError("no")


@app.task(bind=True, name="bound")
def bound(self: Task[..., Any], failures: int) -> list[Any]:
    if self.request.retries < failures:
        raise self.retry(countdown=0.01, max_retries=3, exc=ValueError("again"))
    return [self.request.id, self.request.retries]


@app.task(bind=True, name="bound_default", max_retries=1)
def gives_up(self: Task[..., Any]) -> None:
    raise self.retry(countdown=0)


@app.task(name="auto", autoretry_for=(KeyError,), retry_backoff=False, default_retry_delay=0)
def auto(seen: str) -> None:
    SEEN.append(seen)
    raise KeyError(seen)


@app.task(bind=True, name="changes")
def changes_arguments(self: Task[..., Any], value: int) -> int:
    if self.request.retries == 0:
        raise self.retry(args=(value + 1,), countdown=0)
    return value


@app.task(bind=True, name="progress")
def reports_progress(self: Task[..., Any]) -> str:
    self.update_state(state="PROGRESS", meta={"done": 1})
    return "done"


@app.task(name="not_json")
def not_json() -> object:
    return object()


SEEN: list[str] = []


async def test_a_plain_function_needs_no_decorator() -> None:
    async with AnyIOBackend() as backend:
        handle = await backend.launch_task(ident, [7])

        assert await handle.result(WAIT) == 7


async def test_finished_runs_are_kept_by_count() -> None:
    async with AnyIOBackend(retention_count=2) as backend:
        handles = []
        for number in range(3):
            handles.append(await backend.launch_task(ident, [number]))
            assert await handles[-1].result(WAIT) == number

        with pytest.raises(RunNotFoundError):
            await backend.get_task(handles[0].id)
        assert (await backend.get_task(handles[2].id)).id == handles[2].id


async def test_finished_runs_are_kept_for_a_time() -> None:
    async with AnyIOBackend(retention=0) as backend:
        handle = await backend.launch_task(ident, [1])
        await handle.result(WAIT)

        await anyio.sleep(0.001)  # the clock must have moved
        with pytest.raises(RunNotFoundError):
            await backend.get_task(handle.id)


async def test_a_running_async_function_is_cancelled() -> None:
    async with AnyIOBackend() as backend:
        handle = await backend.launch_task(forever)
        await anyio.wait_all_tasks_blocked()
        assert await handle.status() is TaskState.STARTED

        assert await handle.cancel()

        with pytest.raises(RunCancelledError):
            await handle.result(WAIT)


async def test_an_async_run_that_is_cancelled_before_its_turn_never_starts() -> None:
    called: list[int] = []

    async def note() -> None:
        called.append(1)

    async with AnyIOBackend() as backend:
        handle = await backend.launch_task(note)

        assert await handle.cancel()

        assert await handle.attempts() == 0
        assert not called


async def test_a_run_that_waits_for_a_thread_is_cancelled_without_starting() -> None:
    gate = threading.Event()
    async with AnyIOBackend(threads=1) as backend:
        first = await backend.launch_task(gate.wait, [WAIT])
        with anyio.fail_after(WAIT):
            while await first.status() is not TaskState.STARTED:
                await anyio.lowlevel.checkpoint()
        second = await backend.launch_task(gate.wait, [WAIT])

        assert await second.cancel()

        assert await second.attempts() == 0
        gate.set()
        assert await first.result(WAIT) is True


async def test_closing_waits_for_what_is_quick_and_cancels_the_rest() -> None:
    async with AnyIOBackend(grace=0.05) as backend:
        quick = await backend.launch_task(ident, [1])
        slow = await backend.launch_task(forever)

    assert await quick.result(WAIT) == 1
    assert await slow.status() is TaskState.REVOKED


async def test_an_error_of_the_caller_comes_out_as_it_is() -> None:
    async def use() -> None:
        async with AnyIOBackend() as backend:
            await backend.launch_task(forever)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await use()


async def test_leaving_by_cancellation_ends_the_runs() -> None:
    with anyio.move_on_after(0.01) as scope:
        async with AnyIOBackend() as backend:
            handle = await backend.launch_task(forever)
            await anyio.sleep_forever()

    assert scope.cancelled_caught
    assert await handle.status() is TaskState.REVOKED


async def test_a_listener_hears_what_happens_in_order() -> None:
    events: list[RunEvent] = []
    async with AnyIOBackend(listener=events.append) as backend:
        handle = await backend.launch_task(always_fails)
        with pytest.raises(ValueError, match="no"):
            await handle.result(WAIT)

    told = [(event.kind.value, event.attempt, event.detail) for event in events]
    assert told == [
        ("sent", 0, ""),
        ("started", 1, ""),
        ("retried", 1, "0.001 s after ValueError('no')"),
        ("started", 2, ""),
        ("failed", 2, "ValueError('no')"),
    ]
    assert {event.run for event in events} == {handle.id}


async def test_a_failing_listener_harms_no_run() -> None:
    def listener(event: RunEvent) -> None:
        raise RuntimeError(event.kind)

    async with AnyIOBackend(listener=listener) as backend:
        handle = await backend.launch_task(ident, [1])

        assert await handle.result(WAIT) == 1


def leaves() -> None:
    raise SystemExit(3)


async def leaves_async() -> None:
    raise SystemExit(3)


@pytest.mark.parametrize("function", [leaves, leaves_async])
async def test_a_function_that_exits_fails_its_own_run_alone(function: Any) -> None:
    async with AnyIOBackend() as backend:
        handle = await backend.launch_task(function)
        other = await backend.launch_task(ident, [2])

        with pytest.raises(RunFailedError, match=r"^SystemExit: 3$"):
            await handle.result(timeout=WAIT)
        assert await other.result(timeout=WAIT) == 2


class SpeechlessError(Exception):
    def __repr__(self) -> str:
        raise KeyError("no words")

    __str__ = __repr__


async def speechless() -> None:
    raise SpeechlessError


async def test_an_error_that_cannot_be_shown_is_told_to_the_listener() -> None:
    told: list[RunEvent] = []
    async with AnyIOBackend(listener=told.append) as backend:
        handle = await backend.launch_task(speechless)

        with pytest.raises(SpeechlessError):
            await handle.result(timeout=WAIT)

    assert told[-1].detail == "its message cannot be shown: KeyError"


async def test_an_error_the_policy_does_not_name_is_final() -> None:
    async with AnyIOBackend() as backend:
        handle = await backend.launch_task(fails_finally)
        with pytest.raises(ValueError, match="no"):
            await handle.result(WAIT)

        assert await handle.attempts() == 1


async def test_a_bound_celery_task_is_retried_in_process() -> None:
    async with AnyIOBackend() as backend:
        handle = await backend.launch_task(bound, [2])

        assert await handle.result(WAIT) == [handle.id, 2]
        assert await handle.attempts() == 3


async def test_a_celery_task_out_of_retries_raises_its_error() -> None:
    async with AnyIOBackend() as backend:
        handle = await backend.launch_task(bound, [9])
        with pytest.raises(ValueError, match="again"):
            await handle.result(WAIT)
        assert await handle.attempts() == 4

        other = await backend.launch_task(gives_up)
        with pytest.raises(gives_up.MaxRetriesExceededError):
            await other.result(WAIT)
        assert await other.attempts() == 2


async def test_autoretry_of_a_celery_task_is_honoured(anyio_backend: str) -> None:
    async with AnyIOBackend() as backend:
        handle = await backend.launch_task(auto, [anyio_backend])
        with pytest.raises(KeyError):
            await handle.result(WAIT)

    assert SEEN.count(anyio_backend) == 4


async def test_a_celery_task_may_be_retried_with_other_arguments() -> None:
    async with AnyIOBackend() as backend:
        handle = await backend.launch_task(changes_arguments, [1])

        assert await handle.result(WAIT) == 2


async def test_a_celery_task_that_reports_progress_needs_no_result_backend() -> None:
    async with AnyIOBackend() as backend:
        handle = await backend.launch_task(reports_progress)

        assert await handle.result(WAIT) == "done"


async def test_a_celery_task_is_held_to_json_too() -> None:
    async with AnyIOBackend() as backend:
        handle = await backend.launch_task(not_json)

        with pytest.raises(PayloadError):
            await handle.result(WAIT)


async def test_the_wait_between_attempts_can_be_cancelled() -> None:
    async with AnyIOBackend() as backend:
        handle = await backend.launch_task(waits_long_between)
        with anyio.fail_after(WAIT):
            while await handle.status() is not TaskState.RETRY:
                await anyio.lowlevel.checkpoint()

        assert await handle.cancel()


@task(registry=REGISTRY, retry=RetryPolicy(base=timedelta(minutes=1)))
def waits_long_between() -> None:
    raise ValueError("no")


@app.task(name="limited_celery", time_limit=1)
def limited_celery() -> bool:
    return GATE.wait(WAIT)


@app.task(name="softly_limited_celery", soft_time_limit=5)
def softly_limited_celery() -> None: ...


GATE = threading.Event()


async def test_a_celery_tasks_hard_limit_is_kept_in_process() -> None:
    GATE.clear()
    async with AnyIOBackend() as backend:
        handle = await backend.launch_task(limited_celery)

        with pytest.raises(TimeLimitError):
            await handle.result(WAIT)
        GATE.set()


async def test_a_celery_tasks_soft_limit_is_refused_in_process() -> None:
    async with AnyIOBackend() as backend:
        with pytest.raises(LaunchOptionError, match="soft_time_limit: 'softly_limited_celery'"):
            await backend.launch_task(softly_limited_celery)


async def test_an_abandoned_thread_gives_its_slot_back() -> None:
    GATE.clear()
    async with AnyIOBackend(threads=1) as backend:
        await backend.launch_task(limited_celery)
        after = await backend.launch_task(len, ["abc"])

        assert await after.result(WAIT) == 3
        GATE.set()


async def test_a_run_that_expires_in_the_queue_for_threads_is_told_at_once() -> None:
    gate = threading.Event()
    events: list[RunEvent] = []
    async with AnyIOBackend(threads=1, listener=events.append) as backend:
        first = await backend.launch_task(gate.wait, [WAIT])
        with anyio.fail_after(WAIT):
            while await first.status() is not TaskState.STARTED:
                await anyio.lowlevel.checkpoint()
        late = await backend.launch_task(gate.wait, [WAIT], options=LaunchOptions(expires=0.02))

        with pytest.raises(RunExpiredError):
            await late.result(WAIT)
        gate.set()

    told = [event.kind.value for event in events if event.run == late.id]
    assert told == ["sent", "revoked"]


async def test_a_retry_that_would_come_after_the_expiry_does_not_come() -> None:
    async with AnyIOBackend() as backend:
        handle = await backend.launch_task(retries_late, options=LaunchOptions(expires=0.02))

        with pytest.raises(RunExpiredError):
            await handle.result(WAIT)
        assert await handle.attempts() == 1


@task(registry=REGISTRY, retry=RetryPolicy(base=timedelta(milliseconds=40)))
async def retries_late() -> None:
    raise ValueError("no")


async def test_a_function_that_met_another_runs_expiry_fails_by_it() -> None:
    async def meets() -> None:
        raise RunExpiredError("another")

    async with AnyIOBackend() as backend:
        handle = await backend.launch_task(meets)

        with pytest.raises(RunExpiredError, match="another"):
            await handle.result(WAIT)
        assert await handle.status() is TaskState.FAILURE
