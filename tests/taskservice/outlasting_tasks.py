"""A task that Redis would deliver again while it runs."""

from __future__ import annotations

from taskservice import task


@task(time_limit=300)
def outlast() -> None:
    pass
