"""The engine: the process beside a Locust process that sends its calls and awaits their ends.

Locust's process is gevent's, in which sockets, threads and locks are others than those that a service runs
on. The engine is left as it is: what is measured is what runs in production, any number of waits cost one
listening thread, and none of them can block a user. Locust asks over a socket, a line each, and is told:

    ["go", number, call]                ["sent", number, began, ended]      seconds of the monotonic clock
                                        ["refused", number, began, ended, error]
                                        ["over", number, at, error, waited, ran]
                                        ["worked", number, waited, ran]     from a worker's task events
    ["settle", seconds]                 ["settled", {number: where it is}]
                                        ["backlog", second, waiting, unacknowledged]

The first line it gets is its configuration, the first it writes is ``["ready", ...]`` or ``["failed",
why]``. It ends with the socket.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from contextlib import AsyncExitStack, suppress
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Final

from taskservice.errors import ConfigurationError, TaskNotRegisteredError, TaskServiceError
from taskservice.load.apps import open_app
from taskservice.load.calls import Call
from taskservice.load.senders import Outcome, Sender, check_call, open_senders
from taskservice.load.whereabouts import Backlog, find_runs
from taskservice.load.wire import Lines, pack
from taskservice.settings import load_settings

if TYPE_CHECKING:
    from celery import Celery

    from taskservice.load.task_events import TaskEvents

__all__ = ["Engine", "main"]

logger = logging.getLogger(__name__)

SAMPLE_SECONDS: Final = 1.0
SETTLE_POLL: Final = 0.05
CHUNK: Final = 1 << 16
EARLY_KEPT: Final = 10_000
LATE_EVENTS: Final = 1.0
"""How long after the last run has ended its worker's events are waited for."""


