"""The invariants of workflow runs and their clients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_taskservice.history import Event, EventKind
from pytest_taskservice.scenario.fold import WORKFLOW_EVENTS
from pytest_taskservice.scenario.subjects import workflow_history

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_taskservice.scenario.record import ClientTale, Record

__all__ = ["workflow_findings"]

_FINAL = ("SUCCESS", "FAILED")
_SNAPSHOT = "snapshot"
# Where none is set, data outlives every story by far.
_KEPT = 86_400.0
_SWEPT_WITHIN = 60.0
_MOVES = {
    "WAITING": {"RUNNING", "FAILED"},
    "RUNNING": {"RUNNING", "INPUT", "SUCCESS", "FAILED"},
    "INPUT": {"INPUT_OVER", "FAILED"},
    "INPUT_OVER": {"RUNNING", "FAILED"},
}
_Finding = tuple[str, str, str, float | None]


def workflow_findings(record: Record) -> Iterator[_Finding]:
    """Yield what is broken: the run or client, the invariant's name, what was found, when."""
    for run in record.started:
        events = [event for event in record.log.of(run) if event.kind in WORKFLOW_EVENTS]
        yield from _end(run, record)
        yield from _moves(run, events)
        yield from _truth(run, events, record)
        yield from _keys(run, events, record)
    for name, tales in record.clients.items():
        for tale in tales:
            yield from _stream(name, tale)


def _end(run: str, record: Record) -> Iterator[_Finding]:
    last = workflow_history(run, record)[-1]
    # A question may be open for as long as its user likes.
    if last.status in {"WAITING", "RUNNING", "INPUT_OVER"} and record.workflow_endings.get(run) is not None:
        yield run, "one_final_state", f"status {last.status} at the end", last.at


def _moves(run: str, events: list[Event]) -> Iterator[_Finding]:
    status = ""
    for event in events:
        if status in _FINAL:
            yield run, "final_is_final", f"{event.kind} after {status}", event.at
            return
        after = _status_of(event)
        # One that asks may tell of both, the question and the status.
        if after in {"", "INPUT"} and after in {"", status}:
            continue
        if status and after not in _MOVES[status]:
            yield run, "state_machine", f"{after} in {status}", event.at
            return
        status = after


def _status_of(event: Event) -> str:
    if event.kind is EventKind.ASKED:
        return "INPUT"
    return str(event.detail.get("status") or "") if event.kind is EventKind.CHANGED else ""


def _truth(run: str, events: list[Event], record: Record) -> Iterator[_Finding]:
    ids = list(dict.fromkeys(number for event in events if (number := event.detail.get("id")) is not None))
    for before, after in zip([0, *ids], ids, strict=False):
        if after != before + 1:
            yield run, "one_truth", f"event {after} behind event {before}", None
            break
    ending = record.workflow_endings.get(run)
    if ending is None:
        return

    last = workflow_history(run, record)[-1]
    stored = f"{ending.status} {ending.reason}".rstrip()
    said = f"{last.status} {last.reason}".rstrip()
    if stored != said:
        yield run, "one_truth", f"stored {stored}, while the events say {said}", last.at


def _keys(run: str, events: list[Event], record: Record) -> Iterator[_Finding]:
    looks = record.keys.get(run, ())
    if not looks or not events or not workflow_history(run, record)[-1].is_final:
        return

    at, count = looks[-1]
    kept = record.config.data_ttl if record.config and record.config.data_ttl is not None else _KEPT
    waited = at - events[-1].at
    if count and waited > kept + _SWEPT_WITHIN:
        yield run, "keys_return", f"{count} keys {waited:.0f} s after its last news", at


def _stream(name: str, tale: ClientTale) -> Iterator[_Finding]:
    last = 0
    for event in tale.events:
        # What is gone by its age is summed up, with the number of the last that is gone.
        follows = event.id > last if event.kind == _SNAPSHOT else event.id == last + 1
        if not follows:
            what = "again" if event.id <= last else f"behind event {last}"
            yield name, "client_stream", f"event {event.id} {what}", event.at
            return
        last = event.id
