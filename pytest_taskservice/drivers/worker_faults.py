"""Faults of a real world: signals to its processes, a proxy before its Redis, strikes by its own workers.

What Celery makes of them is Celery's doing. Nothing here looks for a better outcome: a worker that ends
itself stays away, one that was ended comes up again when the fault says so, or when it is healed.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from pytest_taskservice.drivers.base import Capability, Injection
from pytest_taskservice.drivers.ledger import Strike
from pytest_taskservice.drivers.worker_alarms import Alarms, Courier
from pytest_taskservice.drivers.worker_injected import Injected, text_of
from pytest_taskservice.drivers.worker_recovery import Recovery
from pytest_taskservice.errors import FaultError, HarnessTimeoutError
from pytest_taskservice.faults.proxy import Toxic
from pytest_taskservice.history import Event, EventKind
from pytest_taskservice.scenario.acts import CONNECTION_FAULTS, DELIVERY_FAULTS, FaultCall
from pytest_taskservice.simulator.celery.fault_values import Point
from pytest_taskservice.simulator.celery.strikes import is_worker

if TYPE_CHECKING:
    from pytest_taskservice.drivers.worker_fleet import Fleet, Member
    from pytest_taskservice.drivers.worker_place import Place

__all__ = ["WorkerFaults"]

_STRIKES = ("kill", "term", "restart", "pause", "lose_child")
_ANSWER = 5.0


class WorkerFaults:
    """The faults of one test. ``tell`` takes the events, ``refuse`` raises for what cannot be done."""

    def __init__(  # noqa: PLR0913 - the world, and where to tell of it
        self,
        fleet: Fleet,
        place: Place,
        *,
        seed: int,
        timeout: float,
        tell: Callable[[Event], None],
        refuse: Callable[[Capability, str], NoReturn],
        redis_fault: str | None,
    ) -> None:
        self.ledger = fleet.ledger
        self.broken = False
        """Whether anything was done that a following test could meet."""
        self._fleet = fleet
        self._place = place
        self._random = random.Random(seed)  # noqa: S311 - drawn from the seed on purpose
        self._timeout = timeout
        self._tell, self._refuse = tell, refuse
        self._redis_fault = redis_fault
        self._lock = threading.RLock()
        self._injected: list[Injected] = []
        self._alarms = Alarms()
        self._recovery = Recovery(fleet, self._alarms, self._injected, lock=self._lock, timeout=timeout)
        self._courier = Courier(fleet.ledger, place, closed=self._alarms.closed, look=self._notice_stops)

    # What a story says.

    def inject(self, call: FaultCall) -> Injection:
        """Begin one fault."""
        injected = Injected(call, ledger=self.ledger, end=self.end)
        with self._lock:
            self._injected.append(injected)
            self._begin(injected)
        if call.lasts is not None and not (call.kind == "pause" and call.when):
            self._alarms.after(call.lasts, injected.heal)
        return injected

    def heal(self) -> None:
        """End all, and return when all that was ended is up again and has its broker."""
        for injected in list(self._injected):
            injected.heal()
        deadline = time.monotonic() + self._timeout
        self._recovery.await_ends(deadline, pending=self.pending)
        self._recovery.start_all()
        self._recovery.await_turns(deadline)
        self._alarms.check()

    def end(self, injected: Injected) -> None:
        """End one fault."""
        with self._lock:
            if injected.over:
                return
            injected.over = True
            undo, injected.undo = injected.undo, None
            if injected.strike is not None:
                self._arm()
            for member in list(injected.stopped):
                self._go_on(injected, member)
        if undo is not None:
            undo()
            self._note(EventKind.HEALED, injected.call)

    @contextmanager
    def patience(self, what: str) -> Iterator[None]:
        """Meanwhile, wait for an answer of Redis no longer than a fault that keeps it back may last.

        Nobody can heal one as long as a step of the story waits: then it is done here, and told.
        """
        late: list[str] = []

        def give_up() -> None:
            late.extend(text_of(each.call) for each in self._injected if not each.over)
            for injected in list(self._injected):
                injected.heal()

        longest = max((each.call.lasts or 0.0 for each in self._injected), default=0.0)
        timer = threading.Timer(longest + _ANSWER, give_up)
        timer.daemon = True
        timer.start()
        try:
            yield
        except Exception as error:
            if late:
                raise self._unanswered(what, late) from error
            raise
        finally:
            timer.cancel()
        if late:
            raise self._unanswered(what, late)

    def _unanswered(self, what: str, faults: Sequence[str]) -> HarnessTimeoutError:
        return HarnessTimeoutError(
            f"{what} waited for Redis, which answers nobody ({', '.join(faults)}); say with for how long "
            "that lasts, or heal it before"
        )

    def struck_events(self) -> list[Event]:
        """Return what the workers have claimed to have done."""
        return [
            Event(
                at=claim["at"],
                kind=EventKind.FAULT,
                run="",
                task="",
                worker=claim.get("worker", ""),
                detail={"fault": text_of(injected.call)}
                | {key: claim[key] for key in ("run", "queue") if key in claim},
            )
            for injected in self._injected
            for claim in injected.claims()
        ]

    def gone(self, member: Member) -> None:
        """Hear that a member's process has ended, whyever; called from another thread."""
        with self._lock:
            if self._recovery.gone(member):
                self.broken = True

    def pending(self) -> str:
        """Return what of a fault is still to come, in words; empty if nothing is."""
        stopped = [f"{member.name} to go on" for each in self._injected for member in each.stopped]
        return ", ".join(filter(None, [self._alarms.pending(), *stopped]))

    def close(self) -> None:
        """Forget all; what is broken stays so, and is thrown away."""
        self._alarms.close()
        with self._lock:
            for injected in self._injected:
                injected.over = True
            self._recovery.forget()
        self._courier.join(self._timeout)

    # How faults begin.

    def _begin(self, injected: Injected) -> None:
        call = injected.call
        if call.kind in CONNECTION_FAULTS:
            self._connect_badly(injected)
        elif call.kind in DELIVERY_FAULTS:
            self._deliver_badly(injected)
        elif call.kind in ("lose_child", "slow") or call.when:
            self._lie_in_wait(injected)
        elif call.target == "redis":
            self._break_redis(injected)
        else:
            self._break_member(injected)

    def _connect_badly(self, injected: Injected) -> None:
        call, proxy = injected.call, self._place.proxy
        if proxy is None:
            self._refuse(Capability.CONNECTION_FAULTS, "the stage announces none, so there is no proxy")
        self.broken = True
        doors = self._doors(call)
        toxic = Toxic(kind=call.kind, doors=doors, by=call.by, rate=call.rate, size=call.size)
        self._struck(injected, worker="" if doors == "*" else doors)
        if call.kind == "reset_peer" and call.lasts is None:
            proxy.reset(doors)
            injected.over = True
            return
        proxy.add(toxic)
        injected.undo = lambda: proxy.remove(toxic)

    def _doors(self, call: FaultCall) -> str:
        if call.target == "beat":
            return "beat"
        if call.worker or (call.kind == "reset_peer" and call.target == "worker"):
            return self._draw(call, self._fleet.living()).name
        return "*"

    def _deliver_badly(self, injected: Injected) -> None:
        call = injected.call
        if call.kind == "delay" and not call.by:
            raise FaultError("delay by how much? Say by=seconds")
        self._lay(injected)
        self._courier.send()

    def _lie_in_wait(self, injected: Injected) -> None:
        call = injected.call
        what = f"{call.kind} at {call.when or Point.RUNNING}"
        if call.target != "worker":
            raise FaultError(f"{what}: {call.target} runs no tasks")
        if call.kind not in (*_STRIKES, "slow"):
            self._refuse(Capability.STRIKES, f"{what}: that strikes no real run at a point")
        if call.kind == "lose_child":
            if call.when == Point.RECEIVED:
                raise FaultError("lose_child needs a body to lose: when started, running or stored")
            if any(member.spec.pool != "prefork" for member in self._fleet.workers):
                self._refuse(Capability.STRIKES, f"{what}: only the pool prefork has children to lose")
        if call.kind == "pause":
            self._courier.send()
        if call.kind == "slow":
            self._struck(injected)
            injected.undo = _nothing
        self._lay(injected)

    def _lay(self, injected: Injected) -> None:
        call = injected.call
        injected.strike = Strike(
            id=self.ledger.next_id(),
            kind=call.kind,
            when=call.when,
            into=call.into,
            task=call.task,
            worker=call.worker,
            queue=call.queue,
            by=call.by,
            times=call.times,
        )
        self._arm()

    def _arm(self) -> None:
        self.ledger.arm(each.strike for each in self._injected if each.strike and not each.over)

    def _break_member(self, injected: Injected) -> None:
        call, fleet = injected.call, self._fleet
        members = [each for each in fleet.members if each.is_beat] if call.target == "beat" else fleet.workers
        member = self._draw(call, [each for each in members if each.alive and not each.paused])
        self.broken = True
        self._struck(injected, worker=member.name)
        if call.kind == "pause":
            fleet.pause(member)
            injected.undo = lambda: fleet.resume(member)
            return
        self._recovery.expect(member, call.restart)
        injected.over = True
        if call.kind == "kill":
            fleet.kill(member)
        else:
            fleet.terminate(member)

    def _break_redis(self, injected: Injected) -> None:
        call, mortal = injected.call, self._place.mortal
        if mortal is None:
            self._refuse(
                Capability.PROCESS_FAULTS, self._redis_fault or "the stage announces no fault of processes"
            )
        assert self._place.proxy is not None
        proxy = self._place.proxy
        self.broken = True
        self._struck(injected)
        if call.kind == "pause":
            mortal.pause()
            injected.undo = mortal.resume
            return
        # A port that nobody listens on refuses; the proxy before it would let clients in first.
        proxy.add(outage := Toxic(kind="down"))
        (mortal.kill if call.kind == "kill" else mortal.terminate)()

        def undo() -> None:
            mortal.start()
            proxy.remove(outage)

        injected.undo = undo
        if call.restart is not None:
            self._alarms.after(call.restart, injected.heal)

    def _draw(self, call: FaultCall, found: Sequence[Member]) -> Member:
        meant = [each for each in found if each.is_beat or is_worker(call.worker, each.name)]
        if not meant:
            alive = ", ".join(each.name for each in self._fleet.living()) or "none"
            wanted = f"worker {call.worker!r}" if call.worker else call.target
            raise FaultError(f"{call.kind}: there is no {wanted} to strike (workers alive: {alive})")
        return self._random.choice(meant)

    # How those go on that have stopped themselves.

    def _notice_stops(self) -> None:
        with self._lock:
            for injected in self._injected:
                if injected.strike is None or injected.strike.kind != "pause":
                    continue
                for claim in injected.claims()[injected.noticed :]:
                    injected.noticed += 1
                    self.broken = True
                    for member in self._fleet.workers:
                        if member.name == claim["worker"]:
                            self._stopped(injected, member)

    def _stopped(self, injected: Injected, member: Member) -> None:
        self._fleet.found_paused(member)
        injected.stopped.append(member)
        self._alarms.after(injected.call.lasts or 0.0, partial(self._go_on, injected, member))

    def _go_on(self, injected: Injected, member: Member) -> None:
        with self._lock:
            if member not in injected.stopped:
                return
            injected.stopped.remove(member)
            self._fleet.resume(member)
            self._note(EventKind.HEALED, injected.call, worker=member.name)

    # What is told.

    def _struck(self, injected: Injected, *, worker: str = "") -> None:
        injected.moments.append(time.time())
        self._note(EventKind.FAULT, injected.call, worker=worker)

    def _note(self, kind: EventKind, call: FaultCall, *, worker: str = "") -> None:
        detail = {"fault": text_of(call)}
        self._tell(Event(at=time.time(), kind=kind, run="", task="", worker=worker, detail=detail))


def _nothing() -> None:
    """Undo nothing: what lies in wait is disarmed."""
