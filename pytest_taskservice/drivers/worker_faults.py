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
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from pytest_taskservice.drivers.base import Capability, Injection
from pytest_taskservice.drivers.ledger import Strike
from pytest_taskservice.errors import FaultError, HarnessError, HarnessTimeoutError
from pytest_taskservice.faults.proxy import Toxic
from pytest_taskservice.history import Event, EventKind
from pytest_taskservice.scenario.acts import CONNECTION_FAULTS, DELIVERY_FAULTS, FaultCall
from pytest_taskservice.simulator.celery.fault_values import Point
from pytest_taskservice.simulator.celery.strikes import is_worker

if TYPE_CHECKING:
    from pytest_taskservice.drivers.worker_fleet import Fleet, Member
    from pytest_taskservice.drivers.worker_place import Place

__all__ = ["Alarms", "Injected", "WorkerFaults", "text_of"]

_ENDS = ("kill", "term", "restart")
_STRIKES = ("kill", "term", "restart", "pause", "lose_child")
_TURN = 0.5
_COURIER = 0.01
_PATIENCE = 10.0
_ANSWER = 5.0
# How the history has always spelt it, in every world.
_SPELT = {"when": "at", "lasts": "for"}


class Injected:
    """A fault that was injected."""

    def __init__(self, faults: WorkerFaults, call: FaultCall) -> None:
        self.call = call
        self.over = False
        """Whether it strikes no more and lasts no longer."""
        self.moments: list[float] = []
        """When it has struck by itself, and not by the hand of a worker."""
        self.undo: Callable[[], object] | None = None
        self.strike: Strike | None = None
        self.noticed = 0
        """How many of its strikes the test process has heard of, of those that stop a worker."""
        self.stopped: list[Member] = []
        self._faults = faults

    @property
    def struck(self) -> int:
        """How often it has struck."""
        return len(self.struck_at)

    @property
    def struck_at(self) -> tuple[float, ...]:
        """When it has struck, each time."""
        claims = self._faults.ledger.claims(self.strike.id) if self.strike else ()
        return tuple(sorted([*self.moments, *(claim["at"] for claim in claims)]))

    def heal(self) -> None:
        """End it; may be called twice."""
        self._faults.end(self)


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
        # What is to be done for a member that ends: seconds until it is started again, None for not.
        self._awaited: dict[Member, float | None] = {}
        self._away: list[Member] = []
        self._heard: dict[tuple[int, str], int] = {}
        self._courier: threading.Thread | None = None

    # What a story says.

    def inject(self, call: FaultCall) -> Injection:
        """Begin one fault."""
        injected = Injected(self, call)
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
        self._await_ends(deadline)
        with self._lock:
            away, self._away = self._away, []
        for member in away:
            self._fleet.start_again(member, timeout=self._timeout)
        self._await_turns(deadline)
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
            if injected.strike is not None
            for claim in self.ledger.claims(injected.strike.id)
        ]

    def gone(self, member: Member) -> None:
        """Hear that a member's process has ended, whyever; called from another thread."""
        with self._lock:
            if member in self._awaited:
                wait = self._awaited.pop(member)
            elif (call := self._claimed_by(member)) is not None:
                self.broken = True
                wait = call.restart
            else:
                # It has ended itself: nobody starts it again.
                return
            self._come_back(member, wait)

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
            self._awaited.clear()
        if self._courier is not None:
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
        self._send_courier()

    def _send_courier(self) -> None:
        if self._courier is None:
            self._courier = threading.Thread(target=self._carry, name="taskservice-courier", daemon=True)
            self._courier.start()

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
            self._send_courier()
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
        self._awaited[member] = call.restart
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

    # How what has ended comes back.

    def _come_back(self, member: Member, wait: float | None) -> None:
        if wait is None:
            self._away.append(member)
            return

        def start() -> None:
            self._fleet.start_again(member, timeout=self._timeout)

        self._alarms.after(wait, start, what=f"{member.name} to be started again")

    def _claimed_by(self, member: Member) -> FaultCall | None:
        """Return the strike by which a worker has ended itself, if there is one that is not yet known of."""
        for injected in self._kills():
            assert injected.strike is not None
            claims = self.ledger.claims(injected.strike.id)
            key = (injected.strike.id, member.name)
            struck = sum(claim["worker"] == member.name for claim in claims)
            if struck > self._heard.get(key, 0):
                # Several of its runs may have reached the point before it ended.
                self._heard[key] = struck
                return injected.call
        return None

    def _kills(self) -> list[Injected]:
        return [each for each in self._injected if each.strike is not None and each.strike.kind in _ENDS]

    # How those go on that have stopped themselves.

    def _notice_stops(self) -> None:
        with self._lock:
            for injected in self._injected:
                if injected.strike is None or injected.strike.kind != "pause":
                    continue
                for claim in self.ledger.claims(injected.strike.id)[injected.noticed :]:
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

    def _await_ends(self, deadline: float) -> None:
        """Wait until all that ends has ended, and all that is to come again by itself has come."""
        while True:
            with self._lock:
                ending = ", ".join(member.name for member in self._awaited)
                heard = sum(self._heard.values())
            struck = sum(len(self.ledger.claims(each.strike.id)) for each in self._kills() if each.strike)
            coming = self.pending()
            if not ending and not coming and struck == heard:
                return
            if time.monotonic() > deadline:
                what = coming or f"{ending or 'a worker that was struck'} to end"
                raise HarnessTimeoutError(f"not healed within {self._timeout:g} s: waited for {what}")
            time.sleep(_COURIER)

    def _await_turns(self, deadline: float) -> None:
        for member in self._fleet.workers:
            while member.alive and not self._fleet.turns(member, _TURN):
                if time.monotonic() > deadline:
                    raise HarnessTimeoutError(
                        f"{member.name} did not find its broker again within {self._timeout:g} s of healing"
                    )

    # What is told.

    def _struck(self, injected: Injected, *, worker: str = "") -> None:
        injected.moments.append(time.time())
        self._note(EventKind.FAULT, injected.call, worker=worker)

    def _note(self, kind: EventKind, call: FaultCall, *, worker: str = "") -> None:
        detail = {"fault": text_of(call)}
        self._tell(Event(at=time.time(), kind=kind, run="", task="", worker=worker, detail=detail))

    def _carry(self) -> None:
        """Deliver what was held back when it is due, and see who has stopped itself."""
        from redis.exceptions import RedisError

        while not self._alarms.closed.wait(_COURIER):
            self._notice_stops()
            for message in self.ledger.held():
                if message.due > time.time():
                    break
                try:
                    self._place.client().lpush(message.key, message.raw)
                except (RedisError, OSError):
                    break
                message.path.unlink(missing_ok=True)


