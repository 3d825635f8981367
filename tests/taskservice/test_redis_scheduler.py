"""Celery's beat with a memory in Redis: ticks by hand, and real processes that are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from celery.schedules import BaseSchedule, crontab
from redis import Redis

from taskservice import ConfigurationError, ScheduleError, Settings, create_app
from taskservice.worker.app_schedule import settle_schedule
from taskservice.worker.beat import run_beat
from taskservice.worker.beat_store import Remembered
from taskservice.worker.scheduler import RedisScheduler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.taskservice.conftest import RedisProcess

SECONDS = 20
LEASE = 1.0
ENTRIES, LOCK = "taskservice:beat:entries", "taskservice:beat:lock"
HOURLY = {"hourly": {"task": "beat.hourly", "schedule": "PT1H", "args": [7], "queue": "slow"}}


@pytest.fixture
def redis(redis_process: RedisProcess) -> Iterator[Redis]:
    """A client of this test's own Redis."""
    with Redis.from_url(redis_process.url, decode_responses=True) as client:
        yield client


def scheduler_of(url: str, schedule: dict[str, Any], **given: Any) -> RedisScheduler:
    settings = Settings(redis_url=url, beat_schedule=schedule, **given)
    return RedisScheduler(create_app(settings), settings=settings)


def remember(redis: Redis, name: str, last: datetime, runs: int = 3) -> None:
    redis.hset(ENTRIES, name, Remembered(last=last, runs=runs).to_json())


def remembered(redis: Redis, name: str) -> Remembered:
    return Remembered.from_json(str(redis.hget(ENTRIES, name)))


def sent(redis: Redis, queue: str = "celery") -> list[dict[str, Any]]:
    """Return the headers of all messages, the oldest first."""
    found: Any = redis.lrange(queue, 0, -1)
    return [json.loads(message)["headers"] for message in reversed(found)]


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def until_longer(redis: Redis, length: int, what: str) -> None:
    until(lambda: redis.llen("celery") > length, what)


def test_what_fell_due_while_nobody_sent_is_sent_once(redis_process: RedisProcess, redis: Redis) -> None:
    last = datetime.now(tz=UTC) - timedelta(hours=5, minutes=30)
    remember(redis, "hourly", last)
    scheduler = scheduler_of(redis_process.url, HOURLY)

    waits = [scheduler.tick(), scheduler.tick(), scheduler.tick()]

    (message,) = sent(redis, "slow")
    assert (message["task"], message["argsrepr"]) == ("beat.hourly", "[7]")
    assert waits[0] == 0
    assert min(waits[1:]) > 0
    assert remembered(redis, "hourly") == Remembered(last=last + timedelta(hours=5), runs=4)
    scheduler.close()


def test_a_new_entry_begins_to_wait_when_it_is_first_seen(redis_process: RedisProcess, redis: Redis) -> None:
    before = datetime.now(tz=UTC)
    first = scheduler_of(redis_process.url, HOURLY)
    first.tick()
    first.close()
    seen = remembered(redis, "hourly")

    second = scheduler_of(redis_process.url, HOURLY)
    second.tick()

    assert before <= seen.last <= datetime.now(tz=UTC)
    assert remembered(redis, "hourly") == seen
    assert sent(redis, "slow") == []
    second.close()


def test_a_changed_schedule_counts_from_the_last_run(redis_process: RedisProcess, redis: Redis) -> None:
    remember(redis, "hourly", datetime.now(tz=UTC) - timedelta(minutes=10))
    changed = {"hourly": {**HOURLY["hourly"], "schedule": 300}}
    scheduler = scheduler_of(redis_process.url, changed)

    scheduler.tick()
    scheduler.tick()

    assert len(sent(redis, "slow")) == 1
    scheduler.close()


def test_an_entry_that_is_gone_is_forgotten(redis_process: RedisProcess, redis: Redis) -> None:
    remember(redis, "gone", datetime.now(tz=UTC))
    redis.hset(ENTRIES, "hourly", "rubbish")
    scheduler = scheduler_of(redis_process.url, HOURLY)

    scheduler.tick()

    assert redis.hkeys(ENTRIES) == ["hourly"]
    assert remembered(redis, "hourly").runs == 0
    scheduler.close()


