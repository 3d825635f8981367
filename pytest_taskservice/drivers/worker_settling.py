"""When a real world is at rest: nothing queued, nothing on the way, every worker idle, no fault to come."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pytest_taskservice.errors import HarnessTimeoutError

if TYPE_CHECKING:
    from pytest_taskservice.drivers.worker_faults import WorkerFaults
    from pytest_taskservice.drivers.worker_fleet import Fleet
    from pytest_taskservice.drivers.worker_place import Place

__all__ = ["settle"]

_PAUSE = 0.01


def settle(
    fleet: Fleet, place: Place, *, timeout: float, story: bool = False, faults: WorkerFaults | None = None
) -> None:
    """Wait until the queues are empty and the workers are idle."""
    deadline = time.monotonic() + timeout
    before: int | None = None
    while True:
        left = max(0.0, deadline - time.monotonic())
        look = fleet.look(min(left, 1.0))
        coming = _coming(fleet, place, story=story, faults=faults)
        if look.idle and not coming:
            # They hand on to each other, and to themselves, by ways that take time: at rest is what has not
            # moved since.
            if look.seen == before:
                return
            before = look.seen
            time.sleep(_PAUSE)
            continue
        before = None
        if left == 0.0:
            raise HarnessTimeoutError(
                f"not settled within {timeout:g} s: {coming or 'nothing queued'}; "
                f"{fleet.held() or 'idle worker'}"
            )
        if look.idle:
            time.sleep(_PAUSE)


def _coming(fleet: Fleet, place: Place, *, story: bool, faults: WorkerFaults | None) -> str:
    """Return what is still under way to a worker, in words; empty if nothing is."""
    from redis.exceptions import RedisError

    try:
        waiting = place.waiting(fleet.queues)
        unacknowledged = place.unacknowledged() if story else 0
    except (RedisError, OSError):
        if place.proxy is None:
            raise
        return "the Redis does not answer"
    counts = {
        "queued": waiting,
        "not acknowledged": unacknowledged,
        "held back": len(fleet.ledger.held()) if story else 0,
    }
    if place.proxy is not None:
        counts["on the way"] = place.proxy.carrying()
    texts = [f"{count} {what}" for what, count in counts.items() if count]
    if faults is not None and (pending := faults.pending()):
        texts.append(pending)
    return ", ".join(texts)