class Engine:
    """Sends and awaits for whoever is at the other end of the socket."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._outbox: list[bytes] = []
        self._flights: dict[str, tuple[int, float]] = {}
        self._under_way: set[int] = set()
        self._given_up: set[int] = set()
        self._seen_to_start: set[int] = set()
        self._early: dict[str, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._senders: dict[str, Sender] = {}
        self._app: Celery | None = None
        self._queues: set[str] = set()
        self._backlog: Backlog | None = None
        self._events: TaskEvents | None = None
        self._loop = asyncio.get_running_loop()

    async def open(self, stack: AsyncExitStack, config: dict[str, Any]) -> None:
        """Connect, and say so."""
        settings = load_settings(backend=config["backend"])
        if settings.backend != "anyio":
            self._app = open_app(config["app"], settings, redirect=config["redirect"])
        self._senders = await open_senders(stack, self._app, settings)
        if self._app is not None and "celery" in self._senders:
            self._queues.update(settings.queues)
            self._backlog = Backlog(self._app, settings.queues)
            self._hold(self._sample())
            if config["events"]:
                self._listen(stack)
        for call in map(Call.from_json, config["calls"]):
            check_call(call, self._senders)
        self.tell(["ready", {"ways": sorted(self._senders), "pid": os.getpid()}])

    def tell(self, message: list[Any]) -> None:
        """Write a message, with all others of this turn of the loop."""
        if not self._outbox:
            self._loop.call_soon(self._flush)
        self._outbox.append(pack(message))

    def hear(self, message: list[Any]) -> None:
        """Do what is asked for."""
        match message:
            case ["go", number, call]:
                self._under_way.add(number)
                self._hold(self._go(number, Call.from_json(call)))
            case ["settle", seconds]:
                self._hold(self._settle(seconds))
            case _:
                logger.error("cannot read %r", message)

    async def _go(self, number: int, call: Call) -> None:
        began, wall = monotonic(), time()
        try:
            sent = await self._senders[call.how].launch(call)
        except Exception as error:  # noqa: BLE001 - whatever keeps a run from being sent is told
            self._under_way.discard(number)
            self.tell(["refused", number, began, monotonic(), _line(error)])
            return

        ended = monotonic()
        self._flights[sent.run_id] = (number, wall + ended - began)
        if "queue" in call.options:
            self._queues.add(call.options["queue"])
        self.tell(["sent", number, began, ended])
        if (early := self._early.pop(sent.run_id, None)) is not None:
            self._worked(sent.run_id, early, None)
        if call.forget:
            return
        try:
            outcome = await sent.outcome()
        except Exception as error:  # noqa: BLE001 - the same for one that nobody can wait for
            outcome = Outcome(error=_line(error))
        self._over(sent.run_id, number, outcome)

    def _over(self, run_id: str, number: int, outcome: Outcome) -> None:
        if number in self._given_up:
            return

        self._under_way.discard(number)
        sent = self._flights[run_id][1]
        if self._events is None:
            del self._flights[run_id]
        waited = None if outcome.started is None else max(0.0, outcome.started - sent)
        self.tell(["over", number, monotonic(), outcome.error, waited, outcome.ran])

    def _listen(self, stack: AsyncExitStack) -> None:
        from taskservice.load.task_events import TaskEvents

        assert self._app is not None

        def take(run_id: str, started: float | None, ran: float | None) -> None:
            self._loop.call_soon_threadsafe(self._worked, run_id, started, ran)

        self._events = TaskEvents(self._app, take)
        self._events.start()
        stack.callback(self._events.close)

    def _worked(self, run_id: str, started: float | None, ran: float | None) -> None:
        if run_id not in self._flights:
            self._keep_early(run_id, started)
            return

        number, sent = self._flights[run_id]
        # An attempt after the first has waited for its time, and not for a worker.
        first = started is not None and number not in self._seen_to_start
        if started is not None:
            self._seen_to_start.add(number)
        waited = max(0.0, started - sent) if first and started is not None else None
        self.tell(["worked", number, waited, ran])
        if ran is not None and number not in self._under_way:
            del self._flights[run_id]
            self._seen_to_start.discard(number)

    def _keep_early(self, run_id: str, started: float | None) -> None:
        # Somebody else's run, or one that started before the broker told us that it was sent.
        if started is not None:
            self._early[run_id] = started
            if len(self._early) > EARLY_KEPT:
                del self._early[next(iter(self._early))]

    async def _sample(self) -> None:
        while True:
            await self._tell_backlog()
            await asyncio.sleep(SAMPLE_SECONDS - time() % SAMPLE_SECONDS)

    async def _tell_backlog(self) -> None:
        if self._backlog is not None:
            waiting, unacked = await asyncio.to_thread(self._backlog.read)
            self.tell(["backlog", time(), waiting, unacked])

    async def _settle(self, seconds: float) -> None:
        """Wait for what is under way, and look for what then still is."""
        deadline = monotonic() + seconds
        while self._under_way and monotonic() < deadline:  # noqa: ASYNC110 - an event for each end costs more
            await asyncio.sleep(SETTLE_POLL)
        if self._events is not None and self._flights and not self._under_way:
            await asyncio.sleep(min(LATE_EVENTS, seconds))
        left = {run_id: number for run_id, (number, _) in self._flights.items() if number in self._under_way}
        where = await self._look_for(left)
        await self._tell_backlog()
        self._given_up.update(self._under_way)
        found = dict.fromkeys(self._under_way, "unknown")
        found.update({number: where[run_id] for run_id, number in left.items()})
        self._under_way.clear()
        self._flights.clear()
        self.tell(["settled", {str(number): end for number, end in found.items()}])

    async def _look_for(self, left: dict[str, int]) -> dict[str, str]:
        if not left:
            return {}
        if self._app is None or "celery" not in self._senders:
            # In this process a run that is not over is at work, or waits for its turn.
            return dict.fromkeys(left, "taken")

        return await asyncio.to_thread(find_runs, self._app, tuple(left), tuple(self._queues))

    def _hold(self, work: Any) -> None:
        # The loop itself holds a task only weakly.
        made = self._loop.create_task(work)
        self._tasks.add(made)
        made.add_done_callback(self._tasks.discard)

    def _flush(self) -> None:
        data, self._outbox = b"".join(self._outbox), []
        with suppress(OSError, RuntimeError):
            self._writer.write(data)


async def _serve(end: socket.socket) -> None:
    reader, writer = await asyncio.open_connection(sock=end, limit=CHUNK)
    lines = Lines()
    engine = Engine(writer)
    async with AsyncExitStack() as stack:
        while chunk := await reader.read(CHUNK):
            for message in lines.feed(chunk):
                if message[0] != "open":
                    engine.hear(message)
                    continue
                try:
                    await engine.open(stack, message[1])
                except (ConfigurationError, TaskNotRegisteredError) as error:
                    engine.tell(["mistaken", str(error)])
                except (TaskServiceError, OSError, ValueError) as error:
                    engine.tell(["failed", _line(error)])
        # Nobody is left to be told, and a run that never ends would hold the service open.
        os._exit(0)


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def main() -> None:
    """Serve the socket whose number is the first argument."""
    logging.basicConfig(level=os.environ.get("TASKSERVICE_LOAD_LOG", "ERROR"))
    # A terminal's Ctrl-C is Locust's to hear: it asks for the last accounts, and closes the socket.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=int(sys.argv[1])) as end, suppress(ConnectionError):
        end.setblocking(False)
        asyncio.run(_serve(end))


if __name__ == "__main__":
    main()
