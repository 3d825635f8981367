"""The harness's agent inside a worker process: what runs, what happened, and a way to clear it.

Once the worker consumes, the agent greets the test process on a socket inherited from it; that is the
sign of being ready. A thread then answers one JSON line with another. It reads Celery's own worker state, and
changes it only on the worker's event loop. Nothing of it travels over the broker.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, ItemsView, Iterator, KeysView, ValuesView
from contextlib import suppress
from functools import wraps
from importlib import import_module
from typing import TYPE_CHECKING, Any

from celery import bootsteps, signals
from celery.worker.request import Request

from pytest_taskservice.drivers.scheduled import drop_scheduled, scheduled_requests
from pytest_taskservice.drivers.worker_loop import WorkerLoop
from pytest_taskservice.history import brief

if TYPE_CHECKING:
    from celery import Celery

    from pytest_taskservice.drivers.ledger import Journal
    from pytest_taskservice.drivers.worker_strikes import Strikes

control: Any = import_module("celery.worker.control")
state: Any = import_module("celery.worker.state")

__all__ = ["VISIBLE_STATE", "Agent", "install"]

# Collections of ``celery.worker.state`` that hold ids and times, nothing of this process only.
VISIBLE_STATE = ("revoked", "revoked_stamps", "successful_requests")

# Commands of remote control after which a worker is as it was before.
_PASSING = {"election", "enable_events", "heartbeat", "revoke", "terminate"}
_NOTICE = 5.0
_KINDS = {
    "task-received": "received",
    "task-started": "started",
    "task-succeeded": "succeeded",
    "task-failed": "failed",
    "task-retried": "retried",
    "task-revoked": "revoked",
    "task-rejected": "rejected",
}
_DETAILS = (
    "parent_id",
    "result",
    "exception",
    "runtime",
    "eta",
    "expires",
    "terminated",
    "expired",
    "signum",
    "redelivered",
    "requeue",
)


def install(app: Celery, descriptor: int, *, journal: Journal | None = None) -> Agent:
    """Put an agent that talks on the inherited socket ``descriptor`` into the worker of ``app``.

    It writes what happens into ``journal``.

    The worker must be built with ``task_events=True``, or its requests tell nobody what becomes of them.
    """
    agent = Agent(app, socket.socket(fileno=descriptor), journal)
    wanted = bool(app.conf.worker_send_task_events)
    make = app.events.Dispatcher

    def dispatcher(*args: Any, **kwargs: Any) -> _Recorder:
        # As a worker that was not asked for events has it, until remote control asks.
        groups = None if wanted else ["worker"]
        return _Recorder(make(*args, **{**kwargs, "groups": groups}), agent.record)

    # A cached property of AppEvents: setting it wins over the class.
    app.events.__dict__["Dispatcher"] = dispatcher
    _tell_by_request(agent)
    _note_changes(agent)
    signals.task_received.connect(agent.received, weak=False)
    app.steps["consumer"].add(_step(agent))
    signals.worker_process_init.connect(agent.forget, weak=False)
    return agent


def _tell_by_request(agent: Agent) -> None:
    """Record a request's own events where they arise: only there is its attempt known for certain."""
    original = Request.send_event

    def send_event(request: Any, type: str, **fields: Any) -> Any:  # noqa: A002 - Celery's word
        retries = request.request_dict.get("retries")
        agent.record(type, {**fields, "uuid": request.id, "name": request.name, "retries": retries})
        if type == "task-started" and agent.strikes is not None:
            agent.strikes.at_started(request, agent.soon)
        return original(request, type, **fields)

    setattr(Request, "send_event", send_event)  # noqa: B010 - a method is replaced on purpose


