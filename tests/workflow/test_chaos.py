"""Workers killed and paused at random instants: every run ends right, what was journaled happened once."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from contextlib import suppress
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from pytest_taskservice.redis import RedisRequest, acquire
from taskservice import CeleryBackend, Settings, TaskService, create_app, read_heartbeats
from taskservice.workflow import WorkflowEngine, WorkflowStatus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from taskservice.workflow import WorkflowRun

pytestmark = pytest.mark.anyio

HERE = Path(__file__).parent
RUNS = 50
KILLS = int(os.environ.get("TASKSERVICE_CHAOS_KILLS", "200"))
# Another one each time, but for CI, where a failure should be somebody's change.
SEED = int(os.environ.get("TASKSERVICE_CHAOS_SEED", "1" if os.environ.get("CI") else "0"))
SEED = SEED or random.SystemRandom().randrange(1, 2**32)
WORKERS = 4
AT_ONCE = 20
GAP = 0.03
PAUSE = 1.5
"""Longer than the lease of the runs."""
WAIT = 100.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def settings() -> Iterator[Settings]:
    if str(HERE) not in sys.path:
        sys.path.insert(0, str(HERE))
    import_module("chaos_flows")
    server = acquire(RedisRequest(choice="server"))
    yield Settings(redis_url=server.url, imports=("chaos_flows",), visibility_timeout=timedelta(seconds=1))
    server.close()


class Herd:
    """A few workers with two slots each; a new one for each that is killed."""

    def __init__(self, settings: Settings, log: Path) -> None:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path]),
            "TASKSERVICE_REDIS_URL": settings.redis_url,
            "TASKSERVICE_IMPORTS": "chaos_flows",
            "TASKSERVICE_VISIBILITY_TIMEOUT": "1",
            "TASKSERVICE_WORKFLOW_SWEEP_INTERVAL": "0.1",
        }
        with log.open("ab") as output:
            self._nursery = subprocess.Popen(
                [sys.executable, str(HERE / "nursery.py")],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
            )
        self._settings = settings
        self.groups = [self._start() for _ in range(WORKERS)]

    def ready(self) -> list[int]:
        """Return the workers that are at work, having replaced those that died of what they lost."""
        for group in tuple(self.groups):
            if not Path(f"/proc/{group}").exists():
                self.groups[self.groups.index(group)] = self._start()
        beats = read_heartbeats(self._settings.redis_url, self._settings.key_prefix)
        pids = {beat.pid for beat in beats}
        return [group for group in self.groups if group in pids]

    def _start(self) -> int:
        assert self._nursery.stdin is not None
        assert self._nursery.stdout is not None
        self._nursery.stdin.write(b".")
        self._nursery.stdin.flush()
        return int(self._nursery.stdout.readline())

    def kill(self, group: int) -> None:
        """Kill a worker with all that it started."""
        os.killpg(group, signal.SIGKILL)
        self.groups[self.groups.index(group)] = self._start()

    def pool(self, group: int) -> list[int]:
        """Return the pool processes of a worker."""
        with suppress(OSError):
            return [int(pid) for pid in Path(f"/proc/{group}/task/{group}/children").read_text().split()]
        return []

    def close(self) -> None:
        self._nursery.communicate()
        for group in self.groups:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)


class Chaos(threading.Thread):
    """Kills and pauses what a herd consists of, at random instants."""

    def __init__(self, herd: Herd, kills: int) -> None:
        super().__init__(name="chaos", daemon=True)
        self._herd = herd
        self._wanted = kills
        self._random = random.Random(SEED)
        self._paused: list[tuple[float, int]] = []
        self.ended = threading.Event()
        self.busy: list[int] = []
        """The processes that had a run a moment ago."""
        self.kills: Counter[str] = Counter()
        self.paused: set[int] = set()
        """The processes that were paused for longer than a lease."""

    def run(self) -> None:
        while self.kills.total() < self._wanted and not self.ended.is_set():
            self.ended.wait(self._random.uniform(0, 2 * GAP))
            with suppress(ProcessLookupError):
                self._strike()
            self._wake(time.monotonic())
        self._wake(float("inf"))

    def _strike(self) -> None:
        ready = self._herd.ready()
        group = self._random.choice(ready or [0])
        pool = self._herd.pool(group)
        if not pool:
            return

        way = self._random.random()
        busy = [pid for pid in self.busy if Path(f"/proc/{pid}").exists()]
        victim = self._random.choice(busy if busy and self._random.random() < 0.8 else pool)
        if way < 0.1:
            self._pause(victim)
        elif way < 0.22:
            self._herd.kill(group)
            self.kills["worker"] += 1
        else:
            os.kill(victim, signal.SIGKILL)
            self.kills["pool process"] += 1

    def _pause(self, pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)
        self.paused.add(pid)
        self._paused.append((time.monotonic() + PAUSE, pid))

    def _wake(self, now: float) -> None:
        for until, pid in tuple(self._paused):
            if until <= now:
                self._paused.remove((until, pid))
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)


async def test_runs_outlive_workers_that_are_killed_at_random(settings: Settings, tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    herd = Herd(settings, tmp_path / "log")
    chaos = Chaos(herd, KILLS)
    started = time.monotonic()
    try:
        backend = CeleryBackend(create_app(settings), settings=settings)
        async with TaskService(backend) as service, WorkflowEngine(service, settings=settings) as engine:
            chaos.start()
            with anyio.fail_after(WAIT):
                runs = await drive(engine, chaos, str(diary))
            chaos.ended.set()
            journals = {run.id: engine.store.journal(run.id) for run in runs}
            events = {run.id: engine.store.events(run.id).events for run in runs}
    finally:
        chaos.ended.set()
        chaos.join()
        herd.close()

    begun = 0
    effects: defaultdict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for line in diary.read_text(encoding="utf-8").splitlines():
        found = json.loads(line)
        if "begun" in found:
            begun += 1
            continue
        effects[found["run"], found["index"]].append(found)
    repeated = [each for each in effects.values() if len(each) > 1]
    print(
        f"seed {SEED}: {dict(chaos.kills)} killed, {len(chaos.paused)} paused in "
        f"{time.monotonic() - started:.1f} s; {len(effects)} steps begun {begun} times, "
        f"{len(repeated)} of them cut short between effect and journal"
    )
    for run in runs:
        assert run.status is WorkflowStatus.SUCCESS, (SEED, run)
        values = [entry.value for entry in journals[run.id] if entry.kind == "step"]
        assert run.result == [run.args[1], True, *values], SEED
        assert [each.id for each in events[run.id]] == list(range(1, len(events[run.id]) + 1)), SEED
        assert Counter(each.kind for each in events[run.id])["half"] == 1, SEED
        for entry in journals[run.id]:
            if entry.kind == "step":
                done = effects[run.id, entry.index]
                assert entry.value in [each["effect"] for each in done], (SEED, entry, done)
                assert len({each["key"] for each in done}) == 1, (SEED, done)
    late = [each for done in effects.values() for each in done if each["finished"]]
    assert not [each for each in late if each["pid"] not in chaos.paused], (SEED, late)
    print(f"late: {len(late)}")
    assert chaos.kills.total() == KILLS


async def drive(engine: WorkflowEngine, chaos: Chaos, diary: str) -> list[WorkflowRun]:
    """Start all runs, a few at once and no faster than what is killed; answer what they ask."""
    ended: list[WorkflowRun] = []
    waiting: dict[str, int] = {}
    for number in range(RUNS):
        while len(waiting) >= AT_ONCE or chaos.kills.total() < KILLS * (number - AT_ONCE) // RUNS:
            await look(engine, chaos, waiting, ended)
        name = "chaos.order_async" if number % 2 else "chaos.order"
        waiting[(await engine.start(name, diary, number)).id] = number
    while waiting:
        await look(engine, chaos, waiting, ended)
    return ended


async def look(
    engine: WorkflowEngine, chaos: Chaos, waiting: dict[str, int], ended: list[WorkflowRun]
) -> None:
    runs = [await engine.load(run_id) for run_id in waiting]
    # The lease says who: "host:pid:thread".
    chaos.busy = [int(run.lease.worker.split(":")[1]) for run in runs if run.status is WorkflowStatus.RUNNING]
    for run in runs:
        run_id = run.id
        if run.status.final:
            ended.append(run)
            del waiting[run_id]
        elif run.question is not None and chaos.kills.total() >= KILLS * (waiting[run_id] + 1) // RUNS:
            await engine.answer(run_id, run.question.id, {"approved": True})
    await anyio.sleep(0.02)
