"""What a real worker makes of runs that come to a bad end: errors, limits, and processes that die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
from redis import Redis

from pytest_taskservice.redis import RedisRequest, acquire
from taskservice import (
    BlockingTaskService,
    CeleryBackend,
    DeadLetter,
    DeadLetterCause,
    DeadLetterNotFoundError,
    RunLostError,
    Settings,
    TaskState,
    read_heartbeats,
)
from taskservice.backends.letters_redis import RedisLetters
from taskservice.backends.probing import connect_redis
from taskservice.backends.storage import Storage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

HERE = Path(__file__).parent
WAIT = 20.0
TASKSERVICE = (sys.executable, "-c", "from taskservice.cli import main; main()")


@contextmanager
def running_worker(
    folder: Path,
    environment: dict[str, str],
    *,
    pool: str = "prefork",
    end: signal.Signals = signal.SIGTERM,
) -> Iterator[Path]:
    log = folder / "worker.log"
    with log.open("wb") as output:
        worker = subprocess.Popen(
            [*TASKSERVICE, "worker", "-A", "dead_letter_tasks", "-P", pool, "-c", "2"],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path]),
                "TASKSERVICE_SHUTDOWN_GRACE": "5",
                **environment,
            },
            stdout=output,
            stderr=output,
        )
    try:
        yield log
    finally:
        worker.send_signal(end)
        try:
            worker.wait(timeout=WAIT)
        finally:
            worker.kill()


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A Redis of this module's own, with a worker on it."""
    server = acquire(RedisRequest())
    settings = Settings(redis_url=server.url)
    with running_worker(tmp_path_factory.mktemp("worker"), {"TASKSERVICE_REDIS_URL": server.url}) as log:
        until(lambda: bool(read_heartbeats(server.url, settings.key_prefix)), f"the worker, see {log}")
        yield settings
    server.close()