def _note_changes(agent: Agent) -> None:
    """Note which commands of remote control change the worker: another test has not asked for them."""

    def noting(command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def call(*args: Any, **arguments: Any) -> Any:
            agent.changed = True
            return command(*args, **arguments)

        return call

    for name, about in control.Panel.meta.items():
        if about.type == "control" and name not in _PASSING:
            control.Panel.data[name] = noting(control.Panel.data[name])


class Agent:
    """State over the life of one worker process."""

    def __init__(self, app: Celery, connection: socket.socket, journal: Journal | None = None) -> None:
        self.strikes: Strikes | None = None
        self.changed = False
        """Whether remote control has made another worker of it."""
        self._app = app
        self._journal = journal
        self._connection = connection
        self._pid = os.getpid()
        self._consumer: Any = None
        self._loop = WorkerLoop()
        self._seen = 0
        self._commands: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "settle": self._settle,
            "clear": self._clear,
            "consume": self._consume,
            "drain": self._drain,
            "teach": self._teach,
            "look": _look,
            "turn": self._turn,
            "state": self._state,
        }

    def attach(self, consumer: Any) -> None:
        """Serve ``consumer``; called again after every reconnect."""
        first = self._consumer is None
        self._consumer = consumer
        self._loop.attach(consumer.hub)
        if first:
            threading.Thread(target=self._talk, name="taskservice-agent", daemon=True).start()

    def soon(self, action: Callable[..., object], *args: Any) -> None:
        """Do something on the worker's loop, behind what is due there."""
        # In the turn after the next one: within a turn the loop keeps no order.
        self._consumer.call_soon(self._consumer.call_soon, action, *args)

    def child_lost(self, pid: int) -> None:
        """Have the pool notice the end of a child that is being killed.

        Celery hears of it by a pipe that closes a little before there is an exit code. When it looks too
        early, it looks again up to five seconds later.
        """
        threading.Thread(target=self._notice, args=(pid,), name="taskservice-notice", daemon=True).start()

    def _notice(self, pid: int) -> None:
        with suppress(ChildProcessError):
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        self._loop.call(self._consumer.pool.maintain_pool, time.monotonic() + _NOTICE)

    def forget(self, **_: Any) -> None:
        """In a forked pool process: the connection stays the parent's."""
        # A solo pool sends this signal from the worker itself.
        if os.getpid() != self._pid:
            self._connection.close()

    def received(self, sender: Any = None, request: Any = None, **_: Any) -> None:
        """Record that a message has been accepted; its event is not sent for every task."""
        fields = {
            "uuid": request.id,
            "name": request.name,
            "retries": request.request_dict.get("retries"),
            "parent_id": request.parent_id,
            "eta": request.eta and request.eta.isoformat(),
            "expires": request.expires and request.expires.isoformat(),
            "redelivered": request.delivery_info.get("redelivered") or None,
        }
        self.record("task-received", fields)
        if self.strikes is not None:
            self.strikes.at_received(request)

    def record(self, kind: str, fields: dict[str, Any]) -> None:
        """Tell one of Celery's task events; ``fields`` are the event's own, with ``name`` and ``retries``."""
        if kind not in _KINDS:
            return
        self._seen += 1
        if self._journal is None:
            return
        detail = {key: brief(fields[key]) for key in _DETAILS if fields.get(key) is not None}
        self._journal.write(
            {
                "at": time.time(),
                "kind": _KINDS[kind],
                "run": fields["uuid"],
                "task": fields.get("name") or "",
                "attempt": int(fields.get("retries") or 0) + 1,
                "worker": self._consumer.hostname if self._consumer else "",
                "detail": detail,
            }
        )

    def _talk(self) -> None:
        with self._connection, self._connection.makefile("rwb") as stream:
            # Two turns: in the first one it subscribes to what is broadcast to workers.
            for _ in range(2):
                self._loop.call(lambda: None, time.monotonic() + 60.0)
            for answer in itertools.chain([self._hello({})], map(self._answer, stream)):
                stream.write(json.dumps(answer, default=str).encode() + b"\n")
                stream.flush()

    def _answer(self, line: bytes) -> dict[str, Any]:
        request = json.loads(line)
        try:
            return self._commands[request.pop("do")](request)
        except Exception as error:  # noqa: BLE001 - told to the caller, who raises it
            return {"error": f"{type(error).__name__}: {error}"}

    def _hello(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"pid": self._pid, "tasks": sorted(self._app.tasks), "queues": self._queues()}

    def _queues(self) -> list[str]:
        return [queue.name for queue in self._consumer.task_consumer.queues]

    def _state(self, _: dict[str, Any]) -> dict[str, Any]:
        active = list(state.active_requests)
        reserved = [request for request in list(state.reserved_requests) if request not in active]
        return {
            "active": [[request.id, request.name] for request in active],
            "reserved": [[request.id, request.name] for request in reserved],
            "scheduled": [[request.id, request.name] for request in scheduled_requests(self._consumer)],
        }

    def _settle(self, request: dict[str, Any]) -> dict[str, Any]:
        """Wait until nothing runs here and what had arrived has been looked at."""
        deadline = time.monotonic() + request["timeout"]
        before = self._seen
        idle: list[bool] = []
        while True:
            # Two turns of the loop: what lay in the broker's socket before is a request after. Looked at from
            # there, too: on its way from the timer to the pool a request is nowhere.
            turned = self._loop.call(lambda: None, deadline)
            if turned and self._loop.call(lambda: idle.append(self._is_idle()), deadline) and idle[-1]:
                return self._told(idle=True, moved=self._seen != before)
            if time.monotonic() >= deadline:
                return self._told(idle=False, moved=True)
            time.sleep(0.0005)

    def _told(self, *, idle: bool, moved: bool) -> dict[str, Any]:
        return {"idle": idle, "moved": moved, "seen": self._seen, "changed": self.changed}

    def _is_idle(self) -> bool:
        return not (state.reserved_requests or state.active_requests or scheduled_requests(self._consumer))

    def _clear(self, request: dict[str, Any]) -> dict[str, Any]:
        """Drop what waits, terminate what runs; say whether the worker is idle afterwards."""
        deadline = time.monotonic() + request["timeout"]
        self._loop.call(self._drop, deadline)
        return self._settle({"timeout": max(0.0, deadline - time.monotonic())})

    def _drop(self) -> None:
        consumer = self._consumer
        drop_scheduled(consumer)
        for bucket in consumer.task_buckets.values():
            if bucket:
                bucket.clear_pending()
        for request in list(state.reserved_requests):
            state.revoked.add(request.id)
            if request in state.active_requests:
                # A message acknowledged late would otherwise come back when its process dies.
                request.acknowledge()
                request.terminate(consumer.pool, signal=signal.SIGKILL)

    def _consume(self, request: dict[str, Any]) -> dict[str, Any]:
        def add() -> None:
            self._consumer.add_task_queue(request["queue"])

        done = self._loop.call(add, time.monotonic() + 2.0)
        return {"queues": self._queues(), "done": done}

    def _teach(self, request: dict[str, Any]) -> dict[str, Any]:
        """Know more tasks, in this process; a pool that has forked knows nothing of them."""
        from pytest_taskservice.drivers.worker_main import learn
        from pytest_taskservice.drivers.worker_spec import ModuleSource

        modules = [ModuleSource(**module) for module in request["modules"]]
        learn(self._app, modules=modules)

        def register() -> None:
            learn(self._app, modules=(), classes=request["classes"], carried=request["carried"])
            self._consumer.update_strategies()

        # In one turn: a message in between would find its task without a tracer, and end the worker.
        done = self._loop.call(register, time.monotonic() + 2.0)
        return {"tasks": sorted(self._app.tasks), "done": done}

    def _drain(self, request: dict[str, Any]) -> dict[str, Any]:
        """Take no more, give back what has not started, and wait for what runs; say whether all has ended."""
        deadline = time.monotonic() + request["timeout"]
        turned = self._loop.call(self._give_back, deadline)
        while state.active_requests and time.monotonic() < deadline:
            time.sleep(0.001)
        # Two turns: a result of the pool that has come in is acknowledged.
        turned = (
            turned and self._loop.call(lambda: None, deadline) and self._loop.call(lambda: None, deadline)
        )
        return {"idle": turned and not state.active_requests}

    def _give_back(self) -> None:
        self._consumer.task_consumer.cancel()
        semaphore = self._consumer.controller.semaphore
        if semaphore is not None:
            # What waits for a slot must not start once it has gone back.
            semaphore.clear()
        for request in {*scheduled_requests(self._consumer), *state.reserved_requests} - {
            *state.active_requests
        }:
            request.reject(requeue=True)

    def _turn(self, request: dict[str, Any]) -> dict[str, Any]:
        """Say whether the event loop turns; while the worker looks for its broker it does not."""
        turned = self._loop.call(lambda: None, time.monotonic() + request["timeout"])
        return {"turned": turned, "busy": bool(state.active_requests)}


