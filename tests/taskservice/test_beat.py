"""The beat in process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from celery import Celery

from taskservice import (
    AnyIOBackend,
    BackendUnavailableError,
    ConfigurationError,
    RunEvent,
    RunEventKind,
    ScheduleEntry,
    ScheduleError,
    Settings,
    TaskService,
    parse_schedule,
    task,
)
from taskservice.beat import run_schedule
from taskservice.worker.beat import run_beat

if TYPE_CHECKING:
    from pathlib import Path

START = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
SECONDS = 20
pytestmark = pytest.mark.anyio
ran: list[object] = []


@task(name="beat.note")
async def note(value: object, *, times: int = 1) -> None:
    ran.extend([value] * times)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Stopped(Exception):  # noqa: N818 - no error, the end of the story
    pass


class Clock:
    """A clock that sleeping moves, and that ends the story."""

    def __init__(self, *, stop: float) -> None:
        self.now = START
        self._stop = START + timedelta(seconds=stop)
        self.sleeps: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += timedelta(seconds=seconds)
        if self.now > self._stop:
            raise Stopped


class Finished:
    """Hears of runs, and says when enough of them have ended."""

    def __init__(self, wanted: int) -> None:
        self.event = anyio.Event()
        self._wanted = wanted

    def __call__(self, heard: RunEvent) -> None:
        self._wanted -= heard.kind is RunEventKind.SUCCEEDED
        if self._wanted == 0:
            self.event.set()


def entries(**schedules: Any) -> tuple[ScheduleEntry, ...]:
    given = {name: {"task": "t", "schedule": value} for name, value in schedules.items()}
    return parse_schedule(given, zone="UTC")


async def play(clock: Clock, launch: Any, given: tuple[ScheduleEntry, ...]) -> None:
    with pytest.raises(Stopped):
        await run_schedule(given, launch, clock=lambda: clock.now, sleep=clock.sleep)


async def test_everything_is_launched_precisely_when_it_is_due() -> None:
    clock, found = Clock(stop=65), []

    async def launch(entry: ScheduleEntry) -> None:
        found.append((entry.name, (clock.now - START).total_seconds()))

    await play(clock, launch, entries(often=25, minutely="* * * * *"))

    assert found == [("often", 25), ("often", 50), ("minutely", 60)]
    assert max(clock.sleeps) <= 5


async def test_a_launch_that_takes_long_makes_nothing_drift_and_no_storm() -> None:
    clock, found = Clock(stop=60), []

    async def launch(_: ScheduleEntry) -> None:
        found.append((clock.now - START).total_seconds())
        if len(found) == 1:
            clock.now += timedelta(seconds=25)

    await play(clock, launch, entries(often=10))

    assert found == [10, 35, 40, 50, 60]


async def test_a_back_end_that_is_away_loses_nothing(caplog: pytest.LogCaptureFixture) -> None:
    clock, found = Clock(stop=30), []

    async def launch(entry: ScheduleEntry) -> None:
        if (clock.now - START).total_seconds() < 15:
            raise BackendUnavailableError("celery", "gone")
        found.append((entry.name, (clock.now - START).total_seconds()))

    await play(clock, launch, entries(once=10, late=12))

    assert found == [("once", 15), ("late", 15), ("once", 20), ("late", 24), ("once", 30)]
    assert len([record for record in caplog.records if "waits" in record.message]) == 1


async def test_an_entry_that_cannot_be_launched_does_not_stop_the_others() -> None:
    clock, found = Clock(stop=20), []

    async def launch(entry: ScheduleEntry) -> None:
        if entry.name == "bad":
            raise ValueError("bad")
        found.append(entry.name)

    await play(clock, launch, entries(bad=10, good=10))

    assert found == ["good", "good"]


async def test_a_service_launches_by_name_until_it_is_cancelled() -> None:
    ran.clear()
    entry = {"task": "beat.note", "schedule": 0.02, "args": ["a"], "kwargs": {"times": 2}, "expires": 60}
    settings = Settings(backend="anyio", beat_schedule={"a": entry})

    finished = Finished(2)

    async with (
        TaskService.from_settings(settings, listener=finished) as service,
        anyio.create_task_group() as group,
    ):
        group.start_soon(service.run_beat)
        with anyio.fail_after(SECONDS):
            await finished.event.wait()
        group.cancel_scope.cancel()

    assert ran[:4] == ["a"] * 4


async def test_a_celery_task_of_the_app_is_launched_in_process() -> None:
    ran.clear()
    app = Celery("beat-app", set_as_current=False)

    @app.task(name="beat.celery", shared=False)
    def celery_note(value: str) -> None:
        ran.append(value)

    schedule = {"a": {"task": "beat.celery", "schedule": 0.02, "args": ["c"]}}
    settings = Settings(backend="anyio", beat_schedule=schedule)

    finished = Finished(1)

    async with (
        TaskService.from_settings(settings, app, listener=finished) as service,
        anyio.create_task_group() as group,
    ):
        group.start_soon(service.run_beat)
        with anyio.fail_after(SECONDS):
            await finished.event.wait()
        group.cancel_scope.cancel()

    assert ran[0] == "c"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"task": "beat.nota"}, "task: .*did you mean 'beat.note'?"),
        ({"args": [1, 2, 3]}, "args: beat.note does not take them: too many positional"),
        ({"args": []}, "args: beat.note does not take them: missing a required argument: 'value'"),
        ({"schedule": "nonsense"}, "five fields"),
    ],
)
async def test_a_mistake_is_told_before_anything_is_launched(fields: dict[str, Any], message: str) -> None:
    ran.clear()
    good = {"task": "beat.note", "schedule": 0.001, "args": [1]}

    async with TaskService(AnyIOBackend()) as service:
        with pytest.raises(ScheduleError, match=message):
            await service.run_beat({"good": good, "bad": {**good, **fields}})

    assert ran == []


async def test_a_service_does_not_open_with_a_wrong_schedule() -> None:
    settings = Settings(backend="anyio", beat_schedule={"a": {"task": "beat.note", "schedule": -1}})

    with pytest.raises(ScheduleError, match="entry 'a', schedule"):
        async with TaskService.from_settings(settings):
            pass


async def test_a_service_without_settings_wants_a_schedule() -> None:
    async with TaskService(AnyIOBackend()) as service:
        with pytest.raises(ConfigurationError, match="hand run_beat"):
            await service.run_beat()


async def test_a_module_that_is_missing_is_told() -> None:
    settings = Settings(backend="anyio", imports=("no_such_tasks",))

    async with TaskService.from_settings(settings) as service:
        with pytest.raises(ConfigurationError, match="put 'no_such_tasks' on the import path"):
            await service.run_beat()


async def test_an_unknown_time_zone_is_told() -> None:
    async with TaskService(AnyIOBackend()) as service:
        with pytest.raises(ConfigurationError, match="unknown time zone 'Mars/Olympus'"):
            await service.run_beat({}, timezone="Mars/Olympus")


def test_an_apps_own_schedule_is_not_left_out_silently() -> None:
    app = Celery("own", set_as_current=False)
    app.conf.beat_schedule = {"hourly": {"task": "t", "schedule": 3600}}

    with pytest.raises(ConfigurationError, match="write there what the app has: hourly"):
        run_beat(app=app, settings=Settings(backend="anyio"))


TASKS = """
import anyio
from taskservice import task

