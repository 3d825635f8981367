"""What stays after ``kill -9`` of a test run: nothing registered, everything else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis

from pytest_taskservice.redis import RedisRequest, acquire
from taskservice.reaper import Reaper, process_identity, shared_reaper
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# A run that registers one of each, releases a second of each, and then waits to be killed.
PROGRAM = """
import json, os, subprocess, sys, time
from taskservice.reaper import shared_reaper

url, base, forked = sys.argv[1], sys.argv[2], sys.argv[3] == "forked"
reaper = shared_reaper()
groups = []
for name in ("left", "released"):
    group = subprocess.Popen(["sleep", "600"], start_new_session=True, stdout=subprocess.DEVNULL)
    os.makedirs(f"{base}/{name}/deep")
    open(f"{base}/{name}.file", "w").close()
    releases = [
        reaper.watch_group(group.pid),
        reaper.watch_path(f"{base}/{name}"),
        reaper.watch_path(f"{base}/{name}.file"),
        reaper.watch_keys(url, f"{name}:"),
    ]
    groups.append(group.pid)
for release in releases:
    release()
child = 0
if forked and (child := os.fork()) == 0:
    os.close(1)
    time.sleep(600)
print(json.dumps({"groups": groups, "helper": reaper._helper.pid, "child": child}), flush=True)
time.sleep(600)
"""


# Runs that are killed in the instant between making a thing and saying so, as nearly as can be.
DIES_EARLY = {
    "a program": """
import os, signal, subprocess, sys
from taskservice.reaper import Reaper

