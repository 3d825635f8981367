"""Faults that lie in wait: for a run at a point of its life, for a message, for an acknowledgement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_taskservice.simulator.celery import strikes
from pytest_taskservice.simulator.celery.fault_values import Fault, Point
from pytest_taskservice.simulator.core.agenda import Weight

if TYPE_CHECKING:
    from pytest_taskservice.simulator.celery.broker import Raw
    from pytest_taskservice.simulator.celery.faults import Faults, Injected
    from pytest_taskservice.simulator.celery.pool import Job
    from pytest_taskservice.simulator.celery.worker import SimulatedWorker
    from pytest_taskservice.simulator.celery.world import CeleryWorld

__all__ = ["Traps", "ignore", "no_time"]

_AT_POINTS = ("kill", "term", "restart", "pause", "lose_child")


class Traps:
    """The hooks of one world. None is in place while no fault waits there."""

    def __init__(self, world: CeleryWorld, faults: Faults) -> None:
        self._world = world
        self._faults = faults

    def lay(self) -> None:
        """Put hooks where a fault waits, and only there."""
        world = self._world
        points = {each.fault.at for each in self._faults.waiting(*_AT_POINTS)}
        world.at_received = self._at_received if Point.RECEIVED in points else ignore
        world.at_body = self._at_body if points & {Point.STARTED, Point.RUNNING} else ignore
        world.at_end = self._at_end if Point.STORED in points else ignore
        world.slowness = self._slowness if any(self._faults.lasting("slow")) else no_time

    def _at_received(self, worker: SimulatedWorker, headers: Mapping[str, Any]) -> None:
        for injected in self._faults.waiting(*_AT_POINTS):
            fault = injected.fault
            if fault.at == Point.RECEIVED and _matches(fault, headers, worker.process.name):
                self._faults.strike_worker(injected, worker, headers["id"])
                return

    def _at_body(self, job: Job) -> None:
        for injected in self._faults.waiting(*_AT_POINTS):
            fault = injected.fault
            if not _matches(fault, job.request, job.pool.process.name):
                continue
            if fault.at == Point.STARTED:
                self._end_job(injected, job)
                return
            if fault.at == Point.RUNNING:
                self._world.simulation.after(fault.into, self._end_job, injected, job, weight=Weight.UPKEEP)

    def _at_end(self, job: Job) -> None:
        for injected in self._faults.waiting(*_AT_POINTS):
            if injected.fault.at == Point.STORED and _matches(
                injected.fault, job.request, job.pool.process.name
            ):
                self._end_job(injected, job)
                return

    def _end_job(self, injected: Injected, job: Job) -> None:
        worker = strikes.worker_of(self._world, job)
        if injected.over or job.done or worker is None:
            return
        if injected.fault.kind == "lose_child":
            self._faults.struck(injected, {"worker": worker.process.name, "run": job.id})
            job.lose()
        else:
            self._faults.strike_worker(injected, worker, job.id)

    def fate(self, queue: str, raw: Raw) -> list[float]:
        """Return when a message and its copies arrive, in seconds on top."""
        headers = raw["headers"] or {}
        arrivals = [0.0]
        for injected in self._faults.waiting("duplicate", "delay") if "task" in headers else ():
            fault = injected.fault
            if not (strikes.is_task(fault.task, headers) and strikes.is_named(fault.queue, queue)):
                continue
            self._faults.struck(injected, {"run": headers["id"], "queue": queue})
            if fault.kind == "duplicate":
                arrivals.append(fault.by)
            else:
                arrivals = [arrival + fault.by for arrival in arrivals]
        return arrivals

    def keeps(self, queue: str, raw: Raw, consumer: Any) -> bool:
        """Return whether the acknowledgement of a delivery is lost."""
        headers = raw["headers"] or {}
        worker = next((each for each in self._world.living() if each.process is consumer.process()), None)
        for injected in self._faults.waiting("drop_ack") if "task" in headers and worker else ():
            fault = injected.fault
            if strikes.is_task(fault.task, headers) and strikes.is_named(fault.queue, queue):
                assert worker is not None
                self._faults.struck(injected, {"run": headers["id"], "worker": worker.process.name})
                if consumer.broker.rules.kind == "amqp":
                    # Nothing is lost on a connection that holds.
                    self._world.simulation.after(0.0, strikes.reset, self._world, worker)
                return True
        return False

    def _slowness(self, job: Job) -> float:
        lasting = self._faults.lasting("slow")
        return sum(
            each.fault.by for each in lasting if _matches(each.fault, job.request, job.pool.process.name)
        )


def _matches(fault: Fault, headers: Mapping[str, Any], worker: str) -> bool:
    return strikes.is_task(fault.task, headers) and strikes.is_worker(fault.worker, worker)


def ignore(*args: Any) -> None:
    """Let it go on."""


def no_time(job: Job) -> float:
    """Add nothing to what a body takes."""
    return 0.0
