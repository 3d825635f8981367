"""One load run, from outside: Locust as a child, its progress heard, its account read.

Locust is not imported here: it patches the process that does.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from taskservice.errors import ConfigurationError
from taskservice.load.account import Account
from taskservice.load.errors import StackError
from taskservice.programs import free_port

if TYPE_CHECKING:
    import subprocess

    from taskservice.load.guard import Children
    from taskservice.load.plan import LoadPlan
    from taskservice.load.stack import Stack

__all__ = ["Loading", "Ran", "require_locust", "run_load", "run_web"]

LOCUSTFILE: Final = Path(__file__).with_name("locustfile.py")
POLL_SECONDS: Final = 0.05
MARGIN_SECONDS: Final = 45.0
"""What a run may take beyond its duration and its drain: starting, looking for runs, ending."""
ENDING_SECONDS: Final = 20.0

Progress = Callable[[dict[str, Any]], object]


@dataclass(frozen=True, kw_only=True, slots=True)
class Loading:
    """What is run: users of these classes by this plan on this stack, from so many processes of Locust."""

    plan: LoadPlan
    kinds: tuple[str, ...]
    stack: Stack
    processes: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Ran:
    """What came of a run: ``ended`` is ``done``, ``interrupted``, or why it could not go on."""

    account: Account
    started: float
    ended: str
    died: str = ""


def require_locust() -> None:
    """Raise `ConfigurationError` if Locust is not installed."""
    if find_spec("locust") is None:
        raise ConfigurationError("load tests need Locust: pip install 'taskservice[load]'")


def run_load(load: Loading, children: Children, *, progress: Progress) -> Ran:
    """Run Locust without its page and return the account; Ctrl-C or a death of the stack ends it early."""
    result = children.folder / f"account-{time.monotonic_ns()}.json"
    reader, writer = os.pipe()
    argv = [*_locust(load), "--headless", "--only-summary", "--load-result", str(result)]
    argv += ["--load-progress", str(writer)]
    process = children.start("locust", argv, environment=load.stack.environment, pass_fds=[writer])
    os.close(writer)
    hearing = threading.Thread(target=_hear, args=(reader, progress), daemon=True)
    hearing.start()
    ended, died = _watch(process, load)
    hearing.join(1.0)
    if not result.exists():
        if ended == "interrupted":
            return Ran(account=Account(), started=time.time(), ended=ended)
        _explain(process, children, died)
    found = json.loads(result.read_text())
    account = Account.from_json(found["account"])
    return Ran(account=account, started=found["started"], ended=ended, died=died)


def run_web(load: Loading, children: Children, *, port: int) -> int:
    """Run Locust with its page until somebody ends it."""
    argv = [*_locust(load), "--web-host", "127.0.0.1", "--web-port", str(port)]
    process = children.start("locust", argv, environment=load.stack.environment)
    try:
        while process.poll() is None:
            _require_alive(load.stack, children)
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        return 0
    raise StackError("Locust ended", children.last_words(process))


def _locust(load: Loading) -> list[str]:
    plan = load.plan
    users = plan.profile().users
    host = load.stack.api_url or "http://127.0.0.1"
    argv = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), *load.kinds, "--host", host]
    argv += ["--users", str(users), "--spawn-rate", str(plan.profile().most), "--loglevel", "WARNING"]
    if plan.shape == "flat" and load.processes == 1:
        argv += ["--run-time", f"{math.ceil(plan.duration)}s"]
    return [*argv, *_spread(load.processes), "--load-plan", json.dumps(plan.to_json())]


def _spread(processes: int) -> list[str]:
    """Return the flags for a master and so many workers on this machine."""
    if processes < 2:
        return []
    port = str(free_port())
    return ["--processes", str(processes), "--master-bind-port", port, "--master-port", port]


def _hear(reader: int, progress: Progress) -> None:
    with os.fdopen(reader) as lines:
        for line in lines:
            progress(json.loads(line))


def _watch(process: subprocess.Popen[bytes], load: Loading) -> tuple[str, str]:
    """Wait for the end; return how it came, and who died."""
    deadline = time.monotonic() + load.plan.duration + load.plan.drain + MARGIN_SECONDS
    try:
        while process.poll() is None:
            if (dead := load.stack.dead()) is not None:
                _end(process)
                return "died", f"{dead[0]} died with status {dead[1].returncode} while it was loaded"
            if time.monotonic() > deadline:
                _end(process)
                return "died", "Locust did not end in time"
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        _end(process)
        return "interrupted", ""
    return "done", ""


def _end(process: subprocess.Popen[bytes]) -> None:
    """Have Locust write what it has, without waiting long for what is under way."""
    try:
        process.send_signal(signal.SIGUSR1)
        time.sleep(POLL_SECONDS)
        process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + ENDING_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        # Twice is meant.
        process.kill()


def _explain(process: subprocess.Popen[bytes], children: Children, died: str) -> None:
    words = children.last_words(process)
    told = [
        line.removeprefix("taskservice: ") for line in words.splitlines() if line.startswith("taskservice: ")
    ]
    if process.returncode == 2 and told:
        raise ConfigurationError(told[-1])
    raise StackError("the load could not be run", told[-1] if told else died or words)


def _require_alive(stack: Stack, children: Children) -> None:
    if (dead := stack.dead()) is not None:
        raise StackError(f"{dead[0]} died", children.last_words(dead[1]))
