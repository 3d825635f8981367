"""The invariant of slots: no more runs than slots, and no run waits without a reason.

Only for worlds that tell of their workers. A wait is explained by full slots of whoever could take the run,
an eta, a fault, or by the worker that has fetched the message already.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from datetime import datetime
from math import inf
from typing import TYPE_CHECKING

from pytest_taskservice.history import Event, EventKind
from pytest_taskservice.scenario.fold import ENDS, WorkerView, told, worker_views

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_taskservice.scenario.record import Record

__all__ = ["slot_findings"]

# Two processes tell of one slot: the next body may begin before the end of the one before is told.
_OVERLAP = 0.5
# So long may a message travel, and a body take to begin.
_UNDER_WAY = 5.0
# And so long may what was broken take to be found again: a connection, a lease, a process.
_RECOVERY = 60.0
_Finding = tuple[str, str, str, float | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Span:
    """A time in which a run could have begun, at one of ``workers`` or anybody who consumes ``queue``."""

    begins: float
    ends: float
    queue: str
    worker: str = ""


def slot_findings(record: Record) -> Iterator[_Finding]:
    """Yield what had no slot, or had one and did not begin: its name, ``slots``, what was found, when."""
    log = list(record.log)
    if not any(event.kind is EventKind.WORKER_UP for event in log):
        return

    history = worker_views(log, began=record.start)
    yield from _crowded(history)
    queues, free = _queues(log), _free_times(history)
    troubled = _last_trouble(log)
    for run in record.launched:
        if record.launched[run].behaviour is None:
            # A rate limit of the user's own task is its own business.
            continue
        for span in _waits(run, record):
            if troubled is not None and span.begins < troubled + _RECOVERY:
                continue
            if (at := _idle_since(span, free, queues)) is not None:
                waited = f"waited {span.ends - at:.1f} s"
                yield run, "slots", f"{waited} while a slot that could take it was free", at


def _crowded(history: list[WorkerView]) -> Iterator[_Finding]:
    since: dict[str, tuple[float, str]] = {}
    told: set[str] = set()
    for view in history:
        for name, (began, text) in since.items():
            if view.at - began > _OVERLAP and name not in told:
                told.add(name)
                yield name, "slots", text, began
        slots, running = dict(view.slots), dict(view.running)
        crowded = {name: count for name, count in running.items() if count > slots.get(name, count)}
        since = {
            name: since.get(name, (view.at, f"{count} runs at once in {slots[name]} slots"))
            for name, count in crowded.items()
        }


def _queues(log: list[Event]) -> dict[str, frozenset[str]]:
    """Return what each worker consumes; empty where nobody said."""
    return {
        event.worker: frozenset(event.detail.get("queues") or ())
        for event in log
        if event.kind is EventKind.WORKER_UP
    }


def _last_trouble(log: list[Event]) -> float | None:
    troubles = (EventKind.FAULT, EventKind.HEALED, EventKind.WORKER_GONE)
    return max((event.at for event in log if event.kind in troubles), default=None)


def _waits(run: str, record: Record) -> Iterator[_Span]:
    """Yield the times in which a run could have begun and had not."""
    events = told(record.log, run)
    queue, facts = record.launched[run].queue, record.launched[run]
    since: float | None = None
    worker = ""
    for event in events:
        match event.kind:
            case EventKind.SENT:
                since = event.at + facts.countdown
                queue = str(event.detail.get("queue") or queue)
            case EventKind.RECEIVED:
                if since is not None and event.at > since:
                    yield _Span(begins=since, ends=event.at, queue=queue)
                since, worker = max(event.at, _eta(event)), event.worker
            case kind if kind is EventKind.STARTED or kind in ENDS:
                if since is not None and event.at > since and kind is EventKind.STARTED:
                    yield _Span(begins=since, ends=event.at, queue=queue, worker=worker)
                since = None
    if since is not None and record.end > since:
        yield _Span(begins=since, ends=record.end, queue=queue, worker=worker)


def _eta(event: Event) -> float:
    eta = event.detail.get("eta")
    try:
        return datetime.fromisoformat(str(eta)).timestamp() if eta else event.at
    except ValueError:
        return event.at


def _free_times(history: list[WorkerView]) -> dict[str, list[tuple[float, float]]]:
    """Return from when to when each worker had a free slot, where that is time enough to begin anything."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for view in history for name, _ in view.slots}
    since: dict[str, float] = {}
    for view in history:
        busy = dict(view.running)
        free = {name for name, slots in view.slots if busy.get(name, 0) < slots}
        for name in since.keys() - free:
            found[name].append((since.pop(name), view.at))
        for name in free:
            since.setdefault(name, view.at)
    for name, began in since.items():
        found[name].append((began, inf))
    return {
        name: [(began, until) for began, until in times if until - began > _UNDER_WAY]
        for name, times in found.items()
    }


def _idle_since(
    span: _Span, free: dict[str, list[tuple[float, float]]], queues: dict[str, frozenset[str]]
) -> float | None:
    """Return when a slot began to be free for too long; ``None`` if none was."""
    found: list[float] = []
    for name, times in free.items():
        if not _could_take(name, span, queues):
            continue
        first = bisect_right(times, span.begins + _UNDER_WAY, key=lambda time: time[1])
        if first < len(times):
            began = max(times[first][0], span.begins)
            if span.ends - began > _UNDER_WAY:
                found.append(began)
    return min(found, default=None)


def _could_take(name: str, span: _Span, queues: dict[str, frozenset[str]]) -> bool:
    if span.worker:
        return name == span.worker
    consumed = queues.get(name, frozenset())
    return not consumed or not span.queue or span.queue in consumed
