"""What stands for a worker's processes: whose state is current, whose app, and who may wait for results.

Celery keeps the state of a process in module globals: ``celery.worker.state``, ``celery._state._tls`` and
``_task_join_will_block``. Several simulated processes share them, so each gets its own when its fiber goes
on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from billiard.exceptions import SoftTimeLimitExceeded
from celery.utils.collections import LimitedSet

from pytest_taskservice.simulator.core.agenda import Weight
from pytest_taskservice.simulator.core.fibers import Fiber, current_fiber

if TYPE_CHECKING:
    from pytest_taskservice.simulator.core.simulation import Simulation
    from pytest_taskservice.simulator.substitutes import Patches

__all__ = ["ChildProcess", "MainProcess", "ModuleState", "install_process_state"]

_worker_state: Any = import_module("celery.worker.state")
_current: Any = import_module("celery._state")

_CONTAINERS = (
    "requests",
    "reserved_requests",
    "active_requests",
    "scheduled_requests",
    "successful_requests",
    "total_count",
    "all_total_count",
    "revoked",
    "revoked_stamps",
)
_FLAGS = ("should_stop", "should_terminate")


class ModuleState:
    """The contents of ``celery.worker.state``, exchanged between simulated workers."""

    def __init__(self) -> None:
        # 5.5 has no scheduled_requests.
        found = [getattr(_worker_state, name) for name in _CONTAINERS if hasattr(_worker_state, name)]
        self._ways = [(container, *_way(container)) for container in found]
        self._kept: dict[Any, tuple[list[Any], list[Any]]] = {}
        self._current: Any = None
        self._enter(None)

    def switch(self, process: Any) -> None:
        """Make the state of ``process`` the current one."""
        if process is not self._current:
            self._kept[self._current] = (
                [take(container) for container, take, _ in self._ways],
                [getattr(_worker_state, name) for name in _FLAGS],
            )
            self._enter(process)

    def close(self) -> None:
        """Give back what was there before."""
        self.switch(None)

    def _enter(self, process: Any) -> None:
        self._current = process
        contents, flags = self._kept.get(process) or ([None] * len(self._ways), [None] * len(_FLAGS))
        for (container, _, fill), content in zip(self._ways, contents, strict=True):
            fill(container, content)
        for name, flag in zip(_FLAGS, flags, strict=True):
            setattr(_worker_state, name, flag)


def _way(container: Any) -> tuple[Callable[[Any], Any], Callable[[Any, Any], None]]:
    """Return how to take out what a container holds, and how to fill it."""
    if isinstance(container, WeakSet):
        return _references, _refer
    if isinstance(container, LimitedSet):
        return _limited, _limit
    return (list, _list_again) if isinstance(container, list) else (dict, _fill_again)


def _references(container: Any) -> Any:
    return container.data


def _refer(container: Any, content: Any) -> None:
    container.data = set() if content is None else content


def _limited(container: Any) -> Any:
    return container._data, container._heap  # noqa: SLF001 - it offers no copy


def _limit(container: Any, content: Any) -> None:
    container._data, container._heap = content or ({}, [])  # noqa: SLF001 - as above


def _list_again(container: list[Any], content: Any) -> None:
    container[:] = content or [0]


def _fill_again(container: dict[Any, Any], content: Any) -> None:
    container.clear()
    if content:
        container.update(content)


class MainProcess:
    """A worker's main process: one fiber, and what is posted to it."""

    weight = Weight.WORK

    def __init__(self, simulation: Simulation, state: ModuleState, app: Any, *, name: str) -> None:
        self.app = app
        self.name = name
        self.alive = True
        self.ready = False
        self.joins_block = False
        self.at_end: Callable[[], None] | None = None
        """Called when it has ended by itself."""
        self.on_gone: Callable[[], None] | None = None
        """Called before that."""
        self._simulation = simulation
        self._state = state
        self._inbox: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()
        self._fiber: Fiber | None = None
        self._waits_for: int | None = None
        self._if_listening: dict[Callable[[], None], None] = {}
        self.held_up: list[tuple[Callable[..., Any], tuple[Any, ...]]] | None = None
        """What happens when it goes on; ``None`` unless it is stopped."""

    @property
    def main(self) -> MainProcess:
        """Return the process that consumes on connections made here."""
        return self

    def begin(self, action: Callable[[], Any]) -> None:
        """Run ``action`` as the process's life, in a fiber of its own."""

        def live() -> None:
            self._fiber = fiber = current_fiber()
            assert fiber is not None
            fiber.process = self
            self.enter()
            try:
                action()
            finally:
                self.alive = self.ready = False
                for tell in (self.on_gone, self.at_end):
                    if tell is not None and not self._simulation.closed:
                        tell()

        self._simulation.after(0.0, live)

    def enter(self) -> None:
        """Make this worker's state the module's."""
        self._state.switch(self)

    def post(self, action: Callable[..., Any], *args: Any) -> None:
        """Let the process do something on its event loop; a dead one never does."""
        if not self.alive:
            return
        self._inbox.append((action, args))
        if self._waits_for is not None and self._fiber is not None:
            turn, self._waits_for = self._waits_for, None
            if current_fiber() is None:
                self._simulation.after(0.0, self._fiber.resume, turn)
            else:
                self._fiber.resume(turn)

    def listens(self, otherwise: Callable[[], None]) -> bool:
        """Return whether it waits for something to do; if not, call ``otherwise`` as soon as it does."""
        if self._waits_for is not None and self.held_up is None:
            return True
        self._if_listening[otherwise] = None
        return False

    def serve(self, go_on: Callable[[], bool]) -> None:
        """Do what is posted, in order, as long as ``go_on()``; called on the process's own fiber."""
        inbox, fiber = self._inbox, self._fiber
        assert fiber is not None
        while go_on():
            if inbox:
                action, args = inbox.popleft()
                action(*args)
                continue
            self._waits_for = fiber.turn + 1
            self._tell_listeners()
            fiber.park()

    def kill(self) -> None:
        """End it as SIGKILL would: nothing of it happens any more."""
        self.alive = self.ready = False
        self.held_up = None
        if self._fiber is not None:
            self._simulation.abandon(self._fiber)

    def pause(self) -> None:
        """Stop as SIGSTOP would: nothing of it happens, until it goes on."""
        if self.held_up is None:
            self.held_up = []

    def go_on(self) -> None:
        """Go on, as SIGCONT would have it."""
        held_up, self.held_up = self.held_up, None
        for action, args in held_up or ():
            self._simulation.after(0.0, action, *args)
        if self._waits_for is not None:
            self._tell_listeners()

    def is_current(self) -> bool:
        """Return whether the caller is the process itself."""
        return self._fiber is not None and current_fiber() is self._fiber

    def undone(self) -> list[Callable[..., Any]]:
        """Return what was posted and has not been done."""
        return [action for action, _ in self._inbox]

    def _tell_listeners(self) -> None:
        waiting, self._if_listening = self._if_listening, {}
        for action in waiting:
            action()