def test_one_leads_and_the_other_takes_over_when_it_stops(redis_process: RedisProcess, redis: Redis) -> None:
    remember(redis, "hourly", datetime.now(tz=UTC) - timedelta(hours=2))
    first = scheduler_of(redis_process.url, {})
    second = scheduler_of(redis_process.url, HOURLY)

    first.tick()
    standing_by = second.tick()
    redis_has = sent(redis, "slow")
    first.close()
    remember(redis, "hourly", datetime.now(tz=UTC) - timedelta(hours=2))
    second.tick()

    assert standing_by > 0
    assert redis_has == []
    assert len(sent(redis, "slow")) == 1
    second.close()
    assert not redis.exists(LOCK)


def test_who_has_lost_the_lock_changes_nothing(redis_process: RedisProcess, redis: Redis) -> None:
    remember(redis, "hourly", datetime.now(tz=UTC) - timedelta(hours=2))
    scheduler = scheduler_of(redis_process.url, HOURLY)
    later = Remembered(last=datetime.now(tz=UTC), runs=99)

    def robbed(*_: object, **__: object) -> None:
        redis.set(LOCK, "somebody else")
        redis.hset(ENTRIES, "hourly", later.to_json())

    scheduler.apply_async = robbed  # type: ignore[method-assign]
    scheduler.tick()
    scheduler.tick()
    scheduler.close()

    assert remembered(redis, "hourly") == later
    assert redis.get(LOCK) == "somebody else"


def test_nothing_is_remembered_before_it_was_sent(redis_process: RedisProcess, redis: Redis) -> None:
    remember(redis, "hourly", datetime.now(tz=UTC) - timedelta(hours=2))
    before = remembered(redis, "hourly")
    scheduler = scheduler_of(redis_process.url, HOURLY)

    def killed(*_: object, **__: object) -> None:
        raise SystemExit

    scheduler.apply_async = killed  # type: ignore[method-assign]
    with pytest.raises(SystemExit):
        scheduler.tick()
    scheduler.close()

    assert remembered(redis, "hourly") == before


def test_a_stop_waits_until_what_is_being_sent_is_remembered(
    redis_process: RedisProcess, redis: Redis
) -> None:
    remember(redis, "hourly", datetime.now(tz=UTC) - timedelta(hours=2))
    scheduler = scheduler_of(redis_process.url, HOURLY)
    stops = [scheduler.defer_stop()]

    def stopped(*_: object, **__: object) -> None:
        stops.extend([scheduler.defer_stop(), scheduler.defer_stop()])

    scheduler.apply_async = stopped  # type: ignore[method-assign]
    with pytest.raises(SystemExit):
        scheduler.tick()
    scheduler.close()

    assert stops == [False, True, False]
    assert remembered(redis, "hourly").runs == 4


def test_the_lock_expires_by_itself(redis_process: RedisProcess, redis: Redis) -> None:
    scheduler = scheduler_of(redis_process.url, {}, beat_lease=timedelta(seconds=30))

    scheduler.tick()

    assert 0 < int(redis.pttl(LOCK)) <= 30_000
    scheduler.close()


