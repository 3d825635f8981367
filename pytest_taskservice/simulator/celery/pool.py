"""The simulated pool: slots that run task bodies in fibers, with limits, losses and terminations.

What a body's end means is said by the real ``celery.worker.request.Request``, through the callbacks that a
prefork pool would call, in the order of ``billiard.pool``.
"""

from __future__ import annotations

import pickle
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping
from copy import copy
from importlib import import_module
from typing import TYPE_CHECKING, Any

from billiard import VERSION as BILLIARD  # type: ignore[attr-defined] # the stubs lack it
from billiard.common import TERM_SIGNAL
from billiard.einfo import ExceptionInfo
from billiard.exceptions import SoftTimeLimitExceeded, Terminated, TimeLimitExceeded, WorkerLostError
from celery import signals
from celery.concurrency.base import BasePool
from greenlet import GreenletExit

from pytest_taskservice.simulator.celery.processes import ChildProcess
from pytest_taskservice.simulator.core.fibers import Fiber, current_fiber
from pytest_taskservice.simulator.loops.fiber_loop import OwnLoops

if TYPE_CHECKING:
    from pytest_taskservice.simulator.celery.processes import MainProcess
    from pytest_taskservice.simulator.celery.world import CeleryWorld
    from pytest_taskservice.simulator.core.agenda import Due

__all__ = ["Job", "SimulatedPool"]

_trace: Any = import_module("celery.app.trace")
_BasePool: Any = BasePool

_FIRST_PID = 10_001
_TELLS_EXITS = (4, 3)
"""The version of billiard that tells of a body's ``SystemExit`` before its process ends."""


class SimulatedPool(_BasePool):  # type: ignore[misc] # the stubs know other signatures
    """A prefork pool's face; ``process`` and ``world`` are set by the worker before it starts."""

    uses_semaphore = True
    task_join_will_block = False
    ends_bodies = True
    process: MainProcess
    world: CeleryWorld

    def on_start(self) -> None:
        """Have as many processes as slots."""
        self.jobs: dict[Job, None] = {}
        self._pids = list(range(_FIRST_PID, _FIRST_PID + (self.limit or 1)))
        self._taken: set[int] = set()
        self._backlog: deque[Job] = deque()
        # Handlers are shared by all that is simulated: one process' start stands for those of all.
        signals.worker_process_init.send(sender=self.process.name)

    def on_apply(self, target: Any, args: Any = (), kwargs: Any = None, **options: Any) -> Job:
        """Take a body; it starts a little later."""
        job = Job(self, target, tuple(args), kwargs or {}, options)
        self.jobs[job] = None
        world = self.world
        world.simulation.after(world.simulation.random.between("start", world.latency.start), job.run)
        return job

    def on_stop(self) -> None:
        """Let what runs end."""
        process = self.process
        if process.is_current():
            # What their ends bring is done as well: a late acknowledgement is one of these things.
            process.serve(lambda: bool(self.jobs or process.undone()))
        else:
            self.world.simulation.wait(
                lambda: not self.jobs, timeout=None, what=f"the tasks of {process.name}"
            )
        signals.worker_process_shutdown.send(sender=self.process.name, pid=_FIRST_PID, exitcode=0)

    def on_terminate(self) -> None:
        """End what runs at once."""
        for job in list(self.jobs):
            job.abandon()

    def terminate_job(self, pid: int, signal: int | None = None) -> None:
        """Send a signal to the process that runs a task."""
        for job in list(self.jobs):
            if job.pid == pid:
                job.kill(signal or TERM_SIGNAL)

    def grow(self, n: int) -> None:
        """Add slots."""
        last = self._pids[-1]
        self._pids += range(last + 1, last + 1 + n)
        self.limit += n

    def shrink(self, n: int) -> None:
        """Take slots away."""
        if self.limit - n < 1:
            raise ValueError("cannot shrink the pool below one process")
        self.limit -= n

    def restart(self) -> None:
        """Do nothing: the processes have no code of their own."""

    @property
    def num_processes(self) -> int:
        """Return the number of slots."""
        return int(self.limit)

    def take_pid(self, job: Job) -> int | None:
        """Return a free process for the body of ``job``; without one, it runs as soon as there is one."""
        for pid in self._pids[: self.limit]:
            if pid not in self._taken:
                self._taken.add(pid)
                return pid
        # Celery counts free slots anew when its connection is lost, and sends more than there are.
        self._backlog.append(job)
        return None

    def give_pid(self, pid: int) -> None:
        """Say that the process is free."""
        self._taken.discard(pid)
        while self._backlog:
            job = self._backlog.popleft()
            if not job.done:
                self.world.simulation.after(0.0, job.run)
                return

    def _get_info(self) -> dict[str, Any]:
        info: dict[str, Any] = super()._get_info()
        return info | {
            "max-concurrency": self.limit,
            "processes": self._pids[: self.limit],
            "max-tasks-per-child": self.options.get("maxtasksperchild") or "N/A",
            "put-guarded-by-semaphore": self.putlocks,
            "timeouts": (self.options.get("soft_timeout") or 0, self.options.get("timeout") or 0),
            "writes": "N/A",
        }


