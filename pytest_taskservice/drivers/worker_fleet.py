"""The worker processes of one real world, and its beat: started, asked and ended together."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pytest_taskservice.drivers.ledger import Ledger
from pytest_taskservice.errors import HarnessTimeoutError, WorkerStartError
from pytest_taskservice.faults import processes

if TYPE_CHECKING:
    from pytest_taskservice.drivers.worker_process import WorkerProcess
    from pytest_taskservice.drivers.worker_spec import WorkerSpec
    from taskservice.reaper import Reaper

__all__ = ["BEAT", "Fleet", "Look", "Member", "told_of"]

BEAT = "beat"

_EXIT = 2.0
_ROUND = 0.2
_LOG = 20_000


@dataclass(eq=False, kw_only=True, slots=True)
class Member:
    """A place in the fleet, whatever process holds it; ``process`` is ``None`` while nobody does."""

    name: str
    spec: WorkerSpec
    process: WorkerProcess | None = None
    paused: bool = False
    last_log: str = ""
    marked: int = 0
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def alive(self) -> bool:
        """Whether a process holds the place, and has begun to consume."""
        process = self.process
        return process is not None and process.ready and process.alive

    @property
    def is_beat(self) -> bool:
        """Whether it sends and does not consume."""
        return bool(self.spec.beat)


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """How a fleet stands: whether all its workers are idle, and how much has happened in them so far.

    It is ``changed`` if remote control has made one other than it was started.
    """

    idle: bool
    seen: int
    changed: bool = False


class Fleet:
    """Workers for one app with one set of settings, from :meth:`start` until :meth:`close`.

    ``on_up`` and ``on_gone`` are told of members, the latter from another thread and only in a ``story``:
    there a process may end at any time. ``spare`` gives away a process that has imported Celery already.
    """

    def __init__(
        self,
        specs: Sequence[WorkerSpec],
        *,
        reaper: Reaper,
        spare: Callable[[], WorkerProcess],
        on_up: Callable[[Member], None],
        on_gone: Callable[[Member], None],
    ) -> None:
        self._closing = ExitStack()
        directory, release = reaper.folder("taskservice-world-")
        self._closing.callback(release)
        self._closing.callback(shutil.rmtree, directory, ignore_errors=True)
        self.ledger = Ledger(directory)
        self.members = [
            Member(name=spec.hostname, spec=replace(spec, ledger=str(directory))) for spec in specs
        ]
        self._spare = spare
        self._on_up, self._on_gone = on_up, on_gone
        self._closed = False
        self._watchers: list[threading.Thread] = []

    def start(self, *, timeout: float) -> None:
        """Start all, side by side, each within ``timeout`` seconds."""
        for member in self.members:
            self._launch(member)
        for member in self.members:
            self._greet(member, timeout)

    def start_again(self, member: Member, *, timeout: float) -> None:
        """Have a process hold a member's place again, within ``timeout`` seconds."""
        with member.lock:
            if self._closed or member.alive:
                return
            self._launch(member)
            try:
                self._greet(member, timeout)
            except WorkerStartError:
                if member.process is not None:
                    member.process.close()
                    member.process = None
                raise

    @property
    def workers(self) -> list[Member]:
        """Those that consume, alive or not."""
        return [member for member in self.members if not member.is_beat]

    def living(self) -> list[Member]:
        """Return the workers whose process is there."""
        return [member for member in self.workers if member.alive]

    @property
    def tasks(self) -> frozenset[str]:
        """The tasks that every living worker knows."""
        known = [member.process.tasks for member in self.living() if member.process]
        return frozenset.intersection(*known) if known else frozenset()

    @property
    def queues(self) -> set[str]:
        """The queues that any worker consumes or will again."""
        found = {queue for member in self.workers for queue in member.spec.queues}
        return found.union(*(member.process.queues for member in self.living() if member.process))

    def consume(self, queue: str) -> None:
        """Have every living worker listen to ``queue`` too."""
        for member in self._asked():
            process = member.process
            if process is None or queue in process.queues:
                continue
            if (answer := self._ask(member, "consume", queue=queue)) is not None:
                process.queues = set(answer["queues"])

    def look(self, timeout: float) -> Look:
        """Wait at most ``timeout`` seconds until all living workers are idle."""
        idle, seen, changed = all(not member.paused for member in self.living()), 0, False
        deadline = time.monotonic() + timeout
        for member in self._asked():
            left = max(0.0, min(_ROUND if self.is_story else timeout, deadline - time.monotonic()))
            if (found := self._ask(member, "settle", timeout=left)) is not None:
                idle, seen = idle and found["idle"], seen + found["seen"]
                changed = changed or found["changed"]
        return Look(idle=bool(idle), seen=seen, changed=changed)

    def free(self, timeout: float) -> bool:
        """Drop what waits and terminate what runs; return whether all are idle then."""
        answers = [self._ask(member, "clear", timeout=timeout) for member in self._asked()]
        return all(answer is not None and answer["idle"] for answer in answers)

    def turns(self, member: Member, timeout: float) -> bool:
        """Return whether a worker's loop turns within ``timeout`` seconds: it has its broker."""
        answer = self._ask(member, "turn", timeout=timeout)
        if answer is None:
            return False
        # The only process of such a worker runs a body: it is not looking for its broker.
        alone = member.spec.pool != "prefork" and answer["busy"]
        return bool(answer["turned"] or alone)

    def held(self) -> str:
        """Return what is unfinished, in words."""
        texts = []
        for member in self.workers:
            if member.paused or not member.alive:
                texts.append(f"{member.name} is {'paused' if member.alive else 'gone'}")
                continue
            texts += told_of(self._ask(member, "state") or {})
        return "; ".join(texts)

    # Faults.

    def kill(self, member: Member) -> None:
        """End a member and its children at once."""
        if (process := member.process) is not None:
            processes.kill(process.pid)

    def terminate(self, member: Member) -> None:
        """Ask a member to end, as an operator does."""
        if (process := member.process) is not None:
            processes.terminate(process.pid)

    def pause(self, member: Member) -> None:
        """Stop a member with all its children."""
        if (process := member.process) is not None:
            # Whoever waits for an answer just now would wait in vain.
            with process.unasked():
                member.paused = True
                processes.pause(process.pid)

    def found_paused(self, member: Member) -> None:
        """Note that a member has stopped itself."""
        if (process := member.process) is not None:
            member.paused = process.stopped = True

    def resume(self, member: Member) -> None:
        """Let it go on."""
        if (process := member.process) is not None:
            processes.resume(process.pid)
            process.stopped = False
        member.paused = False

    # A test begins, and ends.

    def mark(self) -> None:
        """Begin a new test: forget what has been told."""
        self.ledger.clear()
        for member in self.members:
            member.marked = member.process.log_size() if member.process else 0
            member.last_log = ""

    def log_text(self) -> str:
        """Return the logs of all members since :meth:`mark`, those of processes that have ended too."""
        texts = {
            member.name: member.last_log + (member.process.log_text(member.marked) if member.process else "")
            for member in self.members
        }
        if len(texts) == 1:
            return next(iter(texts.values()))
        return "\n".join(f"{name}:\n{text}" for name, text in texts.items() if text)

    def close(self) -> None:
        """End all by force, and leave no file; may be called twice."""
        self._closed = True
        for member in self.members:
            if member.process is not None:
                processes.kill(member.process.pid)
        for watcher in self._watchers:
            watcher.join(_EXIT)
        for member in self.members:
            with member.lock:
                if member.process is not None:
                    member.process.close()
                    member.process = None
        self._closing.close()

    @property
    def is_story(self) -> bool:
        """Whether a scenario is played in it."""
        return any(member.spec.story for member in self.members)

    def _launch(self, member: Member) -> None:
        process = self._spare()
        member.process, member.paused, member.marked = process, False, 0
        process.tell(replace(member.spec, agent=process.agent))

    def _greet(self, member: Member, timeout: float) -> None:
        process = member.process
        assert process is not None
        process.await_ready(timeout)
        if member.spec.story:
            watcher = threading.Thread(target=self._watch, args=(member, process), daemon=True)
            self._watchers.append(watcher)
            watcher.start()
        self._on_up(member)

    def _watch(self, member: Member, process: WorkerProcess) -> None:
        """Wait for the end of a member's process, and tell of it."""
        process.await_end()
        if self._closed:
            return
        with member.lock:
            member.last_log = (member.last_log + process.log_text(member.marked))[-_LOG:]
            # What it leaves of its pool goes with it.
            process.close()
            if member.process is process:
                member.process, member.paused = None, False
        if not self._closed:
            self._on_gone(member)

    def _asked(self) -> list[Member]:
        return [member for member in self.living() if not member.paused]

    def _ask(self, member: Member, do: str, **request: Any) -> Mapping[str, Any] | None:
        """Ask a member's agent; ``None`` where it has ended before it answered, as in a story it may."""
        process = member.process
        if process is None or not process.ready:
            return None
        try:
            return process.ask(do, **request)
        except (WorkerStartError, HarnessTimeoutError):
            if not self.is_story or (not member.paused and not _ends(process)):
                raise
            return None


def _ends(process: WorkerProcess) -> bool:
    """Whether a process ends within a moment: its socket closes a little before it is gone."""
    deadline = time.monotonic() + _EXIT
    while process.alive:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def told_of(state: Mapping[str, Any]) -> list[str]:
    """Return what a worker's agent says that it has, in words."""
    return [
        f"{what}: " + ", ".join(f"{name}[{run}]" for run, name in state[key])
        for key, what in (("active", "running"), ("reserved", "waiting"), ("scheduled", "due later"))
        if state.get(key)
    ]