def test_a_broker_that_is_away_loses_nothing(
    redis_process: RedisProcess, redis: Redis, closed_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    remember(redis, "hourly", datetime.now(tz=UTC) - timedelta(hours=2))
    before = remembered(redis, "hourly")
    scheduler = scheduler_of(redis_process.url, HOURLY, broker_url=f"redis://127.0.0.1:{closed_port}/0")

    waits = [scheduler.tick(), scheduler.tick()]

    assert min(waits) > 0
    assert remembered(redis, "hourly") == before
    assert [record.message for record in caplog.records if "waits for the broker" in record.message]
    scheduler.close()


def test_a_redis_that_goes_away_loses_nothing(
    redis_process: RedisProcess, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler = scheduler_of(redis_process.url, {"a": {"task": "a", "schedule": 3600}})
    scheduler.tick()

    redis_process.stop()
    waits = [scheduler.tick(), scheduler.tick()]
    redis_process.start()
    remember(redis, "a", datetime.now(tz=UTC) - timedelta(hours=2))
    until(lambda: scheduler.tick() > 0, "it did not go on")

    assert min(waits) > 0
    assert len([record for record in caplog.records if "waits for Redis" in record.message]) == 1
    assert redis.exists(LOCK)
    scheduler.close()


def test_a_run_that_is_sent_again_is_the_same_run(redis_process: RedisProcess, redis: Redis) -> None:
    last = datetime.now(tz=UTC) - timedelta(hours=2)
    for _ in range(2):
        remember(redis, "hourly", last)
        scheduler = scheduler_of(redis_process.url, HOURLY)
        scheduler.tick()
        scheduler.close()

    first, second = sent(redis, "slow")

    assert first["id"] == second["id"]


class Whenever(BaseSchedule):
    """Somebody's own kind of schedule, which knows only the present."""

    def is_due(self, last_run_at: datetime) -> Any:
        return datetime.now(tz=UTC) - last_run_at > timedelta(minutes=30), 600.0

    def __reduce__(self) -> Any:
        return Whenever, ()


def own_app(url: str, **schedules: Any) -> Celery:
    app = Celery("somebodys", broker=url, backend=url, set_as_current=False)
    app.conf.beat_schedule = {
        name: {"task": name, "schedule": value, "options": {"queue": "own"}}
        for name, value in schedules.items()
    }
    return app


def test_an_app_of_ones_own_keeps_its_schedules(redis_process: RedisProcess, redis: Redis) -> None:
    app = own_app(
        redis_process.url, delta=timedelta(hours=1), cron=crontab(), text="* * * * *", own=Whenever()
    )
    settings = Settings()
    settle_schedule(app, settings)
    for name in ("delta", "cron", "text", "own"):
        remember(redis, name, datetime.now(tz=UTC) - timedelta(hours=2))
    scheduler = RedisScheduler(app, settings=settings)

    for _ in range(6):
        scheduler.tick()

    assert {message["task"] for message in sent(redis, "own")} >= {"delta", "cron", "text", "own"}
    assert len(sent(redis, "own")) <= 6  # a minute may have turned meanwhile
    scheduler.close()


def test_entries_of_the_settings_join_those_of_the_app(redis_process: RedisProcess) -> None:
    app = own_app(redis_process.url, own=5, both=5, off=5)

    @app.task(name="known", shared=False)
    def known() -> None: ...

    entry = {"task": "known", "schedule": 60}

    settle_schedule(
        app, Settings(beat_schedule={"ours": entry, "both": entry, "off": {**entry, "enabled": False}})
    )

    found = app.conf.beat_schedule
    assert {name: fields["task"] for name, fields in found.items()} == {
        "own": "own",
        "ours": "known",
        "both": "known",
    }


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"task": "a"}, "entry 'bad', schedule: .* got None"),
        ({"schedule": 5}, "entry 'bad', task: .*missing"),
        ({"task": "a", "schedule": "* *"}, "five fields"),
        ({"task": "a", "schedule": 5, "argz": ()}, "argz"),
        ({"task": "a", "schedule": 0}, "need 0.001 s"),
        ({"task": "a", "schedule": object()}, "entry 'bad'"),
    ],
)
def test_a_mistake_in_an_apps_own_schedule_is_told(schedule: dict[str, Any], message: str) -> None:
    app = Celery("somebodys", set_as_current=False)
    app.conf.beat_schedule = {"bad": schedule}

    with pytest.raises(ScheduleError, match=message):
        settle_schedule(app, Settings())


def test_an_apps_unknown_time_zone_is_told() -> None:
    app = Celery("somebodys", set_as_current=False)
    app.conf.update(timezone="Mars/Olympus")

    with pytest.raises(ConfigurationError, match="Mars/Olympus"):
        settle_schedule(app, Settings())


def test_a_redis_that_refuses_is_told_at_start(redis_process: RedisProcess, redis: Redis) -> None:
    redis.config_set("requirepass", "secret")

    with pytest.raises(ConfigurationError, match="the beat needs a Redis"):
        run_beat(settings=Settings(redis_url=redis_process.url))


def test_an_app_without_a_redis_is_told_at_start() -> None:
    app = Celery("somebodys", broker="amqp://guest@127.0.0.1:1//", set_as_current=False)

    with pytest.raises(ConfigurationError, match="set TASKSERVICE_REDIS_URL, or --schedule FILE"):
        run_beat(app=app, settings=Settings())


