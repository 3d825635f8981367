"""What a terminal shows of a scenario that failed."""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING, Any

from pytest_taskservice.columns import columns, printable, shortened
from pytest_taskservice.history import EventKind
from pytest_taskservice.scenario.expectations import labels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_taskservice.history import Event
    from pytest_taskservice.report.play import Play
    from pytest_taskservice.scenario.acts import Mark
    from pytest_taskservice.scenario.engine import Verdict
    from pytest_taskservice.scenario.expectations import Mismatch

__all__ = ["first_line", "quoted", "render_play", "run_names"]

_SHOWN_EVENTS = 40
_SHOWN_MISMATCHES = 10
_HERE = "test"
_WIDTH = 78
_MARGIN = "  "


def render_play(play: Play) -> str:
    """Return what was not as expected, all that happened, and the command to see it again."""
    mismatches = play.verdict.mismatches
    count = len(mismatches)
    found = "as expected" if not count else f"{count} mismatch{'es' if count > 1 else ''}"
    lines = [f"{play.scenario.title}: {found}", *_drawn(play), ""]
    for mismatch in mismatches[:_SHOWN_MISMATCHES]:
        lines += [*_mismatch(mismatch, play.lines), ""]
    if count > _SHOWN_MISMATCHES:
        lines += [f"{_MARGIN}... and {count - _SHOWN_MISMATCHES} more", ""]
    lines += [f"{_MARGIN}{line}".rstrip() for line in _timeline(play.verdict)]
    lines += ["", f"{_MARGIN}replay:  {play.replay}"]
    if play.record:
        lines.append(f"{_MARGIN}record:  {play.record}")
    return printable("\n".join(lines))


def first_line(mismatch: Mismatch) -> str:
    """Return one line about a mismatch, for summaries."""
    subject = f"{mismatch.run}: " if mismatch.run else ""
    line = f"{subject}{mismatch.expected}; got {mismatch.got}{_instant(mismatch)}"
    return printable(" ".join(line.split()))


def quoted(mark: Mark, lines: Sequence[str]) -> list[str]:
    """Return the line of the file at ``mark``, with a caret under its column; nothing if there is none."""
    if not 0 < mark.line <= len(lines):
        return []
    number, line = str(mark.line), lines[mark.line - 1].rstrip()
    lead = f"{number} | "
    room = _WIDTH - len(lead) - 4
    # What is left of the column is seldom more than the indentation.
    skipped = max(mark.column - 1 - room // 2, 0) if len(line) > room else 0
    shown = line[skipped : skipped + room]
    return [f"    {lead}{shown}", f"    {' ' * len(number)} | {' ' * (mark.column - 1 - skipped)}^"]


def run_names(verdict: Verdict) -> dict[str, str]:
    """Return a label for each run: its captured name, else its task, numbered."""
    names = {run: label for name in verdict.runs for label, run in labels(name, verdict.runs[name])}
    others: dict[str, list[str]] = {}
    for event in verdict.log:
        if event.run and event.run not in names and event.run not in others.setdefault(event.task, []):
            others[event.task].append(event.run)
    for task, runs in others.items():
        names |= {run: f"{task}#{number}" for number, run in enumerate(runs, start=1)}
    return names


def _drawn(play: Play) -> list[str]:
    """Return all that was drawn or chosen, as few lines as it takes."""
    seed = [] if play.seed is None else [f"seed {play.seed}"]
    chosen = [f"{name} {value}" for name, value in play.options.items()]
    digest = [f"digest {play.digest}"] if play.digest else []
    lines = [play.world if play.seed is None else play.backend]
    for part in (*seed, *chosen, *digest):
        longer = f"{lines[-1]} · {part}"
        lines[-1:] = [longer] if len(longer) <= _WIDTH else [lines[-1], part]
    return lines


def _mismatch(mismatch: Mismatch, lines: Sequence[str]) -> list[str]:
    subject = f"{mismatch.run}: " if mismatch.run else ""
    kind = "invariant" if mismatch.invariant else "expected"
    return [
        f"{_MARGIN}{mismatch.mark}",
        # An invariant is asked for by no line.
        *([] if mismatch.invariant else quoted(mismatch.mark, lines)),
        *_wrapped(kind, f"{subject}{mismatch.expected}"),
        *_wrapped("got", f"{subject}{mismatch.got}{_instant(mismatch)}"),
    ]


def _wrapped(title: str, text: str) -> list[str]:
    return wrap(
        " ".join(text.split()),
        width=_WIDTH,
        initial_indent=f"    {title:<9} ",
        subsequent_indent=" " * 14,
        break_on_hyphens=False,
    )


def _instant(mismatch: Mismatch) -> str:
    return "" if mismatch.at is None else f", at {mismatch.at:.3f} s"


def _timeline(verdict: Verdict) -> list[str]:
    """Return the table of events, a column for each worker."""
    events = list(verdict.log)
    if not events:
        return ["nothing happened"]

    half = _SHOWN_EVENTS // 2
    left_out = max(len(events) - _SHOWN_EVENTS, 0)
    shown = events if not left_out else events[:half] + events[-half:]
    endings = _endings(verdict)
    names = run_names(verdict)
    cells = [
        (f"{event.at - verdict.start:.3f}", event.worker or _HERE, _told(event, names, endings))
        for event in shown
    ]
    lines = columns(cells, first="time", here=_HERE, width=_WIDTH)
    if left_out:
        lines.insert(half + 1, f"... {left_out} more events ...")
    return lines


def _endings(verdict: Verdict) -> dict[str, Any]:
    """Return how each captured run ended; what is captured beside runs has no outcome."""
    return {
        run: outcome
        for name, runs in verdict.runs.items()
        for run, outcome in zip(runs, verdict.outcomes.get(name, ()), strict=False)
    }


def _told(event: Event, names: Mapping[str, str], endings: Mapping[str, Any]) -> str:
    if not event.run:
        return _of_no_run(event)

    name = names[event.run]
    match event.kind:
        case EventKind.CHANGED:
            reason = event.detail.get("reason")
            return f"{name} is {event.detail.get('status', '?')}" + (f" ({reason})" if reason else "")
        case EventKind.ASKED:
            return shortened(f"{name} asked: {event.detail.get('prompt', '')}")
        case EventKind.TOLD:
            data = event.detail.get("data")
            return shortened(f"{name} told {event.detail.get('kind', '')}" + (f" {data!r}" if data else ""))

    text = f"{name} {event.kind}"
    if event.attempt > 1:
        text += f", attempt {event.attempt}"
    ending = endings.get(event.run)
    if ending and event.kind is EventKind.SUCCEEDED:
        text += f" ({shortened(repr(ending.result))})"
    if ending and event.kind is EventKind.FAILED and ending.error:
        text += f" ({shortened(f'{ending.error}: {ending.message}'.removesuffix(': '))})"
    return text


def _of_no_run(event: Event) -> str:
    """Return what a fault or a worker's coming and going is told as."""
    said = {key: value for key, value in event.detail.items() if value not in (None, "", (), [])}
    fault = said.pop("fault", None)
    told = [str(fault)] if fault is not None else []
    told += [f"{key} {_listed(value)}" for key, value in said.items()]
    return shortened(f"{event.kind}: {', '.join(told)}" if told else str(event.kind))


def _listed(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