class _Recorder:
    """An event dispatcher that says it is enabled, so that requests tell; it sends only if the user wants.

    What no request tells is recorded here: that nobody knows a message's task.
    """

    def __init__(self, dispatcher: Any, record: Callable[[str, dict[str, Any]], None]) -> None:
        self._dispatcher = dispatcher
        self._record = record

    enabled = True

    def send(self, type: str, **fields: Any) -> Any:  # noqa: A002 - Celery's word
        if type == "task-failed" and "NotRegistered" in str(fields):
            self._record(type, {"name": "(not registered)", **fields})
        return self._dispatcher.send(type, **fields)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dispatcher, name)


def _step(agent: Agent) -> type[Any]:
    class AgentStep(bootsteps.StartStopStep):
        """Starts the agent once the consumer has its queues."""

        requires = ("celery.worker.consumer.tasks:Tasks",)

        def start(self, parent: Any) -> None:
            agent.attach(parent)

    return AgentStep


def _look(request: dict[str, Any]) -> dict[str, Any]:
    """Call a method of one of :data:`VISIBLE_STATE`."""
    from pytest_taskservice.drivers.portable import decode, encode

    if request["name"] not in VISIBLE_STATE:
        raise LookupError(request["name"])
    args, kwargs = decode(request["given"])
    found = getattr(getattr(state, request["name"]), request["method"])(*args, **kwargs)
    # Views and iterators stay here; what they show does not.
    seen = isinstance(found, (Iterator, KeysView, ValuesView, ItemsView))
    return {"found": encode(list(found) if seen else found)}