@task(name="slow")
async def slow(diary):
    print("begun", flush=True)
    await anyio.sleep(0.5)
    print("ended", flush=True)
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "beat_tasks.py").write_text(TASKS, encoding="utf-8")
    schedule = {"a": {"task": "slow", "schedule": 0.05, "args": ["x"]}}
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]),
        "TASKSERVICE_BACKEND": "anyio",
        "TASKSERVICE_IMPORTS": "beat_tasks",
        "TASKSERVICE_BEAT_SCHEDULE": json.dumps(schedule),
    }


COMMAND = (sys.executable, "-c", "from taskservice.cli import main; main()", "beat")


def test_the_command_lets_running_runs_end(environment: dict[str, str]) -> None:
    with subprocess.Popen(COMMAND, env=environment, stdout=subprocess.PIPE, text=True) as beat:
        assert beat.stdout is not None
        assert beat.stdout.readline() == "begun\n"
        beat.send_signal(signal.SIGTERM)
        rest, _ = beat.communicate(timeout=SECONDS)

    assert beat.returncode == 0
    assert rest.count("begun") + 1 == rest.count("ended")


@pytest.mark.parametrize(
    ("schedule", "argv", "message"),
    [
        ({"a": {"task": "slwo", "schedule": 1}}, (), "did you mean 'slow'?"),
        ({"a": {"task": "slow", "schedule": "* *"}}, (), "five fields"),
        ({}, ("--schedule", "file"), "leave out --schedule file"),
    ],
)
def test_the_command_says_what_is_wrong_in_one_line(
    environment: dict[str, str], schedule: dict[str, Any], argv: tuple[str, ...], message: str
) -> None:
    environment["TASKSERVICE_BEAT_SCHEDULE"] = json.dumps(schedule)

    done = subprocess.run(
        [*COMMAND, *argv], env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )

    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("taskservice: ")
    assert message in last
    assert "Traceback" not in done.stderr
