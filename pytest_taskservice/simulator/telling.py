"""A story as people read it: a table of what happened, by worker, in virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_taskservice.columns import columns, shortened
from pytest_taskservice.history import EventKind

if TYPE_CHECKING:
    from pytest_taskservice.simulator.story import Note, Story

__all__ = ["side_by_side", "tell", "told_instant"]

_DRIVER = "driver"
# What fails is told at the end of a history; how it began explains the rest.
_FIRST_SHOWN = 15
_LAST_SHOWN = 45
_CONTEXT = 5
_HOUR = 3600.0


def tell(story: Story) -> list[str]:
    """Return the table of ``story``: its first and its last events, if it is long."""
    notes = story.notes
    if not notes:
        return ["nothing happened"]
    left_out = max(len(notes) - _FIRST_SHOWN - _LAST_SHOWN, 0)
    shown = notes if not left_out else (*notes[:_FIRST_SHOWN], *notes[-_LAST_SHOWN:])
    names = _names(notes)
    cells = [(told_instant(note[0] - story.start), note[5] or _DRIVER, _told(note, names)) for note in shown]
    lines = [line.rstrip() for line in columns(cells, first="virtual time", here=_DRIVER)]
    if left_out:
        lines.insert(_FIRST_SHOWN + 1, f"... {left_out} more events ...")
    return lines


def side_by_side(first: Story, second: Story, number: int) -> list[str]:
    """Return the notes around the ``number``-th of both, the second run's beside the first's."""
    span = range(max(0, number - _CONTEXT), number + _CONTEXT)
    left, right = (_lines(story, span) for story in (first, second))
    width = max(len("first run"), *map(len, left))
    rows = [f"    {'first run':<{width}}  second run"]
    for index, mine, theirs in zip(span, left, right, strict=True):
        if mine or theirs:
            rows.append(f"{'>>> ' if index == number else '    '}{mine:<{width}}  {theirs}".rstrip())
    return rows


def told_instant(seconds: float) -> str:
    """Return ``seconds`` since the beginning, with hours where there are any."""
    if seconds < _HOUR:
        return f"{seconds:.3f}"
    hours, rest = divmod(round(seconds, 3), _HOUR)
    minutes, rest = divmod(rest, 60.0)
    return f"{hours:.0f}:{minutes:02.0f}:{rest:06.3f}"


def _lines(story: Story, span: range) -> list[str]:
    names = _names(story.notes)
    lines = []
    for index in span:
        note = story.notes[index] if index < len(story.notes) else None
        lines.append("" if note is None else _line(note, story.start, names))
    return lines


def _line(note: Note, start: float, names: dict[str, str]) -> str:
    where = f" on {note[5]}" if note[5] else ""
    # To the microsecond, which is what is compared.
    return f"{note[0] - start:.6f} {_told(note, names)}{where}"


def _names(notes: tuple[Note, ...]) -> dict[str, str]:
    """Return a name for each run: its task's, numbered; in short where no other task has the same."""
    tasks_of: dict[str, str] = {}
    runs: dict[str, dict[str, int]] = {}
    for _, _, run, task, *_ in notes:
        # A shadow is told where a message is sent, and nowhere else.
        if run and run not in tasks_of:
            tasks_of[run] = task
            numbers = runs.setdefault(task, {})
            numbers[run] = len(numbers) + 1
    short: dict[str, list[str]] = {}
    for task in runs:
        short.setdefault(task.rpartition(".")[2], []).append(task)
    return {
        run: f"{brief if len(tasks) == 1 else task}#{number}"
        for brief, tasks in short.items()
        for task in tasks
        for run, number in runs[task].items()
    }


def _told(note: Note, names: dict[str, str]) -> str:
    _, kind, run, task, attempt, _, detail = note
    text = " ".join(part for part in (names.get(run, task), str(kind)) if part)
    if attempt > 1:
        text += f", attempt {attempt}"
    extra = _extra(kind, detail)
    return f"{text} ({shortened(extra)})" if extra else text


def _extra(kind: str, detail: dict[str, Any]) -> str:
    name = _TOLD.get(kind)
    if name is not None:
        return str(detail.get(name, ""))
    if kind == EventKind.SENT:
        return "" if detail.get("queue") == "celery" else f"to {detail.get('queue')}"
    if kind == EventKind.RECEIVED:
        return "again" if detail.get("redelivered") else ""
    if kind == EventKind.REVOKED:
        return ", ".join(word for word in ("expired", "terminated") if str(detail.get(word)) == "True")
    told = {key: value for key, value in detail.items() if key not in _UNTOLD}
    # A fault's own text names what it is.
    return ", ".join(str(value) if key == "fault" else f"{key} {value}" for key, value in told.items())


# The one detail that says most.
_TOLD: dict[str, str] = {
    EventKind.SUCCEEDED: "result",
    EventKind.FAILED: "exception",
    EventKind.RETRIED: "exception",
    "sleeps": "for",
}
_UNTOLD = ("parent_id", "runtime")