class Job:
    """One body in one process; stands for billiard's ``ApplyResult`` too."""

    def __init__(
        self,
        pool: SimulatedPool,
        target: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: dict[str, Any],
    ) -> None:
        self.pool = pool
        # A strategy of somebody's own may hand over any function: celery-batches, one for many messages.
        self._traced = _is_of_message(args)
        self.name: str = args[0] if self._traced else _name_of(target)
        self.id: str = args[1] if self._traced else ""
        self.pid = 0
        self.done = False
        self.returned: Any = None
        """What the tracer gave back, when the result was stored."""
        self.sleeps = 0
        self._target = target
        self._args = args
        self._kwargs = kwargs
        self._options = options
        self._fiber: Fiber | None = None
        self._dues: list[Due] = []
        self._terminated: int | None = None

    def __str__(self) -> str:
        return f"{self.name}[{self.id}]" if self._traced else self.name

    @property
    def request(self) -> Any:
        """Return the message's headers; a function that is called for no one message has none."""
        return self._args[2] if self._traced else {}

    @property
    def attempt(self) -> int:
        """Return which attempt it is, from 1."""
        request = self.request if self._target is _trace.trace_task_ret else {}
        return int(request.get("retries") or 0) + 1

    def run(self) -> None:
        """Run the body; an event's action."""
        main, world = self.pool.process, self.pool.world
        if self.done or not main.alive:
            return
        if main.held_up is not None:
            main.held_up.append((self.run, ()))
            return
        pid = self.pool.take_pid(self)
        if pid is None:
            return
        self.pid = pid
        self._fiber = fiber = current_fiber()
        assert fiber is not None
        fiber.process = ChildProcess(main, pid=self.pid, job=self)
        self._limit("soft_timeout", self._reach_soft_limit)
        self._limit("timeout", self._reach_hard_limit)
        self._post("accept_callback", self.pid, world.simulation.monotonic())
        world.at_body(self)
        if self._terminated is not None:
            self.kill(self._terminated)
        if self.done:
            return
        try:
            # Its soft limit may be over by then, before anything of Celery's in the process sees to that.
            world.simulation.spend(world.body_cost(self))
            found = self._call_apart(fiber)
        except (GreenletExit, KeyboardInterrupt):
            # Ctrl-C is for the session, whoever's code it strikes.
            raise
        except SoftTimeLimitExceeded:
            self.finish("error_callback", _sent(ExceptionInfo()))
            return
        except BaseException as error:  # noqa: BLE001 - whatever ends a process
            self._leave(error, ExceptionInfo())
            return
        self._end(found)

    def _end(self, found: Any) -> None:
        if self._traced:
            self.returned = found
            self.pool.world.at_end(self)
        if not self._traced:
            found = _sent(found)
        elif found[0]:
            found = (found[0], _sent(found[1]), *found[2:])
        self.finish("callback", found)

    def finish(self, callback: str, *args: Any) -> None:
        """Tell the main process how it ended."""
        if self.done:
            return
        self._over()
        self.pool.process.post(self._tell, callback, args)

    def kill(self, signum: int) -> None:
        """Receive a signal: SIGUSR1 is the soft limit's, any other ends the process."""
        if self.done:
            return
        if signum == signal.SIGUSR1:
            self._interrupt(SoftTimeLimitExceeded())
            return
        self.abandon()
        self.pool.process.post(self._tell, "error_callback", (_caught(Terminated(signum)),))

    def lose(self, signum: int = signal.SIGKILL) -> None:
        """Die from outside, by a signal that nobody in the worker sent."""
        name = signal.Signals(signum).name
        self._lose(f"Worker exited prematurely: signal {int(signum)} ({name}) Job: {self.id}.")

    def abandon(self) -> None:
        """Stop without a word to anybody."""
        if not self.done:
            self._over()
            if self._fiber is not None:
                self.pool.world.simulation.abandon(self._fiber)

    def terminate(self, signum: int) -> None:
        """Be ended as soon as it has started."""
        self._terminated = signum

    def _call_apart(self, fiber: Fiber) -> Any:
        """Run the body as in a process of its own: no event loop of the test's is running there."""
        with OwnLoops() as loops:
            fiber.own = loops
            try:
                return self._call()
            finally:
                fiber.own = None

    def _call(self) -> Any:
        if self._target is _trace.trace_task_ret:
            name, task_id, request, body, content_type, encoding = self._args
            app = self.pool.process.app
            task = app.tasks[name]
            if task.__trace__ is None:
                # Registered after the worker started: the embedded worker of Celery's tests makes it now,
                # too.
                task.__trace__ = _trace.build_tracer(name, task, app.loader, self.pool.process.name, app=app)
            known = (app.tasks, self.pool.world.accepted(app), self.pool.process.name)
            return _trace.fast_trace_task(
                name, task_id, dict(request), body, content_type, encoding, _loc=known
            )
        return self._target(*self._args, **self._kwargs)

    def _leave(self, error: BaseException, told: ExceptionInfo) -> None:
        """End as a process does whose body raises what Celery's tracer lets pass: ``sys.exit()`` for one."""
        if _is_the_tests(error):
            raise error
        if BILLIARD < _TELLS_EXITS and (self._traced or not isinstance(error, Exception)):
            status = error.code if isinstance(error, SystemExit) else 1
            self._lose(f"Worker exited prematurely: exitcode {status or 0} Job: {self.id}.")
        else:
            self.finish("error_callback", _sent(told))

    def _lose(self, text: str) -> None:
        if not self.done:
            self.abandon()
            self.pool.process.post(self._tell, "error_callback", (_caught(WorkerLostError(text)),))

    def _over(self) -> None:
        self.done = True
        for due in self._dues:
            self.pool.world.simulation.cancel(due)
        self.pool.jobs.pop(self, None)
        if self.pid:
            self.pool.give_pid(self.pid)

    def _tell(self, callback: str, args: tuple[Any, ...]) -> None:
        pool = self.pool
        pool.world.release(pool.process)
        if callback == "callback" and self._traced and not args[0][0]:
            _, result, runtime = args[0]
            pool.world.record.succeeded(self.request, pool.process.name, result, runtime)
        self._say(callback, *args)

    def _post(self, callback: str, *args: Any) -> None:
        told = self._options.get(callback)
        if told is not None:
            self.pool.process.post(told, *args)

    def _say(self, callback: str, *args: Any) -> None:
        told = self._options.get(callback)
        if told is not None:
            told(*args)

    def _limit(self, name: str, action: Callable[[float], None]) -> None:
        seconds = self._options.get(name)
        if seconds:
            self._dues.append(self.pool.world.simulation.after(seconds, action, seconds))

    def _reach_soft_limit(self, seconds: float) -> None:
        if not self._is_over(self._reach_soft_limit, seconds):
            self._post("timeout_callback", True, seconds)
            process: Any = self._fiber and self._fiber.process
            self._interrupt(SoftTimeLimitExceeded() if process is None else process.soft_limit())

    def _reach_hard_limit(self, seconds: float) -> None:
        if not self._is_over(self._reach_hard_limit, seconds):
            self.abandon()
            self.pool.process.post(self._time_out, seconds)

    def _is_over(self, action: Callable[[float], None], seconds: float) -> bool:
        """Return whether a limit means nothing now; a process that is stopped comes back to it."""
        main = self.pool.process
        if self.done or not main.alive:
            return True
        if main.held_up is not None:
            main.held_up.append((action, (seconds,)))
            return True
        return False

    def _time_out(self, seconds: float) -> None:
        self.pool.world.release(self.pool.process)
        self._say("error_callback", _caught(TimeLimitExceeded(seconds)))
        self._say("timeout_callback", False, seconds)

    def _interrupt(self, error: BaseException) -> None:
        if self._fiber is not None:
            self._fiber.interrupt(error)


