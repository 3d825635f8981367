"""What a scenario expects, against what happened. Pure: the log and the outcomes say it all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pytest_taskservice.scenario.fold import View, told, views
from pytest_taskservice.scenario.model import Expectation, Property
from pytest_taskservice.scenario.words import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_taskservice.history import EventLog
    from pytest_taskservice.scenario.acts import Mark

__all__ = ["Ending", "Mismatch", "Record", "check", "labels", "reason_of"]

_LIMITS = {"SoftTimeLimitExceeded": "soft_time_limit", "TimeLimitExceeded": "hard_time_limit"}


class Ending(Protocol):
    """How a run ended, as a driver's ``Outcome`` says it."""

    @property
    def status(self) -> str:
        """One of Celery's state names."""

    @property
    def result(self) -> Any:
        """What the run returned."""

    @property
    def error(self) -> str:
        """The class name of the exception."""

    @property
    def message(self) -> str:
        """The text of the exception."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """What is known of a story that was played.

    ``runs`` holds run ids by captured name, ``accepted`` those of all that were launched,
    ``endings`` what is known by run id; ``start`` is the story's first instant in the log's clock.
    """

    log: EventLog
    start: float
    runs: Mapping[str, tuple[str, ...]]
    accepted: tuple[str, ...]
    endings: Mapping[str, Ending]


@dataclass(frozen=True, kw_only=True, slots=True)
class Mismatch:
    """One thing that was not as it must be.

    ``mark`` is the place in the file that asked for it; ``invariant`` names the rule instead where
    no line did. ``at`` is the instant of what was found, in seconds since the start; ``None`` if it
    has none.
    """

    mark: Mark
    expected: str
    got: str
    run: str = ""
    at: float | None = None
    invariant: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    """One run, ready to be judged."""

    label: str
    history: list[View]
    ending: Ending | None
    start: float


def check(expect: Iterable[Expectation], record: Record) -> list[Mismatch]:
    """Return every expectation that did not hold, once for each run that broke it."""
    found: list[Mismatch] = []
    for claim in expect:
        runs = record.runs.get(claim.of, ())
        if not runs:
            got = "it was never launched: the story ended before"
            found.append(Mismatch(mark=claim.mark, expected=_sentence(claim), got=got, run=claim.of))
        for label, run in labels(claim.of, runs):
            history = views(told(record.log, run))
            ending = record.endings.get(run)
            judged = _Run(label=label, history=history, ending=ending, start=record.start)
            if mismatch := _judge(claim, judged):
                found.append(mismatch)
    return found


def labels(name: str, runs: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return each run with its label: the captured name, numbered if there are several."""
    if len(runs) == 1:
        return [(name, runs[0])]
    return [(f"{name}#{number}", run) for number, run in enumerate(runs, start=1)]


def reason_of(ending: Ending) -> str:
    """Return why a run failed; empty if it did not."""
    if ending.status != "FAILURE":
        return ""
    return _LIMITS.get(ending.error, "error")


def _judge(claim: Expectation, run: _Run) -> Mismatch | None:
    """Return how ``run`` breaks ``claim``; ``None`` if it does not."""
    if not run.history:
        return _mismatch(claim, run, None, note="no event of it")

    by = None if claim.instant is None else run.start + claim.instant
    match claim.property:
        case Property.EVENTUALLY:
            return _judge_eventually(claim, run, by or 0.0)
        case Property.AT:
            past = [view for view in run.history if view.at <= (by or 0.0)]
            if not past:
                return _mismatch(claim, run, None, note="not sent yet")
            return None if _meets(claim, run, past[-1]) else _mismatch(claim, run, past[-1])
        case Property.ALWAYS:
            broken = [view for view in run.history if not _meets(claim, run, view)]
        case Property.NEVER:
            broken = [view for view in run.history if _meets(claim, run, view)]
    return _mismatch(claim, run, broken[0]) if broken else None


