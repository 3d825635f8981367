"""What Locust does at its events: open the engine, keep the ledger, add up all processes, write the account.

Works in one process, and with a master and any number of workers on any number of machines: each worker
sends its account to the master every second, and the last one once its runs are over. Of a worker that died
the master has the last word, and counts what was under way then as unknown.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any, Final, NoReturn

import gevent
from gevent.event import Event
from locust.runners import STATE_MISSING, MasterRunner, WorkerRunner

from taskservice.errors import TaskServiceError
from taskservice.load.account import Account
from taskservice.load.errors import StackError
from taskservice.load.ledger import Ledger
from taskservice.load.link import EngineLink
from taskservice.load.shapes import ProfileShape

if TYPE_CHECKING:
    from locust.env import Environment

    from taskservice.load.plan import LoadPlan

__all__ = ["Node", "node", "take_part"]

logger = logging.getLogger(__name__)

ACCOUNT: Final = "taskservice-account"
SETTLE: Final = "taskservice-settle"
TICK: Final = 1.0
FRESH: Final = 3.0
MARGIN: Final = 15.0
HURRIED: Final = 1.0
"""How long the ends of runs are waited for after somebody interrupted."""
MISTAKE: Final = 2
STACK_LOST: Final = 3


class Node:
    """This process's part in a load run."""

    def __init__(
        self, environment: Environment, plan: LoadPlan, *, result: str, progress: int | None
    ) -> None:
        self.plan = plan
        self.ledger = Ledger(environment.events.request.fire)
        self.link: EngineLink | None = None
        self._environment = environment
        self._runner: Any = environment.runner
        self._result = result
        self._progress = progress
        self._others: dict[str, Account] = {}
        self._final: set[str] = set()
        self._all_final = Event()
        self._ready = Event()
        self._hurried = False
        self._running = False
        self._ticker: gevent.Greenlet[[], None] | None = None
        self._started = 0.0

    def install(self) -> None:
        """Take part in Locust's events."""
        found = self._environment.events
        found.test_start.add_listener(self._start)
        found.test_stopping.add_listener(self._gather)
        found.test_stop.add_listener(self._stop)
        found.quit.add_listener(self._close)
        if isinstance(self._runner, MasterRunner):
            self._runner.register_message(ACCOUNT, self._take)
        if isinstance(self._runner, WorkerRunner):
            self._runner.register_message(SETTLE, self._asked_to_settle, concurrent=True)
        gevent.signal_handler(signal.SIGUSR1, self._hurry)
        # A master's --run-time begins before its workers have users.
        shaped = self.plan.shape != "flat" or isinstance(self._runner, MasterRunner)
        if shaped and not isinstance(self._runner, WorkerRunner) and not self._environment.web_ui:
            self._environment.shape_class = ProfileShape(self.plan, self.account)
            self._environment.shape_class.runner = self._runner

    def open(self) -> None:
        """Start the engine where there are users; whoever cannot work ends the process with code 3."""
        if isinstance(self._runner, MasterRunner):
            self._ready.set()
            return

        config = {name: getattr(self.plan, name) for name in ("app", "backend", "redirect", "events")}
        ways = {how for each in self._environment.user_classes if (how := getattr(each, "how", None))}
        config["calls"] = [call.to_json() for call in self.plan.calls(sorted(ways))]
        self.link = EngineLink(config, self._hear)
        try:
            self.link.open()
        except TaskServiceError as error:
            _leave(error, STACK_LOST if isinstance(error, StackError) else MISTAKE)

        self._ready.set()

    def _hear(self, message: list[Any]) -> None:
        # Each start of a load has a ledger of its own.
        self.ledger.hear(message)

    def account(self) -> Account:
        """Return the account of all processes, as far as it is known here."""
        if not isinstance(self._runner, MasterRunner):
            return self.ledger.account

        found = Account()
        for other in self._others.values():
            found.merge(other)
        return found

    def _start(self, **_: object) -> None:
        # A master may call for users before this worker's engine is there to send.
        self._ready.wait()
        self._others.clear()
        self._final.clear()
        self._all_final.clear()
        self._started = time()
        self._running = True
        self.ledger = Ledger(self._environment.events.request.fire, warmup=self.plan.warmup)
        self._ticker = gevent.spawn(self._tick)

    def _tick(self) -> None:
        while True:
            gevent.sleep(TICK - time() % TICK)
            if not isinstance(self._runner, MasterRunner):
                self.ledger.sample(self._runner.user_count)
            self._tell(final=False)

    def _tell(self, *, final: bool) -> None:
        if isinstance(self._runner, WorkerRunner):
            # The master has the seconds that are over; all of them once more at the end.
            since = 0.0 if final else time() - FRESH
            self._runner.send_message(
                ACCOUNT, {"account": json.dumps(self.ledger.account.to_json(since=since)), "final": final}
            )
        elif self._progress is not None:
            os.write(self._progress, (json.dumps(self._summary()) + "\n").encode())

    def _summary(self) -> dict[str, Any]:
        account, now = self.account(), time()
        last = account.window(int(now) - 1, int(now))
        return {
            "elapsed": now - self._started,
            "users": last.users,
            "arrivals": account.arrivals,
            "done": account.ends["done"],
            "failed": account.ends["failed"] + account.ends["refused"],
            "in_flight": account.open_runs,
            "waiting": last.waiting,
            "rate": last.done,
            "p95": last.latency.percentile(95),
        }

    def _take(self, environment: Environment, msg: Any, **_: object) -> None:
        before = self._others.get(msg.node_id)
        self._others[msg.node_id] = Account.from_json(json.loads(msg.data["account"]), before=before)
        if msg.data["final"]:
            self._final.add(msg.node_id)
            self._all_final.set()

    def _gather(self, **_: object) -> None:
        """On the master: have all workers stop and settle, before Locust lets them go."""
        if not isinstance(self._runner, MasterRunner):
            return

        self._runner.send_message(SETTLE, {"hurried": self._hurried})
        waited = Event()
        gevent.spawn_later((HURRIED if self._hurried else self.plan.drain) + MARGIN, waited.set)
        while not waited.is_set() and not self._awaited() <= self._final:
            self._all_final.clear()
            self._all_final.wait(0.2)

    def _awaited(self) -> set[str]:
        """Return the workers that still live."""
        return {each.id for each in self._runner.clients.all if each.state != STATE_MISSING}

    def _asked_to_settle(self, environment: Environment, msg: Any, **_: object) -> None:
        self._hurried = self._hurried or bool(msg.data["hurried"])
        self._runner.stop()

    def _stop(self, **_: object) -> None:
        if self._ticker is not None:
            self._ticker.kill()
        if not isinstance(self._runner, MasterRunner):
            self._settle()
        self._tell(final=True)
        self._write()

    def _settle(self) -> None:
        self.ledger.sample(0)
        self.ledger.stop()
        seconds = HURRIED if self._hurried else self.plan.drain
        sampler = gevent.spawn(self._sample_on)
        if self.link is not None:
            self.ledger.settle(self.link.settle(seconds))
        # What is not the engine's: requests to the API.
        gevent.with_timeout(seconds, self._await_empty, timeout_value=None)
        self.ledger.settle(dict.fromkeys(self.ledger.flights, "unknown"))
        sampler.kill()

    def _sample_on(self) -> None:
        elapsed = self.ledger.account.elapsed
        while True:
            gevent.sleep(TICK - time() % TICK)
            self.ledger.sample(0)
            self.ledger.account.elapsed = elapsed

    def _await_empty(self) -> None:
        while self.ledger.flights:
            gevent.sleep(0.05)

    def _write(self) -> None:
        self._running = False
        if not self._result or isinstance(self._runner, WorkerRunner):
            return

        for name, account in self._others.items():
            if name not in self._final:
                account.ends["unknown"] += account.open_runs
                account.notes.add(f"load generator {name} died, and with it the word on its last runs")
        found = {"account": self.account().to_json(), "started": self._started, "ended": time()}
        path = Path(self._result)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(found))
        part.rename(path)

    def _hurry(self) -> None:
        self._hurried = True

    def _close(self, **_: object) -> None:
        # Where the last worker went missing Locust leaves without an end of the test.
        if self._running:
            self._write()
        if self.link is not None:
            self.link.close()


def _leave(error: Exception, code: int) -> NoReturn:
    # Locust goes on after an error of a listener.
    sys.stderr.write(f"taskservice: {error}\n")
    sys.stderr.flush()
    os._exit(code)


_nodes: dict[int, Node] = {}


def node(environment: Environment) -> Node:
    """Return this process's part in the load run of ``environment``."""
    return _nodes[id(environment)]


def take_part(environment: Environment, **_: object) -> None:
    """Make a node of this process; a listener for Locust's ``init``."""
    from taskservice.load.flags import read_flags

    try:
        flags = read_flags(environment.parsed_options)
    except TaskServiceError as error:
        _leave(error, MISTAKE)
    made = Node(environment, flags.plan, result=flags.result, progress=flags.progress)
    _nodes[id(environment)] = made
    made.install()
    made.open()
