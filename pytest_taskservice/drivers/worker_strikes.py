"""Strikes at a point of a run's life, made by the worker itself: only it knows when the point is reached.

The processes of the pool share the worker's process group, so one SIGKILL to it is the end of all. A strike
at ``started`` needs both sides: the main process has to acknowledge what is acknowledged early, and no line
of the body may have run. So the process that is about to run it waits for the blow.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from functools import wraps
from importlib import import_module
from typing import TYPE_CHECKING, Any

from celery import signals

from pytest_taskservice.simulator.celery.fault_values import Point
from pytest_taskservice.simulator.celery.strikes import is_named, is_worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from pytest_taskservice.drivers.ledger import Ledger, Strike

__all__ = ["Strikes"]

state: Any = import_module("celery.worker.state")

_ENDS = ("kill", "term", "restart", "pause", "lose_child")
_REQUESTS = ("term", "restart")
_FATAL = ("kill", "lose_child")
_BLOW = 5.0
_POLL = 0.0005


class Strikes:
    """What lies in wait in one worker; ``lost`` is told of each child that was killed from here."""

    def __init__(self, ledger: Ledger, worker: str, pool: str, *, lost: Callable[[int], None]) -> None:
        self._ledger = ledger
        self._worker = worker
        self._pool = pool
        self._lost = lost

    def install(self, app: Celery) -> None:
        """Put hooks around the bodies of ``app``, before any pool is made."""
        signals.task_prerun.connect(self._before, weak=False)
        signals.task_postrun.connect(self._after, weak=False)
        for task in app.tasks.values():
            self._slow(task)

    def at_received(self, request: Any) -> None:
        """Strike once a message is with the worker and its body has not started."""
        for strike in self._meant(Point.RECEIVED, request.name, request.task.name):
            if self._ledger.claim(strike, run=request.id, worker=self._worker):
                _strike_worker(strike)

    def at_started(self, request: Any, soon: Callable[..., object]) -> None:
        """Strike once a body is about to run, or see to it that it is struck while it does."""
        for strike in self._meant(Point.STARTED, request.name, request.task.name):
            if strike.kind in _REQUESTS:
                # The body goes on: whoever runs it asks.
                continue
            if self._pool == "solo":
                self._strike(strike, request)
            else:
                # An early acknowledgement is due on the worker's loop, and goes first.
                soon(self._strike, strike, request)
        for strike in self._meant(Point.RUNNING, request.name, request.task.name):
            timer = threading.Timer(strike.into, self._while_running, (strike, request))
            timer.daemon = True
            timer.start()

    def _while_running(self, strike: Strike, request: Any) -> None:
        if strike in self._ledger.armed(*_ENDS) and request in state.active_requests:
            self._strike(strike, request)

    def _strike(self, strike: Strike, request: Any) -> None:
        if not self._ledger.claim(strike, run=request.id, worker=self._worker):
            return
        if strike.kind == "lose_child":
            child = request.worker_pid
            os.kill(child, signal.SIGKILL)
            self._lost(child)
        else:
            _strike_worker(strike)

    # In the process that runs the body.

    def _before(self, task: Any = None, task_id: str = "", **_: Any) -> None:
        deadline = time.monotonic() + _BLOW
        for strike in self._meant(Point.STARTED, task.request.shadow, task.name):
            if strike.kind in _REQUESTS:
                if self._ledger.claim(strike, run=task_id, worker=self._worker):
                    _strike_worker(strike)
                continue
            while strike in self._ledger.armed(strike.kind) and not self._is_over(strike, task_id):
                if time.monotonic() > deadline:
                    return
                time.sleep(_POLL)
            # A message that has come again was struck in a body before this one.
            again = (task.request.delivery_info or {}).get("redelivered")
            if strike.kind in _FATAL and not again and self._claimed(strike, task_id, worker=self._worker):
                # The claim comes before the blow, which is on its way.
                threading.Event().wait(max(0.0, deadline - time.monotonic()))

    def _after(self, task: Any = None, task_id: str = "", **_: Any) -> None:
        for strike in self._meant(Point.STORED, task.request.shadow, task.name):
            if not self._ledger.claim(strike, run=task_id, worker=self._worker):
                continue
            if strike.kind == "lose_child":
                os.kill(os.getpid(), signal.SIGKILL)
            _strike_worker(strike)

    def _is_over(self, strike: Strike, run: str) -> bool:
        """Whether the blow has fallen, or is not for this run."""
        return self._ledger.is_spent(strike) or self._claimed(strike, run)

    def _claimed(self, strike: Strike, run: str, *, worker: str | None = None) -> bool:
        """Whether the blow was claimed for ``run``, by ``worker`` or anybody."""
        return any(
            claim["run"] == run and worker in {None, claim["worker"]}
            for claim in self._ledger.claims(strike.id)
        )

    def _slow(self, task: Any) -> None:
        """Have a body take longer, within its own time limits."""
        run = task.run

        @wraps(run)
        def slowed(*args: Any, **kwargs: Any) -> Any:
            for strike in self._ledger.armed("slow"):
                if self._means(strike, task.request.shadow, task.name):
                    time.sleep(strike.by)
            return run(*args, **kwargs)

        task.run = slowed

    def _meant(self, point: str, *names: str | None) -> list[Strike]:
        armed = self._ledger.armed(*_ENDS)
        return [strike for strike in armed if strike.point == point and self._means(strike, *names)]

    def _means(self, strike: Strike, *names: str | None) -> bool:
        return is_worker(strike.worker, self._worker) and any(
            is_named(strike.task, name) for name in names if name
        )


def _strike_worker(strike: Strike) -> None:
    """Do to the worker and its pool, one group of processes, what is asked for."""
    group = os.getpgrp()
    match strike.kind:
        case "kill":
            os.killpg(group, signal.SIGKILL)
            # The signal has reached us by then, or does so now.
            threading.Event().wait()
        case "pause":
            os.killpg(group, signal.SIGSTOP)
        case _:
            os.kill(group, signal.SIGTERM)