def _judge_eventually(claim: Expectation, run: _Run, by: float) -> Mismatch | None:
    met = next((view for view in run.history if _meets(claim, run, view)), None)
    if met is None:
        return _mismatch(claim, run, run.history[-1])
    return None if met.at <= by else _mismatch(claim, run, met, note="too late")


def _meets(claim: Expectation, run: _Run, view: View) -> bool:
    return all(_matches(key, value, view, run.ending) for key, value in claim.wanted.items())


def _matches(key: str, wanted: Any, view: View, ending: Ending | None) -> bool:
    match key:
        case "status" | "attempts":
            return bool(getattr(view, key) == wanted)
        case "events":
            left = iter(view.events)
            return all(event in left for event in wanted)

    # Only a run that is over has a result or an error, and then for good.
    return ending is not None and view.is_final and _ended_so(key, wanted, ending)


def _ended_so(key: str, wanted: Any, ending: Ending) -> bool:
    match key:
        case "result":
            return ending.status == "SUCCESS" and _same(ending.result, wanted)
        case "reason":
            return bool(reason_of(ending) == wanted)
        case "error":
            return wanted in _names_of(ending)
    raise ValueError(f"no matcher {key!r}")


def _names_of(ending: Ending) -> set[str]:
    """Return what a file may call an error: its class, its text, or both."""
    texts = {ending.message}
    # A KeyError's text is the repr of its key, quotes and all.
    if ending.error == "KeyError":
        texts.add(ending.message.strip("'\""))
    both = {f"{ending.error}: {text}" for text in texts}
    return ({ending.error} | texts | both) - {""}


def _same(got: Any, wanted: Any) -> bool:
    """Compare as JSON does: a tuple is a list, a truth value is no number."""
    if isinstance(wanted, list):
        same_length = isinstance(got, list | tuple) and len(got) == len(wanted)
        return same_length and all(map(_same, got, wanted))

    if isinstance(wanted, dict):
        same_keys = isinstance(got, dict) and got.keys() == wanted.keys()
        return same_keys and all(_same(got[key], value) for key, value in wanted.items())
    return isinstance(got, bool) is isinstance(wanted, bool) and bool(got == wanted)


def _mismatch(claim: Expectation, run: _Run, view: View | None, *, note: str = "") -> Mismatch:
    facts = [_found(view, run.ending, claim.wanted)] if view else []
    return Mismatch(
        mark=claim.mark,
        expected=_sentence(claim),
        got=", ".join([*facts, *([note] if note else [])]),
        run=run.label,
        at=max(view.at - run.start, 0.0) if view else None,
    )


def _sentence(claim: Expectation) -> str:
    when = {
        Property.EVENTUALLY: "within {}:",
        Property.AT: "at {}:",
        Property.ALWAYS: "always",
        Property.NEVER: "never",
    }[claim.property]
    wanted = ", ".join(f"{key} {_shown(key, value)}" for key, value in claim.wanted.items())
    return f"{when.format(format_duration(claim.instant or 0.0))} {wanted}"


def _found(view: View, ending: Ending | None, wanted: Mapping[str, Any]) -> str:
    facts = [f"status {view.status}"]
    if ending and view.status == ending.status == "SUCCESS":
        facts.append(f"result {_shown('result', ending.result)}")
    if ending and view.is_final and ending.error:
        text = f": {ending.message}" if ending.message else ""
        facts.append(f"error {ending.error}{text}"[:200])
    if "reason" in wanted and ending and view.is_final:
        facts.append(f"reason {reason_of(ending) or 'none'}")
    if "attempts" in wanted or view.attempts > 1:
        facts.append(f"attempts {view.attempts}")
    if "events" in wanted:
        facts.append(f"events {_shown('events', view.events)}")
    return ", ".join(facts)


def _shown(key: str, value: Any) -> str:
    if key == "events":
        return ", ".join(value)

    text = repr(value) if key == "result" else str(value)
    return text if len(text) <= 120 else f"{text[:120]}..."