@pytest.fixture(scope="module")
def tasks(settings: Settings) -> Iterator[ModuleType]:
    """The worker's tasks; their app is the client's as well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE))
        patch.setenv("TASKSERVICE_REDIS_URL", settings.redis_url)
        yield import_module("dead_letter_tasks")
        del sys.modules["dead_letter_tasks"]


@pytest.fixture
def service(settings: Settings, tasks: ModuleType) -> Iterator[BlockingTaskService]:
    with BlockingTaskService(CeleryBackend(tasks.app, settings=settings)) as service:
        yield service


@contextmanager
def letters_of(settings: Settings) -> Iterator[RedisLetters]:
    storage = Storage(connect_redis(settings.redis_url, 5), settings.key_prefix)
    yield RedisLetters(storage, count=10_000, seconds=604_800)
    storage.close()


def deliver_again(settings: Settings, source: str, target: str) -> None:
    """Move a message as Redis has it once its worker is gone."""
    with Redis.from_url(settings.redis_url) as client:
        message = json.loads(cast("bytes", client.rpop(source)))
        message["headers"]["redelivered"] = True
        message["properties"]["delivery_info"]["redelivered"] = True
        client.lpush(target, json.dumps(message))


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.01)


def running(settings: Settings) -> set[str]:
    beats = read_heartbeats(settings.redis_url, settings.key_prefix)
    return {run.id for beat in beats for run in beat.running}


def letter_of(service: BlockingTaskService, run_id: str) -> DeadLetter:
    deadline = time.monotonic() + WAIT
    while True:
        try:
            return service.dead_letters.get(run_id)
        except DeadLetterNotFoundError:
            assert time.monotonic() < deadline, "no letter"
            time.sleep(0.01)


@pytest.mark.parametrize("name", ["deadly", "deadly_untracked"])
def test_a_run_that_kills_its_workers_is_begun_three_times_and_kept(
    service: BlockingTaskService, tasks: ModuleType, tmp_path: Path, name: str
) -> None:
    diary = tmp_path / "diary"

    run_id, handle = service.launch_task(getattr(tasks, name), str(diary))

    with pytest.raises(RunLostError, match="begun 3 times") as caught:
        handle.result(WAIT)
    assert (caught.value.run_id, caught.value.deliveries) == (run_id, 3)
    letter = letter_of(service, run_id)
    assert letter.cause is DeadLetterCause.WORKER_LOST
    assert (letter.deliveries, letter.attempts) == (3, 1)
    assert letter.error_type == "taskservice.errors.RunLostError"
    assert (letter.args, letter.queue) == ((str(diary),), "celery")
    assert diary.read_text() == "xxx"


def test_a_run_that_survives_a_later_delivery_is_no_dead_letter(
    service: BlockingTaskService, tasks: ModuleType, tmp_path: Path
) -> None:
    run_id, handle = service.launch_task(tasks.deadly_once, str(tmp_path / "diary"))

    assert handle.result(WAIT) == "survived"
    with pytest.raises(DeadLetterNotFoundError):
        service.dead_letters.get(run_id)


@pytest.mark.parametrize("state", [None, "RECEIVED"])
def test_a_delivery_of_a_run_that_had_not_begun_counts_for_nothing(
    service: BlockingTaskService, tasks: ModuleType, settings: Settings, tmp_path: Path, state: str | None
) -> None:
    diary = tmp_path / "diary"
    diary.touch()
    run_id, handle = service.options(queue="unserved").launch_task(tasks.deadly_once, str(diary))
    with letters_of(settings) as letters:
        letters.count_death(run_id)
        letters.count_death(run_id)
    if state is not None:
        tasks.app.backend.store_result(run_id, None, state)

    deliver_again(settings, "unserved", "celery")

    assert handle.result(WAIT) == "survived"


def test_a_worker_that_is_stopped_on_purpose_counts_for_nothing(
    service: BlockingTaskService, tasks: ModuleType, settings: Settings, tmp_path: Path
) -> None:
    environment = {
        "TASKSERVICE_REDIS_URL": settings.redis_url,
        "TASKSERVICE_DEFAULT_QUEUE": "stopped",
        "TASKSERVICE_HEARTBEAT_INTERVAL": "0.05",
    }
    started = [tmp_path / "tracked", tmp_path / "untracked"]
    launcher = service.options(queue="stopped")
    runs = [
        launcher.launch_task(task, str(path))
        for task, path in zip((tasks.linger, tasks.linger_untracked), started, strict=True)
    ]
    with letters_of(settings) as letters:
        for run_id, _ in runs:
            letters.count_death(run_id, 2)

    with running_worker(tmp_path, environment, end=signal.SIGQUIT):
        until(lambda: all(path.exists() for path in started), "the runs to begin")
        # The pool's word that they have begun comes to the worker a moment later.
        until(lambda: {run_id for run_id, _ in runs} <= running(settings), "the worker to know")

    assert runs[0][1].status() is TaskState.PENDING
    for path in started:
        path.with_name(path.name + ".gate").touch()
    with running_worker(tmp_path, environment):
        assert [handle.result(WAIT) for _, handle in runs] == ["done", "done"]


def test_requeued_it_may_kill_as_many_again(
    service: BlockingTaskService, tasks: ModuleType, tmp_path: Path
) -> None:
    diary = tmp_path / "diary"
    run_id, _ = service.launch_task(tasks.deadly, str(diary))
    first = letter_of(service, run_id)

    handle = service.dead_letters.requeue(run_id)

    with pytest.raises(RunLostError):
        handle.result(WAIT)
    assert letter_of(service, run_id).at > first.at
    assert diary.read_text() == "xxxxxx"


def test_giving_a_run_up_calls_its_errback(
    service: BlockingTaskService, tasks: ModuleType, tmp_path: Path
) -> None:
    told = tmp_path / "told"

    tasks.deadly.apply_async((str(tmp_path / "diary"),), link_error=tasks.note_error.s(str(told)))

    until(lambda: told.exists() and bool(told.read_text()), "the errback")
    assert told.read_text() == "RunLostError"


def test_a_lost_worker_that_had_acknowledged_early_leaves_one_at_once(
    service: BlockingTaskService, tasks: ModuleType, tmp_path: Path
) -> None:
    diary = tmp_path / "diary"

    run_id, _ = service.launch_task(tasks.deadly_early, str(diary))

    letter = letter_of(service, run_id)
    assert (letter.cause, letter.deliveries) == (DeadLetterCause.WORKER_LOST, 1)
    assert letter.queue == "celery"
    assert diary.read_text() == "x"


def test_a_killed_run_leaves_one_that_knows_its_queue(
    service: BlockingTaskService, tasks: ModuleType
) -> None:
    run_id, _ = service.launch_task(tasks.stuck, "clock")

    letter = letter_of(service, run_id)

    assert letter.cause is DeadLetterCause.TIME_LIMIT
    assert (letter.args, letter.queue) == (("clock",), "celery")
    assert letter.worker is not None


@pytest.mark.parametrize(
    ("error", "told"), [("boom", "ValueError"), ("", "celery.exceptions.MaxRetriesExceededError")]
)
def test_used_up_retries_of_a_celery_task_are_told(
    service: BlockingTaskService, tasks: ModuleType, error: str, told: str
) -> None:
    run_id, _ = service.launch_task(tasks.persistent, error)

    letter = letter_of(service, run_id)

    assert (letter.cause, letter.attempts, letter.error_type) == (DeadLetterCause.ATTEMPTS, 3, told)
    assert letter.args == (error,)


def test_an_error_between_two_retries_is_told_from_used_up_ones(
    service: BlockingTaskService, tasks: ModuleType
) -> None:
    run_id, _ = service.launch_task(tasks.changeable)

    letter = letter_of(service, run_id)

    assert (letter.cause, letter.attempts, letter.error_type) == (DeadLetterCause.ERROR, 2, "KeyError")


def test_calls_whose_message_died_with_its_worker_leave_one_each(
    service: BlockingTaskService, tasks: ModuleType, tmp_path: Path
) -> None:
    calls = [(number, str(tmp_path / "diary")) for number in (2, 4, 6)]

    handles = service.launch_many(tasks.halve_or_die, calls, per_message=3)

    letters = [letter_of(service, handle.id) for handle in handles]
    assert [letter.args[0] for letter in letters] == [2, 4, 6]
    assert {letter.cause for letter in letters} == {DeadLetterCause.WORKER_LOST}
    assert {letter.task for letter in letters} == {"dead_letter_tasks.halve_or_die"}
    assert service.dead_letters.requeue(handles[1].id).result(WAIT) == 2


def test_a_letter_goes_back_to_the_queue_it_came_from(
    service: BlockingTaskService, tasks: ModuleType, settings: Settings
) -> None:
    # Nobody serves this queue, so what is requeued stays to be seen.
    letter = DeadLetter(
        id="00000000-0000-4000-8000-000000000001",
        task="nobody.knows.this",
        args=(1,),
        kwargs={},
        cause=DeadLetterCause.ERROR,
        error_type="ValueError",
        error_message="",
        at=time.time(),
        queue="unserved",
        priority=3,
    )
    with letters_of(settings) as letters:
        letters.add(letter)

    service.dead_letters.requeue(letter.id)

    with tasks.app.connection_for_read() as connection:
        message = connection.default_channel.basic_get("unserved", no_ack=True)
    assert message.headers["id"] == letter.id
    assert message.properties["priority"] == 3
    assert message.decode()[0] == [1]


def test_a_letter_store_that_hangs_makes_no_run_fail(
    settings: Settings, tasks: ModuleType, silent_port: int, tmp_path: Path
) -> None:
    environment = {
        "TASKSERVICE_REDIS_URL": f"redis://127.0.0.1:{silent_port}/0",
        "TASKSERVICE_BROKER_URL": settings.redis_url,
        "TASKSERVICE_RESULT_BACKEND": settings.redis_url,
        "TASKSERVICE_DEFAULT_QUEUE": "lonely",
    }
    with (
        running_worker(tmp_path, environment, pool="solo") as log,
        BlockingTaskService(CeleryBackend(tasks.app, settings=settings)) as service,
    ):
        launcher = service.options(queue="lonely")
        run_id, failed = launcher.launch_task(tasks.changeable)
        _, noted = launcher.launch_task(tasks.note, str(tmp_path / "noted"))

        with pytest.raises(KeyError):
            failed.result(WAIT)
        assert noted.result(WAIT) is None

    assert f"run {run_id} left no dead letter, Redis is away" in log.read_text()
    assert (tmp_path / "noted").exists()
