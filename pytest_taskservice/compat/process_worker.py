"""A worker in another process, as a test that asked for an embedded one sees it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from pytest_taskservice.compat.process_specs import Knowledge, knowledge_of
from pytest_taskservice.drivers import echo
from pytest_taskservice.drivers.worker_fleet import Look, told_of
from pytest_taskservice.errors import HarnessTimeoutError, WorkerElsewhereError, WorkerStartError

if TYPE_CHECKING:
    from celery import Celery

    from pytest_taskservice.compat.base import WorkerRequest
    from pytest_taskservice.drivers.worker_process import WorkerProcess
    from pytest_taskservice.drivers.worker_spec import WorkerSpec

__all__ = ["ProcessWorker"]

# These run tasks in the worker's own process, which can learn; the processes of any other pool have forked.
_LEARNING = ("solo", "threads")
_MOMENT = 0.05


class ProcessWorker:
    """Serves one app from another process.

    Of Celery's ``TestWorkController`` it has what makes sense across processes; anything else is a
    :class:`WorkerElsewhereError`.
    """

    # Its name makes no test of it where a test module imports it.
    __test__ = False

    def __init__(
        self,
        app: Celery,
        request: WorkerRequest,
        *,
        make_spec: Callable[[Knowledge], tuple[WorkerSpec, list[str]]],
        make_process: Callable[[], WorkerProcess],
        timeout: float,
    ) -> None:
        self.app = app
        self.hostname = request.hostname
        self.concurrency = request.concurrency
        self.hints: list[str] = []
        self._request = request
        self._make_spec = make_spec
        self._make_process = make_process
        self._timeout = timeout
        self._lock = threading.RLock()
        self._known = knowledge_of(app)
        self._process = self._started(self._known)
        self._mark = 0

    @property
    def pid(self) -> int:
        """The worker's own process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process is still there."""
        return self._process.alive

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise WorkerElsewhereError(name, self._process.pid)

    def ensure_started(self) -> None:
        """Return at once: whoever has the worker has waited for it."""

    def reload(self, modules: Any = None, reload: bool = False, reloader: Any = None) -> None:
        """Have the worker know the tasks that the app has by now; ``reload`` has it import anew."""
        with self._lock:
            known = knowledge_of(self.app)
            if not reload and self._process.alive and self._learn(known):
                return
            self._end()
            self._known = known
            self._process = self._started(known)
            self._mark = 0

    def meet(self, name: str) -> None:
        """Before a message for task ``name`` leaves: know the task, if the app has it."""
        with self._lock:
            if self._process.alive and name not in self._process.tasks and name in self.app.tasks:
                self.reload()

    def ask(self, do: str, **request: Any) -> Any:
        """Put a question to the process's agent; see :class:`WorkerProcess`."""
        with self._lock:
            return self._process.ask(do, **request)

    def mark(self) -> None:
        """Begin a new test: what is logged from here on is its own."""
        self._mark = self._process.log_size()

    def log_text(self) -> str:
        """Return what was logged since :meth:`mark`."""
        return self._process.log_text(self._mark)

    def look(self) -> Look:
        """Return how it stands; one that is gone is idle."""
        try:
            found = self.ask("settle", timeout=_MOMENT)
        except HarnessTimeoutError:
            return Look(idle=False, seen=0)
        except WorkerStartError:
            return Look(idle=True, seen=0)
        return Look(idle=bool(found["idle"]), seen=int(found["seen"]))

    def held(self) -> list[str]:
        """Return what it has, in words."""
        try:
            return told_of(self.ask("state"))
        except HarnessTimeoutError:
            return [f"{self.hostname} does not answer"]
        except WorkerStartError:
            return [f"{self.hostname} is gone"]

    def stop(self) -> None:
        """Let running tasks end, give back the rest, and end the process."""
        with self._lock:
            try:
                self._end()
            finally:
                self._process.close()

    def kill(self) -> None:
        """End the process, whatever it does."""
        self._process.close()

    def _end(self) -> None:
        process = self._process
        ended = not process.alive or self._drained(process)
        process.close()
        if not ended:
            raise RuntimeError(
                "the worker failed to end its tasks within the allocated timeout; consider raising "
                f"shutdown_timeout ({self._request.shutdown_timeout:g} s) if your tasks take longer"
            )

    def _drained(self, process: WorkerProcess) -> bool:
        timeout = self._request.shutdown_timeout
        try:
            return bool(process.ask("drain", within=timeout, timeout=timeout)["idle"])
        except WorkerStartError:
            # A test has killed it: nothing of it runs.
            return True
        except HarnessTimeoutError:
            return False

    def _started(self, known: Knowledge) -> WorkerProcess:
        process = self._make_process()
        spec, hints = self._make_spec(known)
        self.hints = [*known.hints, *hints]
        echo.listen(process.echoes, self.app, self)
        process.start(replace(spec, agent=process.agent, echo=process.echo), timeout=self._timeout)
        return process

    def _learn(self, known: Knowledge) -> bool:
        """Teach the worker in place; say whether that was enough."""
        self.hints = list(known.hints)
        if known == self._known:
            return True
        if self._request.pool not in _LEARNING:
            return False
        answer = self._process.ask(
            "teach",
            modules=[asdict(module) for module in known.modules],
            classes=list(known.classes),
            carried=list(known.carried),
        )
        self._process.tasks = frozenset(answer["tasks"])
        self._known = known
        return bool(answer["done"])
