"""Waiting for results in virtual time: the drainer that Celery's own result consumers use.

Leans on ``celery.backends.asynchronous.Drainer`` and on ``ResultConsumer._drain_one`` of its Redis back end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from celery.backends.asynchronous import Drainer

from pytest_taskservice.errors import SimulationIdleError

if TYPE_CHECKING:
    from celery import Celery

    from pytest_taskservice.simulator.core.simulation import Simulation
    from pytest_taskservice.simulator.redis import SimulatedRedis

__all__ = ["drainer_for", "stored_beside"]

_Drainer: Any = Drainer


def stored_beside(redis: SimulatedRedis, app: Celery, run_id: str) -> bytes | None:
    """Return what a simulated Redis holds of a run, past all faults; ``None`` if it is kept elsewhere."""
    backend: Any = app.backend
    where = getattr(backend, "connparams", None)
    if where is None:
        return None
    server = (str(where["path"]), 0) if "path" in where else (str(where["host"]), int(where["port"]))
    key = backend.get_key_for_task(run_id)
    return redis.look_at(server, int(where.get("db") or 0), key) or b""


def drainer_for(simulation: Simulation) -> type[Any]:
    """Return a drainer whose waits let ``simulation`` go on."""

    class SimulatedDrainer(_Drainer):  # type: ignore[misc] # the stubs know none of its attributes
        """Lets the simulation go on until a result is there."""

        def drain_events_until(
            self,
            p: Any,
            timeout: float | None = None,
            interval: float = 1,
            on_interval: Callable[[], Any] | None = None,
            wait: Any = None,
        ) -> Iterator[None]:
            consumer: Any = self.result_consumer
            if not hasattr(consumer, "_pubsub"):
                yield from super().drain_events_until(p, timeout, interval, on_interval, wait)
                return
            end = None if timeout is None else simulation.monotonic() + timeout
            while not _is_ready(consumer, p):
                if end is not None and simulation.monotonic() >= end:
                    raise TimeoutError
                if not _wait(simulation, consumer, p, end, interval):
                    # What on_interval looks at, a failed parent, may have been the last thing to happen.
                    if on_interval:
                        on_interval()
                    if not _is_ready(consumer, p):
                        raise SimulationIdleError("a result", simulation.waiting_for())
                yield
                if on_interval:
                    on_interval()

    return SimulatedDrainer


def _wait(simulation: Simulation, consumer: Any, p: Any, end: float | None, interval: float) -> bool:
    """Let events happen until the result is there or the next look is due; return whether there were any."""
    if _is_cut(consumer):
        # Celery connects again, in its own way and time.
        consumer.drain_events(timeout=0)
        return True
    look = simulation.monotonic() + interval
    before = simulation.events

    def ready() -> bool:
        # Only an event can change what is looked at: an idle hour needs no look a second.
        looked = simulation.events != before and simulation.monotonic() >= look
        return looked or _is_ready(consumer, p) or _is_cut(consumer)

    left = None if end is None else end - simulation.monotonic()
    try:
        simulation.wait(ready, timeout=left, what="a result")
    except SimulationIdleError:
        return False
    return True


def _is_ready(consumer: Any, p: Any) -> bool:
    pubsub = consumer._pubsub  # noqa: SLF001 - the drainer's own side of it
    # Looked at after every event: only what has come in is worth Celery's way of reading it.
    while not p.ready and pubsub is not None and _has_news(pubsub):
        if not _read(consumer, pubsub):
            break
        pubsub = consumer._pubsub  # noqa: SLF001 - a reconnect makes another
    return bool(p.ready)


def _read(consumer: Any, pubsub: Any) -> bool:
    """Take one message in; return whether there was one."""
    if not hasattr(consumer, "_drain_one"):
        # Before 5.7 there is no lock, and no more to it.
        consumer.drain_events(timeout=0)
        return True
    with consumer._locked():  # noqa: SLF001 - as the consumer itself does
        return bool(consumer._drain_one(pubsub, 0))  # noqa: SLF001 - as above


def _has_news(pubsub: Any) -> bool:
    line = getattr(pubsub.connection, "_sock", None)
    return bool(getattr(line, "inbox", None))


def _is_cut(consumer: Any) -> bool:
    """Return whether a fault has cut the connection on which results come in."""
    pubsub = consumer._pubsub  # noqa: SLF001 - the drainer's own side of it
    line: Any = getattr(getattr(pubsub, "connection", None), "_sock", None)
    return bool(getattr(line, "ended", False)) and not line.inbox and bool(pubsub.subscribed)