def _is_of_message(args: tuple[Any, ...]) -> bool:
    """Return whether a body is called as Celery's tracer is: with a task's name, an id and a message."""
    return len(args) > 2 and isinstance(args[0], str) and isinstance(args[2], Mapping)


def _name_of(target: Callable[..., Any]) -> str:
    name = getattr(target, "__qualname__", None)
    return f"{target.__module__}.{name}" if name else repr(target)


def _is_the_tests(error: BaseException) -> bool:
    """Return whether pytest means it for the test: ``fail()``, ``skip()``, and what pytest-timeout raises."""
    pytest: Any = sys.modules.get("pytest")
    return pytest is not None and isinstance(error, (pytest.fail.Exception, pytest.skip.Exception))


def _sent(found: Any) -> Any:
    """Return what is on the other side of a pipe."""
    if type(found) is ExceptionInfo:
        return _sent_error(found)
    try:
        return pickle.loads(pickle.dumps(found))  # noqa: S301 - our own
    except Exception:  # noqa: BLE001 - whatever it raises, the error is told as it is
        return found


def _sent_error(info: ExceptionInfo) -> ExceptionInfo:
    """Return a failure on the other side: billiard's wrapper of the error stays behind.

    Only the error is pickled. What is kept to show its frames, forty kilobytes, comes over as it is.
    """
    sent = copy(info)
    sent.exception = _sent(info.exception)
    return sent


def _caught(error: BaseException) -> ExceptionInfo:
    try:
        raise error
    except type(error):
        return ExceptionInfo()
