"""What can go wrong in the harness, told to the person who runs the tests."""

from __future__ import annotations

__all__ = [
    "AppNotFoundError",
    "FaultError",
    "HarnessError",
    "HarnessTimeoutError",
    "RedisProviderError",
    "ScenarioError",
    "SimulationBlockedError",
    "SocketRefusedError",
    "TaskImportError",
    "UnknownNameError",
    "WorkerElsewhereError",
    "WorkerStartError",
]


class HarnessError(Exception):
    """Root of all errors of the harness."""


class UnknownNameError(HarnessError, ValueError):
    """A backend, provider or key has a name nobody knows."""

    def __init__(self, kind: str, found: str, known: tuple[str, ...]) -> None:
        super().__init__(kind, found, known)
        self.kind = kind
        self.found = found
        self.known = known

    def __str__(self) -> str:
        from difflib import get_close_matches

        near = get_close_matches(self.found, self.known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return f"unknown {self.kind} {self.found!r}; {hint}known: {', '.join(self.known) or 'none'}"


class RedisProviderError(HarnessError, ConnectionError):
    """A Redis was asked for and cannot be had."""


class AppNotFoundError(HarnessError, ImportError):
    """The Celery app named in ``taskservice_app`` cannot be imported or is none."""


_SAID = 300


class TaskImportError(HarnessError, ImportError):
    """The module of a task or workflow that is named by its dotted path cannot be imported."""

    def __init__(self, task: str, module: str, error: BaseException, kind: str = "task") -> None:
        super().__init__(task, module, error, kind)
        self.task = task
        self.module = module
        self.error = error
        self.kind = kind

    def __str__(self) -> str:
        lines = self._said().strip().splitlines()
        found = f"{type(self.error).__name__}: {lines[0][:_SAID] if lines else ''}".removesuffix(": ")
        return f"cannot import {self.module!r} for the {self.kind} {self.task!r}: {found}{self._place()}"

    def _said(self) -> str:
        if isinstance(self.error, SyntaxError):
            return self.error.msg
        try:
            return str(self.error)
        except Exception as error:  # noqa: BLE001 - whatever else is wrong with the user's error
            return f"its text raised {type(error).__name__}"

    def _place(self) -> str:
        """Return the user's own line where it happened, if that is known."""
        if isinstance(self.error, SyntaxError) and self.error.filename:
            return f", at {self.error.filename}:{self.error.lineno}"
        trace = self.error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        if trace is None:
            return ""
        return f", at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"


class WorkerStartError(HarnessError, RuntimeError):
    """The worker process did not come up."""


class WorkerElsewhereError(HarnessError, AttributeError):
    """A test looked into a worker that is not in its process."""

    def __init__(self, attribute: str, pid: int) -> None:
        super().__init__(attribute, pid)
        self.attribute = attribute
        self.pid = pid

    def __str__(self) -> str:
        return (
            f"the worker has no {self.attribute!r} here: it is process {self.pid}; ask it by "
            "app.control.inspect(), or see docs/compat.md for what another process cannot give"
        )


class HarnessTimeoutError(HarnessError, TimeoutError):
    """Something did not come in time; the message names what."""


class ScenarioError(HarnessError, ValueError):
    """A scenario file is wrong; the message starts with ``file:line:column``."""


class FaultError(HarnessError, ValueError):
    """A fault that cannot be: an option that means nothing for it, or nobody it could strike."""


class SimulationError(HarnessError, RuntimeError):
    """Something the simulator cannot go on with."""


class SimulationIdleError(SimulationError):
    """A wait that nothing can ever end: all is idle."""

    def __init__(self, what: str, waiting: tuple[str, ...] = ()) -> None:
        super().__init__(what, waiting)
        self.what = what
        self.waiting = waiting

    def __str__(self) -> str:
        text = f"waited for {self.what}, but the simulation is idle: nothing can ever bring it"
        return _listed(text, self.waiting)


class SimulationBudgetError(SimulationError):
    """A wait that brought event after event and no end."""

    def __init__(self, what: str, events: int, elapsed: float, waiting: tuple[str, ...] = ()) -> None:
        super().__init__(what, events, elapsed, waiting)
        self.what = what
        self.events = events
        self.elapsed = elapsed
        self.waiting = waiting

    def __str__(self) -> str:
        text = (
            f"waited for {self.what}: not reached after {self.events:,} events, at +{self.elapsed:g} s; "
            "an endless retry or schedule? The bound is --taskservice-events"
        )
        return _listed(text, self.waiting)


class SimulationBlockedError(SimulationError):
    """A task body held the thread in real time: nothing else could happen."""

    def __init__(self, who: str, seconds: float, place: str, waiting: tuple[str, ...] = ()) -> None:
        super().__init__(who, seconds, place, waiting)
        self.who = who
        self.seconds = seconds
        self.place = place
        self.waiting = waiting

    def __str__(self) -> str:
        text = (
            f"{self.who} has blocked the simulation for {self.seconds:g} real seconds at {self.place}: a "
            "lock another task holds, a real socket, a loop without end? The bound is --taskservice-timeout"
        )
        return _listed(text, self.waiting)


class SocketRefusedError(SimulationError):
    """A simulated task reached for the network.

    No ``OSError``: whoever tries again after one would do so for ever.
    """

    def __init__(self, address: str, caller: str) -> None:
        super().__init__(address, caller)
        self.address = address
        self.caller = caller

    def __str__(self) -> str:
        host = self.address.rpartition(":")[0]
        host = f"[{host}]" if ":" in host else host
        return (
            f"no real connections in a simulation: {self.address} was wanted at {self.caller}; allow it with "
            f'@pytest.mark.taskservice(allow_sockets=["{self.address}"]), or every port there, in each test, '
            f"with --taskservice-allow-sockets={host}, or put a fake in its place"
        )


def _listed(text: str, lines: tuple[str, ...]) -> str:
    return "\n  ".join([text, *lines])
