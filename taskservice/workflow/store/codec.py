"""Runs, journal entries and events as short strings, the same in every store.

Values are JSON with the few types that `taskservice.payloads` lets pass besides. They come out as they
went in, whatever they look like: a dict that a user made to look like a date stays a dict.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import astuple, fields
from typing import Any, Final

from kombu.utils.json import dumps, object_hook

from taskservice.payloads import wire_value
from taskservice.workflow.model import (
    NO_MARK,
    Deadlines,
    EntryKind,
    FailureReason,
    JournalEntry,
    Lease,
    Question,
    WorkflowEvent,
    WorkflowRun,
    WorkflowStatus,
)

__all__ = [
    "decode_entry",
    "decode_event",
    "decode_mark",
    "decode_run",
    "encode_changes",
    "encode_entry",
    "encode_event",
    "encode_mark",
    "encode_run",
    "pack",
    "unpack",
]

_DEADLINES: Final = tuple(field.name for field in fields(Deadlines))
_ASKED: Final = ("id", "prompt", "schema", "data", "problem")
_TAG: Final = "__type__"
_TAGGED: Final = {_TAG, "__value__"}


def pack(value: Any, where: str) -> str:
    """Return ``value`` as one line of JSON; `PayloadError` about ``where`` if it cannot be."""
    try:
        packed = _dump(value)
    except (TypeError, ValueError, RecursionError):
        value = wire_value(value, where)
        packed = _dump(value)
    # Rare enough to do it twice.
    return _dump(_escaped(value)) if _TAG in packed else packed


def unpack(packed: str) -> Any:
    """Return the value that was packed."""
    return json.loads(packed, object_hook=_read_tagged)


def encode_run(run: WorkflowRun) -> dict[str, str]:
    """Return all that is known of a run but its id, in fields; what is empty has none."""
    texts = {name: encode(run) for name, encode in _CHANGING.items()}
    constant = {
        "workflow": run.workflow,
        "owner": run.owner,
        "args": run.args,
        "kwargs": run.kwargs,
        "created_at": run.created_at,
        # In the order of the fields: a new one goes to the end.
        "deadlines": astuple(run.deadlines),
        "queue": run.queue,
    }
    return {name: text for name, text in texts.items() if text is not None} | {
        "c": pack(constant, f"workflow run {run.id!r}")
    }


def encode_changes(before: WorkflowRun, after: WorkflowRun) -> tuple[dict[str, str], list[str]]:
    """Return the fields in which ``after`` differs, and the names of those that it no longer has."""
    written: dict[str, str] = {}
    removed: list[str] = []
    for name, encode in _CHANGING.items():
        text = encode(after)
        if text == encode(before):
            continue
        if text is None:
            removed.append(name)
        else:
            written[name] = text
    return written, removed


def decode_run(run_id: str, found: Mapping[str, str]) -> WorkflowRun:
    """Return the run that `encode_run` and `encode_changes` wrote."""
    constant = unpack(found["c"])
    question = _optional(found, "q", unpack)
    until, _, worker = found.get("l", "0.0 ").partition(" ")
    return WorkflowRun(
        id=run_id,
        workflow=constant["workflow"],
        owner=constant["owner"],
        args=constant["args"],
        kwargs=constant["kwargs"],
        created_at=constant["created_at"],
        queue=constant["queue"],
        deadlines=Deadlines(**dict(zip(_DEADLINES, constant["deadlines"], strict=False))),
        version=int(found["v"]),
        status=WorkflowStatus(found["s"]),
        lease=Lease(token=int(found.get("k", 0)), worker=worker, until=float(until)),
        updated_at=float(found["u"]),
        deadline=_optional(found, "d", float),
        steps=int(found.get("n", 0)),
        last_event=int(found.get("e", 0)),
        seen_emit=decode_mark(found["m"]) if "m" in found else NO_MARK,
        question=None if question is None else Question(**dict(zip(_ASKED, question, strict=True))),
        reason=_optional(found, "r", FailureReason),
        error=_optional(found, "x", unpack),
        result=_optional(found, "o", unpack),
    )


def encode_mark(mark: tuple[int, int]) -> str:
    """Return a mark of `WorkflowRun.seen_emit`."""
    return f"{mark[0]} {mark[1]}"


def decode_mark(text: str) -> tuple[int, int]:
    """Return the mark that `encode_mark`, or a script, wrote."""
    steps, count = text.split()
    return int(steps), int(count)


def encode_entry(entry: JournalEntry) -> str:
    """Return a journal entry but its index."""
    return pack([entry.kind.value, entry.name, entry.value, entry.error], f"journal entry {entry.name!r}")


def decode_entry(index: int, packed: str) -> JournalEntry:
    """Return the journal entry at ``index``."""
    kind, name, value, error = unpack(packed)
    return JournalEntry(index=index, kind=EntryKind(kind), name=name, value=value, error=error)


def encode_event(kind: str, data: Any, at: float) -> str:
    """Return an event but its id."""
    return pack([kind, at, data], f"event {kind!r}")


def decode_event(event_id: int, packed: str) -> WorkflowEvent:
    """Return the event with id ``event_id``."""
    kind, at, data = unpack(packed)
    return WorkflowEvent(id=event_id, kind=kind, data=data, at=at)


def _optional(found: Mapping[str, str], name: str, decode: Callable[[str], Any]) -> Any:
    text = found.get(name)
    return None if text is None else decode(text)


def _packed(value: Any, where: str) -> str | None:
    return None if value is None else pack(value, where)


def _question(run: WorkflowRun) -> str | None:
    if run.question is None:
        return None

    return pack([getattr(run.question, name) for name in _ASKED], f"question {run.question.id!r}")


# What the store counts by itself, the last event and the last mark, is not among them.
_CHANGING: Final[dict[str, Callable[[WorkflowRun], str | None]]] = {
    "v": lambda run: str(run.version),
    "s": lambda run: run.status.value,
    "k": lambda run: str(run.lease.token) if run.lease.token else None,
    "l": lambda run: f"{run.lease.until!r} {run.lease.worker}" if run.lease.token else None,
    "u": lambda run: repr(run.updated_at),
    "d": lambda run: None if run.deadline is None else repr(run.deadline),
    "n": lambda run: str(run.steps) if run.steps else None,
    "q": _question,
    "r": lambda run: None if run.reason is None else run.reason.value,
    "x": lambda run: _packed(run.error, "error"),
    "o": lambda run: _packed(run.result, "result"),
}


def _dump(value: Any) -> str:
    packed: str = dumps(value, separators=(",", ":"))
    return packed


def _escaped(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_escaped(item) for item in value]
    if not isinstance(value, dict):
        return value

    inside = {key: _escaped(item) for key, item in value.items()}
    return {_TAG: "dict", "__value__": list(inside.items())} if inside.keys() == _TAGGED else inside


def _read_tagged(found: dict[str, Any]) -> Any:
    if found.keys() != _TAGGED:
        return found

    return dict(found["__value__"]) if found[_TAG] == "dict" else object_hook(found)
