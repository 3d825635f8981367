"""The tasks that are measured; the workers import them from here."""

from __future__ import annotations

from typing import Final

from taskservice import task

__all__ = ["NOWHERE", "idle", "noop", "nothing"]

# A worker of another queue never sees what is only sent.
NOWHERE: Final = "nowhere"


@task(name="benchmarks.noop")
def noop() -> None:
    """Do nothing, on a worker."""


@task(name="benchmarks.idle", queue=NOWHERE)
def idle() -> None:
    """Do nothing, never."""


async def nothing() -> None:
    """Do nothing, in process."""
