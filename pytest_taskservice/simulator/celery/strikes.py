"""What a fault does to a process when it strikes it, and who takes the place of one that has ended."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from pytest_taskservice.simulator.core.fibers import current_fiber

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_taskservice.simulator.celery.beat import SimulatedBeat
    from pytest_taskservice.simulator.celery.fault_values import Fault
    from pytest_taskservice.simulator.celery.pool import Job
    from pytest_taskservice.simulator.celery.worker import SimulatedWorker
    from pytest_taskservice.simulator.celery.world import CeleryWorld

__all__ = [
    "concerns",
    "is_named",
    "is_task",
    "is_worker",
    "kill",
    "kill_beat",
    "name_of",
    "pause",
    "reset",
    "terminate",
    "victims",
    "worker_of",
]


_NAMES = ("task", "shadow")


def victims(world: CeleryWorld, fault: Fault) -> list[Any]:
    """Return the processes that ``fault`` may strike."""
    if fault.target == "beat":
        return [beat for beat in world.beats if beat.alive]
    return [worker for worker in world.living() if is_worker(fault.worker, worker.process.name)]


def is_named(pattern: str, name: str) -> bool:
    """Return whether a pattern of a fault means ``name``."""
    return not pattern or fnmatchcase(name, pattern)


def is_task(pattern: str, headers: Mapping[str, Any]) -> bool:
    """Return whether it means the task of a message: by its name, or by the one that it is shown by."""
    return not pattern or any(is_named(pattern, name) for key in _NAMES if (name := headers.get(key)))


def is_worker(pattern: str, name: str) -> bool:
    """Return whether it means the worker ``name``; what is behind its ``@`` may be left out."""
    return is_named(pattern, name) or is_named(pattern, name.partition("@")[0])


def concerns(fault: Fault, client: str) -> bool:
    """Return whether a fault is of the way of ``client``: a worker, the ``beat``, or the nameless test."""
    if not fault.is_of_one:
        return True
    if fault.target == "beat":
        return client == "beat"
    return bool(client) and is_worker(fault.worker, client)


def name_of(victim: SimulatedWorker | SimulatedBeat) -> str:
    """Return what the history calls a process."""
    process = getattr(victim, "process", None)
    return "beat" if process is None else str(process.name)


def worker_of(world: CeleryWorld, job: Job) -> SimulatedWorker | None:
    """Return the worker that runs ``job``."""
    return next((worker for worker in world.living() if worker.process is job.pool.process), None)


def kill(world: CeleryWorld, worker: SimulatedWorker, restart: float | None) -> None:
    """End a worker at once; another of its kind starts ``restart`` seconds later."""
    if worker.process.alive:
        world.crash(worker)
        if restart is not None:
            world.simulation.after(restart, world.replace, worker)


def kill_beat(world: CeleryWorld, beat: SimulatedBeat, restart: float | None) -> None:
    """End beat at once; another takes over its schedule."""
    if not beat.alive:
        return
    world.record.note("crashed", worker="beat")
    beat.crash()

    def begin() -> None:
        world.beats.remove(beat)
        world.start_beat(beat.app, **beat.options).remember(beat)

    if restart is not None:
        world.simulation.after(restart, begin)


def terminate(world: CeleryWorld, worker: SimulatedWorker, restart: float | None) -> None:
    """Ask a worker to end; another of its kind starts ``restart`` seconds after it has."""

    def replace() -> None:
        if restart is not None:
            world.simulation.after(restart, world.replace, worker)

    worker.process.at_end = replace
    worker.shut_down()


def pause(world: CeleryWorld, worker: SimulatedWorker) -> None:
    """Stop a worker with its pool; if one of its processes runs this line, it goes no further."""
    worker.process.pause()
    fiber = current_fiber()
    mine = None if fiber is None else fiber.process
    if fiber is not None and mine is not None and worker.process in (mine, getattr(mine, "parent", None)):
        world.simulation.after(0.0, fiber.resume, fiber.turn + 1)
        fiber.park()


def reset(world: CeleryWorld, worker: SimulatedWorker) -> None:
    """Break a worker's connections to its broker."""
    world.redis.cut(world.redis_brokers(), lambda client: client == worker.process.name)
    worker.disconnect(ConnectionResetError(104, "connection reset by peer"))
