"""A record as the parts of a picture: lanes, bars in them, and bands over all of them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_taskservice.report.record import EventRecord, RunRecord

__all__ = ["Band", "Bar", "Lane", "Picture", "picture_of"]

HERE = "test"
QUEUED = "queued"
FLOWS = "workflows"
_ENDS = ("retried", "succeeded", "failed", "revoked", "rejected")
_FINAL_STATUSES = ("SUCCESS", "FAILED")
_MOST_ROWS = 12
# What follows from them is told by the workers that are gone.
_AT_ONCE = frozenset({"kill", "term", "restart", "lose_child", "duplicate"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """What took from ``start`` to ``end``, in seconds; ``kind`` names its colour."""

    start: float
    end: float
    kind: str
    text: str
    run: str = ""
    row: int = 0


@dataclass(kw_only=True)
class Lane:
    """A place and its bars; those of one row do not overlap."""

    name: str
    bars: list[Bar] = field(default_factory=list)
    rows: int = 1
    left_out: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Band:
    """A fault, or a worker that is gone; ``place`` is empty where it concerns all lanes."""

    start: float
    end: float
    text: str
    place: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """All that is drawn, between the story's start and ``end``."""

    end: float
    lanes: tuple[Lane, ...]
    bands: tuple[Band, ...]


def picture_of(record: RunRecord) -> Picture:
    """Return what a record looks like."""
    events = record.events
    end = max([event.at for event in events], default=0.0)
    end = end * 1.02 or 1.0
    runs: dict[str, list[EventRecord]] = {}
    for event in events:
        if event.run:
            runs.setdefault(event.run, []).append(event)
    bars: dict[str, list[Bar]] = {QUEUED: [], HERE: []}
    for worker in sorted({event.worker for event in events if event.worker}):
        bars[worker] = []
    gone = [event for event in events if event.kind == "worker gone"]
    for told in runs.values():
        for place, bar in _bars(told, gone, end):
            bars.setdefault(place, []).append(bar)
    lanes = [_packed(place, found) for place, found in bars.items()]
    kept = tuple(lane for lane in lanes if lane.bars or lane.name not in (QUEUED, HERE))
    return Picture(end=end, lanes=kept, bands=tuple(_bands(events, end)))


def _bars(events: list[EventRecord], gone: list[EventRecord], end: float) -> Iterator[tuple[str, Bar]]:
    name = events[0].name or events[0].task or events[0].run[:8]
    if any(event.kind == "changed" for event in events):
        yield from ((FLOWS, bar) for bar in _of_flow(events, name, end))
        return

    yield from _queued(events, name, end)
    open_event: EventRecord | None = None
    for event in events:
        ends = event.kind in _ENDS
        if open_event is not None and (ends or event.kind == "started"):
            until = event.at if ends else _left_at(open_event, gone, event.at)
            yield _whole(open_event, until, event.kind if ends else "lost", name)
        elif ends:
            yield event.worker or HERE, _bar(event.at, event.at, event.kind, f"{name} {event.kind}", event)
        if ends or event.kind == "started":
            open_event = None if ends else event
    if open_event is not None:
        yield _whole(open_event, _left_at(open_event, gone, end), "unfinished", name)


def _left_at(start: EventRecord, gone: list[EventRecord], end: float) -> float:
    """Return when what began at ``start`` lost its worker; ``end`` if it did not."""
    return min([end, *(one.at for one in gone if one.worker == start.worker and one.at >= start.at)])


def _queued(events: list[EventRecord], name: str, end: float) -> Iterator[tuple[str, Bar]]:
    sent = next((event for event in events if event.kind == "sent"), None)
    if sent is None:
        return
    taken = next((event for event in events if event.kind in ("started", *_ENDS)), None)
    text = f"{name} queued" if taken is not None else f"{name} never started"
    yield QUEUED, _bar(sent.at, end if taken is None else taken.at, "queued", text, sent)


def _whole(start: EventRecord, end: float, kind: str, name: str) -> tuple[str, Bar]:
    attempt = f", attempt {start.attempt}" if start.attempt > 1 else ""
    return start.worker or HERE, _bar(start.at, end, kind, f"{name} {kind}{attempt}", start)


def _of_flow(events: list[EventRecord], name: str, end: float) -> Iterator[Bar]:
    changes = [event for event in events if event.kind == "changed"]
    for event, after in zip(changes, [*changes[1:], None], strict=True):
        status = str(event.detail.get("status", ""))
        until = event.at if status in _FINAL_STATUSES else after.at if after is not None else end
        reason = f" ({event.detail['reason']})" if event.detail.get("reason") else ""
        yield _bar(event.at, until, f"is-{status.lower()}", f"{name} is {status}{reason}", event)


def _bar(start: float, end: float, kind: str, text: str, event: EventRecord) -> Bar:
    # Workers come up just before the story begins.
    return Bar(start=max(start, 0.0), end=max(end, 0.0), kind=kind, text=text, run=event.run)


def _packed(name: str, bars: Iterable[Bar]) -> Lane:
    """Return a lane in which each bar has the first row that is free for it."""
    lane, free = Lane(name=name), list[float]()
    for bar in sorted(bars, key=lambda one: (one.start, one.end)):
        row = next((number for number, until in enumerate(free) if until <= bar.start), len(free))
        if row == _MOST_ROWS:
            lane.left_out += 1
            continue
        free[row : row + 1] = [bar.end]
        lane.bars.append(
            Bar(start=bar.start, end=bar.end, kind=bar.kind, text=bar.text, run=bar.run, row=row)
        )
    lane.rows = max(len(free), 1)
    return lane


def _bands(events: list[EventRecord], end: float) -> Iterator[Band]:
    begun: dict[str, list[EventRecord]] = {}
    gone: dict[str, float] = {}
    for event in events:
        name = str(event.detail.get("fault", "")) or event.worker
        if event.kind == "fault" and name.partition(" ")[0] in _AT_ONCE:
            yield _fault(event, event.at)
        elif event.kind == "fault":
            begun.setdefault(name, []).append(event)
        elif event.kind == "healed":
            # Of two that are alike the first ends first; who names none has healed all.
            healed = [begun[name].pop(0)] if begun.get(name) else _all(begun) if not name else []
            yield from (_fault(one, event.at) for one in healed)
        elif event.kind == "worker gone":
            gone[event.worker] = event.at
        elif event.kind == "worker up" and event.worker in gone:
            yield Band(start=gone.pop(event.worker), end=event.at, text="gone", place=event.worker)
    yield from (_fault(one, end) for one in _all(begun))
    yield from (Band(start=at, end=end, text="gone", place=worker) for worker, at in gone.items())


def _all(begun: dict[str, list[EventRecord]]) -> list[EventRecord]:
    found = [event for events in begun.values() for event in events]
    begun.clear()
    return found


def _fault(event: EventRecord, end: float) -> Band:
    said = ", ".join(
        f"{value}" if key == "fault" else f"{key} {value}" for key, value in event.detail.items()
    )
    return Band(start=event.at, end=end, text=said or "fault")
