"""Faults: what is broken on purpose in a simulated world, when, and until when.

A fault strikes by itself, or lies in wait for a run or a message, or lasts. What follows is Celery's own
doing: its acknowledgements, its reconnection, its lost workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pytest_taskservice.errors import FaultError
from pytest_taskservice.history import EventKind
from pytest_taskservice.simulator.celery import strikes
from pytest_taskservice.simulator.celery.broker import BrokerDownError
from pytest_taskservice.simulator.celery.fault_values import Fault, make_fault
from pytest_taskservice.simulator.celery.nemesis import Nemesis
from pytest_taskservice.simulator.celery.traps import Traps
from pytest_taskservice.simulator.celery.ways import Ways
from pytest_taskservice.simulator.core.agenda import Weight
from pytest_taskservice.simulator.core.fibers import current_fiber

if TYPE_CHECKING:
    from pytest_taskservice.simulator.celery.broker import Broker
    from pytest_taskservice.simulator.celery.worker import SimulatedWorker
    from pytest_taskservice.simulator.celery.world import CeleryWorld
    from pytest_taskservice.simulator.core.agenda import Due

__all__ = ["Faults", "Injected"]


class Injected:
    """A fault at work. ``times`` counts how often it has struck."""

    def __init__(self, faults: Faults, fault: Fault) -> None:
        self.fault = fault
        self.moments: list[float] = []
        """When it has struck, each time, as the history counts."""
        self.over = False
        """Whether it strikes no more and lasts no longer."""
        self.ready = False
        """Whether its time has come: it waits, lasts or has struck."""
        self.victim: Any = None
        self.dues: list[Due | None] = []
        self.pauses: list[Injected] = []
        """What it has begun where it lay in wait."""
        self._faults = faults

    @property
    def times(self) -> int:
        """How often it has struck."""
        return len(self.moments)

    def heal(self) -> None:
        """End it; what it has done stays done, but for those who stand still."""
        for injected in (self, *self.pauses):
            self._faults.end(injected)

    def __repr__(self) -> str:
        return f"<{self.fault}, struck {self.times} times{', over' if self.over else ''}>"


class Faults:
    """The faults of one world."""

    def __init__(self, world: CeleryWorld) -> None:
        self._world = world
        self._active: list[Injected] = []
        self._nemeses: list[Nemesis] = []
        self._traps = Traps(world, self)

    def inject(self, kind: str, **options: Any) -> Injected:
        """Break something. The kinds and their options: :data:`KINDS`, :class:`Fault`."""
        return self.begin(make_fault(kind, options))

    def begin(self, fault: Fault, *, unless_nobody: bool = False) -> Injected:
        """Break something. Where there is nobody to strike, raise :class:`FaultError`, or do nothing."""
        injected = Injected(self, fault)
        simulation = self._world.simulation
        if not unless_nobody and not fault.after and not fault.waits:
            self._check_somebody(fault)
        self._active.append(injected)
        if fault.after or current_fiber() is not None:
            # Not under the feet of who asks for it: an event of its own.
            injected.dues.append(simulation.after(fault.after, self._set_off, injected))
        else:
            self._set_off(injected)
        return injected

    def nemesis(
        self,
        kinds: Sequence[str | Fault],
        *,
        every: tuple[float, float],
        until: float,
        limit: int | None = None,
    ) -> Nemesis:
        """Break things that the seed draws: one of ``kinds`` after each span of ``every`` seconds.

        At most ``limit`` of them, for ``until`` seconds; then all of them are healed.
        """
        nemesis = Nemesis(self._world, kinds, every=every, until=until, limit=limit)
        self._nemeses.append(nemesis)
        nemesis.begin()
        return nemesis

    def heal(self) -> None:
        """End all that lasts, lies in wait or is to come."""
        for nemesis in self._nemeses:
            nemesis.end()
        for injected in list(self._active):
            self.end(injected)

    def end(self, injected: Injected) -> None:
        """End one fault."""
        if injected.over:
            return
        injected.over = True
        self._active.remove(injected)
        for due in injected.dues:
            self._world.simulation.cancel(due)
        if injected.times and injected.fault.lasts:
            self._undo(injected)
            self._note(EventKind.HEALED, injected.fault, {})
        self._arrange()

    def reach(self, broker: Broker) -> None:
        """Let what is at work concern ``broker``."""
        broker.fate = self._traps.fate if any(self.waiting("duplicate", "delay")) else None
        broker.keeps = self._traps.keeps if any(self.waiting("drop_ack")) else None
        was_mute = broker.ways.mute
        broker.ways = self._ways()
        if was_mute:
            broker.speak_again()

    def reach_redis(self) -> None:
        """Let what is at work concern the other clients of a Redis that is the broker, too."""
        ways = self._ways()
        self._world.redis.obstruct(self._world.redis_brokers(), ways.of if ways.any else None)

    def _ways(self) -> Ways:
        ways = [each.fault for each in self._active if each.times and each.fault.is_of_ways]
        return Ways(ways, strikes.concerns)

    def strike_worker(self, injected: Injected, worker: SimulatedWorker, run: str) -> None:
        """Do to the worker what has lain in wait for one of its runs."""
        self.struck(injected, {"worker": worker.process.name, "run": run})
        if worker.process.is_current() and injected.fault.kind != "pause":
            # The worker itself is running this line.
            self._world.simulation.after(0.0, self._perform_trap, injected, worker)
        else:
            self._perform_trap(injected, worker)

    def _perform_trap(self, injected: Injected, worker: SimulatedWorker) -> None:
        fault, world = injected.fault, self._world
        if not worker.process.alive:
            return
        if fault.kind == "kill":
            strikes.kill(world, worker, fault.restart)
        elif fault.kind == "pause":
            pause = Injected(self, Fault(kind="pause", worker=worker.process.name, for_=fault.for_))
            pause.victim = worker
            pause.moments.append(world.record.now())
            pause.dues.append(world.simulation.after(fault.for_ or 0.0, pause.heal))
            injected.pauses.append(pause)
            self._active.append(pause)
            strikes.pause(world, worker)
        else:
            strikes.terminate(world, worker, fault.restart)

    def explain(self) -> Iterator[str]:
        """Say what is broken."""
        return (f"fault: {injected.fault}" for injected in self._active)

    def waiting(self, *kinds: str) -> list[Injected]:
        """Return the faults of ``kinds`` that lie in wait."""
        return [each for each in self._active if each.ready and each.fault.waits and each.fault.kind in kinds]

    def lasting(self, kind: str) -> list[Injected]:
        """Return the faults of a kind that last."""
        return [each for each in self._active if each.times and each.fault.kind == kind]

    # How faults begin.

    def _set_off(self, injected: Injected) -> None:
        fault, simulation = injected.fault, self._world.simulation
        injected.ready = True
        if fault.for_ is not None and not (fault.waits and fault.kind == "pause"):
            weight = Weight.WORK if fault.lasts else Weight.UPKEEP
            injected.dues.append(simulation.after(fault.for_, injected.heal, weight=weight))
        if fault.waits:
            self._arrange()
        elif (fault.lasts and fault.kind != "pause") or fault.target == "broker":
            self._strike_all(injected)
        else:
            self._strike_one(injected)

    def _strike_all(self, injected: Injected) -> None:
        fault, world = injected.fault, self._world
        if fault.kind == "restart":
            self.end(injected)
            injected.moments.append(self._world.record.now())
            self.begin(Fault(kind="down", for_=fault.restart or 0.0))
            return
        self.struck(injected, {})
        if fault.kind == "clock":
            world.simulation.step_clock(fault.by)
        self._arrange()
        if fault.kind == "down":
            for worker in world.living():
                if strikes.concerns(fault, worker.process.name):
                    error = BrokerDownError(111, "connection refused: the simulated broker is down")
                    worker.disconnect(error)
            for broker in world.brokers():
                broker.lost(lambda consumer: strikes.concerns(fault, consumer.client_name))
            world.redis.cut(world.redis_brokers(), lambda client: strikes.concerns(fault, client))

    def _strike_one(self, injected: Injected) -> None:
        fault, world = injected.fault, self._world
        found = strikes.victims(world, fault)
        if not found:
            self.end(injected)
            return
        victim = world.simulation.random.choice("faults", found)
        if fault.lasts:
            injected.victim = victim
        self.struck(injected, {"worker": strikes.name_of(victim)})
        if not fault.lasts:
            self.end(injected)
        self._perform(fault, victim)

    def _perform(self, fault: Fault, victim: Any) -> None:
        world = self._world
        if fault.target == "beat" and fault.kind != "pause":
            strikes.kill_beat(world, victim, fault.restart)
        elif fault.kind == "kill":
            strikes.kill(world, victim, fault.restart)
        elif fault.kind == "pause":
            _process_of(victim).pause()
        elif fault.kind == "reset_peer":
            strikes.reset(world, victim)
        else:
            strikes.terminate(world, victim, fault.restart)

    def _undo(self, injected: Injected) -> None:
        if injected.fault.kind == "clock":
            self._world.simulation.step_clock(-injected.fault.by)
        elif injected.fault.kind == "pause" and injected.victim is not None:
            victim = injected.victim
            if not any(other.victim is victim for other in self.lasting("pause")):
                _process_of(victim).go_on()

    def _check_somebody(self, fault: Fault) -> None:
        if fault.lasts and fault.kind != "pause" and not fault.is_of_one:
            return
        if fault.target != "broker" and not strikes.victims(self._world, fault):
            known = ", ".join(strikes.name_of(worker) for worker in self._world.living()) or "none"
            wanted = f"worker {fault.worker!r}" if fault.worker else fault.target
            raise FaultError(
                f"{fault.kind}: there is no {wanted} to strike (workers alive: {known}); the first message "
                "starts one, and so does start_worker(); after=seconds lets the fault strike later"
            )

    def _arrange(self) -> None:
        self._traps.lay()
        for broker in self._world.brokers():
            self.reach(broker)
        self.reach_redis()

    def struck(self, injected: Injected, detail: dict[str, Any]) -> None:
        """Note that a fault strikes now; it ends when it has done so as often as it may."""
        injected.moments.append(self._world.record.now())
        fault = injected.fault
        self._note(EventKind.FAULT, fault, detail)
        if fault.waits and fault.times is not None and injected.times >= fault.times:
            self.end(injected)

    def _note(self, kind: str, fault: Fault, detail: dict[str, Any]) -> None:
        self._world.record.note(kind, worker=detail.pop("worker", ""), detail={"fault": str(fault), **detail})


def _process_of(victim: Any) -> Any:
    return getattr(victim, "process", victim)
