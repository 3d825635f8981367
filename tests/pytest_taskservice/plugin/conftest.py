"""Somebody else's project: a package ``shopx`` with a Celery app and tests of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from pytest_taskservice.redis import RedisRequest, acquire
from taskservice.reaper import Reaper

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_taskservice.redis import RedisServer

# What pytest may leave running after its end, as long as it is gone this soon.
PROMISED = 2.0

_MARK = "SHOPX_RUN"

_CELERY = """
    from celery import Celery

    app = Celery(
        "shopx",
        broker="amqp://nowhere.invalid",
        backend="rpc://",
        include=["shopx.tasks"],
    )
    app.conf.task_routes = {"shopx.tasks.mail": {"queue": "mails"}}
"""

_TASKS = """
    import os
    import time
    from pathlib import Path

    from shopx.celery import app


    @app.task
    def add(x, y):
        return x + y


    @app.task
    def total(numbers):
        return sum(numbers)


    @app.task
    def boom():
        raise ValueError("the kettle is empty")


    @app.task
    def nap(seconds, started=None):
        if started:
            Path(started).touch()
        time.sleep(seconds)
        return seconds


    @app.task
    def who():
        return os.getppid() if app.conf.worker_pool == "prefork" else os.getpid()


    @app.task(bind=True, max_retries=3)
    def flaky(self, failures):
        if self.request.retries < failures:
            raise self.retry(countdown=0)
        return self.request.retries


    @app.task
    def mail(subject):
        return subject
"""


class Downstream:
    """The project, its test runs, and what they leave behind."""

    def __init__(self, pytester: pytest.Pytester, temporary: Path, mark: str) -> None:
        self.root = pytester.path
        self.temporary = temporary
        self._pytester = pytester
        self._mark = mark

    def write(self, **files: str) -> None:
        """Write modules by their dotted name: ``test_shopx``, ``conftest``, ``shopx__late``."""
        for name, source in files.items():
            path = self.root.joinpath(*name.split("__")).with_suffix(".py")
            path.parent.mkdir(exist_ok=True)
            path.write_text(dedent(source), "utf-8")

    def ini(self, **settings: str) -> None:
        """Write the ini file anew, with these settings beside the usual ones."""
        lines = ["[pytest]", "addopts = -p taskservice -p no:cacheprovider", "pythonpath = ."]
        lines += [f"{name} = {value}" for name, value in settings.items()]
        self.root.joinpath("pytest.ini").write_text("\n".join(lines) + "\n", "utf-8")

    def run(self, *args: str) -> pytest.RunResult:
        """Run its tests to the end, in a process of their own."""
        return self._pytester.runpytest_subprocess(*args, timeout=60)

    def start(self, *args: str) -> subprocess.Popen[bytes]:
        """Start its tests as a terminal does: in a process group that a signal can reach."""
        return subprocess.Popen(
            [sys.executable, "-m", "pytest", *args],
            cwd=self.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # Whoever runs us in the background may have had Ctrl-C ignored, for all children too.
            preexec_fn=_heed_ctrl_c,  # noqa: PLW1509 - one system call, no lock
        )

    def code_shown(self, result: pytest.RunResult) -> list[str]:
        """Return the lines that show our code to somebody who only made a mistake."""
        words = ("Traceback", "INTERNALERROR", "/pytest_taskservice/")
        return [line for line in [*result.outlines, *result.errlines] if any(word in line for word in words)]

    def processes(self) -> dict[int, str]:
        """Return the command lines of all processes of its runs, by id."""
        return {
            int(entry.name): _command(entry)
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and int(entry.name) != os.getpid() and self._is_ours(entry)
        }

    def remains(self) -> list[str]:
        """Return what its runs have left: processes and directories."""
        left = [f"process {pid}: {command}" for pid, command in self.processes().items()]
        files = [path for path in self.temporary.iterdir() if not path.name.startswith("pytest-of-")]
        return left + [str(path) for path in files]

    def remains_in_the_end(self) -> list[str]:
        """Ask again until nothing is left or the promised time is over; return what is left."""
        deadline = time.monotonic() + PROMISED
        while (left := self.remains()) and time.monotonic() < deadline:
            time.sleep(0.02)
        return left

    def _is_ours(self, entry: Path) -> bool:
        # A Redis server writes its title over its environment, but it lives in its directory.
        try:
            environment = (entry / "environ").read_bytes()
            place = (entry / "cwd").readlink()
            state = (entry / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[0]
        except OSError:
            return False
        marked = f"{_MARK}={self._mark}".encode() in environment.split(b"\0")
        return state not in "ZX" and (marked or place.is_relative_to(self.temporary))


@pytest.fixture
def downstream(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Iterator[Downstream]:
    """The project ``shopx``, checked afterwards to have left nothing behind."""
    # Not under pytester's directory: a unix socket's path has room for a hundred characters.
    temporary = Path(tempfile.mkdtemp(prefix="shopx-"))
    mark = uuid4().hex
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setenv(_MARK, mark)
    # Other people's plugins, found by their entry points, would cost seconds and be taken for us.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    for name in [name for name in os.environ if name.startswith(("CELERY_", "TASKSERVICE_"))]:
        monkeypatch.delenv(name)
    project = Downstream(pytester, temporary, mark)
    project.write(shopx____init__="", shopx__celery=_CELERY, shopx__tasks=_TASKS)
    project.ini(taskservice_app="shopx.celery:app")
    yield project
    left = project.remains_in_the_end()
    for pid in project.processes():
        os.kill(pid, signal.SIGKILL)
    shutil.rmtree(temporary, ignore_errors=True)
    assert left == []


@pytest.fixture
def given_redis() -> Iterator[RedisServer]:
    """A server that is not the run's own; whoever runs it keeps other things there, too."""
    # A helper of its own, which ends here: the shared one might be taken for a run's.
    reaper = Reaper()
    server = acquire(RedisRequest(choice="embedded"), reaper=reaper)
    yield server
    server.close()
    reaper.close()


def _heed_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _command(entry: Path) -> str:
    try:
        return (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""
