"""Where two plays of one story part: by what happened to each captured run, whatever the instants."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING, TypeAlias

from pytest_taskservice.history import EventKind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_taskservice.history import Event
    from pytest_taskservice.scenario.engine import Verdict

__all__ = ["Course", "course_of", "parting"]

Course: TypeAlias = "Mapping[str, Sequence[tuple[float, str]]]"
"""By captured run what happened to it, each as seconds since the start and a word: it crosses processes."""

# Who takes a message when is no part of the story: a world without messages tells nothing of it.
_UNTOLD = frozenset({EventKind.RECEIVED})
_MOST_EVENTS = 200


def course_of(verdict: Verdict) -> Course:
    """Return the course of a play, as far as it is compared."""
    from pytest_taskservice.scenario.expectations import labels
    from pytest_taskservice.scenario.fold import told

    return {
        label: [
            (round(event.at - verdict.start, 6), _word(event))
            for event in told(verdict.log, run)
            if event.kind not in _UNTOLD
        ][:_MOST_EVENTS]
        for name, runs in verdict.runs.items()
        for label, run in labels(name, runs)
    }


def parting(here: Course, there: Course) -> str | None:
    """Return the first event ``here`` that is another ``there``; ``None`` if both went alike."""
    found: list[tuple[float, str]] = []
    for label in here.keys() | there.keys():
        pairs = zip_longest(here.get(label, ()), there.get(label, ()))
        for mine, theirs in pairs:
            if mine is not None and theirs is not None and mine[1] == theirs[1]:
                continue
            at = min(event[0] for event in (mine, theirs) if event is not None)
            found.append((at, f"{label} {_shown(mine)} here, {_shown(theirs)} there"))
            break
    return min(found)[1] if found else None


def _word(event: Event) -> str:
    if event.kind is EventKind.CHANGED:
        return f"is {event.detail.get('status', '?')}"
    attempt = f", attempt {event.attempt}" if event.attempt > 1 else ""
    return f"{event.kind}{attempt}"


def _shown(event: tuple[float, str] | None) -> str:
    return "nothing more" if event is None else f"{event[1]} at {event[0]:.3f} s"