def die(pgid):
    print(pgid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

reaper = Reaper()
reaper.watch_group = die
reaper.start(["touch", sys.argv[1]])
""",
    "a folder": """
import os, pathlib, signal, sys, tempfile
from taskservice.reaper import Reaper

def die(path, mode):
    os.mkdir(path, mode)
    print(path, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

tempfile.tempdir = os.path.dirname(sys.argv[1])
pathlib.Path.mkdir = die
Reaper().folder("taskservice-")
""",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    process: subprocess.Popen[str]
    groups: list[int]
    helper: int
    child: int


def alive(pid: int) -> bool:
    return process_identity(pid) is not None


def start_run(url: str, base: Path, *, forked: bool = False) -> Run:
    arguments = [sys.executable, "-c", PROGRAM, url, str(base), "forked" if forked else ""]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    facts = json.loads(process.stdout.readline())
    return Run(process=process, **facts)


@pytest.fixture
def client() -> Iterator[redis.Redis]:
    """A server with keys of three owners."""
    server = acquire(RedisRequest(choice="embedded"))
    client = redis.Redis.from_url(server.url, decode_responses=True)
    client.mset({"left:1": "x", "left:2": "x", "released:1": "x", "other": "x"})
    yield client
    client.close()
    server.close()


@pytest.fixture
def url(client: redis.Redis) -> str:
    """The server's URL."""
    return f"redis://127.0.0.1:{client.connection_pool.connection_kwargs['port']}/0"


@pytest.fixture
def start(url: str, tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Starts runs, and removes afterwards what the reaper rightly left."""
    runs: list[Run] = []

    def start(**options: bool) -> Run:
        runs.append(start_run(url, tmp_path, **options))
        return runs[-1]

    yield start
    for run in runs:
        for pid in filter(alive, [*run.groups, run.child, run.process.pid]):
            if pid:
                os.kill(pid, signal.SIGKILL)
        run.process.wait()
        assert run.process.stdout is not None
        run.process.stdout.close()


@pytest.mark.parametrize("forked", [False, True], ids=["alone", "a forked child holds the pipe"])
def test_a_killed_run_leaves_nothing_registered(
    start: Callable[..., Run], client: redis.Redis, tmp_path: Path, forked: bool
) -> None:
    run = start(forked=forked)
    assert alive(run.groups[0])

    run.process.kill()
    run.process.wait()

    assert eventually(
        lambda: (
            not alive(run.groups[0])
            and not (tmp_path / "left").exists()
            and not (tmp_path / "left.file").exists()
            and not client.exists("left:1", "left:2")
            and not alive(run.helper)
        )
    )


def test_a_killed_run_keeps_what_was_released(
    start: Callable[..., Run], client: redis.Redis, tmp_path: Path
) -> None:
    run = start()

    run.process.kill()
    run.process.wait()

    assert eventually(lambda: not alive(run.helper))
    assert alive(run.groups[1])
    assert (tmp_path / "released" / "deep").is_dir()
    assert (tmp_path / "released.file").is_file()
    assert sorted(client.keys()) == ["other", "released:1"]


def test_no_instant_is_left_to_die_between_making_a_program_and_watching_it(tmp_path: Path) -> None:
    trace = tmp_path / "trace"

    pid = int(died_early("a program", trace))

    assert eventually(lambda: not alive(pid))
    assert not trace.exists()


def test_no_instant_is_left_to_die_between_making_a_folder_and_watching_it(tmp_path: Path) -> None:
    made = Path(died_early("a folder", tmp_path / "trace"))

    assert made.parent == tmp_path
    assert eventually(lambda: not made.exists())


def test_a_program_reads_nothing_and_keeps_its_own_words(tmp_path: Path) -> None:
    output = tmp_path / "output"
    reaper = Reaper()

    with output.open("wb") as file:
        argv = [sys.executable, "-c", "import sys; print(sys.argv[1:], sys.stdin.read())", "a b", "$HOME", ""]
        process, release = reaper.start(argv, stdout=file)
    process.wait(20)
    release()
    reaper.close()

    assert output.read_text() == "['a b', '$HOME', ''] \n"


def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(FileNotFoundError, match="no such program: 'no-such-program'"):
        Reaper().start(["no-such-program"])


def test_the_helper_is_deaf_to_what_stops_a_terminal(start: Callable[..., Run]) -> None:
    run = start()

    # Once its signals are ignored, /proc shows SIGHUP, SIGINT and SIGTERM in the mask.
    assert eventually(lambda: ignored(run.helper) & 0x4003 == 0x4003)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        os.kill(run.helper, number)

    assert alive(run.helper)
    assert os.getsid(run.helper) == run.helper


def test_a_group_whose_number_was_taken_over_is_spared(tmp_path: Path) -> None:
    sleeper = subprocess.Popen(["sleep", "600"], start_new_session=True)
    marker = tmp_path / "marker"
    marker.touch()
    reaper = Reaper()
    reaper._watch("group", [sleeper.pid, "somebody-else-before"])
    reaper.watch_path(marker)

    reaper.close()

    assert not marker.exists()
    assert sleeper.poll() is None
    sleeper.kill()
    sleeper.wait()


def test_closing_undoes_what_was_forgotten(tmp_path: Path) -> None:
    forgotten = tmp_path / "forgotten"
    forgotten.mkdir()
    reaper = Reaper()
    reaper.watch_path(forgotten)

    reaper.close()
    reaper.close()

    assert not forgotten.exists()


def test_no_helper_starts_before_there_is_something_to_watch() -> None:
    reaper = Reaper()

    reaper.close()

    assert reaper._helper is None


def test_a_dead_helper_does_not_disturb_the_caller(tmp_path: Path) -> None:
    reaper = Reaper()
    release = reaper.watch_path(tmp_path / "a")
    assert reaper._helper is not None
    reaper._helper.kill()
    reaper._helper.wait()

    release()
    reaper.watch_path(tmp_path / "b")()
    reaper.close()

    assert reaper._helper.returncode == -signal.SIGKILL


def test_an_empty_key_prefix_is_refused() -> None:
    with pytest.raises(ValueError, match="need a key prefix"):
        Reaper().watch_keys("redis://localhost", "")


def test_the_shared_reaper_is_one_per_process() -> None:
    assert shared_reaper() is shared_reaper()


def test_a_forked_child_has_a_reaper_of_its_own_and_leaves_ours_alone(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    parents = shared_reaper()
    release = parents.watch_path(kept)

    child = os.fork()
    if child == 0:
        parents.close()
        os._exit(0 if shared_reaper() is not parents else 1)
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0
    assert parents._helper is not None
    assert parents._helper.poll() is None
    assert kept.exists()
    release()


def died_early(what: str, trace: Path) -> str:
    run = subprocess.run(
        [sys.executable, "-c", DIES_EARLY[what], str(trace)], capture_output=True, text=True, check=False
    )
    assert run.returncode == -signal.SIGKILL, run.stderr
    return run.stdout.strip()


def ignored(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
    return next(int(line.split()[1], 16) for line in lines if line.startswith("SigIgn"))