class Beats:
    """Real beats over one Redis, ended with the test."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self.environment = environment
        self._folder = folder
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, *argv: str) -> subprocess.Popen[bytes]:
        log = self._folder / f"beat-{len(self._started)}.log"
        command = [sys.executable, "-c", "from taskservice.cli import main; main()", "beat", *argv]
        with log.open("wb") as output:
            beat = subprocess.Popen(
                command, env=self.environment, cwd=self._folder, stdout=output, stderr=output
            )
        self._started.append(beat)
        return beat

    def log(self) -> str:
        return "".join(path.read_text() for path in sorted(self._folder.glob("beat-*.log")))

    def close(self) -> None:
        for beat in self._started:
            beat.kill()
            beat.wait(timeout=SECONDS)


@pytest.fixture
def beats(redis_process: RedisProcess, tmp_path: Path) -> Iterator[Beats]:
    """What starts beats that send ``often`` every 50 milliseconds."""
    source = 'from taskservice import task\n\n@task(name="often")\ndef often(): ...\n'
    (tmp_path / "often_tasks.py").write_text(source, encoding="utf-8")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]),
        "TASKSERVICE_REDIS_URL": redis_process.url,
        "TASKSERVICE_IMPORTS": "often_tasks",
        "TASKSERVICE_BEAT_LEASE": str(LEASE),
        "TASKSERVICE_BEAT_SCHEDULE": json.dumps({"often": {"task": "often", "schedule": 0.05}}),
    }
    found = Beats(environment, tmp_path)
    yield found
    found.close()


def test_a_killed_beat_loses_nothing_and_another_takes_over(beats: Beats, redis: Redis) -> None:
    running = [beats.start(), beats.start()]
    for how in (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM):
        until(lambda: redis.llen("celery") > 5 and redis.exists(LOCK), "no beat sent anything")
        leader = str(redis.get(LOCK)).split(":")[1]
        (beat,) = (found for found in running if str(found.pid) == leader)
        running = [found for found in running if found is not beat]
        beat.send_signal(how)
        code = beat.wait(timeout=SECONDS)
        assert code == (0 if how == signal.SIGTERM else -how)

        at_the_end = redis.llen("celery")
        until_longer(redis, at_the_end, "nobody took over")
        running += [beats.start()]
    for beat in running:
        beat.kill()
        beat.wait(timeout=SECONDS)

    # Each is remembered after it was sent, and sent again under its id if it was not remembered.
    ids = [message["id"] for message in sent(redis)]
    assert len(set(ids)) - remembered(redis, "often").runs in {0, 1}


def test_a_beat_goes_on_after_its_redis_was_away(
    beats: Beats, redis: Redis, redis_process: RedisProcess
) -> None:
    beat = beats.start()
    until(lambda: redis.llen("celery") > 1, "the beat sent nothing")

    redis_process.stop()
    until(lambda: "beat waits for" in beats.log(), "the beat did not notice")
    redis_process.start()

    until(lambda: redis.llen("celery") > 1, "the beat did not go on")
    assert beats.log().count("beat waits for") <= 2
    assert beat.poll() is None


def test_a_beat_waits_for_a_redis_that_comes_later(
    beats: Beats, redis: Redis, redis_process: RedisProcess
) -> None:
    redis_process.stop()
    beats.start()
    until(lambda: "beat waits for Redis" in beats.log(), "the beat did not wait")

    redis_process.start()

    until(lambda: redis.llen("celery") > 1, "the beat sent nothing")


def test_an_app_of_ones_own_sends_a_task_of_ours_to_its_queue(
    beats: Beats, redis: Redis, redis_process: RedisProcess, tmp_path: Path
) -> None:
    source = (
        "from celery import Celery\nfrom taskservice import task\n"
        f"app = Celery('own', broker={redis_process.url!r}, backend={redis_process.url!r})\n"
        "app.conf.beat_schedule = {'a': {'task': 'ours', 'schedule': 0.05}}\n"
        "@task(name='ours', queue='elsewhere')\ndef ours(): ...\n"
    )
    (tmp_path / "own_project.py").write_text(source, encoding="utf-8")
    del beats.environment["TASKSERVICE_BEAT_SCHEDULE"], beats.environment["TASKSERVICE_REDIS_URL"]

    beats.start("--app", "own_project:app")

    until(lambda: redis.llen("elsewhere") > 1, "the beat sent nothing")
    assert redis.hkeys(ENTRIES) == ["a"]


def test_a_file_takes_celerys_own_scheduler(beats: Beats, redis: Redis, tmp_path: Path) -> None:
    beat = beats.start("--schedule", str(tmp_path / "memory"))
    until(lambda: redis.llen("celery") > 1, "the beat sent nothing")

    beat.send_signal(signal.SIGTERM)

    assert beat.wait(timeout=SECONDS) == 0
    assert list(tmp_path.glob("memory*"))
    assert not redis.exists(ENTRIES)


def test_the_command_says_what_is_wrong_in_one_line(beats: Beats) -> None:
    beats.environment["TASKSERVICE_BEAT_SCHEDULE"] = json.dumps({"a": {"task": "oftne", "schedule": 1}})

    assert beats.start().wait(timeout=SECONDS) == 2

    assert beats.log().count("\n") == 1
    assert "did you mean 'often'?" in beats.log()