class Alarms:
    """What is to be done at its time, each in a thread of its own, until :meth:`close`."""

    def __init__(self) -> None:
        self.closed = threading.Event()
        self._set: dict[threading.Timer, str] = {}
        self._errors: list[HarnessError] = []

    def after(self, seconds: float, action: Callable[[], object], *, what: str = "") -> None:
        """Call ``action`` in so many seconds; with ``what``, its end is waited for."""

        def ring() -> None:
            try:
                if not self.closed.is_set():
                    action()
            except HarnessError as error:
                if not self.closed.is_set():
                    self._errors.append(error)
            finally:
                self._set.pop(timer, None)

        timer = threading.Timer(seconds, ring)
        timer.daemon = True
        self._set[timer] = what
        timer.start()

    def pending(self) -> str:
        """Return what is waited for."""
        return ", ".join(what for what in tuple(self._set.values()) if what)

    def check(self) -> None:
        """Raise what went wrong in the meantime."""
        if self._errors:
            raise self._errors.pop(0)

    def close(self) -> None:
        """Do no more."""
        self.closed.set()
        timers = tuple(self._set)
        for timer in timers:
            timer.cancel()
        for timer in timers:
            timer.join(_PATIENCE)


def text_of(call: FaultCall) -> str:
    """Return a fault as the history has it."""
    told = {
        _SPELT.get(each.name, each.name): getattr(call, each.name)
        for each in fields(call)[1:]
        if getattr(call, each.name) != each.default
    }
    return " ".join([call.kind, *(f"{name}={value}" for name, value in told.items())])


def _nothing() -> None:
    """Undo nothing: what lies in wait is disarmed."""