class ChildProcess:
    """A process of a worker's pool."""

    weight = Weight.WORK
    main = None

    def __init__(self, parent: MainProcess, *, pid: int, job: Any = None) -> None:
        self.parent = parent
        self.pid = pid
        self.job = job
        """What it runs."""
        self.app = parent.app
        self.name = parent.name
        self.joins_block = True
        self.soft_limit: Callable[[], BaseException] = SoftTimeLimitExceeded
        """Makes what its body gets at the soft time limit."""

    @property
    def held_up(self) -> list[tuple[Callable[..., Any], tuple[Any, ...]]] | None:
        """Return what happens when it goes on: it is stopped together with its parent."""
        return self.parent.held_up

    def enter(self) -> None:
        """Leave the module's state as it is: a child has no requests of its own."""


class _ThreadState:
    """Stands for ``celery._state._tls``: the current app, by process and else by thread."""

    def __init__(self, real: Any) -> None:
        self._real = real

    @property
    def current_app(self) -> Any:
        process = _process()
        return self._real.current_app if process is None else process.app

    @current_app.setter
    def current_app(self, app: Any) -> None:
        process = _process()
        if process is None:
            self._real.current_app = app
        else:
            process.app = app


def _process() -> Any:
    fiber = current_fiber()
    return None if fiber is None else fiber.process


def install_process_state(patches: Patches) -> None:
    """Let current app and the right to wait for results belong to simulated processes."""
    get_real, set_real = _current.task_join_will_block, _current._set_task_join_will_block  # noqa: SLF001 - replaced

    def get() -> bool:
        process = _process()
        return bool(get_real() if process is None else process.joins_block)

    def put(blocks: bool) -> None:
        process = _process()
        if process is None:
            set_real(blocks)
        else:
            process.joins_block = blocks

    patches.set(_current, "_tls", _ThreadState(_current._tls))  # noqa: SLF001 - replaced
    blocks_before = get_real()
    # A pool that was built in this process may have left it set.
    set_real(False)
    patches.on_undo(lambda: set_real(blocks_before))
    for module in _JOINING:
        for attribute, value in (("task_join_will_block", get), ("_set_task_join_will_block", put)):
            if hasattr(module, attribute):
                patches.set(module, attribute, value)


# Where these are bound by name, too.
_JOINING = tuple(
    import_module(name)
    for name in (
        "celery._state",
        "celery.result",
        "celery.backends.redis",
        "celery.backends.rpc",
        "celery.worker.components",
    )
)
