"""Where dead letters lie: their bounds, claims, and what happens when a requeue does not get through."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from celery import Celery

from taskservice import (
    AnyIOBackend,
    BackendUnavailableError,
    CeleryBackend,
    ConfigurationError,
    DeadLetter,
    DeadLetterCause,
    Settings,
    create_app,
    task,
)
from taskservice.backends.letters_redis import RedisLetters
from taskservice.backends.probing import connect_redis
from taskservice.backends.storage import Storage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.taskservice.conftest import RedisProcess

DAY = 86_400.0
LETTER = DeadLetter(
    id="r1",
    task="shop.add",
    args=(1, "two"),
    kwargs={"three": None},
    cause=DeadLetterCause.ERROR,
    error_type="ValueError",
    error_message="no",
    traceback="Traceback ...",
    at=0.0,
    queue="celery",
)


def letter(run_id: str, *, age: float = 0.0, task: str = "shop.add") -> DeadLetter:
    return replace(LETTER, id=run_id, task=task, at=time.time() - age)


@pytest.fixture
def storage(redis_process: RedisProcess) -> Iterator[Storage]:
    opened = Storage(connect_redis(redis_process.url, 5), "taskservice:")
    yield opened
    opened.close()


def ids(found: list[DeadLetter]) -> list[str]:
    return [each.id for each in found]


def test_what_is_stored_comes_back_as_it_was(storage: Storage) -> None:
    letters = RedisLetters(storage, count=10, seconds=DAY)
    kept = letter("r1")

    letters.add(kept)

    assert letters.get("r1") == kept
    assert letters.list(10, None) == [kept]


def test_the_oldest_go_when_there_are_too_many(storage: Storage) -> None:
    letters = RedisLetters(storage, count=2, seconds=DAY)

    for age, run_id in enumerate(("r1", "r2", "r3")):
        letters.add(letter(run_id, age=100 - age))

    assert ids(letters.list(10, None)) == ["r3", "r2"]
    assert letters.count() == 2
    assert letters.get("r1") is None


def test_what_is_too_old_is_not_there_for_anybody(storage: Storage) -> None:
    letters = RedisLetters(storage, count=10, seconds=60)
    letters.add(letter("young"))

    letters.add(letter("old", age=61))

    assert ids(letters.list(10, None)) == ["young"]
    assert (letters.get("old"), letters.claim("old", "me"), letters.drop("old")) == (None, None, False)


def test_the_keys_end_with_the_last_letter(storage: Storage) -> None:
    RedisLetters(storage, count=10, seconds=DAY).add(letter("r1"))
    RedisLetters(storage, count=10, seconds=60).add(letter("r2"))

    keys = list(storage.client.scan_iter("taskservice:dead:*"))

    assert len(keys) == 2
    # A shorter retention must not take what was promised to stay longer.
    assert all(60_000 < storage.client.pttl(key) <= DAY * 1000 for key in keys)


def test_a_task_is_found_among_many_others(storage: Storage) -> None:
    letters = RedisLetters(storage, count=1000, seconds=DAY)
    letters.add(letter("rare", age=500, task="shop.rare"))
    for number in range(150):
        letters.add(letter(f"r{number}", age=number))

    assert ids(letters.list(1, "shop.rare")) == ["rare"]
    assert len(letters.list(120, None)) == 120


def test_a_claim_keeps_others_away_until_it_is_given_back(storage: Storage) -> None:
    letters = RedisLetters(storage, count=10, seconds=DAY)
    letters.add(letter("r1"))
    stored = letters.claim("r1", "me")
    assert stored is not None

    assert letters.claim("r1", "you") is None
    letters.settle("r1", "you")
    assert letters.claim("r1", "you") is None
    letters.settle("r1", "me")
    assert letters.claim("r1", "you") == stored


def test_a_newer_letter_of_the_run_survives_the_end_of_the_requeue(storage: Storage) -> None:
    letters = RedisLetters(storage, count=10, seconds=DAY)
    letters.add(letter("r1", age=5))
    stored = letters.claim("r1", "me")
    newer = letter("r1")
    letters.add(newer)

    letters.settle("r1", "me", str(stored))

    assert letters.get("r1") == newer


def test_a_letter_takes_the_count_of_deaths_with_it(storage: Storage) -> None:
    letters = RedisLetters(storage, count=10, seconds=DAY)
    assert [letters.count_death("r1"), letters.count_death("r1")] == [1, 2]

    letters.add(letter("r1"))

    assert letters.deaths("r1") == 0


@pytest.mark.anyio
async def test_a_requeue_that_cannot_be_sent_leaves_letter_and_result(
    redis_process: RedisProcess, storage: Storage, closed_port: int
) -> None:
    settings = Settings(redis_url=redis_process.url, broker_url=f"redis://127.0.0.1:{closed_port}/0")
    app = create_app(settings)
    app.conf.task_publish_retry = False
    app.conf.broker_transport_options = {"max_retries": 1, "interval_start": 0, "interval_step": 0}
    app.backend.mark_as_failure("r1", ValueError("no"))
    kept = letter("r1")
    RedisLetters(storage, count=10, seconds=DAY).add(kept)

    async with CeleryBackend(app, settings=settings) as backend:
        for _ in range(2):
            with pytest.raises(BackendUnavailableError):
                await backend.dead_letters.requeue("r1")

        assert await backend.dead_letters.get("r1") == kept
        assert isinstance(await (await backend.get_task("r1")).exception(), ValueError)


@pytest.mark.anyio
@pytest.mark.parametrize("ask", [lambda found: found.count(), lambda found: found.requeue("r1")])
async def test_a_store_out_of_reach_is_an_error_that_says_so(
    closed_port: int, ask: Callable[..., object]
) -> None:
    settings = Settings(redis_url=f"redis://127.0.0.1:{closed_port}/0")

    async with CeleryBackend(create_app(settings), settings=settings) as backend:
        with pytest.raises(BackendUnavailableError, match="dead letters are out of reach"):
            await ask(backend.dead_letters)  # type: ignore[misc]


@pytest.mark.anyio
async def test_an_app_without_any_redis_is_told_what_is_missing() -> None:
    app = Celery("rabbit", broker="amqp://nowhere.invalid", backend="rpc://", set_as_current=False)

    async with CeleryBackend(app) as backend:
        with pytest.raises(ConfigurationError, match="dead letters need a Redis"):
            _ = backend.dead_letters


@task
async def fail(number: int) -> None:
    raise ValueError(number)


@pytest.mark.anyio
async def test_in_process_the_oldest_go_when_there_are_too_many() -> None:
    async with AnyIOBackend(dead_letter_count=2) as backend:
        for number in range(3):
            await (await backend.launch_task(fail, [number])).exception()
            with pytest.raises(ValueError, match=str(number)):
                await (await backend.launch_task(fail, [number])).result()

        assert [kept.args for kept in await backend.dead_letters.list()] == [(2,), (2,)]


@pytest.mark.anyio
async def test_in_process_what_is_too_old_is_gone() -> None:
    async with AnyIOBackend(dead_letter_retention=0) as backend:
        handle = await backend.launch_task(fail, [1])
        with pytest.raises(ValueError, match="1"):
            await handle.result()

        assert await backend.dead_letters.list() == []


@pytest.mark.anyio
async def test_in_process_a_requeued_run_is_kept_as_long_as_any_other() -> None:
    async with AnyIOBackend(retention_count=1) as backend:
        failed = await backend.launch_task(fail, [1])
        with pytest.raises(ValueError, match="1"):
            await failed.result()

        again = await backend.dead_letters.requeue(failed.id)
        with pytest.raises(ValueError, match="1"):
            await again.result()

        assert (await backend.get_task(failed.id)).id == failed.id
        assert await backend.dead_letters.count() == 1


@pytest.mark.anyio
async def test_an_error_that_cannot_be_shown_is_kept_all_the_same() -> None:
    class Mute(Exception):  # noqa: N818 - as somebody might call it
        def __str__(self) -> str:
            raise KeyError("lost")

    async def say() -> None:
        raise Mute

    async with AnyIOBackend() as backend:
        handle = await backend.launch_task(say)
        with pytest.raises(Mute):
            await handle.result()

        [kept] = await backend.dead_letters.list()
        assert kept.error_message == "its message cannot be shown: KeyError"
