"""The history of a test as text, for its failure report."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_taskservice.history import Event, EventLog

__all__ = ["render_history"]

_SHOWN = 60


def render_history(log: EventLog) -> str:
    """Return a line an event, in seconds since the first; empty if nothing happened."""
    events = list(log)
    if not events:
        return ""
    lines = [_line(event, events[0].at) for event in events[-_SHOWN:]]
    hidden = len(events) - len(lines)
    return "\n".join([f"... {hidden} earlier events", *lines] if hidden else lines)


def _line(event: Event, start: float) -> str:
    detail = ", ".join(f"{key}={value}" for key, value in event.detail.items())
    attempt = f" attempt {event.attempt}" if event.attempt > 1 else ""
    where = f" on {event.worker}" if event.worker else ""
    what = f"{event.task or '?'}[{event.run[:8]}]" if event.run else "-"
    told = f"  ({detail})" if detail else ""
    return f"{event.at - start:8.3f} s  {event.kind:<9} {what}{attempt}{where}{told}"
